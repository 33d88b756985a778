"""Decoders as Hugging Face describes them: `config.json` in and out, one section per family.

A foreign `config.json` is untrusted: known fields are copied into our own value, fields that
name code are refused, and fields that would change the arithmetic in a way we do not compute
are refused by name rather than ignored. Defaults of absent fields are those of `transformers`.
"""

from collections.abc import Callable, Mapping
from typing import Any, get_args

from purvey.contracts.model import DecoderFamily
from purvey.models.config import DecoderConfig
from purvey.models.folder.config_fields import Fields
from purvey.models.rope_fields import read_ropes, written_ropes

FAMILIES: tuple[DecoderFamily, ...] = get_args(DecoderFamily)
_ARCHITECTURES: dict[DecoderFamily, str] = {
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
}
_CONTEXT: dict[DecoderFamily, int] = {
    "gemma2": 8_192,
    "gemma3_text": 131_072,
    "llama": 2_048,
    "mistral": 131_072,
    "qwen2": 32_768,
    "qwen3": 32_768,
    "smollm3": 32_768,
}
_SLIDING, _FULL = "sliding_attention", "full_attention"
_GEMMA_HEAD_SIZE, _GEMMA_SCALAR, _WINDOW = 256, 256.0, 4_096

Values = dict[str, Any]  # fields of `DecoderConfig`, or JSON values


def from_hf(values: Mapping[str, Any]) -> DecoderConfig:
    """Read the content of a `config.json`.

    Raises:
        InvalidCheckpointError: The file names code, is of another family, misses a field, or
            asks for arithmetic that is not implemented.
    """
    fields = Fields(values)
    fields.refuse_code()
    family: DecoderFamily = fields.choice("model_type", FAMILIES)
    _refuse_unsupported(fields)
    config = DecoderConfig(family=family, **_common(fields, family), **_READERS[family](fields))
    config.check()
    return config


