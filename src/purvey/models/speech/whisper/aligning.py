"""When each word was said, from where the decoder looks while it writes it.

Cross-attention of heads that follow the recording is aligned with time by dynamic time warping
(as openai/whisper does; Sakoe and Chiba 1978 for the warping).

Shape letters, this file only:
    S = steps of the window   D = width   T = tokens   N = heads   H = head width   A = heads used
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from purvey.models.speech.whisper.tokens import WhisperTokens

_FILTER = 7
"""Steps of the median that smooths attention over time."""


@torch.inference_mode()
def token_steps(
    network: Any,  # noqa: ANN401 (transformers is untyped here)
    states_1SD: Tensor,
    prefix: Sequence[int],
    ids: Sequence[int],
    tokens: WhisperTokens,
    *,
    num_steps: int,
) -> list[int]:
    """Return the step at which each token of a text begins, and last the one at which it ends.

    Args:
        network: `WhisperForConditionalGeneration`.
        states_1SD: What its encoder makes of the window.
        prefix: What stands before the text.
        ids: The text, without moments.
        tokens: What steers it, and which heads follow the recording.
        num_steps: Steps of the window that are not padding.
    """
    room = int(network.config.max_target_positions) - len(prefix) - 2
    told = [*prefix, tokens.first_moment - 1, *ids[:room], tokens.end]
    weights_ATS = attention(network, states_1SD, told, tokens.alignment)
    # The row of a token is that of the one before it, which looks for it.
    weights_ATS = weights_ATS[:, len(prefix) : -1, : max(1, num_steps)]
    deviation, mean = torch.std_mean(weights_ATS, dim=1, keepdim=True, correction=0)
    matrix_TS = _smooth((weights_ATS - mean) / deviation.clamp_min(1e-9)).mean(dim=0)
    starts = warped(-matrix_TS.double().numpy())
    return starts + starts[-1:] * (len(ids) + 1 - len(starts))


def attention(
    network: Any,  # noqa: ANN401 (as above)
    states_1SD: Tensor,
    told: Sequence[int],
    heads: Sequence[tuple[int, int]],
) -> Tensor:
    """Return `weights_ATS`: how much each token looks at each step, by layer and head."""
    layers = network.model.decoder.layers
    looked: dict[int, Tensor] = {}

    def keep(number: int) -> Any:  # noqa: ANN401 (a hook of torch)
        def hook(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            looked[number] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

        return hook

    hooks = [
        layers[number].encoder_attn.register_forward_pre_hook(keep(number), with_kwargs=True)
        for number in {layer for layer, _ in heads}
    ]
    try:
        network.model.decoder(
            input_ids=torch.tensor([list(told)]), encoder_hidden_states=states_1SD, use_cache=False
        )
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(
        [
            _weights(layers[layer].encoder_attn, looked[layer][0], states_1SD[0], head)
            for layer, head in heads
        ]
    )


def _weights(attn: Any, x_TD: Tensor, states_SD: Tensor, head: int) -> Tensor:  # noqa: ANN401
    """Return `weights_TS` of one head of a layer."""
    own = slice(head * attn.head_dim, (head + 1) * attn.head_dim)
    q_TH = (attn.q_proj(x_TD) * attn.scaling)[:, own]
    k_SH = attn.k_proj(states_SD)[:, own]
    weights_TS: Tensor = (q_TH @ k_SH.T).float().softmax(dim=-1)
    return weights_TS


def _smooth(weights_ATS: Tensor) -> Tensor:
    """Replace each weight by the median of those around it in time."""
    side = _FILTER // 2
    if weights_ATS.shape[-1] <= side:
        return weights_ATS
    padded = pad(weights_ATS, (side, side), mode="reflect")
    return padded.unfold(-1, _FILTER, 1).sort(dim=-1).values[..., side]


def warped(cost_TS: NDArray[np.float64]) -> list[int]:
    """Return the step at which each row of the cheapest monotonic path begins.

    The path goes from the first row and step to the last, and moves on by a row, a step or both.
    """
    num_rows, num_steps = cost_TS.shape
    total = np.full((num_rows + 1, num_steps + 1), np.inf)
    total[0, 0] = 0.0
    for row, costs in enumerate(cost_TS, start=1):
        above, own = total[row - 1], total[row]
        entered = np.minimum(above[:-1], above[1:])  # by both, or by a row
        for step, cost in enumerate(costs.tolist(), start=1):
            own[step] = cost + min(entered[step - 1], own[step - 1])
    starts = [0] * num_rows
    row, step = num_rows, num_steps
    while row > 0:
        starts[row - 1] = step - 1
        before = (total[row - 1, step - 1], total[row - 1, step], total[row, step - 1])
        move = int(np.argmin(before))
        row -= move in (0, 1)
        step -= move in (0, 2)
    return starts
