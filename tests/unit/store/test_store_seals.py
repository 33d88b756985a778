"""What is known of checked files again, and what is not."""

import os
from pathlib import Path

import msgspec
import pytest

from purvey.store.seals.marks import Marks, Seals, marks_of

AN_HOUR_NS = 3_600 * 10**9


def settled(*paths: Path) -> Marks:
    """Return marks as if the files had been written an hour ago."""
    found = marks_of(paths)
    replace = msgspec.structs.replace
    return tuple(replace(mark, changed_ns=mark.changed_ns - AN_HOUR_NS) for mark in found)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"1234")
    return path


def test_what_was_kept_holds_for_the_same_marks_alone(tmp_path: Path, file: Path) -> None:
    seals, marks = Seals(tmp_path / "a" / "seals"), settled(file)
    assert not seals.holds("d", marks)
    assert seals.keep("d", marks)
    assert seals.holds("d", marks)
    assert not seals.holds("other", marks)
    assert not seals.holds("d", (*marks, *marks))
    assert not seals.holds("d", marks_of([file]))
    seals.forget("d")
    assert not seals.holds("d", marks)


def test_a_write_is_seen_though_size_and_time_are_put_back(file: Path) -> None:
    before, seen = marks_of([file]), file.stat()
    file.write_bytes(b"4321")
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    after = marks_of([file])
    assert after[0].modified_ns == before[0].modified_ns
    assert after[0].num_bytes == before[0].num_bytes
    assert after != before


def test_another_file_in_its_place_is_seen(tmp_path: Path, file: Path) -> None:
    before = marks_of([file])
    other = tmp_path / "other"
    other.write_bytes(b"1234")
    other.replace(file)
    assert marks_of([file])[0].inode != before[0].inode


def test_a_file_that_was_just_written_is_not_noted(tmp_path: Path, file: Path) -> None:
    seals = Seals(tmp_path / "seals")
    late = tuple(
        msgspec.structs.replace(mark, changed_ns=mark.changed_ns + AN_HOUR_NS)
        for mark in marks_of([file])
    )
    assert not seals.keep("d", late)
    assert not seals.holds("d", late)
    assert list((tmp_path / "seals").iterdir()) == []


def test_a_disk_that_refuses_notes_nothing(tmp_path: Path, file: Path) -> None:
    seals = Seals(file / "below a file")
    assert not seals.keep("d", settled(file))
    assert not seals.holds("d", settled(file))


def test_a_torn_note_is_none(tmp_path: Path, file: Path) -> None:
    seals, marks = Seals(tmp_path / "seals"), settled(file)
    seals.keep("d", marks)
    note = tmp_path / "seals" / "d.json"
    note.write_bytes(note.read_bytes()[:-4])
    assert not seals.holds("d", marks)
