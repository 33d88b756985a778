"""A dataset on one page: how many rows, what to look at, how its columns are spread."""

from collections.abc import Iterator, Mapping
from typing import Any

from purvey.contracts.data import SPLITS
from purvey.contracts.records import DatasetRecord
from purvey.server.reporting.collected.bars import balance, spread
from purvey.server.reporting.markup import Markup, element, joined, table
from purvey.server.reporting.origin import moment
from purvey.server.reporting.sheet import section, sheet

_MEASURED = {
    "chars": ("Length", "characters"),
    "value": ("Value", "value"),
    "seconds": ("Duration", "seconds"),
    "bytes": ("Size", "bytes"),
}
_COUNTED = {
    "duplicates_removed": "equal rows removed",
    "near_duplicates_removed": "nearly equal rows removed",
    "near_duplicates": "rows kept that nearly repeat an earlier one, on its side of the split",
    "conflicting_rows": "rows whose inputs an earlier row has with another answer",
}


def rendered(record: DatasetRecord) -> bytes:
    """Return the page of a dataset that is ready, UTF-8; a function of the record alone."""
    manifest: Mapping[str, Any] = record.manifest or {}
    profile: Mapping[str, Any] = manifest.get("profile") or {}
    columns: Mapping[str, Mapping[str, Any]] = profile.get("columns") or {}
    return sheet(
        f"{record.name}: dataset",
        element("h1", record.name),
        element("p", f"{record.id} · {moment(record.created_at)}", class_="soft"),
        element("p", _headline(manifest), class_="lead"),
        section("What to look at", _warnings(profile)),
        section("Cleaning", _cleaning(profile)),
        section("Labels", balance(profile.get("balance") or {})),
        *(section(name, _column(name, found)) for name, found in columns.items()),
        section("Where it came from", _origin(record, profile)),
    )


def _headline(manifest: Mapping[str, Any]) -> str:
    rows: Mapping[str, int] = manifest.get("rows") or {}
    parts = ", ".join(f"{rows[split]} {split}" for split in SPLITS if split in rows)
    return f"{sum(rows.values())} rows: {parts}."


def _warnings(profile: Mapping[str, Any]) -> Markup | None:
    told = [element("li", str(one)) for one in profile.get("warnings") or ()]
    return element("ul", *told) if told else None


def _cleaning(profile: Mapping[str, Any]) -> Markup | None:
    rows: list[tuple[str | None, ...]] = [
        (what, str(profile[name])) for name, what in _COUNTED.items() if name in profile
    ]
    return table("What was found among the rows", ("what", "rows"), rows) if rows else None


def _column(name: str, found: Mapping[str, Any]) -> Markup | None:
    told = element("p", _described(found), class_="soft")
    plots = [
        spread(f"{title} of {name}", unit, found[key])
        for key, (title, unit) in _MEASURED.items()
        if key in found
    ]
    drawn = [plot for plot in plots if plot is not None]
    return joined(told, element("div", *drawn, class_="plots") if drawn else None)


def _described(found: Mapping[str, Any]) -> str:
    said = [str(found.get("kind", ""))]
    if "distinct" in found:
        said.append(f"{found['distinct']} distinct values")
    sizes = found.get("sizes") or ()
    said += [f"{one['count']} of {one['width']} x {one['height']} pixels" for one in sizes]
    rates = found.get("sample_rates") or ()
    said += [f"{one['count']} at {one['hz']} Hz" for one in rates]
    return ", ".join(said)


def _origin(record: DatasetRecord, profile: Mapping[str, Any]) -> Markup:
    rows = [(what, which) for what, which in _parts(record, profile) if which]
    return table("Origin", ("what", "which"), list(rows))


def _parts(record: DatasetRecord, profile: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    for file in profile.get("files") or ():
        yield "file", f"{file.get('name')}, {file.get('rows')} rows"
    splits: Mapping[str, Any] = record.config.get("splits") or {}
    by = [name for name in ("group", "time") if splits.get(name)]
    yield "split", f"by {by[0]}: {splits[by[0]]}" if by else "at random"
    yield "columns left out", ", ".join(map(str, profile.get("ignored_columns") or ()))
    yield "digest", element("code", str((record.manifest or {}).get("digest")))
