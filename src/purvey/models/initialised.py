"""What a network that starts from a base took over, what begins anew, and what was left behind."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

_MOST_NAMES = 50


@dataclass(frozen=True, kw_only=True)
class Initialised:
    """Tensors by where their first values come from.

    Args:
        loaded: Names of the network's tensors that are the base's.
        fresh: Names of those that are drawn anew.
        unused: Names of the base's tensors that the network has no place for.
    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @classmethod
    def whole(cls, names: Iterable[str]) -> "Initialised":
        """Say that all of a network is its base's."""
        return cls(loaded=tuple(names))

    @classmethod
    def of(
        cls, wanted: Iterable[str], found: Collection[str], *, unused: Iterable[str] = ()
    ) -> "Initialised":
        """Divide the tensors that a network has by whether they were found in the base."""
        names = list(wanted)
        return cls(
            loaded=tuple(name for name in names if name in found),
            fresh=tuple(name for name in names if name not in found),
            unused=tuple(unused),
        )

    def sentence(self) -> str:
        """Say it in a line."""
        parts = [f"{len(self.loaded)} tensors come from the base"]
        if self.fresh:
            parts.append(f"{len(self.fresh)} begin anew ({_some(self.fresh)})")
        if self.unused:
            parts.append(f"{len(self.unused)} of the base are not used ({_some(self.unused)})")
        return f"{'; '.join(parts)}."

    def as_json(self) -> dict[str, Any]:  # JSON values
        """Return the record: a count, and the first names of what does not match."""
        return {
            "loaded": len(self.loaded),
            "fresh": list(self.fresh[:_MOST_NAMES]),
            "num_fresh": len(self.fresh),
            "unused": list(self.unused[:_MOST_NAMES]),
            "num_unused": len(self.unused),
        }


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
