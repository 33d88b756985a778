"""Our end of a comparison of training processes (`benchmarks/blocks.py` is theirs)."""

from collections.abc import Mapping, Sequence
from typing import Self

from benchmarks.harness import ROOT
from benchmarks.peers.cache import child_environment
from benchmarks.peers.child import JsonChild


class Subject:
    """A process that trains. A context manager.

    Args:
        name: Names its log.
        command: What to run.
        threads: Of its arithmetic.
        extra: Of its environment.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        threads: int,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        environment = child_environment(threads, {"PYTHONPATH": str(ROOT)} | dict(extra or {}))
        self._child = JsonChild(name, command, environment)
        self.losses: list[float] = []
        self.peak_mb = 0.0

    def rate(self, steps: int) -> float:
        """Train so many steps further and return rows, or useful tokens, per second."""
        answer = self._child.ask(steps=steps)
        self.losses.append(answer["loss"])
        self.peak_mb = answer["peak_mb"]
        return float(answer["units"] / answer["seconds"])

    def __enter__(self) -> Self:
        self._child.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._child.__exit__(None, None, None)


def loss_gap(ours: Subject, other: Subject) -> float:
    """Return the largest relative difference of the mean losses of equal steps."""
    pairs = zip(ours.losses, other.losses, strict=True)
    return max(abs(own / peer - 1) for own, peer in pairs)
