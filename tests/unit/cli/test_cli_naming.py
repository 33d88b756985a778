"""`--input` pairs become the mixture that `/v1/classify` takes."""

from pathlib import Path

import pytest

from purvey.cli.commands.naming import named_inputs
from purvey.errors import InvalidFileError, InvalidValueError


def test_texts_numbers_and_files_are_told_apart(tmp_path: Path) -> None:
    photo, sound = tmp_path / "a.png", tmp_path / "b.wav"
    photo.write_bytes(b"png")
    sound.write_bytes(b"wav")
    pairs = ["note=a = b", "area:=2.5", "code=7", f"photo=@{photo}", f"voice=@{sound}"]
    assert named_inputs(pairs) == {
        "note": "a = b",
        "area": 2.5,
        "code": "7",
        "photo": {"image": "data:image/png;base64,cG5n"},
        "voice": {"audio": "data:audio/wav;base64,d2F2"},
    }


@pytest.mark.parametrize("pairs", [["note"], ["=x"], [":=1"], ["area:=big"], ["a=1", "a:=2"]])
def test_what_is_no_input_is_refused(pairs: list[str]) -> None:
    with pytest.raises(InvalidValueError) as refusal:
        named_inputs(pairs)
    assert refusal.value.param == "input"


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidFileError, match=r"none\.png"):
        named_inputs(["photo=@none.png"])
