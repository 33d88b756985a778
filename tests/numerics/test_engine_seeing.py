"""Images in an engine: the same bits in every batch, and a cache that mixes nothing up."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples import shapes
from purvey.contracts.engine import ChatPrompt, TextPrompt, TokenPrompt
from purvey.contracts.model import EYES_NAME, ModelSource
from purvey.engine.score import Scorer
from purvey.errors import (
    ContextLengthError,
    InvalidCheckpointError,
    InvalidValueError,
    UnsupportedValueError,
)
from purvey.models.loading import open_model
from purvey.models.seeing.model import VisionLanguageModel, save_vision_language_model
from tests.numerics.seen_engine import SeenEngine, about
from tests.numerics.shapes import seeing_model

QUESTION = "what colour is the circle?"
NUM_NEW = 8


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: a second thread only waits for the first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    """A model whose answers depend on the image."""
    return seeing_model()


def image(seed: int) -> bytes:
    return shapes.png(shapes.drawn(np.random.default_rng(seed)).pixels)


def test_the_folder_is_a_language_models_and_comes_back_whole(
    model: VisionLanguageModel, tmp_path: Path
) -> None:
    save_vision_language_model(tmp_path, model)
    again = open_model(ModelSource(name="m", folder=str(tmp_path), digest="0" * 64))
    assert isinstance(again, VisionLanguageModel)
    assert (again.manifest, again.spec) == (model.manifest, model.spec)
    mine, theirs = model.module.state_dict(), again.module.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    (tmp_path / EYES_NAME).unlink()
    with pytest.raises(InvalidCheckpointError, match=EYES_NAME):
        open_model(ModelSource(name="m", folder=str(tmp_path), digest="0" * 64))


def alone(model: VisionLanguageModel, prompt: ChatPrompt) -> list[tuple[int, float]]:
    engine = SeenEngine(model, has_prefix_cache=False, max_batch_tokens=256)
    engine.submit("a", prompt, max_tokens=NUM_NEW)
    engine.run_out()
    return chosen(engine, "a")


def chosen(engine: SeenEngine, name: str) -> list[tuple[int, float]]:
    return [(token.token_id, token.logprob) for token in engine.tokens[name]]


def test_answers_have_the_same_bits_beside_others_and_from_the_cache(
    model: VisionLanguageModel,
) -> None:
    """Portions of a prompt, neighbours of both kinds, hits, and preemption in a small pool."""
    prompts = {
        "first": about(image(1), QUESTION),
        "other image": about(image(2), QUESTION),
        "text": about(None, QUESTION),
        "again": about(image(1), QUESTION),
        "other question": about(image(1), "how many shapes are there? " * 2),
    }
    expected = {name: alone(model, prompt) for name, prompt in prompts.items()}
    assert expected["first"] != expected["other image"], "the image makes no difference"
    assert expected["first"] != expected["text"]
    for num_blocks in (64, 9):
        engine = SeenEngine(model, num_blocks=num_blocks, max_batch_tokens=64)
        for name, prompt in prompts.items():
            engine.submit(name, prompt, max_tokens=NUM_NEW)
            engine.core.step()
        engine.run_out()
        assert {name: chosen(engine, name) for name in prompts} == expected


def test_the_cache_is_keyed_by_the_image(model: VisionLanguageModel) -> None:
    engine = SeenEngine(model)

    def cached(name: str, prompt: ChatPrompt, salt: str = "") -> int:
        engine.submit(name, prompt, salt=salt, max_tokens=2)
        engine.run_out()
        return engine.ends[name].cached_tokens

    first = about(image(1), QUESTION)
    assert cached("first", first) == 0
    assert engine.ends["first"].prompt_tokens == 16 + num_text_tokens(model, first)
    assert cached("same", first) == 32
    assert cached("another project's", first, salt="b") == 0
    assert cached("other image", about(image(2), QUESTION)) == 0
    assert cached("none", about(None, QUESTION)) == 0
    assert cached("other question", about(image(1), "how many shapes are there?")) == 0
    assert cached("same again", first) == 32


def num_text_tokens(model: VisionLanguageModel, prompt: ChatPrompt) -> int:
    template = model.language.template
    assert template is not None
    return len(template.encode(prompt.messages, model.language.tokenizer))


def about_both(first: int, second: int) -> ChatPrompt:
    return about([image(first), image(second)], QUESTION)


def test_two_images_are_two_and_in_their_order(model: VisionLanguageModel) -> None:
    pair = model.seeing(2)
    assert (pair.num_images, pair.seeing(1).num_images, model.num_images) == (2, 2, 1)
    prompts = {
        "both": about_both(1, 2),
        "turned": about_both(2, 1),
        "twice the first": about_both(1, 1),
        "the first": about(image(1), QUESTION),
        "again": about_both(1, 2),
    }
    expected = {name: alone(pair, prompt) for name, prompt in prompts.items()}
    assert len({*map(tuple, expected.values())}) == 4, "an image makes no difference"
    assert expected["the first"] == alone(model, prompts["the first"])
    engine = SeenEngine(pair, max_batch_tokens=64)
    for name, prompt in prompts.items():
        engine.submit(name, prompt, max_tokens=NUM_NEW)
        engine.run_out()
    assert {name: chosen(engine, name) for name in prompts} == expected
    assert engine.ends["both"].prompt_tokens == 32 + num_text_tokens(model, prompts["both"])
    assert engine.ends["both"].cached_tokens == engine.ends["turned"].cached_tokens == 0
    assert engine.ends["again"].cached_tokens >= 32


def test_given_answers_about_an_image_are_scored_as_they_are_written(
    model: VisionLanguageModel,
) -> None:
    pair = model.seeing(2)
    engine = SeenEngine(pair, has_prefix_cache=False)
    prompts = [about_both(1, 2), about_both(2, 1), about(None, QUESTION)]
    outputs = [
        TokenPrompt(tokens=tuple(token for token, _ in alone(pair, prompt))) for prompt in prompts
    ]
    encoded, pictures = engine.door.encode_seen(list(zip(prompts, outputs, strict=True)))
    assert [None if one is None else one.num_tokens for one in pictures] == [32, 32, None]
    scores = Scorer(engine.core, engine.door.encode_pair).submit_encoded(encoded, pictures=pictures)
    engine.run_out()
    for prompt, found in zip(prompts, scores.result(0), strict=True):
        written = [logprob for _, logprob in alone(pair, prompt)]
        assert found == pytest.approx(written, abs=1e-4)  # float32 sums in another order
    counted = engine.door.counted(prompts[0])
    assert (len(counted[0]) + counted[1], counted[1]) == (len(encoded[0][0]), 32)


REFUSED: dict[str, tuple[Any, type[Exception]]] = {
    "two": (about_both(1, 1), InvalidValueError),
    "broken": (about(image(1)[:60], "x"), InvalidValueError),
    "no image": (about(b"", "x"), InvalidValueError),
    "too long": (about(image(1), "x " * 120), ContextLengthError),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_seen_is_refused(model: VisionLanguageModel, what: str) -> None:
    prompt, error = REFUSED[what]
    with pytest.raises(error) as raised:
        SeenEngine(model).submit("a", prompt, max_tokens=2)
    assert getattr(raised.value, "param", None) == "messages"


def test_what_reads_text_alone_refuses_images(model: VisionLanguageModel) -> None:
    engine = SeenEngine(model)
    with pytest.raises(UnsupportedValueError):
        engine.door.encode(about(image(1), QUESTION))
    with pytest.raises(InvalidValueError):
        engine.door.counted(about_both(1, 2))
    with pytest.raises(UnsupportedValueError):
        engine.door.encode_pair((about(image(1), QUESTION), TextPrompt(text="red")))
    assert engine.door.encode(about(None, QUESTION))
