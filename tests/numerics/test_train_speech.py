"""Speech recognition by a job: Morse code is heard, runs resume bit for bit, rows are told of."""

import io
import json
import tomllib
import wave
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from examples import morse
from purvey.contracts.jobs import InputDataset
from purvey.contracts.model import ModelManifest, ModelSource
from purvey.contracts.speech.transcription import text_of
from purvey.errors import InvalidValueError
from purvey.evaluate.transcripts import error_rates
from purvey.models.inputs.audio import waveform
from purvey.models.loading import open_model
from purvey.models.speech.listening import transcribe
from purvey.models.speech.recogniser import SpeechModel
from purvey.parse.parser import DecoderHere
from tests.numerics.recordings import dataset_of, morse_dataset, speech_recipe
from tests.numerics.test_train_resume import Jobs, Link, sha256


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> InputDataset:
    """Forty short recordings."""
    return morse_dataset(tmp_path_factory.mktemp("few"), num_rows=40, num_words=1)


def manifest_of(folder: Path) -> ModelManifest:
    return msgspec.json.decode((folder / "purvey.json").read_bytes(), type=ModelManifest)


def opened(folder: Path) -> SpeechModel:
    model = open_model(ModelSource(name="m", folder=str(folder), digest="0" * 64))
    assert isinstance(model, SpeechModel)
    return model


def heard(model: SpeechModel, data: bytes) -> str:
    def read(start_s: float, max_s: float) -> Any:
        rate_hz = model.spec.sample_rate_hz
        return waveform(
            data,
            sample_rate_hz=rate_hz,
            max_s=max_s,
            start_s=start_s,
            decoder=DecoderHere(),
        )

    return text_of(transcribe(model, read))


@pytest.mark.row("CRA-23")
def test_a_resumed_recogniser_is_bit_equal(jobs: Jobs, few: InputDataset) -> None:
    recipe = speech_recipe(micro_batch_size=3)
    whole = jobs.run(recipe, few, link=Link(), work=jobs.folder())
    resumed = jobs.interrupted(recipe, few, stops=[1, 0, 4])
    assert sha256(resumed) == sha256(whole)


def test_the_model_and_its_report_are_complete(jobs: Jobs, few: InputDataset) -> None:
    link = Link()
    folder = jobs.run(speech_recipe(), few, link=link, work=jobs.folder())
    manifest = manifest_of(folder)
    assert (manifest.family, manifest.task, manifest.architecture) == (
        "speech",
        "speech-recognition",
        "ctc",
    )
    assert set(manifest.vocabulary) <= set("abcdefghijklmnopqrstuvwxyz ")
    assert set(manifest.report) == {"wer", "cer", "exact"}
    assert manifest.report["wer"]["num_rows"] == few.manifest.rows["test"]
    assert manifest.lineage["dataset_digest"] == few.manifest.digest
    (spec,) = manifest.inputs.values()
    longest_s = few.manifest.profile["columns"]["audio"]["seconds"]["max"]
    assert spec == msgspec.structs.replace(spec, sample_rate_hz=4_000, num_mels=16, max_s=longest_s)


def test_it_goes_on_from_what_was_trained(jobs: Jobs, few: InputDataset) -> None:
    folder = jobs.run(speech_recipe(), few, link=Link(), work=jobs.folder())
    base = ModelSource(name="base", folder=str(folder), digest="0" * 64)
    recipe = speech_recipe() | {"model": {"base": "base", "width_factor": 2}}
    with pytest.raises(InvalidValueError, match="declares its own inputs"):
        jobs.run(recipe, few, link=Link(), work=jobs.folder(), base=base)
    del recipe["preprocess"]
    tuned = jobs.run(recipe, few, link=Link(), work=jobs.folder(), base=base)
    assert sha256(tuned) != sha256(folder)
    assert manifest_of(tuned).vocabulary == manifest_of(folder).vocabulary
    assert manifest_of(tuned).inputs == manifest_of(folder).inputs
    assert manifest_of(tuned).hyperparameters["width"] == 48
    assert manifest_of(tuned).lineage["grown"]["largest_difference"] < 1e-4


