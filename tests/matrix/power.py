"""A disk that loses power: what it may hold afterwards, of all that was written and not forced.

Code runs as it is while `Recorder` notes, around every change of the tree and every fsync, what
the tree is and what of it was forced to the disk. `crashes` then makes every state that a power
cut at any of these moments may leave: each entry of a folder that was not synced may be the old
one or the new one, in any combination, and bytes that were not synced may be gone, half there
or all there.
"""

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Inode = int
Entries = dict[str, Inode]
Torn = Literal["gone", "half", "all"]


@dataclass(kw_only=True)
class Moment:
    """The tree after one operation.

    Attributes:
        folders: Entries of each folder, as a process sees them.
        files: Bytes of each file, as a process sees them.
        synced_folders: Entries of each folder, as its last fsync left them.
        synced_files: Bytes of each file, as its last fsync left them.
        promises: What was acknowledged by then, by name; called with the root after the crash.
    """

    folders: dict[Inode, Entries]
    files: dict[Inode, bytes]
    synced_folders: dict[Inode, Entries]
    synced_files: dict[Inode, bytes]
    promises: dict[str, Callable[[Path], None]]


@dataclass(kw_only=True)
class Recorder:
    """Notes what happens below a folder.

    Attributes:
        root: The folder; it and what it holds at the start are on the disk.
        moments: One before and one after each operation.
    """

    root: Path
    moments: list[Moment] = field(default_factory=list)
    _promises: dict[str, Callable[[Path], None]] = field(default_factory=dict)
    _synced_folders: dict[Inode, Entries] = field(default_factory=dict)
    _synced_files: dict[Inode, bytes] = field(default_factory=dict)
    _pinned: dict[Inode, int] = field(default_factory=dict)  # no number is used twice

    def promise(self, name: str, check: Callable[[Path], None]) -> None:
        """Say that something was acknowledged: from now on it must survive."""
        self._promises = {**self._promises, name: check}
        self._note()

    def release(self, name: str) -> None:
        """Say that what was acknowledged may go."""
        self._promises = {k: v for k, v in self._promises.items() if k != name}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Note every operation of this process within the block."""
        folders, files = self._look()
        self._synced_folders, self._synced_files = folders, files
        real = {name: getattr(os, name) for name in ("rename", "unlink", "mkdir", "rmdir")}
        fsync = os.fsync

        def noted(name: str) -> Callable[..., Any]:  # as the function of `os`
            def operation(*given: Any, **named: Any) -> Any:
                self._note()
                done = real[name](*given, **named)
                self._note()
                return done

            return operation

        def synced(fd: int) -> None:
            self._note()
            fsync(fd)
            self._sync(os.fstat(fd).st_ino)
            self._note()

        try:
            for name in real:
                setattr(os, name, noted(name))
            setattr(os, "fsync", synced)  # noqa: B010 (its type takes more)
            yield
        finally:
            os.fsync = fsync
            for name, function in real.items():
                setattr(os, name, function)
            for fd in self._pinned.values():
                os.close(fd)

    def _sync(self, inode: Inode) -> None:
        folders, files = self._look()
        if inode in folders:
            self._synced_folders = {**self._synced_folders, inode: folders[inode]}
        elif inode in files:
            self._synced_files = {**self._synced_files, inode: files[inode]}

    def _note(self) -> None:
        folders, files = self._look()
        self.moments.append(
            Moment(
                folders=folders,
                files=files,
                synced_folders=self._synced_folders,
                synced_files=self._synced_files,
                promises=self._promises,
            )
        )

    def _look(self) -> tuple[dict[Inode, Entries], dict[Inode, bytes]]:
        folders: dict[Inode, Entries] = {}
        files: dict[Inode, bytes] = {}
        for folder in [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]:
            entries = {path.name: path.stat().st_ino for path in folder.iterdir()}
            folders[folder.stat().st_ino] = entries
            files |= {p.stat().st_ino: p.read_bytes() for p in folder.iterdir() if p.is_file()}
            for path in (folder, *folder.iterdir()):
                if path.stat().st_ino not in self._pinned:
                    self._pinned[path.stat().st_ino] = os.open(path, os.O_RDONLY)
        return folders, files


def crashes(
    recorder: Recorder, scratch: Path, *, max_states: int = 24, seed: int = 0
) -> Iterator[tuple[Moment, Path]]:
    """Yield each moment with each tree that a power cut may leave of it, equal ones once.

    Args:
        recorder: What happened.
        scratch: Where the trees are made; each is removed when the next is asked for.
        max_states: Combinations of entries tried for one moment; of more, a sample.
        seed: Of the samples.
    """
    chance = random.Random(seed)  # noqa: S311 (a sample)
    root, seen = recorder.root.stat().st_ino, set[int]()
    for moment in recorder.moments:
        for folders in _entries(moment, chance, max_states=max_states):
            for torn in ("gone", "half", "all"):
                tree = _tree(Path(), root, folders=folders, moment=moment, torn=torn)
                known = hash((frozenset(tree.items()), frozenset(moment.promises)))
                if known not in seen:
                    seen.add(known)
                    place = scratch / str(len(seen))
                    _make(place, tree)
                    yield moment, place
                    shutil.rmtree(place)


def _entries(
    moment: Moment, chance: random.Random, *, max_states: int
) -> Iterator[dict[Inode, Entries]]:
    """Yield what the folders may hold: of each name that was not synced, the old or the new."""
    open_: list[tuple[Inode, str]] = []
    for inode in moment.folders.keys() | moment.synced_folders.keys():
        now = moment.folders.get(inode, {})
        then = moment.synced_folders.get(inode, {})
        open_ += [(inode, name) for name in now.keys() | then.keys() if _differs(now, then, name)]
    open_.sort()
    choices = list(itertools.product((False, True), repeat=min(len(open_), 12)))
    if len(choices) > max_states:
        choices = [choices[0], choices[-1], *chance.sample(choices, max_states - 2)]
    for chosen in choices:
        is_new = dict(itertools.zip_longest(open_, chosen, fillvalue=True))
        yield {
            inode: _mixed(inode, moment, is_new)
            for inode in moment.folders.keys() | moment.synced_folders.keys()
        }


def _differs(now: Entries, then: Entries, name: str) -> bool:
    return now.get(name) != then.get(name)


def _mixed(inode: Inode, moment: Moment, is_new: dict[Any, bool]) -> Entries:
    now, then = moment.folders.get(inode, {}), moment.synced_folders.get(inode, {})
    mixed: Entries = {}
    for name in now.keys() | then.keys():
        entry = (now if is_new.get((inode, name), True) else then).get(name)
        if entry is not None:
            mixed[name] = entry
    return mixed


def _tree(
    path: Path, inode: Inode, *, folders: dict[Inode, Entries], moment: Moment, torn: Torn
) -> dict[Path, bytes | None]:
    """Return what is below `path`: the bytes of files, None for folders."""
    if inode not in folders:
        return {path: _bytes(inode, moment, torn)}
    tree: dict[Path, bytes | None] = {path: None}
    for name, entry in sorted(folders[inode].items()):
        tree |= _tree(path / name, entry, folders=folders, moment=moment, torn=torn)
    return tree


def _bytes(inode: Inode, moment: Moment, torn: Torn) -> bytes:
    synced = moment.synced_files.get(inode, b"")
    now = moment.files.get(inode, synced)
    if now == synced or torn == "gone":
        return synced
    return now if torn == "all" else now[: len(now) // 2]


def _make(place: Path, tree: dict[Path, bytes | None]) -> None:
    for path, data in tree.items():
        if data is None:
            (place / path).mkdir(parents=True)
        else:
            (place / path).write_bytes(data)
