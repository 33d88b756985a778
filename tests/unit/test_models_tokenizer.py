"""Tokenizers trained here, and definitions that are refused."""

import copy
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purvey.errors import InvalidCheckpointError
from purvey.models.tokenizer import Tokenizer

TRAINED = Tokenizer.train(["the cat sat on the mat", "你好世界"] * 5, vocabulary_size=320)


def test_training_gives_the_documented_ids() -> None:
    assert TRAINED.special_tokens == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert TRAINED.eos_ids == (0, 2)
    assert TRAINED.bos_id == 0
    assert TRAINED.prefix_ids == ()
    assert 259 < TRAINED.vocabulary_size <= 320


def test_training_is_deterministic() -> None:
    texts = ["a b c a b", "b c"] * 3
    first, second = (Tokenizer.train(texts, vocabulary_size=280) for _ in range(2))
    assert first.encode("a b c") == second.encode("a b c")
    assert first.vocabulary_size == second.vocabulary_size


def eating(*, left: bool, right: bool) -> Tokenizer:
    """A tokenizer whose last special token swallows the white space beside it."""
    definition = copy.deepcopy(TRAINED._definition)
    definition["added_tokens"][2] |= {"lstrip": left, "rstrip": right}
    return Tokenizer(definition, TRAINED.config)


@pytest.mark.parametrize(
    ("left", "right", "pieces"),
    [
        (False, False, ["a ", 1, " \n ", 2, "  ", 2, " b"]),
        (True, False, ["a ", 1, 2, 2, " b"]),
        (False, True, ["a ", 1, " \n ", 2, 2, "b"]),
        (True, True, ["a ", 1, 2, 2, "b"]),
    ],
)
def test_a_special_token_swallows_white_space_beside_it(
    left: bool, right: bool, pieces: list[str | int]
) -> None:
    text = "a <|im_start|> \n <|im_end|>  <|im_end|> b"
    assert eating(left=left, right=right).split_special(text) == pieces


def test_long_white_space_is_read_once() -> None:
    """Tens of thousands of spaces took seconds when each was tried as a beginning."""
    tokenizer, text = eating(left=True, right=True), " " * 40_000 + "x"
    began_s = time.process_time()
    assert tokenizer.split_special(text) == [text]
    assert time.process_time() - began_s < 0.2


@given(st.text())
def test_every_text_survives(text: str) -> None:
    ids = TRAINED.encode(text)
    assert TRAINED.decode(ids) == text
    assert b"".join(map(TRAINED.token_bytes, ids)) == text.encode()


@given(st.text(), st.text())
def test_a_continuation_is_the_rest_of_the_text(before: str, after: str) -> None:
    prompt, rest = TRAINED.encode(before), TRAINED.encode(after, is_continuation=True)
    stream = TRAINED.stream(after=prompt)
    assert "".join(map(stream.push, rest)) + stream.finish() == after


@given(st.lists(st.integers(0, 330)))
def test_any_ids_decode_alike_whole_and_one_by_one(ids: list[int]) -> None:
    stream = TRAINED.stream()
    assert "".join(map(stream.push, ids)) + stream.finish() == TRAINED.decode(ids)


def test_an_id_outside_the_vocabulary_has_no_text() -> None:
    assert TRAINED.token_bytes(10**6) == b""
    assert TRAINED.decode([10**6]) == ""


def test_an_unfinished_character_shows_only_at_the_end() -> None:
    first, *_ = TRAINED.encode("🙂")
    stream = TRAINED.stream()
    assert stream.push(first) == ""
    assert stream.finish() == "\ufffd"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        ("{}", "not usable"),
        (json.dumps({"model": {"type": "Nothing"}}), "not usable"),
        (json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}), "BPE"),
    ],
)
def test_a_wrong_definition_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(InvalidCheckpointError, match=complaint):
        Tokenizer.from_folder(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpointError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
