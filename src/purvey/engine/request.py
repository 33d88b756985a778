"""One sequence on its way through the engine: its tokens, its place in the cache, its end.

Torch-free: the scheduler and its tests see nothing else.
"""

from dataclasses import dataclass, field

from purvey.contracts.engine import Sampling
from purvey.engine.blocks import BlockId

GREEDY = Sampling(temperature=0.0)


@dataclass(kw_only=True)
class Sequence:
    """Tokens of one request, of which the first `num_cached` have keys and values in blocks.

    Invariants: `num_prompt <= len(tokens) <= num_prompt + max_new_tokens`;
    `num_cached <= len(tokens)`; while running, `blocks` hold `max_positions` positions.

    Args:
        request_id: Whose it is; unique among the sequences of one engine.
        tokens: The prompt, then every output token in order.
        num_prompt: How many of `tokens` were given.
        max_new_tokens: Output tokens at most; 0 only reads the prompt.
        sampling: How output tokens are chosen.
        prompt_logprobs_from: First position of the prompt whose log-probability is wanted,
            or None.
        is_background: Whether it yields to every sequence that is not.
    """

    request_id: str
    tokens: list[int]
    num_prompt: int
    max_new_tokens: int
    sampling: Sampling = GREEDY
    prompt_logprobs_from: int | None = None
    is_background: bool = False
    num_cached: int = 0
    blocks: list[BlockId] = field(default_factory=list)

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
        known token, log-probabilities of the prompt those before each token asked for.
        """
        samples = self.max_new_tokens > 0
        stop = len(self.tokens) if samples else self.num_prompt - 1
        first = len(self.tokens) - 1 if samples else stop
        if self.prompt_logprobs_from is not None:
            first = min(first, max(self.prompt_logprobs_from - 1, 0))
        return range(max(first, start), min(stop, end))
