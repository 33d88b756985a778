"""A class as the target of an explanation: which one, against which, and its value.

Without a contrast the value is the label's log-odds, `log p - log(1 - p)`. A sure
classifier's log-probability alone is flat: it stays near 0 whichever single part is removed,
and every ranking looks alike. Of 30 messages of a spam classifier 8 attributions were
faithful with log p, 26 with the log-odds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from purvey.contracts.engine import NamedInputs
from purvey.contracts.explain import ExplanationRequest, ExplanationTarget
from purvey.errors import InvalidValueError
from purvey.explain.subject import ClassifierModel, Values

SHOWN_LABELS = 10
"""Labels quoted in an error message."""


@dataclass(frozen=True, kw_only=True)
class LabelTarget:
    """log p(label) - log p(contrast), where the contrast may be all other classes together.

    Args:
        label: The class to explain.
        column: Its column in the log-probabilities.
        rivals: Columns of what it is told apart from: the contrast, or every other class.
        contrast: The one class it is told apart from, if one was named.
    """

    label: str
    column: int
    rivals: tuple[int, ...]
    contrast: str | None = None

    @classmethod
    def chosen(
        cls, request: ExplanationRequest, model: ClassifierModel, inputs: NamedInputs
    ) -> "LabelTarget":
        """Find the label asked for, or the most probable one, and its rivals.

        Raises:
            InvalidValueError: A label the model does not have, a contrast with itself, or a
                model of one class.
        """
        if len(model.labels) < 2:
            raise InvalidValueError("a model of one class has nothing to explain.", param="model")
        if request.label is None:
            column = int(np.argmax(model.log_probs([inputs])[0]))
        else:
            column = _column(request.label, model, param="target.label")
        label = model.labels[column]
        if request.contrast is None:
            rivals = tuple(other for other in range(len(model.labels)) if other != column)
            return cls(label=label, column=column, rivals=rivals)
        rival = _column(request.contrast, model, param="target.contrast")
        if rival == column:
            raise InvalidValueError(
                f"the contrast {label!r} is the label itself.", param="target.contrast"
            )
        return cls(label=label, column=column, rivals=(rival,), contrast=request.contrast)

    def values(self, logp_ML: NDArray[np.float64]) -> Values:
        """Return the target's value for each row of log-probabilities."""
        against_M = np.logaddexp.reduce(logp_ML[:, list(self.rivals)], axis=1)
        return np.asarray(logp_ML[:, self.column] - against_M, dtype=np.float64)

    def description(self, full: float, empty: float) -> ExplanationTarget:
        """Describe the target with its value for the full and the empty input."""
        return ExplanationTarget(
            kind="label",
            value_full=full,
            value_empty=empty,
            unit="logprob_difference",
            label=self.label,
            contrast=self.contrast,
        )


def _column(label: str, model: ClassifierModel, *, param: str) -> int:
    labels = list(model.labels)
    if label not in labels:
        known = ", ".join(repr(name) for name in labels[:SHOWN_LABELS])
        more = ", ..." if len(labels) > SHOWN_LABELS else ""
        raise InvalidValueError(f"no label {label!r}: the model has {known}{more}.", param=param)
    return labels.index(label)
