"""Text as words and sentences, in scripts with and without spaces."""

import numpy as np
import pytest

from purvey.explain.parts import leaves
from purvey.explain.wording import Wording
from purvey.explain.words import SENTENCE_WORDS, conversation_parts, text_parts


def words(text: str) -> list[str]:
    return [text[slice(*w.char)] for w in leaves(text_parts(text)) if w.char]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Call £1000 now!!!", ["Call", "£1000", "now!!!"]),
        ("我爱北京。", ["我", "爱", "北", "京。"]),
        ("买iPhone手机 now", ["买", "iPhone", "手", "机", "now"]),
        ("すごいカメラ", ["す", "ご", "い", "カ", "メ", "ラ"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("\U00020000\U00020001", ["\U00020000", "\U00020001"]),
        ("naïve café", ["naïve", "café"]),
        (" \n\t ", []),
    ],
)
def test_words_of_any_script(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rained. We left!", ["It rained.", "We left!"]),
        ("first line\nsecond line", ["first line", "second line"]),
        ("今天下雨。我们走吧。", ["今天下雨。", "我们走吧。"]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert [text[slice(*s.char)] for s in text_parts(text) if s.char] == expected


def test_a_long_sentence_is_cut() -> None:
    sizes = [len(s.atoms) for s in text_parts("word " * 60)]
    assert sum(sizes) == 60
    assert max(sizes) == SENTENCE_WORDS


def test_atoms_are_numbered_across_turns_without_gaps() -> None:
    turns = conversation_parts([(0, "Be kind."), (2, ""), (3, "Why is it so? Tell me.")])
    assert [turn.turn for turn in turns] == [0, 3]
    assert [atom for turn in turns for atom in turn.atoms] == list(range(8))


def test_taking_words_away_takes_their_space_along() -> None:
    wording = Wording([(0, "the big red house")], is_conversation=False)
    kept = wording.kept(np.array([True, False, True, True]))
    assert kept == {0: "the red house"}
    assert wording.kept(np.zeros(4, dtype=bool)) == {0: ""}
    assert wording.kept(np.ones(4, dtype=bool)) == {0: "the big red house"}
