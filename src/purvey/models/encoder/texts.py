"""Texts as tensors for an encoder that learns or classifies.

Shape letters, this file only:
    T = tokens, of one text or of all back to back   S = texts
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from purvey.errors import InvalidValueError
from purvey.models.encoder.framing import Framed, Framer


@dataclass(frozen=True, kw_only=True)
class TextReader:
    """From a text to the tokens of an encoder. Immutable; safe to share between threads.

    Args:
        framer: From text to tokens between special ones.
        max_tokens: Longest text, framing included; what is longer is cut.
    """

    framer: Framer
    max_tokens: int

    def framed(self, text: str, *, param: str) -> Framed:
        """Frame a text, cut at its end where it is too long.

        Args:
            text: Any text.
            param: What a refusal calls it.

        Raises:
            InvalidValueError: It has no token, or nothing of it would be left.
        """
        framed = self.framer.text(text)
        if not len(framed):
            raise InvalidValueError("the text has no tokens.", param=param)
        cut = framed.cut(self.max_tokens)
        if cut is None:
            raise InvalidValueError(
                f"{self.max_tokens} tokens leave no room for the text.", param=param
            )
        return cut

    def tensors(self, text: str, *, max_bytes: int, param: str) -> tuple[Tensor, Tensor]:
        """Return `tokens_T` and `types_T` (int64) of a text, cut at `max_bytes` of UTF-8 before."""
        head = text.encode("utf-8", "surrogatepass")[:max_bytes].decode("utf-8", "ignore")
        framed = self.framed(head, param=param)
        return torch.tensor(framed.ids), torch.tensor(framed.types)


def collate(items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Join texts into `tokens_T`, `types_T` and `lengths_S`."""
    tokens, types = zip(*items, strict=True)
    return torch.cat(tokens), torch.cat(types), torch.tensor([len(ids_T) for ids_T in tokens])
