"""The recogniser: vocabulary, network, decoding, windows, words, its folder."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from purvey.contracts.model import AudioSpec, ModelSource
from purvey.contracts.speech.transcription import text_of
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.initialise import initialise
from purvey.models.loading import open_model
from purvey.models.speech import network
from purvey.models.speech.decoding import Emission, Logprobs, PrefixBeam, best_path
from purvey.models.speech.listening import transcribe
from purvey.models.speech.network import CtcEncoder, steps_of
from purvey.models.speech.recogniser import (
    SpeechModel,
    build_speech_model,
    save_speech_model,
)
from purvey.models.speech.vocabulary import BLANK, Vocabulary, least_steps, normalised
from purvey.models.speech.windows import PIECE_S, Window, pieces, windows
from purvey.models.speech.words import WordBuilder

RATE_HZ = 8_000
SPEC = AudioSpec(sample_rate_hz=RATE_HZ, max_s=2.0, num_mels=16)
SMALL = {"width": 12, "depth": 2, "kernel": 5}


def recogniser(**changes: object) -> SpeechModel:
    torch.manual_seed(0)
    model = build_speech_model(
        architecture="ctc",
        hyperparameters=SMALL | changes,
        spec=SPEC,
        vocabulary=Vocabulary.of(["ab cd"]),
    )
    assert isinstance(model.module, CtcEncoder)
    model.module.eval()
    with torch.no_grad():  # a fresh one says next to nothing
        model.module.head.bias[BLANK] -= 4.0
    return model


# Vocabulary -------------------------------------------------------------------------------


def test_a_transcript_is_composed_and_has_single_spaces() -> None:
    assert normalised(" cafe\u0301 \t au\nlait ") == "caf\xe9 au lait"


def test_characters_have_numbers_from_one_on_and_come_back() -> None:
    vocabulary = Vocabulary.of(["ba", "a c"])
    assert vocabulary.characters == (" ", "a", "b", "c")
    assert vocabulary.encode("cab a?") == [4, 2, 3, 1, 2]  # `?` is not known
    assert vocabulary.decode([4, 2, 3]) == "cab"
    assert vocabulary.num_outputs == 5


def test_characters_that_cannot_be_written_are_named() -> None:
    vocabulary = Vocabulary.of(["ab"])
    vocabulary.check_covers(["ba"], whose="'m'")
    with pytest.raises(InvalidValueError, match=r"'m' cannot write 1 .*'z'") as raised:
        vocabulary.check_covers(["az"], whose="'m'")
    assert raised.value.param == "recipe.model.base"


def test_equal_neighbours_need_a_step_between_them() -> None:
    assert [least_steps(n) for n in ([], [1], [1, 2], [1, 1], [1, 1, 1])] == [0, 1, 2, 3, 5]


# Network ----------------------------------------------------------------------------------


def _encoder(seed: int = 0, **sizes: int) -> CtcEncoder:
    torch.manual_seed(seed)
    values = {"num_mels": 16, "num_outputs": 5, "width": 12, "depth": 2, "kernel": 5} | sizes
    return CtcEncoder(**values, dropout=0.0).eval()


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    encoder = _encoder()
    frames = [37, 60, 18, 51]
    features = [torch.randn(16, count) for count in frames]
    batch = torch.zeros(len(frames), 16, max(frames))
    for row, one in enumerate(features):
        batch[row, :, : frames[row]] = one
    lengths = torch.tensor(frames)
    together = encoder(batch, lengths)
    for row, one in enumerate(features):
        alone = encoder(one[None], lengths[row : row + 1])[0]
        # float32 sums of a few hundred products of size one, in another order
        torch.testing.assert_close(together[row, : steps_of(frames[row])], alone, rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [{}, {"depth": 4, "kernel": 3}])
def test_a_step_hears_no_further_than_the_reach(sizes: dict[str, int]) -> None:
    encoder = _encoder(**sizes)
    x, frames = torch.randn(1, 16, 480), torch.tensor([480])
    changed, middle = x.clone(), 60
    changed[:, :, 4 * middle : 4 * middle + 4] += 1.0
    differs = (encoder(x, frames) - encoder(changed, frames)).abs().amax(dim=2)[0] > 0
    touched = differs.nonzero()[:, 0]
    assert middle - encoder.reach_steps <= touched.min()
    assert touched.max() <= middle + encoder.reach_steps
    # Not much wider than it need be: of the steps beyond the blocks, one is for what lies past an
    # edge of the spectrum's window, and none is needed where a frame is the last of its step.
    assert touched.max() - touched.min() >= 2 * (encoder.reach_steps - 2)


@pytest.mark.parametrize("num_mels", [8, 40, 41, 43, 80])
def test_parameters_are_counted_before_they_are_made(num_mels: int) -> None:
    sizes = {"num_mels": num_mels, "num_outputs": 9, "width": 20, "depth": 3, "kernel": 7}
    built = CtcEncoder(**sizes)
    assert network.num_parameters_of(**sizes) == sum(p.numel() for p in built.parameters())
    assert built(torch.zeros(1, num_mels, 9), torch.tensor([9])).shape == (1, 3, 9)


@pytest.mark.parametrize(
    ("hyperparameters", "named"),
    [
        ({"widht": 8}, "did you mean 'width'"),
        ({"width": 0}, "hyperparameters.width"),
        ({"width": 2**20}, "parameters"),
        ({"depth": 10_000}, "hyperparameters.depth"),
        ({"kernel": 8}, "must be odd"),
        ({"dropout": 1}, "hyperparameters.dropout"),
    ],
)
def test_hyperparameters_are_checked(hyperparameters: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidValueError, match=named):
        recogniser(**hyperparameters)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="use 'ctc'") as raised:
        build_speech_model(
            architecture="convnet",
            hyperparameters={},
            spec=SPEC,
            vocabulary=Vocabulary.of(["a"]),
        )
    assert raised.value.param == "model.architecture"


def test_weights_are_drawn_by_the_named_scheme() -> None:
    model = recogniser()
    assert isinstance(model.module, CtcEncoder)
    before = model.module.head.weight.clone()
    initialise(model.module, "xavier_normal", generator=torch.Generator().manual_seed(1))
    assert not torch.equal(model.module.head.weight, before)
    assert not model.module.head.bias.any()


# Decoding ---------------------------------------------------------------------------------


def _logp(rows: list[list[float]]) -> Logprobs:
    return np.log(np.array(rows, dtype=np.float32))


def _random(num_steps: int, num_outputs: int, seed: int, *, sharpness: float = 1.0) -> Logprobs:
    drawn = np.random.default_rng(seed).normal(size=(num_steps, num_outputs)) * sharpness
    return torch.from_numpy(drawn).float().log_softmax(dim=1).numpy()


def _collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n, _ in itertools.groupby(path) if n != BLANK)


def _numbers(found: list[Emission]) -> tuple[int, ...]:
    return tuple(emission.number for emission in found)


def test_the_best_path_drops_repeats_and_blanks() -> None:
    path = [1, 1, 0, 1, 2, 2, 0, 0, 3]
    logp = np.full((len(path), 4), -5.0, np.float32)
    for step, number in enumerate(path):
        logp[step, number] = -0.1
    logp[1, 1] = -0.05  # the peak of the first character
    found = best_path(logp)
    assert _numbers(found) == (1, 1, 2, 3)
    assert [emission.step for emission in found] == [1, 3, 4, 8]
    assert best_path(logp[:0]) == []


@pytest.mark.parametrize("seed", range(8))
def test_a_wide_beam_finds_the_most_probable_text(seed: int) -> None:
    """Against the sum over all paths, every one of them."""
    logp = _random(6, 3, seed)
    totals: Counter[tuple[int, ...]] = Counter()
    for path in itertools.product(range(3), repeat=6):
        totals[_collapsed(path)] += math.exp(sum(logp[t, n] for t, n in enumerate(path)))  # type: ignore[assignment]  # a Counter of floats
    beam = PrefixBeam(width=10_000, margin=math.inf)
    found = (*_numbers(beam.feed(logp)), *_numbers(beam.finish()))
    assert found == max(totals, key=lambda text: totals[text])


def test_the_beam_adds_up_what_the_best_path_does_not() -> None:
    logp = _logp([[0.6, 0.4], [0.6, 0.4]])  # the best path is blank, blank: 0.36 against 0.64
    assert best_path(logp) == []
    beam = PrefixBeam()
    assert (*_numbers(beam.feed(logp)), *_numbers(beam.finish())) == (1,)


@pytest.mark.parametrize("cut", [1, 7, 64, 100])
def test_what_is_heard_does_not_depend_on_where_it_is_cut(cut: int) -> None:
    logp = _random(300, 6, 3, sharpness=4.0)
    whole, by_parts = PrefixBeam(), PrefixBeam()
    expected = [*whole.feed(logp), *whole.finish()]
    told: list[Emission] = []
    for start in range(0, len(logp), cut):
        told += by_parts.feed(logp[start : start + cut])
    told += by_parts.finish()
    assert _numbers(told) == _numbers(expected)
    assert len(told) > 100
    steps = [emission.step for emission in told]
    assert steps == sorted(steps)
    assert steps[0] >= 0
    assert steps[-1] < len(logp)


def test_a_long_recording_leaves_little_behind() -> None:
    beam = PrefixBeam()
    told = 0
    for seed in range(20):
        told += len(beam.feed(_random(200, 6, seed, sharpness=6.0)))
    assert told > 1_000
    assert max(map(len, beam._held)) < 100


def test_a_step_with_an_impossible_character_is_no_obstacle() -> None:
    logp = np.full((4, 3), -np.inf, np.float32)
    logp[:, BLANK] = 0.0
    logp[1] = [-np.inf, 0.0, -np.inf]
    beam = PrefixBeam()
    assert (*_numbers(beam.feed(logp)), *_numbers(beam.finish())) == (1,)


# Words ------------------------------------------------------------------------------------


def _built(text: str) -> tuple[list[str], list[bool], str]:
    vocabulary = Vocabulary(characters=tuple(sorted(set(text))))
    builder = WordBuilder(vocabulary, step_s=0.02)
    numbers = [vocabulary.characters.index(c) + 1 for c in text]
    emissions = [Emission(number=n, step=i, logprob=-0.5) for i, n in enumerate(numbers)]
    words = [*builder.add(emissions[:2]), *builder.add(emissions[2:]), *builder.finish()]
    return [w.text for w in words], [w.is_apart for w in words], text_of(words)


def test_words_end_at_spaces() -> None:
    assert _built("ab  cd e") == (["ab", "cd", "e"], [False, True, True], "ab cd e")
    assert _built(" ab ") == (["ab"], [False], "ab")


def test_scripts_without_spaces_have_a_word_for_each_character() -> None:
    texts, apart, whole = _built("你好 GPT很好")
    assert texts == ["你", "好", "GPT", "很", "好"]
    assert apart == [False, False, True, False, False]
    assert whole == "你好 GPT很好"


def test_a_word_begins_with_its_first_character_and_ends_with_its_last() -> None:
    vocabulary = Vocabulary(characters=("a", "b"))
    builder = WordBuilder(vocabulary, step_s=0.02)
    builder.add(
        [Emission(number=1, step=10, logprob=-1.0), Emission(number=2, step=14, logprob=-2)]
    )
    (word,) = builder.finish()
    assert (word.start_s, word.end_s) == pytest.approx((0.2, 0.3))
    assert word.logprob == pytest.approx(-1.5)


# Windows ----------------------------------------------------------------------------------


def _read(recording: torch.Tensor, rate_hz: int) -> Iterator[torch.Tensor]:
    def read(start_s: float, max_s: float) -> torch.Tensor:
        start = round(start_s * rate_hz)
        return recording[start : start + round(max_s * rate_hz)]

    return pieces(read, sample_rate_hz=rate_hz)


@pytest.mark.parametrize("extra", [-1, 0, 1, 75])
def test_pieces_together_are_the_recording(extra: int) -> None:
    rate_hz = 50
    recording = torch.arange(round(2 * PIECE_S * rate_hz) + extra).float()
    assert torch.equal(torch.cat(list(_read(recording, rate_hz))), recording)
    short = torch.arange(20).float()
    assert [len(piece) for piece in _read(short, rate_hz)] == [20]


def _steps(window: Window, step_samples: int) -> list[int]:
    """The samples at the beginning of each step that counts."""
    starts = window.samples[::step_samples].long().tolist()
    return starts[window.first_step : window.end_step]


@pytest.mark.parametrize("num_samples", [1, 99, 400, 401, 1_000, 1_603])
def test_windows_cover_every_step_once_and_hear_around_it(num_samples: int) -> None:
    recording = torch.arange(num_samples).float()
    cut = [recording[i : i + 130] for i in range(0, num_samples, 130)]
    found = list(windows(iter(cut), step_samples=10, window_steps=40, reach_steps=6))
    covered = [step for window in found for step in _steps(window, 10)]
    assert covered == list(range(0, num_samples, 10))
    assert len(found) == (1 if num_samples <= 400 else len(found))
    for window in found[1:]:
        assert window.first_step == 6
    for window in found[:-1]:
        assert (len(window.samples), window.end_step) == (400, 34)


def test_a_long_recording_is_heard_as_in_the_middle_of_a_window() -> None:
    """Beyond the reach of a cut, a part gives what the whole gives (same normalisation)."""
    model = recogniser()
    reach = model.module.reach_steps
    x = torch.randn(1, 16, 400)
    with torch.no_grad():
        whole = model.module(x, torch.tensor([400]))
        part = model.module(x[:, :, 100:300], torch.tensor([200]))
    torch.testing.assert_close(
        part[:, reach : 50 - reach], whole[:, 25 + reach : 75 - reach], rtol=0, atol=2e-5
    )


# The whole --------------------------------------------------------------------------------


def _noise(num_s: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(round(num_s * RATE_HZ), generator=generator) * 0.1


def _part(samples: torch.Tensor, start_s: float, max_s: float) -> torch.Tensor:
    start = round(start_s * RATE_HZ)
    return samples[start : start + round(max_s * RATE_HZ)]


def test_silence_says_nothing_and_nothing_is_refused() -> None:
    model = recogniser()
    silence = torch.zeros(RATE_HZ)
    assert transcribe(model, lambda start, most: _part(silence, start, most)) == []
    with pytest.raises(InvalidValueError, match="empty"):
        transcribe(model, lambda start, most: torch.empty(0))


@pytest.mark.parametrize("num_s", [0.001, 0.3, 25.0, 101.0])
def test_recordings_of_any_length_are_heard(num_s: float) -> None:
    model = recogniser()
    samples = _noise(num_s)
    words = transcribe(model, lambda start, most: _part(samples, start, most))
    assert all(0 <= w.start_s < w.end_s <= num_s + 0.05 for w in words)
    assert all(a.start_s < b.start_s for a, b in itertools.pairwise(words))
    if num_s > 20:
        assert sum(len(word.text) for word in words) > 20


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    model = recogniser().with_manifest(report={"wer": {"value": 0.5}})
    save_speech_model(model, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "purvey.json"]
    loaded = open_model(ModelSource(name="m", folder=str(tmp_path), digest="0" * 64))
    assert isinstance(loaded, SpeechModel)
    assert loaded.manifest == model.manifest
    window = Window(samples=_noise(1.0), first_step=0, end_step=None)
    assert np.array_equal(loaded.log_probabilities(window), model.log_probabilities(window))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vocabulary": []}, "no recogniser"),
        ({"inputs": {}}, "no recogniser"),
        ({"task": "text-classification"}, "no recogniser"),
        ({"vocabulary": ["a"]}, "head"),
        ({"hyperparameters": SMALL | {"width": 16}}, r"is \["),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    save_speech_model(recogniser(), tmp_path)
    manifest = json.loads((tmp_path / "purvey.json").read_bytes()) | changes
    (tmp_path / "purvey.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidCheckpointError, match=named):
        open_model(ModelSource(name="m", folder=str(tmp_path), digest="0" * 64))
