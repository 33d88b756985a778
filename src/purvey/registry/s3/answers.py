"""What a store says in XML: a page of a listing, and why it refuses.

Read by events, so that nothing is built but what is looked for. A document type, which is where
entities come from, is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_plus
from xml.parsers import expat

from purvey.errors import UpstreamNotAllowedError

ANSWER_BYTES = 16 * 2**20
"""One answer in XML at most; a page of 1,000 names takes less than 4 MB."""
_MAX_CHARS = 4_096  # an escaped name of 1,024 bytes takes three quarters of that
_MAX_DEPTH = 4  # the root, an object, its owner, a field of that


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An object as a listing names it."""

    key: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class ListedPage:
    """A page of a listing; `more` is what the next one is asked for by, None of the last."""

    objects: tuple[Listed, ...]
    more: str | None


def read_page(content: bytes) -> ListedPage:
    """Read an answer to `ListObjectsV2` with `encoding-type=url`.

    Raises:
        UpstreamNotAllowedError: It is none.
    """
    objects: list[Listed] = []
    about, one = dict[str, str](), dict[str, str]()

    def take(path: tuple[str, ...], text: str) -> None:
        if path[0] != "ListBucketResult":
            raise ValueError(path[0])
        if path[1:] == ("Contents",):
            objects.append(
                Listed(key=unquote_plus(one["Key"], errors="strict"), num_bytes=_size(one))
            )
            one.clear()
        elif path[1:-1] == ("Contents",):
            one[path[-1]] = text
        elif path[1:-1] == ():
            about[path[-1]] = text

    try:
        _read(content, take)
        is_cut = {"true": True, "false": False}[about["IsTruncated"]]
        more = about["NextContinuationToken"] if is_cut else None
    except (expat.ExpatError, LookupError, ValueError):
        raise UpstreamNotAllowedError(
            "the store's listing is not understood.", param="source"
        ) from None
    return ListedPage(objects=tuple(objects), more=more)


def error_code(content: bytes) -> str:
    """Return the code of an error in XML; empty where it has none that can be read."""
    found: list[str] = []

    def take(path: tuple[str, ...], text: str) -> None:
        if path == ("Error", "Code"):
            found.append(text)

    try:
        _read(content, take)
    except (expat.ExpatError, ValueError):
        return ""
    return found[0] if found and found[0].isascii() and found[0].isalnum() else ""


def _size(one: dict[str, str]) -> int:
    size = int(one["Size"])
    if size < 0:
        raise ValueError("a negative size")
    return size


def _read(content: bytes, take: Callable[[tuple[str, ...], str], None]) -> None:
    """Tell of each element as it ends: its path from the root, and its own text."""
    if len(content) > ANSWER_BYTES:
        raise ValueError("too long")
    parser = expat.ParserCreate()
    parser.buffer_text = True
    path: list[str] = []
    text: list[str] = []

    def begin(name: str, _attributes: dict[str, str]) -> None:
        path.append(name)
        text.clear()
        if len(path) > _MAX_DEPTH:
            raise ValueError("too deep")

    def end(_name: str) -> None:
        if path:
            take(tuple(path), "".join(text))
        path.pop()
        text.clear()

    def more(piece: str) -> None:
        text.append(piece)
        if sum(map(len, text)) > _MAX_CHARS:
            raise ValueError("too long")

    def refuse(*_: object) -> None:
        raise ValueError("a document type")

    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = more, refuse
    parser.Parse(content, True)  # noqa: FBT003 (the library takes it by position)
