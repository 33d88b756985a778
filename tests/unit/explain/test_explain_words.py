"""Text as words and sentences, in scripts with and without spaces."""

import numpy as np
import pytest

from purvey.errors import InvalidValueError
from purvey.explain.parts import atom_masks, leaves
from purvey.explain.wording import Wording
from purvey.explain.words import MOST_WORDS, SENTENCE_WORDS, conversation_parts, text_parts


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


def test_a_text_of_too_many_words_is_refused_before_it_is_divided() -> None:
    Wording([(0, "字" * MOST_WORDS)], is_conversation=False)
    with pytest.raises(InvalidValueError, match=f"more than {MOST_WORDS} words"):
        Wording([(0, "字" * MOST_WORDS), (1, "a")], is_conversation=True)


def test_an_atom_is_kept_with_its_unit() -> None:
    member_UA = np.array([[False, True, False], [True, False, True]])
    keep_MU = np.array([[True, False], [False, True], [False, False]])
    expected = [[False, True, False], [True, False, True], [False, False, False]]
    assert atom_masks(keep_MU, member_UA).tolist() == expected
