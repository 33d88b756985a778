"""Greedy decoding of one window, with a key/value cache and the rules of moments.

Shape letters, this file only:
    T = tokens fed   S = steps of the window   D = width   V = vocabulary
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from purvey.models.speech.whisper.tokens import WhisperTokens

_NEVER = -float("inf")


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a window was written down as.

    Args:
        ids: Text and moments, without the prefix and the end.
        logprobs: Natural log-probability of each, and of the end where one was written.
        no_speech: Probability, at the start, that nobody speaks; 0 for a model that cannot tell.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    no_speech: float

    @property
    def mean_logprob(self) -> float:
        """Mean over all that was written."""
        return sum(self.logprobs) / max(1, len(self.logprobs))


@torch.inference_mode()
def decode(
    network: Any,  # noqa: ANN401 (transformers is untyped here)
    states_1SD: Tensor,
    prompt: Sequence[int],
    tokens: WhisperTokens,
    *,
    most: int | None = None,
) -> Decoded:
    """Write down a window, most probable token by most probable token.

    Args:
        network: `WhisperForConditionalGeneration`.
        states_1SD: What its encoder makes of the window.
        prompt: What stands before, the prefix at its end.
        tokens: What steers it.
        most: Tokens that are written at most; as many as there is room for unless given.
    """
    room = network.config.max_target_positions - len(prompt)
    cache, fed = None, list(prompt)
    ids: list[int] = []
    logprobs: list[float] = []
    no_speech = 0.0
    for _ in range(room if most is None else min(room, most)):
        found = network.model.decoder(
            input_ids=torch.tensor([fed]),
            encoder_hidden_states=states_1SD,
            past_key_values=cache,
            use_cache=True,
        )
        cache = found.past_key_values
        hidden_TD = found.last_hidden_state[0]
        if not ids and tokens.no_speech is not None:
            start_V = network.proj_out(hidden_TD[list(prompt).index(tokens.start)]).float()
            no_speech = float(start_V.softmax(dim=-1)[tokens.no_speech])
        logits_V = allowed(network.proj_out(hidden_TD[-1]).float(), ids, tokens)
        best = int(logits_V.argmax())
        logprobs.append(float(logits_V.log_softmax(dim=-1)[best]))
        if best == tokens.end:
            break
        ids.append(best)
        fed = [best]
    return Decoded(ids=tuple(ids), logprobs=tuple(logprobs), no_speech=no_speech)


@torch.inference_mode()
def likeliest_language(
    network: Any,  # noqa: ANN401 (as above)
    states_1SD: Tensor,
    tokens: WhisperTokens,
) -> str:
    """Return the code of the language that a window is most probably in."""
    found = network.model.decoder(
        input_ids=torch.tensor([[tokens.start]]), encoder_hidden_states=states_1SD
    )
    logits_V = network.proj_out(found.last_hidden_state[0, -1])
    return max(tokens.languages, key=lambda code: float(logits_V[tokens.languages[code]]))


def allowed(logits_V: Tensor, ids: Sequence[int], tokens: WhisperTokens) -> Tensor:
    """Return logits in which what may not come next is minus infinity.

    Text stands between two moments, which never go back; the first thing written is a moment; and
    a moment is written wherever all of them together are more probable than any other token.

    Args:
        logits_V: Of the next token, float32.
        ids: What was written so far.
        tokens: What steers the model.
    """
    logits_V = logits_V.clone()
    logits_V[list(tokens.suppressed)] = _NEVER
    logits_V[tokens.first_moment - 1] = _NEVER  # "no moments"
    first = tokens.first_moment
    if not ids:
        logits_V[:first] = _NEVER
        if tokens.latest_first is not None:
            logits_V[first + tokens.latest_first + 1 :] = _NEVER
    is_after_moment = bool(ids) and ids[-1] >= first
    is_open = is_after_moment and (len(ids) < 2 or ids[-2] >= first)
    if is_open:
        logits_V[first:] = _NEVER
    elif is_after_moment:
        logits_V[: tokens.end] = _NEVER
    moments = [number for number in ids if number >= first]
    if moments:
        is_closed = is_after_moment and not is_open
        logits_V[first : moments[-1] + (0 if is_closed else 1)] = _NEVER
    logp_V = logits_V.log_softmax(dim=-1)
    if logp_V[first:].logsumexp(dim=-1) > logp_V[:first].max():
        logits_V[:first] = _NEVER
    return logits_V
