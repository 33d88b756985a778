"""FIL-11: zips that try to escape, to unfold, or to be read in two ways."""

import io
import os
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from purvey.contracts.limits import LIMITS
from purvey.data.reading.media_zip import read_media_zip
from purvey.errors import InvalidFileError, UnsafeArchiveError
from tests.matrix.hostile_zips import UNSAFE, Packed, many, nested, packed, picture


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[bytes], Path]:
    """A function that puts bytes where an upload would lie, alone in a folder."""

    def store(data: bytes) -> Path:
        path = tmp_path / "alone" / ("0" * 64)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    return store


@pytest.mark.row("FIL-11")
@pytest.mark.parametrize("what", UNSAFE)
def test_an_unsafe_archive_is_refused_by_entry(stored: Callable[[bytes], Path], what: str) -> None:
    data, said = UNSAFE[what]
    path = stored(data)
    tracemalloc.start()
    with pytest.raises(UnsafeArchiveError, match=said):
        read_media_zip(path, source="a.zip")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**20
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.row("FIL-11")
def test_a_zip_of_zips_is_not_unfolded(stored: Callable[[bytes], Path]) -> None:
    with pytest.raises(InvalidFileError, match="is not an image"):
        read_media_zip(stored(nested()), source="42.zip")


def _count_limit_is(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    import dataclasses

    small = dataclasses.replace(LIMITS, archive_entries=limit)
    monkeypatch.setattr("purvey.data.reading.zip_file.LIMITS", small)


@pytest.mark.row("FIL-11")
def test_entries_are_counted_before_they_are_held(
    stored: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [Packed(name=b"c/%d.png" % i, data=picture(i)) for i in range(4)]
    _count_limit_is(monkeypatch, 4)
    assert read_media_zip(stored(packed(*pictures)), source="a.zip").num_rows == 4
    for limit in (3, 1):
        _count_limit_is(monkeypatch, limit)
        with pytest.raises(UnsafeArchiveError, match=f"more than {limit} entries"):
            read_media_zip(stored(packed(*pictures)), source="a.zip")
    with pytest.raises(UnsafeArchiveError, match="more than 1 entries"):
        read_media_zip(stored(packed(*pictures, announced=1)), source="a.zip")


@pytest.mark.row("FIL-11")
@pytest.mark.faults
def test_a_million_entries_are_refused_without_being_listed(
    stored: Callable[[bytes], Path],
) -> None:
    path = stored(many(10**6))
    tracemalloc.start()
    with pytest.raises(UnsafeArchiveError, match=f"more than {LIMITS.archive_entries} entries"):
        read_media_zip(path, source="a.zip")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**20


@pytest.mark.row("FIL-11")
def test_what_ordinary_packers_write_is_read(stored: Callable[[bytes], Path]) -> None:
    class Pipe(io.RawIOBase):
        """A file that cannot seek: sizes then follow each entry."""

        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.data += bytes(data)  # type: ignore[call-overload]  # any buffer
            return len(bytes(data))  # type: ignore[call-overload]  # any buffer

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("cats")
        archive.writestr("cats/一.png", picture(1))
        with archive.open("cats/2.png", "w", force_zip64=True) as entry:
            entry.write(picture(2))
        archive.comment = b"PK\x05\x06 in a comment"[4:]
    table = read_media_zip(stored(bytes(pipe.data)), source="a.zip")
    assert table.columns["image"] == [picture(1), picture(2)]
    assert list(table.lines) == [2, 3]


@pytest.mark.row("FIL-11")
@pytest.mark.parametrize("count", [300, pytest.param(30_000, marks=pytest.mark.faults)])
def test_a_damaged_archive_is_read_as_it_was_or_refused(
    stored: Callable[[bytes], Path], count: int
) -> None:
    whole = packed(*(Packed(name=b"c/%d.png" % i, data=picture(i), method=8) for i in range(3)))
    expected = [picture(i) for i in range(3)]
    seed = int.from_bytes(os.urandom(4), "little")
    chance = random.Random(seed)  # noqa: S311 (damage, not a secret)
    for _ in range(count):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        cut = chance.choice((len(damaged), len(damaged), chance.randrange(len(damaged))))
        try:
            table = read_media_zip(stored(bytes(damaged[:cut])), source="a.zip")
        except (UnsafeArchiveError, InvalidFileError):
            continue
        assert set(map(bytes, table.columns["image"])) <= set(expected), seed  # type: ignore[arg-type]
