"""Units of a table, handed out as runs of neighbours. Torch-free; not thread-safe.

Every unit is free or taken, and the free ones are kept as the longest runs there are.
"""

from purvey.errors import CapacityError


class RunPool:
    """Runs of units, the first that is long enough first.

    Args:
        num_units: Units of the table.
    """

    def __init__(self, num_units: int) -> None:
        self.num_units = num_units
        self._free = [(0, num_units)] if num_units else []
        """Start and end of each free run, in order."""

    @property
    def num_free(self) -> int:
        """Units that are free."""
        return sum(end - start for start, end in self._free)

    def take(self, num_units: int) -> int:
        """Return the first unit of a run that is free no more.

        Raises:
            CapacityError: No run is long enough; nothing is changed.
        """
        for place, (start, end) in enumerate(self._free):
            if end - start >= num_units:
                rest = [(start + num_units, end)] if end - start > num_units else []
                self._free[place : place + 1] = rest
                return start
        raise CapacityError(f"no {num_units} neighbours of {self.num_units} units are free.")

    def give_back(self, start: int, num_units: int) -> None:
        """Free a run that was taken."""
        runs = sorted([*self._free, (start, start + num_units)])
        joined = runs[:1]
        for first, end in runs[1:]:
            assert first >= joined[-1][1], "a unit was freed twice"
            if first == joined[-1][1]:
                joined[-1] = joined[-1][0], end
            else:
                joined.append((first, end))
        self._free = joined
