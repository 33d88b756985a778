"""One sequence on its way through the engine: its tokens, its place in the cache, its end.

Torch-free: the scheduler and its tests see nothing else.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from purvey.contracts.sampling import Sampling
from purvey.engine.adapters.roster import Adapter
from purvey.engine.blocks import BlockId

if TYPE_CHECKING:
    from torch import Tensor

GREEDY = Sampling(temperature=0.0)
BACKGROUND_LEVEL = -6
"""Level of background work when it comes, in the steps of `admission/policy.py`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """What a sequence begins with where it begins with an image; equal only to itself.

    Args:
        digest: Of the image: equal ones give equal rows.
        num_tokens: Positions that it takes.
        x_ND: A row of the decoder's stream for each, float32.
    """

    digest: bytes
    num_tokens: int
    x_ND: "Tensor"  # noqa: N815 (tensors carry their axes)


@dataclass(kw_only=True)
class Sequence:
    """Tokens of one request, of which the first `num_cached` have keys and values in blocks.

    Invariants: `num_prompt <= len(tokens) <= num_prompt + max_new_tokens`;
    `num_cached <= len(tokens)`; `blocks` hold at least `num_cached` positions, and none while it
    waits; `num_cached` falls back to 0 when it is preempted, `num_read` never falls.

    Args:
        request_id: Whose it is; unique among the sequences of one engine.
        tokens: The prompt, then every output token in order; any ids where a picture stands.
        num_prompt: How many of `tokens` were given.
        max_new_tokens: Output tokens at most; 0 only reads the prompt.
        sampling: How output tokens are chosen.
        prompt_logprobs_from: First position of the prompt whose log-probability is wanted,
            or None.
        is_background: Whether it yields to every sequence that is not.
        project: Whose share of the engine it uses.
        salt: Sequences of another salt never see what this one has in the cache.
        adapter: What computes beside the base; one of another adapter, or of none, never sees
            what this one has in the cache either.
        picture: What its first positions hold instead of tokens, if anything.
        priority: Higher ones are admitted first.
        deadline_s: Seconds within which it must have started, or None.
        arrived_s: When it was accepted, by the engine's monotonic clock.
        num_read: Positions whose logits were delivered, if wanted.
        num_reused: Prompt tokens that were found in the cache when it started.
        has_started: Whether it was admitted before.
        names: Names of its first blocks, as far as anybody asked for them.
    """

    request_id: str
    tokens: list[int]
    num_prompt: int
    max_new_tokens: int
    sampling: Sampling = GREEDY
    prompt_logprobs_from: int | None = None
    is_background: bool = False
    project: str = ""
    salt: str = ""
    adapter: Adapter | None = None
    picture: Picture | None = None
    priority: int = 0
    deadline_s: float | None = None
    arrived_s: float = 0.0
    num_cached: int = 0
    num_read: int = 0
    num_reused: int = 0
    has_started: bool = False
    blocks: list[BlockId] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)

    @property
    def level(self) -> int:
        """Level at which it comes."""
        return BACKGROUND_LEVEL if self.is_background else self.priority

    @property
    def num_pictured(self) -> int:
        """Positions of the prompt that hold no token."""
        return 0 if self.picture is None else self.picture.num_tokens

    @property
    def num_pending(self) -> int:
        """Known tokens whose keys and values are not cached yet."""
        return len(self.tokens) - self.num_cached

    @property
    def num_output(self) -> int:
        """Output tokens so far."""
        return len(self.tokens) - self.num_prompt

    @property
    def max_positions(self) -> int:
        """Cache positions in the worst case: the last output token is never fed back."""
        return self.num_prompt + max(self.max_new_tokens - 1, 0)

    @property
    def is_full(self) -> bool:
        """Whether it has all the output tokens it may have."""
        return self.num_output >= self.max_new_tokens

    def wanted_positions(self, start: int, end: int) -> range:
        """List the positions from `start` to `end` whose logits somebody reads.

        The logits of a position speak of the token after it: sampling reads those of the last
        known token, log-probabilities of the prompt those before each token asked for. What was
        delivered before a preemption is not wanted again.
        """
        samples = self.max_new_tokens > 0
        stop = len(self.tokens) if samples else self.num_prompt - 1
        first = len(self.tokens) - 1 if samples else stop
        if self.prompt_logprobs_from is not None:
            first = min(first, max(self.prompt_logprobs_from - 1, 0))
        return range(max(first, start, self.num_read), min(stop, end))
