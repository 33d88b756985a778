"""Networks that learn on a device: no tensor is forgotten on the processor.

The meta device stands in for one: it holds no numbers, but what is computed there must lie there.
`tests/gpu/test_cuda_training.py` has the numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from purvey.contracts.recipe_parts.adapting import LoraConfig
from purvey.errors import SettingError
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.encoder.config import EncoderConfig
from purvey.models.encoder.module import EncoderModule
from purvey.models.lora import inject
from purvey.models.speech.network import CtcEncoder
from purvey.train.language import LanguageLearner
from purvey.train.placing import feed_across, kind_of
from purvey.train.preference import PairRow, PreferenceLearner
from purvey.train.token_rows import TokenRow, token_row
from tests.numerics.test_train_resume import ADAMW, Jobs, Link, language_recipe, sentences

META = torch.device("meta")
_CROSSING = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Strict(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Refuses what a CUDA device would: tensors of two devices in one operator."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, given)) if isinstance(x, Tensor) and x.ndim]
        places = {tensor.device.type for tensor in tensors}
        assert len(places) < 2 or func in _CROSSING, f"{func} meets tensors of {places}"
        return func(*args, **given)


def _decoder(**changes: Any) -> Decoder:
    shape = {
        "hidden_size": 16,
        "mlp_size": 24,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "context_tokens": 32,
    }
    return Decoder(
        DecoderConfig.from_hyperparameters(
            shape | changes, vocabulary_size=50, bos_id=None, eos_ids=(1,)
        )
    )


def _row(length: int) -> TokenRow:
    return token_row(list(range(length)), [i > 1 for i in range(length)], max_tokens=length)


def _passes(loss: Callable[[], Tensor]) -> Tensor:
    with Strict():  # type: ignore[no-untyped-call]  # torch
        found = loss()
        found.backward()  # type: ignore[no-untyped-call]  # torch
    return found


def test_the_check_sees_a_tensor_that_was_forgotten() -> None:
    with pytest.raises(AssertionError, match="meets tensors of"):
        _passes(lambda: (torch.ones(3, device=META, requires_grad=True) + torch.ones(3)).sum())


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_language_model_learns_where_its_weights_lie(method: str, is_packed: bool) -> None:
    decoder = _decoder()
    if method == "lora":
        inject(decoder, LoraConfig(rank=2), generator=torch.Generator().manual_seed(0))
    learner = LanguageLearner(
        decoder.to(META), [_row(9), _row(5)], [], batch_size=2, seed=0, is_packed=is_packed
    )
    loss = _passes(lambda: learner.loss([0, 1]).loss)
    assert loss.device == META
    trained = [p for p in decoder.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and p.grad.device == META for p in trained)


def test_preferences_are_compared_where_the_weights_lie() -> None:
    decoder = _decoder()
    pairs = [PairRow(preferred=_row(7), rejected=_row(5)) for _ in range(2)]
    learner = PreferenceLearner(decoder, pairs, [], beta=0.1, seed=0, likelihood_weight=1.0)
    decoder.to(META)
    assert _passes(lambda: learner.loss([0, 1]).loss).device == META


class _Calls(nn.Module):
    """Calls a network as a learner does, and says what it was given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, set[str]()

    def forward(self, *inputs: Tensor) -> Tensor:
        self.seen |= {x.device.type for x in inputs}
        out: Tensor = self.network(*inputs)
        return out


def test_a_module_that_is_fed_gives_back_what_it_was_asked_on_the_processor() -> None:
    torch.manual_seed(0)
    module = _Calls(nn.Linear(3, 2))
    x_BI = torch.randn(4, 3)
    expected = module(x_BI)
    feed_across(module, torch.device("cpu"))
    assert torch.equal(module(x_BI), expected)
    module.to(META)
    module._forward_hooks.clear()  # nothing comes back from there
    module._forward_pre_hooks.clear()
    feed_across(module, META)
    module._forward_hooks.clear()
    assert module(x_BI).device == META
    assert module.seen == {"cpu", "meta"}


def _encoder() -> tuple[nn.Module, tuple[Tensor, ...]]:
    config = EncoderConfig(
        family="bert",
        vocabulary_size=30,
        hidden_size=16,
        mlp_size=24,
        num_layers=2,
        num_heads=2,
        num_positions=16,
        num_types=2,
        first_position=0,
        activation="gelu",
        norm_epsilon=1e-5,
        has_head=True,
        num_labels=3,
    )
    tokens_T = torch.arange(9)
    return EncoderModule(config), (tokens_T, torch.zeros_like(tokens_T), torch.tensor([4, 5]))


def test_an_encoder_attends_where_its_weights_lie() -> None:
    module, (tokens_T, types_T, lengths_S) = _encoder()
    module.to(META)
    # Lengths are read on the way, which needs their numbers.
    _passes(lambda: module(tokens_T.to(META), types_T.to(META), lengths_S).sum())


def test_a_speech_encoder_masks_where_its_weights_lie() -> None:
    module = CtcEncoder(num_mels=8, num_outputs=6, width=16, depth=1, kernel=3)
    module.to(META)
    frames_B = torch.tensor([40, 30], device=META)
    _passes(lambda: module(torch.zeros(2, 8, 40, device=META), frames_B).sum())


def test_what_has_no_numbers_is_followed_for_a_processor() -> None:
    assert kind_of(torch.zeros(1)) == kind_of(torch.zeros(1, device=META)) == "cpu"


def test_the_order_of_rows_is_that_of_the_processor() -> None:
    rows = [_row(4 + n % 3) for n in range(12)]
    here = LanguageLearner(_decoder(), rows, [], batch_size=4, seed=3)
    there = LanguageLearner(_decoder().to(META), rows, [], batch_size=4, seed=3)
    assert np.array_equal(here.order(1), there.order(1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device here")
def test_a_device_that_is_not_there_is_named_with_its_setting(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    dataset = jobs.dataset("rows.csv", sentences())
    with pytest.raises(SettingError, match="no CUDA device") as caught:
        jobs.run(language_recipe(ADAMW), dataset, link=Link(), work=jobs.folder(), device="cuda")
    assert caught.value.param == "training_device"
    jobs.run(language_recipe(ADAMW), dataset, link=Link(), work=jobs.folder(), device="auto")
