"""What the hub's refusals mean to whoever asked for a model."""

from collections.abc import Mapping
from http import HTTPStatus

from purvey.errors import CapacityError, InvalidValueError, PurveyError, UpstreamNotAllowedError

MAX_WAIT_S = 3_600


def refusal(status: int, headers: Mapping[str, str], *, what: str) -> PurveyError:
    """Name what to change for a status that brings no content.

    Args:
        status: The hub's.
        headers: The hub's, names in lower case.
        what: The model or the file that was asked for.
    """
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return InvalidValueError(
            f"the hub does not show {what!r} to this server: it is gated or private, or there is "
            "no such model.",
            param="source",
            hint="Accept its terms on the hub, and have the operator set PURVEY_HUB_TOKEN (the "
            "setting 'hub_token') to a token that may read it.",
        )
    if status == HTTPStatus.NOT_FOUND:
        return InvalidValueError(
            f"the hub has no {what!r}.", param="source", hint="Check the id and the revision."
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return CapacityError(
            f"the hub asks this server to wait{_wait(headers)}.",
            param="source",
            hint="Pull again then; what was fetched is kept.",
        )
    return UpstreamNotAllowedError(f"the hub answers {status} for {what!r}.", param="source")


def _wait(headers: Mapping[str, str]) -> str:
    given = headers.get("retry-after", "").strip()
    return f" {min(int(given), MAX_WAIT_S)} s" if given.isdecimal() else ""
