"""From a subject to an answer: spend the budget, measure, and write the result down."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from purvey.contracts.clock import Clock
from purvey.contracts.explain import (
    ExplainTask,
    ExplanationCost,
    ExplanationRequest,
    ExplanationResult,
    ExplanationTarget,
    Faithfulness,
    Unit,
)
from purvey.errors import InvalidValueError
from purvey.explain.faithfulness import Protocol, forwards_needed, measure, ranking
from purvey.explain.leave_one_out import Attribution, coarse_to_fine, leave_one_out
from purvey.explain.parts import Part
from purvey.explain.subject import Subject

FEW_UNITS = 4
"""With fewer units, chance alone finds the right order too often to be ruled out."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input and one target, ready to be explained.

    Args:
        task: What kind of prediction it is.
        method: How units are scored.
        perturbation: What taking a unit away means.
        roots: The coarsest units.
        target: The target's description, given its value with the full and the empty input.
        text_of: The words of a unit, for text.
    """

    task: ExplainTask
    method: Literal["leave_one_out", "occlusion"]
    perturbation: Literal["delete", "mean"]
    roots: Sequence[Part]
    target: Callable[[float, float], ExplanationTarget]
    text_of: Callable[[Part], str | None]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An attribution with its measured faithfulness and what it cost."""

    attribution: Attribution
    faithfulness: Faithfulness
    forwards: int
    compute_s: float


def investigate(
    subject: Subject, case: Case, request: ExplanationRequest, *, clock: Clock
) -> Finding:
    """Score the units and measure the ranking within `request.max_forwards`.

    Raises:
        InvalidValueError: The budget is too small even for the coarsest units.
    """
    started = clock.monotonic()
    protocol = Protocol(
        random_orders=request.random_orders,
        curve_points=request.curve_points,
        perturbation=case.perturbation,
        seed=request.seed,
    )
    left = _left_for_scores(request, protocol, num_roots=len(case.roots))
    search = coarse_to_fine if case.method == "occlusion" else leave_one_out
    attribution = search(subject, case.roots, max_forwards=left)
    faithfulness = measure(subject, attribution, protocol)
    return Finding(
        attribution=attribution,
        faithfulness=faithfulness,
        forwards=subject.forwards,
        compute_s=clock.monotonic() - started,
    )


def result_of(finding: Finding, case: Case, *, picture_png: bytes | None) -> ExplanationResult:
    """Write a finding down in the form that crosses to the control plane."""
    attribution = finding.attribution
    return ExplanationResult(
        task=case.task,
        method=case.method,
        target=case.target(attribution.value_full, attribution.value_empty),
        units=_units(attribution, case),
        faithfulness=finding.faithfulness,
        cost=ExplanationCost(forwards=finding.forwards, compute_s=finding.compute_s),
        warnings=_warnings(attribution),
        picture_png=picture_png,
    )


def _left_for_scores(request: ExplanationRequest, protocol: Protocol, *, num_roots: int) -> int:
    measuring = forwards_needed(protocol)
    if request.max_forwards < measuring + num_roots:
        raise InvalidValueError(
            f"max_forwards {request.max_forwards} is too small: measuring the faithfulness takes "
            f"up to {measuring} and the coarsest units {num_roots}.",
            param="budget.max_forwards",
            hint=f"Raise it to {measuring + num_roots}, or lower random_orders or curve_points.",
        )
    return request.max_forwards - measuring


def _units(attribution: Attribution, case: Case) -> tuple[Unit, ...]:
    ranks = {int(row): rank for rank, row in enumerate(ranking(attribution.scores), start=1)}
    return tuple(
        Unit(
            id=row,
            kind=part.kind,
            modality="image" if part.box else "text",
            score=float(attribution.scores[row]),
            rank=ranks[row],
            text=case.text_of(part),
            char=part.char,
            turn=part.turn,
            box=part.box,
        )
        for row, part in enumerate(attribution.parts)
    )


def _warnings(attribution: Attribution) -> tuple[str, ...]:
    found: list[str] = []
    is_text = attribution.parts[0].box is None
    if attribution.is_coarsened and is_text:
        found.append("max_forwards does not allow words everywhere: weak parts stay whole")
    if len(attribution.parts) < FEW_UNITS:
        found.append(
            f"{len(attribution.parts)} units are too few to tell a right order from a lucky one"
        )
    return tuple(found)
