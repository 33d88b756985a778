"""The parts of a `tokenizer.json` that decide about leading spaces and special tokens."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import tokenizers

from purvey.errors import InvalidCheckpointError


@dataclass(frozen=True, kw_only=True)
class SpecialToken:
    """A token that is not text, and whether it swallows white space beside it."""

    id: int
    content: str
    eats_left: bool
    eats_right: bool


def parse(definition: dict[str, Any]) -> tokenizers.Tokenizer:
    """Build the library's tokenizer: no padding, no truncation, special tokens are text.

    Raises:
        InvalidCheckpointError: The library does not accept the definition.
    """
    plain = {**definition, "padding": None, "truncation": None}
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(msgspec.json.encode(plain))
    except ValueError as error:
        message = f"tokenizer.json is not usable: {str(error)[:200]}."
        raise InvalidCheckpointError(message, param="model") from None
    tokenizer.encode_special_tokens = True
    return tokenizer


def parts(section: object) -> Iterator[dict[str, Any]]:
    """Yield a normalizer, pre-tokenizer or decoder, and what a sequence of them holds."""
    if not isinstance(section, dict):
        return
    yield section
    for name in ("normalizers", "pretokenizers", "decoders"):
        for inner in section.get(name) or ():
            yield from parts(inner)


def read_special_tokens(definition: dict[str, Any]) -> dict[str, SpecialToken]:
    """Read the special tokens among the added ones, by content."""
    return {
        token["content"]: SpecialToken(
            id=int(token["id"]),
            content=token["content"],
            eats_left=bool(token.get("lstrip")),
            eats_right=bool(token.get("rstrip")),
        )
        for token in definition.get("added_tokens") or ()
        if token.get("special") and token.get("content")
    }


def with_control_tokens(definition: dict[str, Any], written: str) -> dict[str, Any]:
    """Return the definition with every added token that `written` holds marked as special.

    White space and single characters stay text: they cannot be told from a message's own.

    Args:
        definition: The content of `tokenizer.json`; returned itself when nothing changes.
        written: What a chat template may write.
    """

    def is_meant(token: dict[str, Any]) -> bool:
        content = str(token.get("content") or "")
        is_text = len(content) < 2 or content.isspace()
        return not token.get("special") and not is_text and content in written

    added = definition.get("added_tokens") or ()
    if not any(map(is_meant, added)):
        return definition
    marked = [{**token, "special": True} if is_meant(token) else token for token in added]
    return {**definition, "added_tokens": marked}


def leading_space(definition: dict[str, Any]) -> bool:
    """Tell whether decoding drops the space that encoding put before the text."""
    for part in parts(definition.get("decoder")):
        if part.get("type") == "Strip" and part.get("start") and part.get("content") == " ":
            return True
        if part.get("type") == "Metaspace" and _prepend_scheme(part) != "never":
            return True
    return False


def without_prefix(definition: dict[str, Any], *, is_inner: bool) -> dict[str, Any]:
    """Return the definition for text that does not begin a document.

    Args:
        definition: The content of `tokenizer.json`; returned itself when nothing changes.
        is_inner: The text follows a special token: only a `first` prefix is dropped, as the
            library does. Otherwise it follows other text and no space is put before it.
    """
    changed = copy.deepcopy({k: v for k, v in definition.items() if k != "model"})
    for part in parts(changed.get("pre_tokenizer")):
        is_dropped = not is_inner or _prepend_scheme(part) == "first"
        if part.get("type") == "Metaspace" and is_dropped:
            part.update(prepend_scheme="never", add_prefix_space=False)
        if part.get("type") == "ByteLevel" and not is_inner:
            part["add_prefix_space"] = False
    if not is_inner:
        for part in parts(changed.get("normalizer")):
            if part.get("type") == "Prepend":
                part["prepend"] = ""
    if all(changed[name] == definition[name] for name in changed):
        return definition
    return {**definition, **changed}


def _prepend_scheme(metaspace: dict[str, Any]) -> str:
    default = "always" if metaspace.get("add_prefix_space", True) else "never"
    return str(metaspace.get("prepend_scheme", default))
