"""Configurations: what is read, what is refused by name."""

from typing import Any

import pytest

from purvey.contracts.sizes import DecoderSizes, check_new_decoder
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.families import from_hf, to_hf

PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_both_spellings_of_rope_are_read() -> None:
    older = from_hf({**PLAIN, "rope_theta": 5e5})
    newer = from_hf({**PLAIN, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})
    assert older == newer
    assert older.rope.theta == 5e5


def test_what_is_written_is_read_back() -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = from_hf(
        {**PLAIN, "rope_scaling": scaling, "eos_token_id": [1, 2], "attention_bias": True}
    )
    assert from_hf(to_hf(config)) == config


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"_attn_implementation": "evil/kernel"}, "_attn_implementation"),
        ({"model_type": "mamba"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"vocab_size": "100"}, "vocab_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_kv_heads"),
        ({"head_dim": 5}, "num_heads"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope_scaling"),
        ({"rope_scaling": {"type": "yarn", "factor": 0}}, "rope_scaling.factor"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
        ({"model_type": "gemma2", "hidden_activation": "relu"}, "hidden_activation"),
        ({"model_type": "gemma2", "attn_logit_softcapping": -1}, "attn_logit_softcapping"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "gemma2", "layer_types": ["chunked_attention"] * 2}, "layer_types"),
        (
            {"model_type": "gemma3_text", "use_bidirectional_attention": True},
            "use_bidirectional_attention",
        ),
        (
            {"model_type": "gemma3_text", "rope_parameters": {"full_attention": 1}},
            "rope_parameters",
        ),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers"),
        ({"eos_token_id": "2"}, "eos_token_id"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"intermediate_size": None}, "intermediate_size"),
    ],
)
def test_a_wrong_config_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidCheckpointError) as refusal:
        from_hf({**PLAIN, **change})
    assert refusal.value.param == named


def build(hyperparameters: dict[str, Any]) -> DecoderConfig:
    return DecoderConfig.from_hyperparameters(
        hyperparameters, vocabulary_size=300, bos_id=0, eos_ids=(0, 2)
    )


def test_hyperparameters_have_defaults() -> None:
    config = build({"hidden_size": 96})
    assert (config.num_heads, config.num_kv_heads, config.head_size) == (3, 3, 32)
    assert config.mlp_size == 256
    assert config.is_tied


@pytest.mark.parametrize(
    ("hyperparameters", "named"),
    [
        ({"hiden_size": 64}, "hiden_size"),
        ({"hidden_size": 64, "num_heads": 5}, "num_heads"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads"),
    ],
)
def test_a_wrong_hyperparameter_is_refused_by_name(
    hyperparameters: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidValueError) as refusal:
        build(hyperparameters)
    assert refusal.value.param == f"model.hyperparameters.{named}"
    if named == "hiden_size":
        assert "'hidden_size'" in refusal.value.message


@pytest.mark.parametrize(
    ("hyperparameters", "words"),
    [
        ({"hidden_size": 2**20}, "300 x 1048576, and 4 layers of"),
        ({"mlp_size": 2**24}, "layers of 6442516736"),
        ({"num_layers": 10_000, "hidden_size": 2}, "num_layers is 10000; at most 512"),
    ],
)
def test_a_model_that_no_host_holds_is_refused_before_it_is_built(
    hyperparameters: dict[str, Any], words: str
) -> None:
    for refused_by in (
        lambda: build(hyperparameters),
        lambda: check_new_decoder(hyperparameters, vocabulary_size=300),
    ):
        with pytest.raises(InvalidValueError, match=words) as refusal:
            refused_by()
        assert refusal.value.param == "recipe.model.hyperparameters"


@pytest.mark.parametrize(
    "hyperparameters", [{}, {"is_tied": False, "num_heads": 8, "num_kv_heads": 2, "mlp_size": 40}]
)
def test_parameters_are_counted_as_they_are_built(hyperparameters: dict[str, Any]) -> None:
    decoder = Decoder(build(hyperparameters))
    built = sum(parameter.numel() for parameter in decoder.parameters())
    assert DecoderSizes.of(hyperparameters).num_parameters(300) == built


def test_what_is_no_number_is_not_counted() -> None:
    check_new_decoder({"num_layers": "many", "hidden_size": 10**9}, vocabulary_size=300)
