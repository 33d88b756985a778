"""How well vectors find what belongs to a text: the place of the first right one among all.

Recall at k is the share of texts with a right one among the k nearest; MRR the mean of 1 / place.
Vectors that are equally near count as nearer than the right one, so that a model which tells no
texts apart finds nothing.

Shape letters, this file only:
    N = texts that are searched with   M = texts that may be found   D = width
    S = resamples                      K = texts at a time
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from purvey.evaluate.bootstrap import Bootstrap, row_interval
from purvey.evaluate.metrics import Floats, Ints
from purvey.evaluate.slices import Slice, sliced

Vectors = NDArray[np.float32]
AT = (1, 5, 10)
"""Numbers of nearest texts that are looked at."""
_ROWS_AT_ONCE = 512
_OF_CUT = ("recall_at_1", "mrr")


class Relation(Protocol):
    """What belongs together, by the numbers of texts."""

    def relevant(self, row: int) -> Ints:
        """Return which texts are right to be found for a row, at least one."""
        ...

    def own(self, row: int) -> int | None:
        """Return which of the texts that may be found is the row's own, and none of its finds."""
        ...


def places(asked_ND: Vectors, found_MD: Vectors, relation: Relation) -> Ints:
    """Return `places_N`, from 1 on: where the nearest right text stands among those not right.

    Args:
        asked_ND: Vectors of length 1, in float32.
        found_MD: Likewise.
        relation: Which are right.
    """
    found = []
    for start in range(0, len(asked_ND), _ROWS_AT_ONCE):
        cosines_KM = asked_ND[start : start + _ROWS_AT_ONCE] @ found_MD.T
        for row, cosines_M in enumerate(cosines_KM, start):
            right = relation.relevant(row)
            nearest = cosines_M[right].max()
            is_other_M = np.ones(len(cosines_M), dtype=bool)
            is_other_M[right] = False
            if (own := relation.own(row)) is not None:
                is_other_M[own] = False
            found.append(1 + int((cosines_M[is_other_M] >= nearest).sum()))
    return np.array(found, dtype=np.int64)


def retrieval_metrics(places_N: Ints) -> dict[str, float]:
    """Return `recall_at_1`, `recall_at_5`, `recall_at_10` and `mrr` of at least one text."""
    return {name: float(values.mean()) for name, values in _by_metric(places_N).items()}


def retrieval_report(
    places_N: Ints,
    *,
    untrained_N: Ints,
    cut: Mapping[int, Ints] = MappingProxyType({}),
    num_candidates: int,
    how: Bootstrap,
    slices: Sequence[Slice] = (),
) -> dict[str, Any]:
    """Report on the untouched test rows.

    Args:
        places_N: As `places` has them, of the trained model; at least one.
        untrained_N: Of the same rows, before the first step.
        cut: Of the same rows by vectors of fewer numbers, by how many; `recall_at_1` and `mrr`.
        num_candidates: Texts that are searched; by guessing, one is right in so many.
        how: Bootstrap settings.
        slices: Rows whose `recall_at_1` is reported beside that of all.
    """
    values = _by_metric(places_N)
    values["untrained_recall_at_1"] = _by_metric(untrained_N)["recall_at_1"]
    for size, cut_N in cut.items():
        of_cut = _by_metric(cut_N)
        values |= {f"{name}_in_{size}_dimensions": of_cut[name] for name in _OF_CUT}
    report: dict[str, Any] = {name: _mean(found_N, how) for name, found_N in values.items()}
    report["num_candidates"] = num_candidates
    if slices:
        hits_N = values["recall_at_1"]
        report["slices"] = sliced(slices, "recall_at_1", hits_N, np.ones(len(hits_N)), how)
    return report


def _by_metric(places_N: Ints) -> dict[str, Floats]:
    recalls = {f"recall_at_{k}": (places_N <= k).astype(np.float64) for k in AT}
    return {**recalls, "mrr": 1.0 / places_N}


def _mean(values_N: Floats, how: Bootstrap) -> dict[str, Any]:
    def means(rows_SN: Ints) -> Floats:
        return np.asarray(values_N[rows_SN].mean(axis=1))

    return row_interval(len(values_N), means, how).as_json()
