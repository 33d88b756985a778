"""Explanations: what is asked, what is answered.

A unit's score is the drop of the target's value when the unit is taken away; positive
supports the target. The value is the natural log-probability of the target text, summed over
its tokens, or for classes a difference of two: of the label and of the contrast.
"""

from typing import Annotated, Literal

import msgspec

from purvey.contracts.limits import LIMITS

Method = Literal["auto", "leave_one_out", "occlusion"]
UnitKind = Literal["auto", "turn", "sentence", "word", "patch"]
Perturbation = Literal["auto", "delete", "mean"]
Verdict = Literal["faithful", "weak", "unfaithful", "untestable"]
ExplainTask = Literal["text-generation", "text-classification", "image-classification"]


class ExplainedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of the explained conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class ExplanationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One attribution. Exactly one of `messages`, `text`, `image` is given.

    Args:
        messages: A conversation (text generation).
        text: Plain text (text classification, or completion of plain text).
        image: An encoded image (image classification).
        output: The generated text to explain; None means the model's own greedy output.
        label: The class to explain; None means the most probable.
        contrast: A second class: the value is log p(label) - log p(contrast); None means all
            other classes together: the label's log-odds.
        max_output_tokens: Longest greedy output when `output` is None.
        random_orders: Random removal orders that the faithfulness is compared with.
        curve_points: Points of each deletion and insertion curve.
        max_forwards: Forward passes at most; units become coarser to fit.
        wants_picture: Whether a heat map PNG is drawn (images only; text has its table).
    """

    messages: tuple[ExplainedMessage, ...] | None = None
    text: str | None = None
    image: bytes | None = None
    output: str | None = None
    label: str | None = None
    contrast: str | None = None
    max_output_tokens: int = 32
    method: Method = "auto"
    units: UnitKind = "auto"
    perturbation: Perturbation = "auto"
    random_orders: Annotated[int, msgspec.Meta(ge=1, le=64)] = 16
    curve_points: Annotated[int, msgspec.Meta(ge=2, le=32)] = 8
    max_forwards: Annotated[int, msgspec.Meta(ge=8, le=LIMITS.explanation_forwards)] = 768
    wants_picture: bool = True
    seed: int = 0


class Unit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part of the input with its score.

    Args:
        char: Start and end in the turn's (or the plain) text, in characters.
        turn: Index of the message.
        box: Left, top, right, bottom in pixels of the given image.
    """

    id: int
    kind: str
    modality: Literal["text", "image"]
    score: float
    rank: int
    text: str | None = None
    char: tuple[int, int] | None = None
    turn: int | None = None
    box: tuple[int, int, int, int] | None = None


class ExplanationTarget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was explained: `value_full` with the whole input, `value_empty` with none of it."""

    kind: Literal["sequence", "label"]
    value_full: float
    value_empty: float
    unit: Literal["logprob", "logprob_difference"]
    text: str | None = None
    label: str | None = None
    contrast: str | None = None


class Curves(msgspec.Struct, frozen=True, kw_only=True):
    """Value after removing (deletion) or keeping (insertion) the `k` highest units."""

    k: tuple[int, ...]
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]


class RandomGap(msgspec.Struct, frozen=True, kw_only=True):
    """Gaps of random orders, for comparison."""

    mean: float
    sd: float
    n: int


class Faithfulness(msgspec.Struct, frozen=True, kw_only=True):
    """How far the ranking tells the truth about this model and input.

    What is normalised is divided by |value_full - value_empty|, never taken below 0.05.

    Args:
        score: 0.5 + gap / 2, kept in [0, 1].
        gap: AUC of insertion - AUC of deletion, normalised.
        p_value: (1 + random orders at least as good) / (n + 1).
        comprehensiveness: Mean drop when the top 10, 20, 50 % are removed, normalised.
        sufficiency_loss: Mean loss when only the top 10, 20, 50 % are kept, normalised.
        completeness_error: |sum of scores - (value_full - value_empty)|, normalised.
        verdict: `faithful` iff p <= 1/(n+1) and gap >= 0.3; `weak` if p <= 0.2;
            `untestable` if |value_full - value_empty| < 0.05; else `unfaithful`.
    """

    score: float
    gap: float
    random_gap: RandomGap
    p_value: float
    comprehensiveness: float
    sufficiency_loss: float
    completeness_error: float
    verdict: Verdict
    perturbation: str
    curves: Curves


class ExplanationCost(msgspec.Struct, frozen=True, kw_only=True):
    """What it took."""

    forwards: int
    compute_s: float


class ExplanationResult(msgspec.Struct, frozen=True, kw_only=True):
    """A finished attribution."""

    task: ExplainTask
    method: Literal["leave_one_out", "occlusion"]
    evidence: Literal["causal"] = "causal"
    target: ExplanationTarget
    units: tuple[Unit, ...]
    faithfulness: Faithfulness
    cost: ExplanationCost
    warnings: tuple[str, ...] = ()
    picture_png: bytes | None = None
