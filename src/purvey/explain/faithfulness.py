"""How far a ranking tells the truth: deletion and insertion curves against random orders.

Deletion and insertion after Petsiuk, Das and Saenko 2018 (RISE); comprehensiveness and
sufficiency after DeYoung et al. 2020 (ERASER), at 10, 20 and 50 % of the units; the p-value
is that of a permutation test, `(1 + random orders at least as good) / (n + 1)`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from purvey.contracts.explain import Curves, Faithfulness, RandomGap, Verdict
from purvey.explain.leave_one_out import Attribution
from purvey.explain.parts import atom_masks, unit_masks
from purvey.explain.subject import Masks, Subject, Values

Order = NDArray[np.intp]
TESTABLE_SPAN = 0.05
"""Smallest |full - empty| that leaves something to explain, in nats."""
FAITHFUL_GAP = 0.3
WEAK_P = 0.2
TOP_SHARES = (0.1, 0.2, 0.5)
TIE = 1e-12
"""Gaps closer than rounding count as equal, in favour of the random order."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the measurement is made.

    Args:
        random_orders: Orders to compare with.
        curve_points: Points of each curve, both ends included.
        perturbation: What taking a unit away means, for the record.
        seed: Of the random orders.
    """

    random_orders: int
    curve_points: int
    perturbation: str
    seed: int


def forwards_needed(protocol: Protocol) -> int:
    """Return the forward passes that `measure` spends at most, the two ends included."""
    inner = protocol.curve_points - 2
    return 2 * inner * (1 + protocol.random_orders) + 2 * len(TOP_SHARES) + 2


def verdict_of(*, gap: float, p_value: float, random_orders: int, span: float) -> Verdict:
    """Apply the written rule.

    Args:
        gap: Normalised gap of the ranking.
        p_value: Of the permutation test, in (0, 1].
        random_orders: The n of that test.
        span: value_full - value_empty.
    """
    if abs(span) < TESTABLE_SPAN:
        return "untestable"
    if p_value <= 1 / (random_orders + 1) and gap >= FAITHFUL_GAP:
        return "faithful"
    return "weak" if p_value <= WEAK_P else "unfaithful"


def measure(subject: Subject, attribution: Attribution, protocol: Protocol) -> Faithfulness:
    """Compare the attribution's order with random orders of the same units, in one batch.

    Differences are normalised by |full - empty|, never taken below `TESTABLE_SPAN` (under
    it the verdict is `untestable` and the numbers only have to be finite).
    """
    num_units = len(attribution.parts)
    ks = curve_counts(num_units, points=protocol.curve_points)
    rng = np.random.default_rng(protocol.seed)
    ours = ranking(attribution.scores)
    orders = [ours, *(rng.permutation(num_units) for _ in range(protocol.random_orders))]
    removed_MU = np.concatenate([_removed_first(order, ks) for order in orders])
    tops_MU = _removed_first(ours, _top_counts(num_units))
    masks_MU = np.concatenate([~removed_MU, removed_MU, ~tops_MU, tops_MU])
    values_M = _unit_values(subject, attribution, masks_MU)

    deletion_OK, insertion_OK = values_M[: 2 * len(removed_MU)].reshape(2, len(orders), len(ks))
    without_top, only_top = values_M[2 * len(removed_MU) :].reshape(2, len(TOP_SHARES))
    span = attribution.value_full - attribution.value_empty
    scale = max(abs(span), TESTABLE_SPAN)
    gaps_O = _areas(insertion_OK - deletion_OK, ks) / scale
    gap, random_gaps = float(gaps_O[0]), gaps_O[1:]
    p_value = (1 + int((random_gaps >= gap - TIE).sum())) / (protocol.random_orders + 1)
    return Faithfulness(
        score=min(1.0, max(0.0, 0.5 + gap / 2)),
        gap=gap,
        random_gap=RandomGap(
            mean=float(random_gaps.mean()), sd=float(random_gaps.std()), n=len(random_gaps)
        ),
        p_value=p_value,
        comprehensiveness=float((attribution.value_full - without_top).mean()) / scale,
        sufficiency_loss=float((attribution.value_full - only_top).mean()) / scale,
        completeness_error=abs(float(attribution.scores.sum()) - span) / scale,
        verdict=verdict_of(
            gap=gap, p_value=p_value, random_orders=protocol.random_orders, span=span
        ),
        perturbation=protocol.perturbation,
        curves=Curves(
            k=tuple(int(k) for k in ks),
            deletion=tuple(float(v) for v in deletion_OK[0]),
            insertion=tuple(float(v) for v in insertion_OK[0]),
        ),
    )


def ranking(scores_U: Values) -> Order:
    """Return unit indices from the highest score to the lowest; ties keep the input's order."""
    return np.argsort(-scores_U, kind="stable")


def curve_counts(num_units: int, *, points: int) -> Order:
    """Return the numbers of removed units at which a curve is read: dense at the start.

    The first units of a good ranking decide, so points lie at `U * (i / (points - 1)) ** 1.5`,
    rounded; small inputs give fewer points.
    """
    steps = np.linspace(0.0, 1.0, points) ** 1.5
    return np.unique(np.rint(steps * num_units).astype(np.intp))


def _top_counts(num_units: int) -> Order:
    return np.array([max(1, math.ceil(share * num_units)) for share in TOP_SHARES], dtype=np.intp)


def _removed_first(order: Order, ks: Order) -> Masks:
    """Return masks that are True for the first k units of the order, one row per k."""
    place_U = np.empty(len(order), dtype=np.intp)
    place_U[order] = np.arange(len(order))
    return np.asarray(place_U[None, :] < ks[:, None])


def _unit_values(subject: Subject, attribution: Attribution, keep_MU: Masks) -> Values:
    member_UA = unit_masks(attribution.parts, num_atoms=subject.num_atoms)
    return subject.values(atom_masks(keep_MU, member_UA))


def _areas(curves_OK: Values, ks: Order) -> Values:
    """Integrate by the trapezoidal rule over the share of units removed."""
    shares_K = ks / ks[-1]
    return np.asarray(np.trapezoid(curves_OK, shares_K, axis=1))
