"""Words to segments, and segments to subtitles."""

import pytest

from purvey.contracts.speech.transcription import Word, text_of
from purvey.server.openai.audio.segments import segment_shown, segments_of, srt, vtt


def words(*told: tuple[str, float, float], is_apart: bool = True) -> list[Word]:
    return [
        Word(text=text, start_s=start_s, end_s=end_s, logprob=-0.5, is_apart=is_apart and n > 0)
        for n, (text, start_s, end_s) in enumerate(told)
    ]


def texts(found: list[Word]) -> list[str]:
    return [segment.text for segment in segments_of(found)]


def test_a_pause_ends_a_segment() -> None:
    assert texts(words(("a", 0, 1), ("b", 1.9, 2), ("c", 3.0, 4), ("d", 4, 5))) == ["a b", "c d"]


def test_a_segment_is_no_longer_than_a_subtitle() -> None:
    by_time = words(*((str(n), float(n), n + 0.9) for n in range(10)))
    assert texts(by_time) == ["0 1 2 3 4 5 6", "7 8 9"]
    by_length = words(*(("x" * 20, n / 10, n / 10 + 0.1) for n in range(5)))
    assert [len(text) for text in texts(by_length)] == [83, 20]
    alone = words(("y" * 200, 0, 30), ("z", 30, 31))
    assert [len(text) for text in texts(alone)] == [200, 1]


def test_scripts_without_spaces_are_joined_without_them() -> None:
    found = words(*((c, n / 4, n / 4 + 0.2) for n, c in enumerate("你好吗")), is_apart=False)
    assert texts(found) == ["你好吗"] == [text_of(found)]


def test_nothing_said_has_no_segments() -> None:
    assert segments_of([]) == []
    assert (srt([]), vtt([])) == ("", "WEBVTT\n\n")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0004, "00:00:00,000"),
        (59.9996, "00:01:00,000"),
        (3_725.5, "01:02:05,500"),
        (36_000.0, "10:00:00,000"),
    ],
)
def test_moments_are_hours_to_thousandths(seconds: float, shown: str) -> None:
    (segment,) = segments_of(words(("a", seconds, seconds + 1)))
    assert srt([segment]).splitlines()[1].startswith(f"{shown} --> ")
    assert vtt([segment]).splitlines()[2].startswith(shown.replace(",", "."))


def test_a_segment_is_as_probable_as_its_characters() -> None:
    found = [
        Word(text="abc", start_s=0, end_s=1, logprob=-1.0, is_apart=False),
        Word(text="d", start_s=1, end_s=2, logprob=-3.0, is_apart=True),
    ]
    shown = segment_shown(segments_of(found)[0], 4)
    assert (shown["id"], shown["text"]) == (4, "abc d")
    assert shown["avg_logprob"] == pytest.approx(-1.5)
