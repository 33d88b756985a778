"""Word and character error rates of written cases."""

import pytest

from purvey.evaluate.bootstrap import Bootstrap
from purvey.evaluate.transcripts import error_rates, transcription_report


def test_edits_are_counted_over_all_rows() -> None:
    said = ["the cat sat", "one two", "你好"]
    heard = ["the cat sit down", "", "你好"]
    # words: sit for sat, and down; both of two left out; nothing. Of 3 + 2 + 1 words.
    # characters: i for a, and " down"; all of "one two"; nothing. Of 11 + 7 + 2 characters.
    assert error_rates(said, heard) == pytest.approx({"wer": 4 / 6, "cer": 13 / 20})


def test_a_rate_may_exceed_one() -> None:
    assert error_rates(["a"], ["b c d"])["wer"] == 3


def test_the_report_has_intervals_around_its_values() -> None:
    said = ["a b c d"] * 40
    heard = ["a b c d"] * 30 + ["a b x"] * 10
    report = transcription_report(said, heard, Bootstrap(num_samples=500, seed=1))
    assert report["wer"]["value"] == pytest.approx(10 * 2 / 160)
    assert report["exact"]["value"] == 0.75
    for one in report.values():
        assert one["low"] < one["value"] < one["high"]
        assert one["num_rows"] == 40
