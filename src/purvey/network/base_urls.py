"""The address of a server, as an operator spells it: read once, strictly, and never shown."""

import re
from dataclasses import dataclass

from purvey.errors import SettingError

_URL = re.compile(r"(https?)://([^/?#]*)([^?#]*)", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9._-]{0,252})(?::([0-9]{1,5}))?")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")
_MAX_CHARS = 2_048


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a server that the operator names is to this one.

    Args:
        noun: What messages call it.
        setting: Where it is named.
        hint: How its address is written.
    """

    noun: str
    setting: str
    hint: str


UPSTREAM = Kind(
    noun="upstream",
    setting="upstreams",
    hint="Write 'http://127.0.0.1:8001/v1', what stands before '/chat/completions'.",
)


@dataclass(frozen=True, kw_only=True)
class BaseUrl:
    """Where such a server is.

    Args:
        is_tls: Whether it is spoken to over TLS.
        authority: Host and port as they were spelt.
        host: A name or an IP address, without brackets.
        port: As it was spelt, or the default one.
        path: What its routes begin with, without a slash at the end.
    """

    is_tls: bool
    authority: str
    host: str
    port: int
    path: str


def read_base_url(url: str, *, name: str, kind: Kind = UPSTREAM) -> BaseUrl:
    """Read a base URL.

    Loopback and private addresses are what operators name, so any host will do.

    Args:
        url: As the operator wrote it; no message repeats it, since it may hold a secret.
        name: Whose, for messages.
        kind: What that is.

    Raises:
        SettingError: It is no plain `http://` or `https://` address of a host.
    """
    match = _URL.fullmatch(url) if len(url) <= _MAX_CHARS else None
    if match is None:
        raise _wrong(kind, name, "is not an http:// or https:// address without a query.")
    scheme, authority, path = match.groups()
    if "@" in authority:
        raise _wrong(kind, name, "holds a user's name; give the key in a file.")
    host = _HOST.fullmatch(authority)
    if host is None or (host[2] is not None and not 0 < int(host[2]) < 2**16):
        raise _wrong(kind, name, "has no host, or none that can be.")
    if _PATH.fullmatch(path) is None or "/.." in path or "/./" in path:
        raise _wrong(kind, name, "has a path that is not plain.")
    is_tls = scheme.lower() == "https"
    return BaseUrl(
        is_tls=is_tls,
        authority=authority,
        host=host[1].strip("[]"),
        port=int(host[2]) if host[2] else (443 if is_tls else 80),
        path=path.rstrip("/"),
    )


def _wrong(kind: Kind, name: str, what: str) -> SettingError:
    message = f"the url of the {kind.noun} {name!r} {what}"
    return SettingError(message, param=kind.setting, hint=kind.hint)
