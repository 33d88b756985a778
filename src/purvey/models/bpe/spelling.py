"""The bytes that a token stands for, for byte-level and byte-fallback vocabularies."""

import re
from typing import Any, Literal

import tokenizers

from purvey.errors import InvalidCheckpointError
from purvey.models.bpe.parts import parts

Kind = Literal["byte_level", "byte_fallback"]
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Token id to bytes, remembered once computed.

    Args:
        tokenizer: The library's tokenizer.
        kind: How its vocabulary writes bytes.
        added: Content of the added tokens by id; these stand for themselves.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, *, kind: Kind, added: dict[int, str]
    ) -> None:
        self._tokenizer, self._kind = tokenizer, kind
        self._known = {token_id: text.encode() for token_id, text in added.items()}

    def get(self, token_id: int) -> bytes:
        """Return a token's bytes; empty for an id that is not in the vocabulary."""
        data = self._known.get(token_id)
        if data is None:
            data = self._known[token_id] = self._spell(token_id)
        return data

    def _spell(self, token_id: int) -> bytes:
        text = self._tokenizer.id_to_token(token_id)
        if text is None:
            return b""
        if self._kind == "byte_level":
            return b"".join(_byte_of(character) for character in text)
        byte = _BYTE_TOKEN.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()


def token_bytes_of(definition: dict[str, Any], tokenizer: tokenizers.Tokenizer) -> TokenBytes:
    """Look at a `tokenizer.json`'s decoder to learn how its vocabulary writes bytes.

    Raises:
        InvalidCheckpointError: It is neither byte-level nor of the `▁` kind.
    """
    kinds = {part.get("type") for part in parts(definition.get("decoder"))}
    added = {int(t["id"]): str(t["content"]) for t in definition.get("added_tokens") or ()}
    if "ByteLevel" in kinds:
        return TokenBytes(tokenizer, kind="byte_level", added=added)
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return TokenBytes(tokenizer, kind="byte_fallback", added=added)
    message = "tokenizer.json is neither byte-level nor byte-fallback BPE."
    raise InvalidCheckpointError(message, param="model")


def _byte_alphabet() -> dict[str, bytes]:
    """Return GPT-2's printable stand-in for every byte, the other way round."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    pairs = [(chr(byte), byte) for byte in printable]
    pairs += [(chr(256 + index), byte) for index, byte in enumerate(others)]
    return {character: bytes([byte]) for character, byte in pairs}


_ALPHABET = _byte_alphabet()


def _byte_of(character: str) -> bytes:
    return _ALPHABET.get(character) or character.encode()
