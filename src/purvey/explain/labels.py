"""A class as the target of an explanation: which one, against which, and its value."""

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
    """log p(label), or log p(label) - log p(contrast): "why this rather than that"."""

    label: str
    column: int
    contrast: str | None = None
    contrast_column: int | None = None

    @classmethod
    def chosen(
        cls, request: ExplanationRequest, model: ClassifierModel, inputs: NamedInputs
    ) -> "LabelTarget":
        """Find the columns of the labels asked for; the most probable one when none is.

        Raises:
            InvalidValueError: A label the model does not have, or a contrast with itself.
        """
        label = request.label
        if label is None:
            label = model.labels[int(np.argmax(model.log_probs([inputs])[0]))]
        column = _column(label, model, param="target.label")
        if request.contrast is None:
            return cls(label=label, column=column)
        other = _column(request.contrast, model, param="target.contrast")
        if other == column:
            raise InvalidValueError(
                f"the contrast {label!r} is the label itself.", param="target.contrast"
            )
        return cls(label=label, column=column, contrast=request.contrast, contrast_column=other)

    def values(self, logp_ML: NDArray[np.float64]) -> Values:
        """Return the target's value for each row of log-probabilities."""
        values_M = logp_ML[:, self.column]
        if self.contrast_column is not None:
            values_M = values_M - logp_ML[:, self.contrast_column]
        return np.asarray(values_M, dtype=np.float64)

    def description(self, full: float, empty: float) -> ExplanationTarget:
        """Describe the target with its value for the full and the empty input."""
        return ExplanationTarget(
            kind="label",
            value_full=full,
            value_empty=empty,
            unit="logprob" if self.contrast is None else "logprob_difference",
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
