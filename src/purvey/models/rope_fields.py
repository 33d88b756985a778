"""Rotary embeddings as a Hugging Face `config.json` describes them, in the 4.x and 5.x spelling."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, assert_never

from purvey.contracts.model import DecoderFamily
from purvey.models.config import (
    DecoderConfig,
    LinearScaling,
    Llama3Scaling,
    Rope,
    RopeScaling,
    YarnScaling,
)
from purvey.models.folder.config_fields import Fields

_THETA: dict[DecoderFamily, float] = {"gemma3_text": 1e6, "smollm3": 2e6}
_LOCAL_THETA = 10_000.0
_PLAIN_THETA = 10_000.0


def read_ropes(
    fields: Fields, family: DecoderFamily, *, context_tokens: int
) -> tuple[Rope, Rope | None]:
    """Return the rotary embedding of a decoder, and the other one of layers with a window.

    A stretching that does not say from which context it stretches does so from `context_tokens`.

    Raises:
        InvalidCheckpointError: A kind of stretching is not implemented, or lacks a field.
    """
    nested = fields.section("rope_parameters")
    theta = _THETA.get(family, _PLAIN_THETA)
    read = partial(_rope, fields, context_tokens=context_tokens)
    if family != "gemma3_text":
        flat = nested or fields.section("rope_scaling")
        return read({**fields.values, **flat}, flat, theta), None
    whole = nested.get("full_attention") or fields.section("rope_scaling")
    local = nested.get("sliding_attention") or {}
    for part in (whole, local):
        if not isinstance(part, Mapping):
            raise fields.refusal("rope_parameters", "must be an object for each layer type")
    local_theta = Fields(fields.values).number("rope_local_base_freq", default=_LOCAL_THETA)
    return read({**fields.values, **whole}, whole, theta), read(local, local, local_theta)


def written_ropes(config: DecoderConfig) -> dict[str, Any]:  # JSON values
    """Return the fields that `read_ropes` reads."""
    values: dict[str, Any] = {
        "rope_theta": config.rope.theta,
        "rope_scaling": _written_scaling(config.rope.scaling),
    }
    if config.local_rope is not None:
        values["rope_local_base_freq"] = config.local_rope.theta
    return values


def _rope(
    fields: Fields,
    values: Mapping[str, Any],
    own: Mapping[str, Any],
    theta: float,
    *,
    context_tokens: int,
) -> Rope:
    merged = Fields(values)
    if merged.number("partial_rotary_factor", default=1.0) != 1.0:
        raise fields.refusal("partial_rotary_factor", "is not implemented")
    return Rope(
        theta=merged.number("rope_theta", default=theta),
        scaling=_scaling(fields, Fields(own, at="rope_scaling."), context_tokens),
    )


def _scaling(fields: Fields, own: Fields, context_tokens: int) -> RopeScaling | None:
    kind = own.values.get("rope_type", own.values.get("type", "default"))
    match kind:
        case "default" | "dynamic":  # dynamic NTK begins beyond the context that we serve
            return None
        case "linear":
            return LinearScaling(factor=own.number("factor"))
        case "llama3":
            return Llama3Scaling(
                factor=own.number("factor"),
                low_frequency_factor=own.number("low_freq_factor"),
                high_frequency_factor=own.number("high_freq_factor"),
                original_context_tokens=_original_context(fields, own, context_tokens),
            )
        case "yarn":
            return _yarn(fields, own, context_tokens)
        case _:
            raise fields.refusal("rope_scaling", f"of type {kind!r} is not implemented")


def _original_context(fields: Fields, own: Fields, context_tokens: int) -> int:
    outer = fields.values.get("original_max_position_embeddings")
    return own.count("original_max_position_embeddings", default=outer or context_tokens)


def _yarn(fields: Fields, own: Fields, context_tokens: int) -> YarnScaling:
    original = _original_context(fields, own, context_tokens)
    factor = own.number("factor", default=context_tokens / original)
    given = own.values.get("attention_factor")
    return YarnScaling(
        factor=factor,
        original_context_tokens=original,
        fast_turns=own.number("beta_fast", default=32.0),
        slow_turns=own.number("beta_slow", default=1.0),
        magnitude=_magnitude(own, factor) if given is None else own.number("attention_factor"),
        is_truncated=own.flag("truncate", default=True),
    )


def _magnitude(own: Fields, factor: float) -> float:
    """Return the paper's `0.1 ln(factor) + 1`, or DeepSeek's quotient of two of its kind."""

    def grown(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if own.values.get("mscale") and own.values.get("mscale_all_dim"):
        return grown(own.number("mscale")) / grown(own.number("mscale_all_dim"))
    return grown(1.0)


def _written_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:  # JSON values
    match scaling:
        case None:
            return None
        case LinearScaling():
            return {"rope_type": "linear", "factor": scaling.factor}
        case Llama3Scaling():
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_context_tokens,
            }
        case YarnScaling():
            return {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_context_tokens,
                "beta_fast": scaling.fast_turns,
                "beta_slow": scaling.slow_turns,
                "attention_factor": scaling.magnitude,
                "truncate": scaling.is_truncated,
            }
        case _ as never:
            assert_never(never)
