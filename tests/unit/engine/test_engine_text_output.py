"""Output text: whole characters, and no part of a stop string; `tests/property` has the law."""

import pytest

from purvey.engine.output.text_output import TextOutput
from purvey.models.tokenizer import Tokenizer


class Letters:
    """Text of ids that stand for whole strings."""

    def __init__(self, *pieces: str, rest: str = "") -> None:
        self._pieces, self._rest = pieces, rest

    def push(self, token_id: int) -> str:
        return self._pieces[token_id]

    def finish(self) -> str:
        return self._rest


def released(output: TextOutput, count: int) -> list[str]:
    shown = []
    for token_id in range(count):
        shown.append(output.push(token_id))
        if output.is_stopped:
            break
    return [*shown, output.finish()]


def test_without_stop_strings_everything_is_shown_at_once() -> None:
    output = TextOutput(Letters("a", "b", "", "c", rest="�"), ())
    assert released(output, 4) == ["a", "b", "", "c", "�"]


def test_what_may_begin_a_stop_string_is_held_back_until_it_does_not() -> None:
    output = TextOutput(Letters("say EN", "D", "ED", "!"), ("ENDING",))
    assert released(output, 4) == ["say ", "", "ENDED", "!", ""]
    assert not output.is_stopped


def test_a_stop_string_across_token_borders_is_never_shown() -> None:
    output = TextOutput(Letters("say E", "ND", "IN", "G now"), ("ENDING",))
    assert released(output, 4) == ["say ", "", "", "", ""]
    assert output.is_stopped


def test_a_beginning_that_never_completed_is_shown_in_the_end() -> None:
    assert released(TextOutput(Letters("x", "EN"), ("END",)), 2) == ["x", "", "EN"]


def test_the_first_stop_string_to_complete_wins() -> None:
    for pieces in (("abcd",), ("a", "b", "c", "d"), ("ab", "cd")):
        output = TextOutput(Letters(*pieces), ("abcd", "bc"))
        assert "".join(released(output, len(pieces))) == "a"


def test_the_last_held_bytes_may_complete_a_stop_string() -> None:
    output = TextOutput(Letters("ab", rest="�"), ("b�",))
    assert released(output, 1) == ["a", ""]
    assert output.is_stopped


@pytest.mark.parametrize("text", ["日本語", "naïve 👩‍🔬 café", "plain"])
def test_characters_appear_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = [_byte_id(tokenizer, byte) for byte in text.encode()]
    output = TextOutput(tokenizer.stream(), ())
    pieces = [output.push(token_id) for token_id in ids]
    assert "".join(pieces) + output.finish() == text
    assert all("�" not in piece for piece in pieces)


def _byte_id(tokenizer: Tokenizer, byte: int) -> int:
    return next(
        i for i in range(tokenizer.vocabulary_size) if tokenizer.token_bytes(i) == bytes([byte])
    )
