"""Addresses that callers give and hosts that operators allow, each in one strict spelling.

One reader decides what a URL means, and the request is made from what it read: two readers that
differ are how a check is passed with one host and the connection goes to another.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from purvey.contracts.limits import LIMITS
from purvey.errors import SettingError, UrlNotAllowedError

SETTING = "outbound_hosts"

_URL = re.compile(r"(?i:https)://([^/?#]*)([^#]*)(?:#.*)?")
_TARGET = re.compile(r"[!$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z|~]*")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAX_HOST_CHARS = 253
_MAX_SHOWN_CHARS = 100


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is fetched.

    Args:
        host: A name in lower case ASCII; never an IP address.
        path: Path and query, beginning with `/`.
    """

    host: str
    path: str

    @property
    def url(self) -> str:
        """The address, spelt in full."""
        return f"https://{self.host}{self.path}"


class AllowedHosts:
    """The hosts that an operator named.

    Args:
        patterns: Names, or `*.` and a suffix that any name may stand before.

    Raises:
        SettingError: A pattern is neither.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        given = [pattern.lower() for pattern in patterns]
        for pattern in given:
            if not _is_name(pattern.removeprefix("*.")):
                raise SettingError(
                    f"{pattern[:_MAX_SHOWN_CHARS]!r} is no name of a host.",
                    param=SETTING,
                    hint="Write 'images.example' or '*.images.example', without scheme or port.",
                )
        self._names = frozenset(name for name in given if not name.startswith("*."))
        self._suffixes = tuple(name[1:] for name in given if name.startswith("*."))

    def read(self, url: str) -> Target:
        """Read a URL whose host is allowed.

        Raises:
            UrlNotAllowedError: It is no plain `https://` address of a named host, or the host
                is not allowed.
        """
        target = _read(url)
        if not self._names and not self._suffixes:
            raise UrlNotAllowedError(
                "this server fetches no addresses.",
                hint="Upload the file and give its id, or ask the operator to name the host in "
                f"the setting {SETTING!r}.",
            )
        if target.host not in self._names and not target.host.endswith(self._suffixes):
            raise UrlNotAllowedError(
                f"this server may not fetch from {target.host[:_MAX_SHOWN_CHARS]!r}.",
                hint=f"The operator allows hosts in the setting {SETTING!r}.",
            )
        return target


def _read(url: str) -> Target:
    if len(url) > LIMITS.url_chars:
        raise UrlNotAllowedError(f"an address may have {LIMITS.url_chars} characters.")
    match = _URL.fullmatch(url)
    if match is None:
        raise UrlNotAllowedError("only https:// addresses are fetched.")
    host, path = match[1].lower().removesuffix(":443"), match[2]
    if ":" in host or "@" in host:
        raise UrlNotAllowedError(
            "only the default port, without a user's name, is fetched from.",
            hint="Write 'https://', the name of the host, and a path.",
        )
    if not _is_name(host):
        raise UrlNotAllowedError(
            "the host must be a name in ASCII, not a number or an IP address.",
            hint="Write 'https://', the name of the host, and a path.",
        )
    if not _TARGET.fullmatch(path):
        raise UrlNotAllowedError("the address has characters that must be percent-encoded.")
    return Target(host=host, path=path if path.startswith("/") else f"/{path}")


def _is_name(host: str) -> bool:
    """Tell a DNS name from an IP address in any spelling: their last part is a number."""
    labels = host.split(".")
    return (
        len(host) <= _MAX_HOST_CHARS
        and all(_LABEL.fullmatch(label) for label in labels)
        and not _NUMBER.fullmatch(labels[-1])
    )