def to_hf(config: DecoderConfig) -> Values:
    """Return the content of a `config.json` that `transformers` reads (4.x and 5.x)."""
    values: Values = {
        "architectures": [_ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.context_tokens,
        "rms_norm_eps": config.norm_epsilon,
        "initializer_range": config.initializer_std,
        "tie_word_embeddings": config.is_tied,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids) or None,
        "pad_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    return values | written_ropes(config) | _written(config)


def _common(fields: Fields, family: DecoderFamily) -> Values:
    num_heads, hidden_size = fields.count("num_attention_heads"), fields.count("hidden_size")
    is_gemma = family.startswith("gemma")
    head_size = _GEMMA_HEAD_SIZE if is_gemma else max(1, hidden_size // num_heads)
    context_tokens = fields.count("max_position_embeddings", default=_CONTEXT[family])
    rope, local_rope = read_ropes(fields, family, context_tokens=context_tokens)
    return {
        "vocabulary_size": fields.count("vocab_size"),
        "hidden_size": hidden_size,
        "mlp_size": fields.count("intermediate_size"),
        "num_layers": fields.count("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": fields.count("num_key_value_heads", default=num_heads),
        "head_size": fields.count("head_dim", default=128 if family == "qwen3" else head_size),
        "context_tokens": context_tokens,
        "rope": rope,
        "local_rope": local_rope,
        "norm_epsilon": fields.number("rms_norm_eps", default=1e-6),
        "is_tied": fields.flag("tie_word_embeddings", default=is_gemma or family == "smollm3"),
        "bos_id": next(iter(fields.ids("bos_token_id")), None),
        "eos_ids": fields.ids("eos_token_id"),
        "initializer_std": fields.number("initializer_range", default=0.02),
    }


def _llama(fields: Fields) -> Values:
    _require(fields, "hidden_act", "silu")
    return _biases(fields) | {"has_mlp_bias": fields.flag("mlp_bias", default=False)}


def _mistral(fields: Fields) -> Values:
    _require(fields, "hidden_act", "silu")
    window = _window(fields, default=_WINDOW)
    num_layers = fields.count("num_hidden_layers")
    return {"windows": () if window is None else (window,) * num_layers}


def _qwen2(fields: Fields) -> Values:
    _require(fields, "hidden_act", "silu")
    return {"has_qkv_bias": True, "windows": _late_windows(fields)}


def _qwen3(fields: Fields) -> Values:
    _require(fields, "hidden_act", "silu")
    return _biases(fields) | {"has_qk_norm": True, "windows": _late_windows(fields)}


def _smollm3(fields: Fields) -> Values:
    _require(fields, "hidden_act", "silu")
    num_layers = fields.count("num_hidden_layers")
    interval = fields.count("no_rope_layer_interval", default=4)
    rotated = fields.values.get("no_rope_layers")  # 1 where a layer does rotate
    if rotated is None:
        rotated = [int((layer + 1) % interval != 0) for layer in range(num_layers)]
    if not isinstance(rotated, list) or len(rotated) != num_layers:
        raise fields.refusal("no_rope_layers", f"must be a list of {num_layers}")
    unrotated = tuple(layer for layer, is_rotated in enumerate(rotated) if not is_rotated)
    types = [_FULL if is_rotated else _SLIDING for is_rotated in rotated]
    return _llama(fields) | {
        "unrotated_layers": unrotated,
        "windows": _chosen_windows(fields, types) if _uses_window(fields) else (),
    }


def _gemma2(fields: Fields) -> Values:
    num_layers = fields.count("num_hidden_layers")
    types = [_FULL if layer % 2 else _SLIDING for layer in range(num_layers)]
    return _gemma(fields) | {
        "windows": _chosen_windows(fields, types),
        "attention_softcap": _optional(fields, "attn_logit_softcapping", 50.0),
        "logit_softcap": _optional(fields, "final_logit_softcapping", 30.0),
    }


def _gemma3(fields: Fields) -> Values:
    num_layers = fields.count("num_hidden_layers")
    pattern = fields.count("sliding_window_pattern", default=6)
    types = [_SLIDING if (layer + 1) % pattern else _FULL for layer in range(num_layers)]
    return _gemma(fields) | {
        "windows": _chosen_windows(fields, types),
        "has_qk_norm": True,
        "logit_softcap": _optional(fields, "final_logit_softcapping", None),
    }


def _gemma(fields: Fields) -> Values:
    """Return what both generations share."""
    _require(fields, "hidden_activation", "gelu_pytorch_tanh")
    if fields.flag("use_bidirectional_attention", default=False):
        raise fields.refusal("use_bidirectional_attention", "is not implemented")
    scalar = fields.number("query_pre_attn_scalar", default=_GEMMA_SCALAR)
    return _biases(fields) | {
        "activation": "gelu_tanh",
        "norm_offset": 1.0,
        "has_output_norms": True,
        "embedding_scale": fields.count("hidden_size") ** 0.5,
        "attention_scale": scalar**-0.5,
    }


_READERS: dict[DecoderFamily, Callable[[Fields], Values]] = {
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
}


def _refuse_unsupported(fields: Fields) -> None:
    if fields.values.get("quantization_config"):
        raise fields.refusal("quantization_config", "is not implemented; export full weights")


def _require(fields: Fields, name: str, value: str) -> None:
    fields.choice(name, (value,), default=value)


def _biases(fields: Fields) -> Values:
    has_bias = fields.flag("attention_bias", default=False)
    return {"has_qkv_bias": has_bias, "has_output_bias": has_bias}


def _optional(fields: Fields, name: str, default: float | None) -> float | None:
    """Return a number, None where it is null, the default where it is absent."""
    if name not in fields.values:
        return default
    return None if fields.values[name] is None else fields.number(name)


def _window(fields: Fields, *, default: int | None) -> int | None:
    if "sliding_window" not in fields.values:
        return default
    return None if fields.values["sliding_window"] is None else fields.count("sliding_window")


def _uses_window(fields: Fields) -> bool:
    return fields.flag("use_sliding_window", default=False)


def _late_windows(fields: Fields) -> tuple[int | None, ...]:
    """Qwen: layers from `max_window_layers` on have a window, where windows are in use."""
    if not _uses_window(fields):
        return ()
    num_full = fields.count("max_window_layers", default=28)
    num_layers = fields.count("num_hidden_layers")
    types = [_FULL if layer < num_full else _SLIDING for layer in range(num_layers)]
    return _chosen_windows(fields, types)


def _chosen_windows(fields: Fields, default_types: list[str]) -> tuple[int | None, ...]:
    """Return the windows that `layer_types` chooses, else the family's own pattern."""
    types = fields.values.get("layer_types")
    types = default_types if types is None else types
    if not isinstance(types, list) or len(types) != len(default_types):
        raise fields.refusal("layer_types", f"must be a list of {len(default_types)}")
    for found in types:
        if found not in (_SLIDING, _FULL):
            raise fields.refusal("layer_types", f"names {found!r}, which is not implemented")
    window = _window(fields, default=_WINDOW)
    if window is None or _SLIDING not in types:
        return ()
    return tuple(window if found == _SLIDING else None for found in types)


def _written(config: DecoderConfig) -> Values:
    """Return the fields that only some families have."""
    values: Values = {"hidden_act": "silu"}
    if config.family not in ("mistral", "qwen2"):
        values["attention_bias"] = config.has_qkv_bias
    if config.family in ("llama", "smollm3"):
        values["mlp_bias"] = config.has_mlp_bias
    if config.family == "smollm3":
        unrotated = config.unrotated_layers
        values["no_rope_layers"] = [int(i not in unrotated) for i in range(config.num_layers)]
    if config.family.startswith("gemma"):
        values |= _written_gemma(config)
    return values | _written_windows(config)


def _written_gemma(config: DecoderConfig) -> Values:
    assert config.attention_scale is not None, "a Gemma's scores have a scale of their own"
    scalar = round(config.attention_scale**-2, 6)  # undo the root; whole numbers stay whole
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": int(scalar) if scalar.is_integer() else scalar,
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
    }


def _written_windows(config: DecoderConfig) -> Values:
    if config.family == "llama":
        return {}
    window = next((window for window in config.windows if window is not None), None)
    if config.family == "mistral":
        return {"sliding_window": window}
    windows = config.windows or (None,) * config.num_layers
    types = [_FULL if found is None else _SLIDING for found in windows]
    values: Values = {"sliding_window": window, "layer_types": types}
    if not config.family.startswith("gemma"):
        values["use_sliding_window"] = window is not None
    return values