def spoken(root: Path, rows: list[tuple[bytes, str]], **config: Any) -> InputDataset:
    """Prepare recordings with what is said in them."""
    with zipfile.ZipFile(root / "spoken.zip", "w") as file:
        lines = []
        for number, (data, text) in enumerate(rows):
            file.writestr(f"{number}.wav", data)
            lines.append(json.dumps({"file_name": f"{number}.wav", "transcript": text}))
        file.writestr("metadata.jsonl", "\n".join(lines))
    folder = root / "prepared"
    folder.mkdir()
    return dataset_of(root / "spoken.zip", folder, **config)


def noise(seconds: float, seed: int, *, rate_hz: int = 8_000, channels: int = 1) -> bytes:
    drawn = np.random.default_rng(seed).normal(size=round(seconds * rate_hz) * channels)
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((drawn * 3_000).astype("<i2").tobytes())
    return written.getvalue()


def test_rows_that_cannot_be_learned_from_are_left_out_and_told(jobs: Jobs) -> None:
    rows = [(noise(1.0, seed, rate_hz=8_000 + 100 * (seed % 3)), "ab") for seed in range(10)]
    rows += [(noise(3.0, 90), "ba"), (noise(0.05, 91), "abababababab")]
    dataset = spoken(jobs.folder(), rows, splits={"validation": 0, "test": 0})
    recipe = speech_recipe(epochs=1)
    recipe["preprocess"]["audio"]["max_s"] = 1.0
    link = Link()
    jobs.run(recipe, dataset, link=link, work=jobs.folder())
    told = [event for event in link.events if "left out" in event]
    assert [event[:46] for event in told] == [
        "1 recordings of the train split are left out: ",
        "1 recordings of the train split are left out: ",
    ]
    assert "longer than 1 s" in told[0]
    assert "too short" in told[1]
    assert any(event.startswith("Training") and "on 10 rows" in event for event in link.events)
    recipe["preprocess"]["audio"]["max_s"] = 0.1
    with pytest.raises(InvalidValueError, match="no training recording is short enough"):
        jobs.run(recipe, dataset, link=Link(), work=jobs.folder())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another network": ({"model": {"architecture": "convnet"}}, "model.architecture"),
    "a tokenizer": ({"tokenizer": {"vocabulary_size": 300}}, "recipe.tokenizer"),
    "a shift": ({"augment": {"audio": {"shift_fraction": 0.1}}}, "shift_fraction"),
    "a mirror": ({"augment": {"image": {"flip": True}}}, "recipe.augment.image"),
    "a size": ({"preprocess": {"image": {"height": 9}}}, "recipe.preprocess.image"),
    "smoothing": ({"train": {"label_smoothing": 0.1}}, "train.label_smoothing"),
    "an adapter": (
        {"model": {"base": "b"}, "train": {"method": "lora"}},
        "recipe.train.method",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_have_no_effect_is_refused(jobs: Jobs, few: InputDataset, what: str) -> None:
    changes, param = REFUSED[what]
    with pytest.raises(InvalidValueError) as raised:
        jobs.run(speech_recipe() | changes, few, link=Link(), work=jobs.folder())
    assert param in str(raised.value.param)


def test_a_dataset_without_transcripts_is_refused(jobs: Jobs) -> None:
    rows = [(noise(0.5, seed), "ab"[seed % 2]) for seed in range(12)]
    dataset = spoken(jobs.folder(), rows, columns={"audio": "audio", "transcript": "label"})
    with pytest.raises(InvalidValueError, match="no transcript column"):
        jobs.run(speech_recipe(), dataset, link=Link(), work=jobs.folder())


@pytest.mark.train
@pytest.mark.timeout(1_500)
def test_noisy_morse_is_heard_at_full_size(jobs: Jobs) -> None:
    """By `recipes/morse.toml`; then minutes on end, which no recording of the training was."""
    recipe = tomllib.loads((Path(__file__).parents[2] / "recipes" / "morse.toml").read_text())
    del recipe["data"]
    dataset = morse_dataset(jobs.folder() / "data", num_rows=3_000)
    folder = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    report = manifest_of(folder).report
    assert report["wer"]["value"] <= 0.05, report
    model, chance = opened(folder), np.random.default_rng(1_000)
    texts, parts = zip(*(morse.drawn(chance, num_words=3) for _ in range(60)), strict=True)
    whole = heard(model, morse.wav(np.concatenate(parts)))
    assert error_rates([" ".join(texts)], [whole])["wer"] <= 0.05
