"""What a subject answered, and when: decoding and prefill are counted apart."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Outputs of prompts that were asked together.

    Args:
        tokens: Token ids by prompt; empty where they were not asked for.
        moments_s: By prompt, when each of its tokens came, in seconds from sending.
    """

    tokens: list[list[int]]
    moments_s: list[list[float]]

    @property
    def first_s(self) -> list[float]:
        """By prompt, when its first token came."""
        return [moments[0] for moments in self.moments_s]

    @property
    def decoded_per_s(self) -> float:
        """Tokens per second of all sequences, while each of them was decoding.

        Counted from the moment at which the last sequence has its first token up to the one at
        which the first sequence has its last.
        """
        since = max(self.first_s)
        until = min(moments[-1] for moments in self.moments_s)
        counted = sum(since < at <= until for moments in self.moments_s for at in moments)
        return counted / (until - since)


def from_child(answer: dict[str, object], num_prompts: int, max_tokens: int) -> Answer:
    """Read a child's answer: `tokens`, and one list `moments_s` of steps all sequences share."""
    tokens, steps = answer["tokens"], answer["moments_s"]
    assert isinstance(tokens, list)
    assert isinstance(steps, list)
    lengths = {len(one) for one in tokens}
    assert lengths == {max_tokens}, f"outputs of {sorted(lengths)} tokens, wanted {max_tokens}"
    return Answer(tokens=tokens, moments_s=[steps] * num_prompts)
