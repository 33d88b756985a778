"""What the loop does to a language model: less memory for the same bits, smoothing, freezing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.train.loss import mean_loss, target_losses
from purvey.train.token_rows import TokenBatch, collate, token_row
from tests.numerics.test_train_resume import ADAMW, Jobs, Link, language_recipe, sentences


def decoder(**more: Any) -> Decoder:
    torch.manual_seed(0)
    return Decoder(
        DecoderConfig(
            vocabulary_size=31,
            hidden_size=16,
            mlp_size=32,
            num_layers=3,
            num_heads=2,
            num_kv_heads=1,
            head_size=8,
            context_tokens=64,
            initializer_std=0.3,
            **more,
        )
    )


def batch() -> TokenBatch:
    generator = np.random.default_rng(0)
    rows = []
    for size in (3, 17, 9):
        is_target = [False, *(generator.random(size - 1) < 0.7)]
        is_target[-1] = True
        rows.append(token_row(generator.integers(0, 31, size).tolist(), is_target, max_tokens=99))
    return collate(rows)


def gradients(model: Decoder, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("more", [{}, {"is_tied": False, "logit_softcap": 2.0}])
def test_the_mean_loss_is_the_mean_of_the_losses(more: dict[str, Any]) -> None:
    model, rows = decoder(**more), batch()
    expected, found = target_losses(model, rows).mean(), mean_loss(model, rows)
    # Float32 sums of at most 64 terms: relative errors below 1e-5.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    wanted = gradients(model, expected)
    torch.testing.assert_close(gradients(model, found), wanted, rtol=1e-4, atol=1e-6)


def test_smoothing_is_torchs_own() -> None:
    model, rows = decoder(), batch()
    x_TD = model.hidden(rows.tokens_T, rows.positions_T, rows.attention())
    logits_MV = model.logits(x_TD[rows.is_target_T])
    targets_M = rows.targets_T[rows.is_target_T]
    expected = cross_entropy(logits_MV, targets_M, label_smoothing=0.2)
    torch.testing.assert_close(mean_loss(model, rows, smoothing=0.2), expected, rtol=1e-5, atol=0)


def kept_bytes(model: Decoder, rows: TokenBatch) -> tuple[int, list[Tensor]]:
    """Return the bytes that a graph holds on to, parameters apart, and the gradients."""
    held: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = mean_loss(model, rows)
    return sum(held.values()), gradients(model, loss)


def test_recomputing_keeps_less_and_gives_the_same_bits() -> None:
    model, rows = decoder(), batch()
    whole_bytes, expected = kept_bytes(model, rows)
    model.is_recomputed = True
    less_bytes, found = kept_bytes(model, rows)
    assert less_bytes < whole_bytes / 2
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_frozen_parameters_keep_their_values_through_a_job(tmp_path: Path) -> None:
    jobs, link = Jobs(tmp_path), Link()
    dataset = jobs.dataset("rows.csv", sentences())
    recipe = language_recipe(ADAMW)
    recipe["train"] |= {"max_steps": 1, "freeze": ["embed_tokens.*", "layers.0.*"]}
    first = jobs.run(recipe, dataset, link=link, work=jobs.folder())
    recipe["train"]["max_steps"] = 6
    last = jobs.run(recipe, dataset, link=Link(), work=jobs.folder())
    before, after = (load_file(folder / "model.safetensors") for folder in (first, last))
    same = {name for name, tensor in before.items() if torch.equal(tensor, after[name])}
    frozen = {name for name in before if "embed_tokens" in name or "layers.0." in name}
    assert same == frozen != before.keys()
    assert any(event.endswith("parameters keep their values.") for event in link.events)
