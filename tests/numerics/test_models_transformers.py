"""Folders of `transformers` load here and ours load there, with the same logits."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from examples import shapes
from purvey.models.attention.dense import DenseAttention
from purvey.models.images import ImageReader
from purvey.models.seeing.model import save_vision_language_model
from purvey.models.seeing.network import HELD_ID
from purvey.models.weights import load_folder, save_folder
from purvey.parse.parser import DecoderHere
from tests.numerics.seen_engine import SeenEngine, about
from tests.numerics.shapes import seeing_model

# Float32 sums of at most a few hundred terms, in another order: errors stay near 1e-6 here.
TOLERANCE = 1e-4
SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 5e5,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 1e4,
}
DEEPSEEK_YARN = YARN | {"mscale": 0.7, "mscale_all_dim": 0.3, "beta_fast": 16, "truncate": False}
WINDOWED = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GEMMA = {**SIZES, **SPECIAL, "head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 7}
VARIANTS = {
    "llama-untied": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "llama-tied-wide-heads": LlamaConfig(**SIZES, tie_word_embeddings=True, head_dim=20),
    "llama-biased": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama-stretched": LlamaConfig(**SIZES, rope_parameters=LLAMA3_SCALING),
    "llama-one-kv-head": LlamaConfig(**{**SIZES, "num_key_value_heads": 1}),
    "qwen2-tied": Qwen2Config(**SIZES, tie_word_embeddings=True, rope_theta=1e6),
    "qwen2-untied": Qwen2Config(**SIZES, tie_word_embeddings=False),
    "llama-linear": LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}
    ),
    "llama-dynamic": LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4}
    ),
    "llama-yarn": LlamaConfig(**SIZES, rope_parameters=YARN),
    "llama-yarn-untruncated": LlamaConfig(**SIZES, rope_parameters=DEEPSEEK_YARN),
    "mistral-window": MistralConfig(**SIZES, sliding_window=7),
    "mistral-full": MistralConfig(**SIZES, sliding_window=None, head_dim=20),
    "qwen2-window": Qwen2Config(**SIZES, **WINDOWED),
    "qwen3": Qwen3Config(**SIZES, head_dim=20, tie_word_embeddings=True),
    "qwen3-biased-window": Qwen3Config(**SIZES, **WINDOWED, head_dim=12, attention_bias=True),
    "smollm3": SmolLM3Config(**SIZES, **SPECIAL, no_rope_layer_interval=2),
    "smollm3-window": SmolLM3Config(
        **SIZES, **SPECIAL, no_rope_layers=[1, 0, 1], use_sliding_window=True, sliding_window=7
    ),
    "gemma2": Gemma2Config(**GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma2-uncapped": Gemma2Config(
        **GEMMA, attn_logit_softcapping=None, final_logit_softcapping=None
    ),
    "gemma3": Gemma3TextConfig(
        **GEMMA, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "gemma3-stretched": Gemma3TextConfig(
        **GEMMA,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        layer_types=["full_attention", "sliding_attention", "full_attention"],
    ),
}


def random_model(name: str) -> Any:  # transformers is untyped here
    torch.manual_seed(7)
    config = VARIANTS[name]
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # norms and biases too, and far from symmetric
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def tokens() -> Tensor:
    return torch.randint(0, 97, (2, 60), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", VARIANTS)
def test_their_folder_gives_their_logits_here(name: str, tmp_path: Path) -> None:
    theirs = random_model(name)
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs(tokens()).logits
        ours = load_folder(tmp_path)(tokens())
    assert expected.abs().max() > 1, "logits too small to tell a mistake"
    assert (ours - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_our_folder_gives_our_logits_there(name: str, tmp_path: Path) -> None:
    theirs = random_model(name)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_folder(tmp_path / "theirs")
    save_folder(ours, tmp_path / "ours")
    again, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        assert (again(tokens()).logits - ours(tokens())).abs().max() < TOLERANCE


def test_sharded_and_half_precision_folder_loads(tmp_path: Path) -> None:
    theirs = random_model("llama-untied").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours = load_folder(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert ours.embed_tokens.weight.dtype == torch.float32
    with torch.no_grad():
        expected = again(tokens()).logits
        assert (ours(tokens()) - expected).abs().max() < TOLERANCE


def test_right_padding_changes_no_earlier_logit(tmp_path: Path) -> None:
    random_model("qwen2-tied").save_pretrained(tmp_path)
    decoder = load_folder(tmp_path)
    short = tokens()[:, :20]
    padded = torch.cat([short, torch.zeros_like(short)], dim=1)
    with torch.no_grad():
        assert (decoder(padded)[:, :20] - decoder(short)).abs().max() < TOLERANCE


@torch.no_grad()
def test_what_sees_computes_as_transformers_from_the_same_rows(tmp_path: Path) -> None:
    """They are given there as `inputs_embeds`, before those of the text, to the saved decoder."""
    model, picture = seeing_model(), shapes.drawn(np.random.default_rng(1)).pixels
    save_vision_language_model(tmp_path, model)
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    x_CHW = ImageReader(DecoderHere()).tensor(shapes.png(picture), model.spec)
    template, tokenizer = model.language.template, model.language.tokenizer
    assert template is not None
    ids = template.encode(about(None, "what colour is it?").messages, tokenizer)
    given_ND = model.eyes(x_CHW[None])[0]
    text_TD = oracle.get_input_embeddings()(torch.tensor(ids))
    theirs = oracle(inputs_embeds=torch.cat((given_ND, text_TD))[None]).logits[0]
    shown, held = model.module.shown(x_CHW[None]), [HELD_ID] * len(given_ND)
    tokens_T = torch.tensor([*held, *ids])
    x_TD = shown.hidden(tokens_T, torch.arange(len(tokens_T)), DenseAttention(num_sequences=1))
    torch.testing.assert_close(shown.logits(x_TD), theirs, atol=1e-4, rtol=1e-4)
    engine = SeenEngine(model)
    engine.submit("a", about(shapes.png(picture), "what colour is it?"), max_tokens=1)
    engine.run_out()
    (token,), best = engine.tokens["a"], theirs[-1].log_softmax(0)
    assert token.token_id == int(best.argmax())
    assert token.logprob == pytest.approx(float(best.max()), abs=1e-4)
