"""Whisper: its library's tokens, moments to segments, long recordings, learning token by token."""

import json
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, WhisperForConditionalGeneration
from transformers.generation.logits_process import (
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)
from transformers.models.whisper.generation_whisper import _dynamic_time_warping

from purvey.contracts.jobs import InputDataset
from purvey.contracts.model import AudioSpec, ModelSource
from purvey.contracts.speech.transcription import (
    Heard,
    Transcribe,
    Transcribed,
    Word,
    text_of,
)
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.folder.manifest import read_manifest
from purvey.models.inputs.audio import waveform
from purvey.models.loading import open_model
from purvey.models.speech.asked import Asked
from purvey.models.speech.listening import hear, transcribe
from purvey.models.speech.whisper.aligning import attention, warped
from purvey.models.speech.whisper.decoding import Decoded, decode, likeliest_language
from purvey.models.speech.whisper.model import WhisperModel
from purvey.models.speech.whisper.segments import Part, divided
from purvey.models.speech.whisper.spelling import Within
from purvey.parse.parser import DecoderHere
from purvey.registry.folder_check import check_folder
from purvey.worker.resident_speech import ResidentSpeech
from tests.numerics.recordings import dataset_of
from tests.numerics.speech_folders import (
    RATE_HZ,
    WINDOW_S,
    tones,
    tones_archive,
    wav,
    write_whisper,
)
from tests.numerics.test_train_resume import Jobs, Link, sha256

RECIPE: dict[str, Any] = {
    "task": "speech-recognition",
    "model": {"base": "base", "language": "de"},
    "augment": {"audio": {"frequency_masks": 1}},
    "optimizer": {"name": "adamw", "learning_rate": 3e-3},
    "train": {"epochs": 1, "batch_size": 4, "evals_per_epoch": 1},
    "test": {"bootstrap_samples": 100},
}


def opened(folder: Path) -> WhisperModel:
    model = open_model(ModelSource(name="m", folder=str(folder), digest="0" * 64))
    assert isinstance(model, WhisperModel)
    return model


def base_of(folder: Path) -> ModelSource:
    return ModelSource(name="base", folder=str(folder), digest="0" * 64)


