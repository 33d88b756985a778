"""A corpus as token rows: texts, conversations and preferences in a model's own tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from purvey.data.conversations import Conversation
from purvey.data.preferences import Preference
from purvey.models.chat import ChatTemplate
from purvey.models.tokenizer import Tokenizer
from purvey.train.preference import PairRow
from purvey.train.token_rows import TokenRow, pack, token_row


@dataclass(frozen=True, kw_only=True)
class TokenRows:
    """A split as token rows; `owners` gives each row's document, for losses by document."""

    rows: list[TokenRow]
    owners: list[int]
    num_documents: int


class Encoder:
    """Turns a corpus into token rows.

    Args:
        tokenizer: Encodes text.
        template: Encodes conversations and preferences.
        max_tokens: Longest row; longer conversations are cut, longer texts divided, longer
            preferences left out.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, *, max_tokens: int) -> None:
        self._tokenizer, self._template, self._max_tokens = tokenizer, template, max_tokens
        self.num_cut = 0
        self.num_dropped = 0

    @property
    def end_id(self) -> int:
        """The token that stands between documents."""
        return self._tokenizer.eos_ids[0] if self._tokenizer.eos_ids else 0

    def packed(self, texts: Sequence[str]) -> list[TokenRow]:
        """Encode texts, joined into rows of equal length."""
        documents = (self._tokenizer.encode(text) for text in texts)
        return self._pack(documents)

    def documents(self, texts: Sequence[str]) -> TokenRows:
        """Encode texts one by one; a row never crosses from one text to the next."""
        rows: list[TokenRow] = []
        owners: list[int] = []
        for number, text in enumerate(texts):
            found = self._pack([self._tokenizer.encode(text)])
            rows += found
            owners += [number] * len(found)
        return TokenRows(rows=rows, owners=owners, num_documents=len(texts))

    def conversations(self, talks: Sequence[Conversation]) -> list[TokenRow]:
        """Encode conversations, with the loss on assistants' turns; those cut before are left out.

        `num_cut` and `num_dropped` count on.
        """
        rows: list[TokenRow] = []
        for talk in talks:
            whole = self._template.training_rows(talk, self._tokenizer)
            self.num_cut += len(whole.ids) > self._max_tokens + 1
            row = token_row(whole.ids, whole.is_target, max_tokens=self._max_tokens + 1)
            if row.num_targets:
                rows.append(row)
            else:
                self.num_dropped += 1
        return rows

    def preferences(self, preferences: Sequence[Preference]) -> list[PairRow]:
        """Encode preferences, with the loss on the two answers alone.

        One with an answer that does not fit is left out: of two answers that are cut, the better
        may no longer be the better. `num_dropped` counts on.
        """
        rows: list[PairRow] = []
        for pair in preferences:
            sides = [
                self._template.training_rows(
                    (*pair.prompt, answer), self._tokenizer, is_last_only=True
                )
                for answer in (pair.preferred, pair.rejected)
            ]
            size = max(len(side.ids) for side in sides)
            if size > self._max_tokens + 1:
                self.num_dropped += 1
                continue
            preferred, rejected = (
                token_row(side.ids, side.is_target, max_tokens=size) for side in sides
            )
            rows.append(PairRow(preferred=preferred, rejected=rejected))
        return rows

    def _pack(self, documents: Iterable[Sequence[int]]) -> list[TokenRow]:
        return pack(
            documents,
            end_id=self.end_id,
            row_tokens=self._max_tokens,
            begin_ids=self._tokenizer.prefix_ids,
        )
