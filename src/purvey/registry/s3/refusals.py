"""What a store's refusals mean to whoever asked for an object."""

import re
from collections.abc import Mapping
from http import HTTPStatus

from purvey.errors import CapacityError, InvalidValueError, PurveyError, UpstreamNotAllowedError

_REGION = re.compile(r"[a-z0-9-]{2,40}")
_CREDENTIALS = "The operator's setting 's3.credentials_file' (and 's3.profile') says what is shown."
_WAITING = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_EXPIRED = frozenset({"ExpiredToken", "TokenRefreshRequired", "InvalidToken"})
_UNKNOWN = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity"})
_ELSEWHERE = frozenset(
    {
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    }
)


def refusal(status: int, headers: Mapping[str, str], code: str, *, what: str) -> PurveyError:
    """Name what to change for a status that brings no content.

    Args:
        status: The store's.
        headers: The store's, names in lower case.
        code: The store's, empty where it gave none.
        what: What was asked for.
    """
    if code in _ELSEWHERE or status // 100 == 3:
        return _elsewhere(headers)
    if status in _WAITING or code in {"SlowDown", "RequestTimeout"}:
        return CapacityError(
            "the store asks this server to wait.",
            param="source",
            hint="Pull again then; what was fetched is kept.",
        )
    if status == HTTPStatus.PRECONDITION_FAILED:
        return UpstreamNotAllowedError(
            f"{what!r} was replaced while it was fetched.", param="source", hint="Pull again."
        )
    found = _wrong(status, code, what)
    if found is None:
        return UpstreamNotAllowedError(f"the store answers {status} for {what!r}.", param="source")
    message, hint = found
    return InvalidValueError(message, param="source", hint=hint)


def _wrong(status: int, code: str, what: str) -> tuple[str, str] | None:
    """Return what is wrong with the question or with who asks, and what to change."""
    if code == "NoSuchBucket":
        return f"the store has no such bucket as that of {what!r}.", "Check its name."
    if status == HTTPStatus.NOT_FOUND:
        return f"the store has no {what!r}.", "Check bucket and key; keys are case-sensitive."
    if code in _EXPIRED:
        return (
            "the session that this server shows the store has expired.",
            "Write a renewed one into the file of the setting 's3.credentials_file'; it is read "
            "for each pull.",
        )
    if code in _UNKNOWN:
        return "the store does not know what this server shows it.", _CREDENTIALS
    if code == "RequestTimeTooSkewed":
        return (
            "the clocks of this server and the store differ by more than 15 minutes.",
            "Set the clock of this machine.",
        )
    if code == "InvalidObjectState":
        return f"{what!r} is archived.", "Restore it in the store, then pull again."
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return (
            f"the store does not show {what!r} to this server.",
            f"Allow s3:GetObject on it, and s3:ListBucket for a folder. {_CREDENTIALS}",
        )
    return None


def _elsewhere(headers: Mapping[str, str]) -> InvalidValueError:
    region = headers.get("x-amz-bucket-region", "")
    named = f" {region!r}" if _REGION.fullmatch(region) else ""
    return InvalidValueError(
        f"the bucket is in another region{named} than this server asks in.",
        param="source",
        hint="The operator sets 's3.region', and 's3.url' to the store of that region.",
    )
