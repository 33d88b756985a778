"""Leave-one-out scores, coarse to fine under a budget of forward passes.

A unit's score is `v(all) - v(all without it)` (occlusion, Zeiler and Fergus 2014; for text,
Li, Monroe and Jurafsky 2016). When the finest parts do not all fit the budget, the coarse
ones are scored first and only the strongest are divided further.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from purvey.explain.parts import Part, leaves, unit_masks
from purvey.explain.subject import Subject, Values

REFINED_SHARE = 0.9
"""Of the sum of absolute scores: parts that carry it are divided, the weak rest is not."""


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Parts that cover every atom once, each with its score.

    Args:
        parts: The units, in the order of the input.
        scores: Drop of the value when the unit is taken away; positive supports.
        value_full: Value with the whole input.
        value_empty: Value with none of it.
        is_coarsened: Whether the budget kept some parts from being divided.
    """

    parts: tuple[Part, ...]
    scores: Values
    value_full: float
    value_empty: float
    is_coarsened: bool = False


def scores_of(subject: Subject, parts: Sequence[Part]) -> Values:
    """Return the leave-one-out score of each part; one forward pass for each, at most."""
    member_UA = unit_masks(parts, num_atoms=subject.num_atoms)
    full, _ = subject.full_and_empty()
    return full - subject.values(~member_UA)


def leave_one_out(subject: Subject, roots: Sequence[Part], *, max_forwards: int) -> Attribution:
    """Score the finest parts if they fit the budget, else the coarse ones, refined by strength.

    Args:
        subject: What is explained.
        roots: Coarse parts that cover every atom once; there must be at least one, and at
            most `max_forwards`.
        max_forwards: Forward passes to spend beside those for the full and empty input.
    """
    assert 0 < len(roots) <= max_forwards, "the caller checks that the coarsest parts fit"
    finest = tuple(leaves(roots))
    if len(finest) <= max_forwards:
        return _attribution(subject, finest, scores_of(subject, finest), is_coarsened=False)
    return _refine(subject, roots, max_forwards=max_forwards)


def coarse_to_fine(subject: Subject, roots: Sequence[Part], *, max_forwards: int) -> Attribution:
    """Score coarse parts and divide the strongest, though the finest would fit too.

    Leaving out a tiny piece of an image says little, because its neighbours say the same;
    dividing only what mattered as a whole keeps the scores meaningful.
    """
    assert 0 < len(roots) <= max_forwards, "the caller checks that the coarsest parts fit"
    return _refine(subject, roots, max_forwards=max_forwards)


def _refine(subject: Subject, roots: Sequence[Part], *, max_forwards: int) -> Attribution:
    parts, scores_U = list(roots), scores_of(subject, roots)
    left = max_forwards - len(roots)
    while True:
        chosen = _to_divide(parts, scores_U, left)
        if not chosen:
            break
        left -= sum(len(parts[row].children) for row in chosen)
        parts = [
            finer
            for row, part in enumerate(parts)
            for finer in (part.children if row in chosen else (part,))
        ]
        scores_U = scores_of(subject, parts)
    coarsened = any(part.children for part in parts)
    return _attribution(subject, tuple(parts), scores_U, is_coarsened=coarsened)


def _to_divide(parts: Sequence[Part], scores_U: Values, left: int) -> set[int]:
    """Choose the strongest parts whose children still fit, up to `REFINED_SHARE`."""
    strength_U = np.abs(scores_U)
    total = float(strength_U.sum())
    chosen: set[int] = set()
    covered = 0.0
    for row in np.argsort(-strength_U, kind="stable"):
        if covered >= REFINED_SHARE * total:
            break
        covered += float(strength_U[row])
        size = len(parts[row].children)
        if 0 < size <= left:
            chosen.add(int(row))
            left -= size
    return chosen


def _attribution(
    subject: Subject, parts: tuple[Part, ...], scores_U: Values, *, is_coarsened: bool
) -> Attribution:
    full, empty = subject.full_and_empty()
    return Attribution(
        parts=parts,
        scores=scores_U,
        value_full=full,
        value_empty=empty,
        is_coarsened=is_coarsened,
    )
