"""Which slices of the test rows a run reports: its dataset's categories, and input lengths."""

from collections.abc import Mapping

from purvey.contracts.data import DatasetManifest
from purvey.data.loader import Rows
from purvey.evaluate.slices import Slice, category_slices, length_slices
from purvey.parse import sounds


def slices_of(manifest: DatasetManifest, splits: Mapping[str, Rows]) -> list[Slice]:
    """Return the slices of the test split.

    Categories divide it by value whether or not the model sees them; texts by characters,
    recordings by seconds.
    """
    rows, found = splits["test"], list[Slice]()
    for column in manifest.columns:
        name = column.name
        match column.kind:
            case "category":
                found += category_slices(name, rows.texts(name))
            case "text":
                lengths = [float(len(text)) for text in rows.texts(name)]
                found += length_slices(name, lengths, unit="characters")
            case "audio":
                seconds = [sounds.describe(data).seconds for data in rows.media(name)]
                found += length_slices(name, seconds, unit="seconds")
            case _:
                pass
    return found
