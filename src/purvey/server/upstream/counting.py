"""Tokens of a request that another server computes: as it says, else estimated and marked so."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from purvey.contracts.limits import LIMITS
from purvey.server.metering import Tally
from purvey.server.strict_json import Json
from purvey.telemetry import metrics

CHARS_PER_TOKEN = 4
"""Of English text, for the vocabularies in use; what is not told is estimated by it."""
_CONTENT = ("messages", "prompt", "input")

Tokens = Annotated[int, msgspec.Meta(ge=0, le=LIMITS.upstream_tokens)]


class _PromptDetails(msgspec.Struct):
    cached_tokens: Tokens | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: Tokens | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Tokens
    completion_tokens: Tokens = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: msgspec.Raw | None = None


class _Part(msgspec.Struct):
    """A choice of a chunk: what it adds, in chat as `delta`, in completions as `text`."""

    text: str | None = None
    delta: _Delta | None = None


_usage = msgspec.json.Decoder(_Usage).decode
_parts = msgspec.json.Decoder(list[_Part]).decode


class Stream:
    """Counts what a stream gives, while it does.

    Attributes:
        shown: What the caller is told of tokens: as the upstream said, or the estimate.

    Args:
        tally: Filled in by `settle`.
        given: What the caller asked, for the estimate.
        monotonic: Seconds that only grow.
    """

    def __init__(
        self, tally: Tally, given: Mapping[str, Json], monotonic: Callable[[], float]
    ) -> None:
        self.shown: object = None
        self._tally, self._given, self._monotonic = tally, given, monotonic
        self._started_at = monotonic()
        self._num_deltas, self._has_begun = 0, False

    def see(self, part: Mapping[str, Any]) -> bool:
        """Count one chunk; tell whether it holds nothing but counts.

        Args:
            part: Its members as JSON.
        """
        choices = bytes(part.get("choices", b"[]"))
        if choices != b"[]":
            self._count(num_deltas(choices))
        self._has_begun = True
        told = part.get("usage")
        if told is None or bytes(told) == b"null":
            return False
        if _is_believed(self._tally, bytes(told)):
            self.shown = told
        return choices == b"[]"

    def settle(self) -> None:
        """Make the tally final; of a stream that never began, nothing is counted."""
        if self.shown is None and self._has_begun:
            _estimate(self._tally, self._given, output_tokens=self._num_deltas)
            self.shown = shown(self._tally)

    def _count(self, num_deltas: int) -> None:
        if num_deltas and not self._num_deltas:
            metrics.TTFT_SECONDS.observe(self._monotonic() - self._started_at)
        self._num_deltas += num_deltas


def settle_whole(
    tally: Tally, members: Mapping[str, Any], given: Mapping[str, Json], *, result: str
) -> None:
    """Fill in the tally from a whole answer.

    Args:
        tally: What is filled in.
        members: Of the answer, each as JSON.
        given: What the caller asked.
        result: The member that holds the output.
    """
    if result == "data":
        tally.rows = _num_inputs(given.get("input"))
    if "usage" in members and _is_believed(tally, bytes(members["usage"])):
        return
    output = msgspec.json.decode(members[result]) if result == "choices" else None
    _estimate(tally, given, output_tokens=_size(output))


def num_deltas(choices: bytes) -> int:
    """Count the choices of a chunk that add something: servers send a chunk for each token."""
    try:
        parts = _parts(choices)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return 1
    return sum(bool(part.text) or _adds(part.delta) for part in parts)


def shown(tally: Tally) -> dict[str, Any]:  # JSON values
    """Show what was counted in place of what the upstream left out, or cannot be right."""
    return {
        "prompt_tokens": tally.input_tokens,
        "completion_tokens": tally.output_tokens,
        "total_tokens": tally.input_tokens + tally.output_tokens,
        "is_estimated": True,
    }


def _is_believed(tally: Tally, told: bytes) -> bool:
    """Fill in the tally by counts that are of the right type, not negative and not absurd."""
    try:
        usage = _usage(told)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    prompt, output = usage.prompt_tokens_details, usage.completion_tokens_details
    tally.input_tokens, tally.output_tokens = usage.prompt_tokens, usage.completion_tokens
    tally.cached_tokens = (prompt and prompt.cached_tokens) or 0
    tally.reasoning_tokens = (output and output.reasoning_tokens) or 0
    return True


def _estimate(tally: Tally, given: Mapping[str, Json], *, output_tokens: int) -> None:
    """Fill in the tally: the prompt by its text, the output as given."""
    tally.input_tokens = sum(_size(given.get(name)) for name in _CONTENT)
    tally.output_tokens = output_tokens
    tally.is_estimated = True


def _num_inputs(given: Json) -> int:
    """Count the texts to embed: a list of token ids is one."""
    is_several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
    return len(given) if is_several else 1


def _adds(delta: _Delta | None) -> bool:
    if delta is None:
        return False
    return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)


def _size(value: Json) -> int:
    """Estimate tokens: of texts by their characters, of token ids one each, of images none."""
    tokens, pending = 0, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            tokens += 0 if item.startswith("data:") else -(-len(item) // CHARS_PER_TOKEN)
        elif isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, int) and not isinstance(item, bool):
            tokens += 1
    return tokens
