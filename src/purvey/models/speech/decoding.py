"""Log-probabilities, step by step, to characters: the best path, or a prefix beam search.

Shape letters, this file only:
    T = steps   V = characters and the blank
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from purvey.models.speech.vocabulary import BLANK

Logprobs = NDArray[np.float32]
BEAM_WIDTH = 8
MARGIN = 7.0
"""Nats below a step's best within which a character is tried: less than one in a thousand."""
_DECIDE_STEPS = 64
"""How often what is old is decided."""
_OLD_STEPS = 128
_NEVER = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Emission:
    """One character: its number, the step at which it was most probable, its log-probability."""

    number: int
    step: int
    logprob: float


def best_path(logp_TV: Logprobs) -> list[Emission]:
    """Take the best of each step, then drop repeats and blanks (Graves et al. 2006, section 3.2).

    Args:
        logp_TV: Log-probabilities; the blank is number 0.
    """
    found: list[Emission] = []
    before = BLANK
    for step, number in enumerate(logp_TV.argmax(axis=1).tolist()):
        logprob = float(logp_TV[step, number])
        if number not in (BLANK, before):
            found.append(Emission(number=number, step=step, logprob=logprob))
        elif number == before != BLANK and logprob > found[-1].logprob:
            found[-1] = Emission(number=number, step=step, logprob=logprob)
        before = number
    return found


@dataclass(slots=True, kw_only=True)
class _Hypothesis:
    """How probable a prefix is, by whether its last step was a blank, and how it came about.

    `path` is that of the largest of the probabilities that were added up in the last step.
    """

    after_blank: float = _NEVER
    after_symbol: float = _NEVER
    path: tuple[Emission, ...] = ()
    largest: float = _NEVER

    @property
    def total(self) -> float:
        """Probability of the prefix, as its logarithm."""
        return _either(self.after_blank, self.after_symbol)

    def add_blank(self, logprob: float, path: tuple[Emission, ...]) -> None:
        """Add a way to it whose last step is a blank."""
        self.after_blank = _either(self.after_blank, logprob)
        self._follow(logprob, path)

    def add_symbol(self, logprob: float, path: tuple[Emission, ...]) -> None:
        """Add a way to it whose last step is its last character."""
        self.after_symbol = _either(self.after_symbol, logprob)
        self._follow(logprob, path)

    def _follow(self, logprob: float, path: tuple[Emission, ...]) -> None:
        if logprob > self.largest:
            self.path, self.largest = path, logprob


Prefix = tuple[int, ...]


class PrefixBeam:
    """A prefix beam search (Hannun et al. 2014, algorithm 1, without a language model).

    Unlike the best path it adds up all ways to say a text. It is fed as steps come, and gives
    away what all of its hypotheses have begun with, so that it holds little of a long recording.

    Invariant: every prefix that is held is as long as its path, and none is empty once a first
    character was given away: it keeps the last one, which tells a repeat from a new character.

    Args:
        width: Prefixes that are kept after each step.
        margin: Nats below the best of a step within which characters are tried.
    """

    def __init__(self, *, width: int = BEAM_WIDTH, margin: float = MARGIN) -> None:
        self._width, self._margin = width, margin
        self._held: dict[Prefix, _Hypothesis] = {(): _Hypothesis(after_blank=0.0)}
        self._step = self._num_told = self._last_told_step = 0
        self._told: list[Emission] = []

    def feed(self, logp_TV: Logprobs) -> list[Emission]:
        """Take more steps; return the characters that are certain by now and were not told yet."""
        tried_TV = logp_TV >= logp_TV.max(axis=1, keepdims=True) - self._margin
        tried_TV[:, BLANK] = False
        for row, tried in zip(logp_TV.tolist(), tried_TV, strict=True):
            self._advance(row, np.flatnonzero(tried).tolist())
            self._step += 1
            if self._step % _DECIDE_STEPS == 0:
                self._decide()
        self._settle()
        told, self._told = self._told, []
        return self._in_order(told)

    def finish(self) -> list[Emission]:
        """Return the rest of the most probable text."""
        best = max(self._held.values(), key=lambda held: held.total)
        return self._in_order(best.path[self._num_told :])

    def _in_order(self, told: Sequence[Emission]) -> list[Emission]:
        """Let no character come before one that was told: those may be of another path."""
        found: list[Emission] = []
        for emission in told:
            self._last_told_step = max(self._last_told_step, emission.step)
            found.append(replace(emission, step=self._last_told_step))
        return found

    def _advance(self, row: list[float], tried: list[int]) -> None:
        grown: dict[Prefix, _Hypothesis] = {}
        for prefix, held in self._held.items():
            total = held.total
            stays = grown.setdefault(prefix, _Hypothesis())
            stays.add_blank(total + row[BLANK], held.path)
            last = prefix[-1] if prefix else BLANK
            if last != BLANK:
                again = self._repeated(held.path, row[last])
                stays.add_symbol(held.after_symbol + row[last], again)
            for number in tried:
                before = held.after_blank if number == last else total
                if before == _NEVER:
                    continue
                longer = grown.setdefault((*prefix, number), _Hypothesis())
                emission = Emission(number=number, step=self._step, logprob=row[number])
                longer.add_symbol(before + row[number], (*held.path, emission))
        possible = [item for item in grown.items() if item[1].total > _NEVER]
        possible.sort(key=lambda item: -item[1].total)
        self._held = dict(possible[: self._width])

    def _repeated(self, path: tuple[Emission, ...], logprob: float) -> tuple[Emission, ...]:
        """Return the path whose last character goes on in this step; its moment is its peak."""
        last = path[-1]
        if logprob <= last.logprob:
            return path
        return (*path[:-1], Emission(number=last.number, step=self._step, logprob=logprob))

    def _decide(self) -> None:
        """Drop what disagrees with the best about a character that is old.

        Nothing that comes later tells such prefixes apart: what a step says depends on no other.
        Without an end to their quarrel, all that follows would be kept several times over.
        """
        best = max(self._held, key=lambda prefix: self._held[prefix].total)
        path = self._held[best].path
        num_old = sum(emission.step < self._step - _OLD_STEPS for emission in path)
        agreed = best[:num_old]
        self._held = {p: held for p, held in self._held.items() if p[:num_old] == agreed}
        self._settle()

    def _settle(self) -> None:
        """Note what all prefixes begin with, and forget it but for one character."""
        prefixes = list(self._held)
        shortest, longest = min(prefixes), max(prefixes)  # all others lie between the two
        pairs = enumerate(zip(shortest, longest, strict=False))
        num_common = next((i for i, (a, b) in pairs if a != b), min(map(len, prefixes)))
        num_certain = max(0, num_common - 1)
        best = max(self._held.values(), key=lambda held: held.total)
        self._told += best.path[self._num_told : num_certain]
        kept = max(0, num_certain - 1)
        self._num_told = max(self._num_told, num_certain) - kept
        self._held = {prefix[kept:]: held for prefix, held in self._held.items()}
        for held in self._held.values():
            held.path = held.path[kept:]


def _either(a: float, b: float) -> float:
    """Add two probabilities that are given by their logarithms."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
