"""Train, validation and test: drawn by hashing what each row asks with the seed, or cut by time.

The same row goes to the same side wherever it stands in the file; rows that ask the same, or
nearly the same, always go together, so none leaks from training into the test.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import Literal

from purvey.contracts.data import SPLITS, SplitConfig
from purvey.errors import InvalidValueError

_Side = Literal["validation", "test"]
_ORDER: tuple[_Side, ...] = ("test", "validation")
"""The test is drawn first, so that more validation takes nothing from it."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Rows that go to one side together.

    Args:
        digest: Of what holds them together.
        rows: Their numbers, ascending.
    """

    digest: bytes
    rows: tuple[int, ...]


def split_rows(
    groups: Sequence[bytes],
    *,
    labels: Sequence[str] | None,
    config: SplitConfig,
    seed: int,
    owners: Sequence[str] = (),
    times: Sequence[float] = (),
) -> dict[str, list[int]]:
    """Assign every row to one split.

    Fractions are of the rows, as closely as what goes together allows. With labels and
    `config.stratify`, each label's share is kept, and no label's rows are all drawn.

    Args:
        groups: Digest of what each row asks; rows with equal digests stay together.
        labels: Each row's label, where there is one.
        config: Fractions of the whole.
        seed: Changes which rows are drawn; a split by time draws none.
        owners: Each row's value of `config.group`; rows with equal ones stay together too.
        times: Each row's value of `config.time`; no row that trains is as late as one of the
            validation or test split, nor one of validation as late as one of the test. A row
            counts as late as the latest that asks the same.

    Returns:
        Row numbers by split, ascending; a split may be empty.

    Raises:
        InvalidValueError: The fractions leave nothing to train on, or there are fewer owners or
            times than splits.
    """
    if config.validation + config.test >= 1:
        raise InvalidValueError(
            "splits.validation and splits.test leave no rows to train on: lower one.",
            param="splits",
        )
    if times:
        side = _cut(_units(groups), times, config=config)
    elif owners:
        units = _units(groups, [owner.encode() for owner in owners])
        _check_owners(units, owners, config=config)
        side = _draw(units, labels, config=config, seed=seed)
    else:
        side = _draw(_units(groups), labels, config=config, seed=seed)
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for row in range(len(groups)):
        rows[side.get(row, "train")].append(row)
    return rows


def _units(groups: Sequence[bytes], owners: Sequence[bytes] = ()) -> list[Unit]:
    """Join rows of equal groups, and of equal owners where there are any."""
    first = list(range(len(groups)))

    def find(row: int) -> int:
        while first[row] != row:
            first[row] = first[first[row]]
            row = first[row]
        return row

    for values in (groups, owners):
        seen: dict[bytes, int] = {}
        for row, value in enumerate(values):
            low, high = sorted((find(seen.setdefault(value, row)), find(row)))
            first[high] = low
    members: dict[int, list[int]] = defaultdict(list)
    for row in range(len(groups)):
        members[find(row)].append(row)
    keys = owners or groups
    return [
        Unit(digest=min(keys[row] for row in rows), rows=tuple(rows)) for rows in members.values()
    ]


def _draw(
    units: Sequence[Unit], labels: Sequence[str] | None, *, config: SplitConfig, seed: int
) -> dict[int, _Side]:
    """Return the side of each drawn row; those left out train."""
    key = seed.to_bytes(8, "little")
    strata: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        strata[_label(unit, labels) if labels and config.stratify else ""].append(unit)
    for members in strata.values():
        members.sort(key=lambda u: hashlib.blake2b(u.digest, key=key, digest_size=16).digest())
    sizes = {label: sum(len(u.rows) for u in members) for label, members in strata.items()}
    side: dict[int, _Side] = {}
    for split in _ORDER:
        free = {  # the last one trains
            label: [unit for unit in members if unit.rows[0] not in side][:-1]
            for label, members in strata.items()
        }
        room = {label: sum(len(u.rows) for u in members) for label, members in free.items()}
        fraction = config.test if split == "test" else config.validation
        wanted = _shares(sizes, fraction, room=room)
        for label, members in free.items():
            taken = _nearest(members, wanted[label])
            side |= {row: split for unit in taken for row in unit.rows}
    return side


def _label(unit: Unit, labels: Sequence[str]) -> str:
    """Return the label of most of a unit's rows."""
    counts = Counter(labels[row] for row in unit.rows)
    return min(counts, key=lambda label: (-counts[label], label))


def _shares(sizes: dict[str, int], fraction: float, *, room: dict[str, int]) -> dict[str, int]:
    """Divide `fraction` of all rows among the labels that have room by largest remainder."""
    exact = {label: size * Fraction(fraction) for label, size in sizes.items()}
    counts = {label: min(int(exact[label]), room[label]) for label in sizes}
    wanted = round(sum(sizes.values()) * fraction)
    for label in sorted(sizes, key=lambda name: (counts[name] - exact[name], name)):
        if sum(counts.values()) >= wanted:
            break
        counts[label] += counts[label] < room[label]
    return counts


def _nearest(units: Iterable[Unit], wanted: int) -> list[Unit]:
    """Take units in order, each that brings the number of rows nearer to what is wanted."""
    taken: list[Unit] = []
    missing = wanted
    for unit in units:
        if missing <= 0:
            break
        if abs(missing - len(unit.rows)) < missing:
            taken.append(unit)
            missing -= len(unit.rows)
    return taken


def _check_owners(units: Sequence[Unit], owners: Sequence[str], *, config: SplitConfig) -> None:
    needed = _num_splits(config)
    if len(units) >= needed:
        return
    distinct = len(set(owners))
    if distinct < needed:
        said = f"has {distinct} distinct values; {needed} splits need as many"
    else:
        said = (
            f"has {distinct} distinct values, but rows of all of them ask the same, so that only "
            f"{len(units)} can be told apart; {needed} splits need as many"
        )
    raise InvalidValueError(f"column {config.group!r} {said}.", param="splits.group")


def _cut(units: Sequence[Unit], times: Sequence[float], *, config: SplitConfig) -> dict[int, _Side]:
    """Return the side of each late row; the earliest time always trains."""

    def latest(unit: Unit) -> float:
        return max(times[row] for row in unit.rows)

    ordered = sorted(units, key=latest, reverse=True)
    moments = [[row for u in same for row in u.rows] for _, same in groupby(ordered, key=latest)]
    needed = _num_splits(config)
    if len(moments) < needed:
        raise InvalidValueError(
            f"column {config.time!r} has {len(moments)} distinct times; {needed} splits need as "
            "many.",
            param="splits.time",
        )
    side: dict[int, _Side] = {}
    begin = 0
    for split in _ORDER:
        fraction = config.test if split == "test" else config.validation
        if not fraction:
            continue
        left = 1 + (split == "test" and config.validation > 0)
        taken = _latest(moments[begin : len(moments) - left], len(times) * fraction)
        side |= {row: split for rows in moments[begin : begin + taken] for row in rows}
        begin += taken
    return side


def _latest(moments: Sequence[Sequence[int]], wanted: float) -> int:
    """Return how many moments, at least one, come nearest to the number of rows wanted."""
    count = len(moments[0])
    for number, rows in enumerate(moments[1:], start=1):
        if abs(count + len(rows) - wanted) >= abs(count - wanted):
            return number
        count += len(rows)
    return len(moments)


def _num_splits(config: SplitConfig) -> int:
    return 1 + (config.validation > 0) + (config.test > 0)