def noise(num_s: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(round(num_s * RATE_HZ), generator=generator) * 0.1


def piece(samples_N: torch.Tensor, start_s: float, max_s: float) -> torch.Tensor:
    start = round(start_s * RATE_HZ)
    return samples_N[start : start + round(max_s * RATE_HZ)]


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> InputDataset:
    root = tmp_path_factory.mktemp("tones")
    (root / "dataset").mkdir()
    return dataset_of(tones_archive(root / "tones.zip", num_rows=20), root / "dataset")


@torch.no_grad()
def _their_ids(theirs: Any, folder: Path, x_1MF: torch.Tensor, prompt: list[int]) -> list[int]:
    """Decode greedily without a cache, by the library's own rules."""
    config = GenerationConfig.from_pretrained(folder)
    rules = [
        SuppressTokensLogitsProcessor(config.suppress_tokens),
        WhisperTimeStampLogitsProcessor(config, begin_index=len(prompt)),
    ]
    ids = torch.tensor([prompt])
    while ids.shape[1] < theirs.config.max_target_positions:
        scores = theirs(input_features=x_1MF, decoder_input_ids=ids).logits[:, -1].float()
        for rule in rules:
            scores = rule(ids, scores)
        best = int(scores.argmax())
        if best == config.eos_token_id:
            break
        ids = torch.cat((ids, torch.tensor([[best]])), dim=1)
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_it_writes_the_tokens_that_its_library_writes(tmp_path: Path, seed: int) -> None:
    folder = tmp_path / "whisper"
    theirs = write_whisper(folder, seed=seed, init_std=0.4)
    checked = check_folder(folder, model_roots=[tmp_path])
    assert (checked.manifest.family, checked.manifest.task) == ("whisper", "speech-recognition")
    model = opened(folder)
    assert model.spec == AudioSpec(sample_rate_hz=RATE_HZ, max_s=WINDOW_S, num_mels=16)
    samples_N = noise(WINDOW_S, seed)
    states_1SD = model.states(samples_N)
    x_1MF = model.features(samples_N)[None]
    with torch.no_grad():
        wanted_1SD = theirs.model.encoder(x_1MF).last_hidden_state
    torch.testing.assert_close(states_1SD, wanted_1SD, atol=1e-5, rtol=0)
    assert model.skills.languages == ("de", "en")
    prompt = [model.tokens.previous, *b"ab", *model.tokens.prefix("en", "transcribe")]
    found = decode(model.network, states_1SD, prompt, model.tokens)
    assert list(found.ids) == _their_ids(theirs, folder, x_1MF, prompt)
    assert len(found.ids) >= 2
    code = likeliest_language(model.network, states_1SD, model.tokens)
    detected = theirs.detect_language(
        x_1MF,
        generation_config=GenerationConfig.from_pretrained(folder),
        num_segment_frames=x_1MF.shape[-1],
    )
    assert model.tokens.languages[code] == int(detected)


FIRST = 1_000
_DIVIDED: dict[str, tuple[list[int], list[tuple[list[int], int, int | None]], int | None]] = {
    "one part": ([1_000, 7, 8, 1_050], [([7, 8], 0, 50)], None),
    "no end": ([1_005, 7, 8], [([7, 8], 5, None)], None),
    "two parts": (
        [1_000, 7, 1_020, 1_020, 8, 1_090],
        [([7], 0, 20), ([8], 20, 90)],
        None,
    ),
    "an open end": ([1_000, 7, 1_020, 1_020, 8, 9], [([7], 0, 20)], 20),
    "a pair at the end": ([1_000, 7, 1_020, 1_020], [([7], 0, 20)], 20),
    "nothing": ([], [], None),
    "a moment alone": ([1_010], [], None),
}


@pytest.mark.parametrize("what", _DIVIDED)
def test_what_is_written_is_divided_at_its_moments(what: str) -> None:
    ids, parts, next_step = _DIVIDED[what]
    found = divided(
        Decoded(ids=tuple(ids), logprobs=(-1.0,) * len(ids), no_speech=0.0), first_moment=FIRST
    )
    assert [(list(p.ids), p.first_step, p.end_step) for p in found.parts] == parts
    assert found.next_step == next_step
    assert all(p.logprob == -1.0 for p in found.parts)


def test_words_are_aligned_as_the_library_aligns_tokens(tmp_path: Path) -> None:
    heads = [(0, 1), (0, 0)]
    theirs = write_whisper(tmp_path, alignment=heads, init_std=0.4)
    model = opened(tmp_path)
    assert model.skills.has_word_times
    states_1SD = model.states(noise(WINDOW_S, 0))
    told = [*model.tokens.prefix("en", "transcribe"), *b"abc"]
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        found_ATS = attention(model.network, states_1SD, told, model.tokens.alignment)
        looked = theirs.model.decoder(
            input_ids=torch.tensor([told]),
            encoder_hidden_states=states_1SD,
            output_attentions=True,
        ).cross_attentions[0][0]
    torch.testing.assert_close(found_ATS, looked[[head for _, head in heads]], atol=1e-5, rtol=0)
    chance = np.random.default_rng(0)
    for rows, steps in ((1, 1), (1, 9), (5, 40), (12, 12)):
        cost_TS = chance.normal(size=(rows, steps)).astype("f4").astype("f8")
        text, time = _dynamic_time_warping(cost_TS)
        wanted = [int(time[text == row].min()) for row in range(rows)]
        assert warped(cost_TS) == wanted
    words, _ = _said(model, noise(WINDOW_S, 1), language="en", has_words=True)
    segments, _ = _said(model, noise(WINDOW_S, 1), language="en")
    assert {word.segment for word in words} == {one.segment for one in segments}
    assert all(0 <= word.start_s <= word.end_s <= WINDOW_S for word in words)


def test_a_word_begins_with_a_space_or_is_a_wide_character(tmp_path: Path) -> None:
    write_whisper(tmp_path)
    model = opened(tmp_path)
    ids = model.tokenizer.encode(" ab, c\u597d\u5417")
    part = Part(ids=tuple(ids), first_step=3, end_step=90, logprob=-0.5)
    within = Within(model=model, start_s=10.0, end_s=11.0)
    spelt = within.spelt(part, range(0, 10 * len(ids) + 1, 10))
    assert [one.text for one in spelt] == [" ab,", " c", "\u597d", "\u5417"]
    assert [round(one.start_s, 6) for one in spelt[:2]] == [10.0, 10.8]
    assert spelt[0].end_s == spelt[1].start_s
    assert spelt[-1].end_s == 11.0
    (whole,) = within.whole(part)
    assert (round(whole.start_s, 6), whole.end_s) == (10.06, 11.0)


def _said(
    model: WhisperModel, samples_N: torch.Tensor, **asked: Any
) -> tuple[list[Word], set[Any]]:
    parts = list(
        hear(model, lambda start, most: piece(samples_N, start, most), asked=Asked(**asked))
    )
    return [word for one in parts for word in one.words], {one.language for one in parts}


def test_a_long_recording_is_heard_window_by_window(tmp_path: Path) -> None:
    write_whisper(tmp_path, seed=1, init_std=0.4)
    model = opened(tmp_path)
    long_N = noise(2 * WINDOW_S + 0.7, 1)
    words, languages = _said(model, long_N)
    assert len(words) >= 3
    assert [word.segment for word in words] == list(range(len(words)))
    for word in words:
        assert 0 <= word.start_s <= word.end_s <= len(long_N) / RATE_HZ
    assert [w.start_s for w in words] == sorted(w.start_s for w in words)
    assert len(languages) == 1
    assert languages < {"de", "en"}
    plain, found = _said(model, long_N[: WINDOW_S * RATE_HZ], language="en")
    assert found == {"en"}
    told, _ = _said(model, long_N[: WINDOW_S * RATE_HZ], language="en", prompt="names")
    assert told != plain
    assert _said(model, torch.zeros(3 * RATE_HZ))[0] == []
    with pytest.raises(InvalidValueError, match="empty"):
        _said(model, torch.empty(0))


def test_it_answers_from_behind_its_queue(tmp_path: Path) -> None:
    write_whisper(tmp_path, seed=1, init_std=0.4)
    model, data = opened(tmp_path), wav(tones("a b c"))
    resident = ResidentSpeech(model)
    assert resident.loaded.speech == model.skills
    sent: list[object] = []
    computing = Thread(target=resident.run)
    computing.start()
    try:
        asked = Transcribe(request_id="r", data=data, language="en")
        resident.answer(asked, sent.append, lambda: None)
    finally:
        resident.drain()
        computing.join()
    *parts, end = sent
    assert isinstance(end, Transcribed)
    assert (end.language, round(end.audio_s, 2)) == ("en", 1.28)
    assert end.compute_s > 0
    decoded_N = waveform(data, sample_rate_hz=RATE_HZ, max_s=9.0, decoder=DecoderHere())
    words, _ = _said(model, decoded_N, language="en")
    assert [word for part in parts if isinstance(part, Heard) for word in part.words] == words


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "windows of another length": ("preprocessor_config.json", {"chunk_length": 3}, "agree"),
    "no moments": ("generation_config.json", {"no_timestamps_token_id": None}, "is missing"),
    "a language beyond": ("generation_config.json", {"lang_to_id": {"<|en|>": 9_999}}, "lang_to"),
    "a layer too many": ("config.json", {"decoder_layers": 2}, "missing or misshapen"),
    "a head too many": ("generation_config.json", {"alignment_heads": [[0, 2]]}, "alignment"),
    "code": ("config.json", {"auto_map": {"AutoModel": "m.M"}}, "names code"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(tmp_path: Path, what: str) -> None:
    write_whisper(tmp_path)
    file, changes, told = REFUSED[what]
    values = json.loads((tmp_path / file).read_text()) | changes
    (tmp_path / file).write_text(json.dumps(values))
    with pytest.raises(InvalidCheckpointError, match=told):
        opened(tmp_path)


def test_a_resumed_run_is_bit_equal_and_opens_in_transformers(
    jobs: Jobs, few: InputDataset
) -> None:
    folder = jobs.folder()
    before = write_whisper(folder)
    made = jobs.run(RECIPE, few, link=Link(), work=jobs.folder(), base=base_of(folder))
    resumed = jobs.interrupted(RECIPE, few, stops=[1], base=base_of(folder))
    assert sha256(resumed) == sha256(made)
    manifest = read_manifest(made)
    assert manifest.hyperparameters == {"language": "de"}
    assert manifest.report["cer"]["num_rows"] == few.manifest.rows["test"]
    theirs, model = WhisperForConditionalGeneration.from_pretrained(made).eval(), opened(made)
    assert model.language == "de"
    said = "c d"
    samples_N = torch.from_numpy(tones(said, seed=9))
    targets = model.targets(said, num_samples=len(samples_N))
    assert targets[0] == model.tokens.first_moment
    assert model.tokens.first_moment + round(len(samples_N) / RATE_HZ / 0.02) == targets[-2]
    assert model.text(targets[:-1]) == said
    x_1MF = model.features(samples_N)[None]
    told, wanted = torch.tensor([[*model.prefix, *targets[:-1]]]), torch.tensor(targets)
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(
                network(input_features=x_1MF, decoder_input_ids=told).logits[0, 2:], wanted
            )
            for network in (before, theirs)
        ]
    assert losses[1] < losses[0] - 0.1, losses  # it learned, and the library finds it so


CHANGED: dict[str, tuple[dict[str, Any], bool, str]] = {
    "no language": ({"base": "base"}, True, "knows several languages"),
    "another language": ({"base": "base", "language": "fr"}, True, "no language 'fr'"),
    "a language of one": ({"base": "base", "language": "en"}, False, "tells no languages apart"),
    "a factor": ({"base": "base", "width_factor": 2}, False, "computed by transformers"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_the_base_decides_is_refused(jobs: Jobs, few: InputDataset, what: str) -> None:
    model, is_multilingual, told = CHANGED[what]
    folder = jobs.folder()
    write_whisper(folder, is_multilingual=is_multilingual)
    with pytest.raises(InvalidValueError, match=told):
        jobs.run(
            RECIPE | {"model": model}, few, link=Link(), work=jobs.folder(), base=base_of(folder)
        )


@pytest.mark.train
@pytest.mark.timeout(900)
def test_tones_are_written_down_from_a_random_start(jobs: Jobs) -> None:
    folder, root = jobs.folder(), jobs.folder()
    sizes = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2}
    heads = [(1, 0), (1, 1)]
    write_whisper(folder, is_multilingual=False, alignment=heads, **sizes)
    (root / "dataset").mkdir()
    dataset = dataset_of(tones_archive(root / "tones.zip", num_rows=1_200), root / "dataset")
    recipe = {
        "task": "speech-recognition",
        "model": {"base": "base"},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
        "train": {"epochs": 20, "batch_size": 16, "evals_per_epoch": 1},
    }
    made = jobs.run(recipe, dataset, link=Link(), work=jobs.folder(), base=base_of(folder))
    report = read_manifest(made).report
    assert report["wer"]["value"] <= 0.2, report
    model, samples_N = opened(made), torch.from_numpy(tones("a h c", seed=5_000))
    (word,) = transcribe(model, lambda start, most: piece(samples_N, start, most))
    assert abs(word.end_s - len(samples_N) / RATE_HZ) <= 0.1
    words, _ = _said(model, samples_N, has_words=True)
    assert text_of(words) == word.text
    for place, one in enumerate(words):
        middle_s = 0.16 + 0.48 * place  # of its tone; the pause before counts to the word
        assert one.start_s < middle_s < one.end_s, words
