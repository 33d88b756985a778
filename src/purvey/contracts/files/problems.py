"""What is wrong with the rows of a file, told together in one error."""

from dataclasses import dataclass, field

from purvey.errors import InvalidFileError

MOST_PLACES = 20
"""Bad rows that one error names; the rest it counts."""


class UnusableRowError(ValueError):
    """A row cannot be used; the message is a sentence without its full stop."""


@dataclass(kw_only=True)
class Problems:
    """Bad rows of one file, gathered while it is read.

    Of problems that differ, and of the places of one, no more are held than are told.

    Args:
        source: Name of the file, for the message; empty where the request's field names it.
        word: What is counted: `line`, `row` or `entry`.
        param: Field that the error names; the first bad row unless given.
    """

    source: str = ""
    word: str = "line"
    param: str | None = None
    total: int = 0
    _places: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether there are more problems than one error names."""
        return self.total >= MOST_PLACES

    def add(self, line: int, problem: str, *, entry: str = "") -> None:
        """Note a problem of one row.

        Args:
            line: Where the row is, from 1.
            problem: What is wrong and what to change, a sentence without its full stop.
            entry: The archive's entry that the row needs.
        """
        self.total += 1
        if problem not in self._places and len(self._places) >= MOST_PLACES:
            return
        self._counts[problem] = self._counts.get(problem, 0) + 1
        places = self._places.setdefault(problem, [])
        if len(places) < MOST_PLACES:
            places.append((line, f"{line} ({entry!r})" if entry else str(line)))

    def check(self) -> None:
        """Raise what was noted, if anything.

        Raises:
            InvalidFileError: Says where the first bad rows are and what is wrong with each; equal
                problems are told once, with all their places.
        """
        if not self.total:
            return
        told, num_told, room = [], 0, MOST_PLACES
        for problem, places in sorted(self._places.items(), key=lambda item: item[1][0]):
            if room > 0:
                told.append(f"{self._where(problem, places[:room])}: {problem}.")
                num_told += self._counts[problem]
                room -= len(places)
        first = min(places[0][0] for places in self._places.values())
        param = self.param or f"{self.word} {first}"
        raise InvalidFileError(self._message(told, self.total - num_told), param=param)

    def _where(self, problem: str, places: list[tuple[int, str]]) -> str:
        others = self._counts[problem] - len(places)
        named = ", ".join(place for _, place in places)
        more = f" and {others} more" if others else ""
        return f"{self.word}{'s' if len(places) + others > 1 else ''} {named}{more}"

    def _message(self, told: list[str], num_untold: int) -> str:
        if self.total == 1:
            return f"{self.source!r}, {told[0]}" if self.source else told[0]
        whose = f"{self.source!r} has {self.total} problems: " if self.source else ""
        untold = f" {num_untold} other problems are not named." if num_untold else ""
        return f"{whose}{' '.join(told)}{untold}"
