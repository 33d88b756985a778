"""Signatures of requests without a body: AWS Signature Version 4, as S3 wants it.

Sixty lines of `hmac` rather than a client library: those bring HTTP clients of their own, which
would go past the one way out, and 14 MB. The steps and their names are those of "Authenticating
Requests: Using the Authorization Header (AWS Signature Version 4)", whose examples are tests.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

EMPTY_SHA256 = hashlib.sha256().hexdigest()
_ALGORITHM, _SERVICE, _END = "AWS4-HMAC-SHA256", "s3", "aws4_request"
_UNRESERVED = "-_.~"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Who asks.

    Args:
        key_id: What the store knows it by; it is sent.
        secret: Never sent, never logged.
        token: Of a session that ends, where it is one; sent, never logged.
    """

    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request without a body.

    Args:
        method: `GET` or `HEAD`.
        path: As it is meant, not escaped; begins with `/`.
        query: Names and values, not escaped.
        headers: Sent besides those that are always sent, and signed, by names in lower case.
    """

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Path and query, escaped, in the order in which they are signed."""
        return f"{self.escaped_path}?{self.escaped_query}" if self.query else self.escaped_path

    @property
    def escaped_path(self) -> str:
        """The canonical URI."""
        return quote(self.path, safe=f"/{_UNRESERVED}")

    @property
    def escaped_query(self) -> str:
        """The canonical query string."""
        pairs = sorted((_escaped(name), _escaped(value)) for name, value in self.query)
        return "&".join(f"{name}={value}" for name, value in pairs)


def signed(
    question: Question, credentials: Credentials, *, authority: str, region: str, at: float
) -> dict[str, str]:
    """Return all headers that a request is sent with, but `host`.

    Args:
        question: What is asked.
        credentials: Who asks.
        authority: What `host` is sent as.
        region: Where the store is.
        at: Epoch seconds; the store refuses what is more than 15 minutes off its own clock.
    """
    moment = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    sent = {**question.headers, "x-amz-content-sha256": EMPTY_SHA256, "x-amz-date": moment}
    if credentials.token is not None:
        sent["x-amz-security-token"] = credentials.token
    covered = {name: " ".join(value.split()) for name, value in {**sent, "host": authority}.items()}
    names = ";".join(sorted(covered))
    canonical = "\n".join(
        [
            question.method,
            question.escaped_path,
            question.escaped_query,
            *(f"{name}:{covered[name]}" for name in sorted(covered)),
            "",
            names,
            EMPTY_SHA256,
        ]
    )
    scope = f"{moment[:8]}/{region}/{_SERVICE}/{_END}"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{_ALGORITHM}\n{moment}\n{scope}\n{digest}"
    key = _signing_key(credentials.secret, moment[:8], region)
    signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    sent["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.key_id}/{scope},SignedHeaders={names},"
        f"Signature={signature}"
    )
    return sent


def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, _SERVICE, _END):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _escaped(text: str) -> str:
    return quote(text, safe=_UNRESERVED)
