"""Adapters in one batch: the tokens of merged models, and for every row the bits it has alone.

Shape letters, this file only:
    R = ranks   I = input features   O = output features   T = rows   V = vocabulary
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from purvey.engine.adapters.bank import AdapterBank
from purvey.engine.adapters.roster import Adapter, Roster
from purvey.engine.adapters.sites import sites_of
from purvey.engine.adapters.step import StepAdditions
from purvey.engine.batch import TILE_TOKENS
from purvey.engine.core import Core
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache
from purvey.engine.linears.choice import Chosen, linears
from purvey.models.config import DecoderConfig
from purvey.models.lora import AdapterWeights, load_adapter, merge, read_adapter
from purvey.models.weights import load_folder
from tests.numerics.adapters import KINDS, write
from tests.numerics.greedy import CONFIGS as FAMILIES
from tests.numerics.greedy import MARGIN, NUM_NEW
from tests.numerics.greedy import prompt_of as ids_of
from tests.numerics.test_engine_exactness import CONFIGS, Recorder, Take, decoder, prompt_of

# peft asks transformers for an attribute that it has since renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
PRECISIONS: tuple[Chosen, ...] = ("fp32", "bf16", "int8", "int4")
TARGETS = (
    ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ("q_proj", "v_proj"),
    ("k_proj", "up_proj"),
    ("o_proj", "down_proj", "gate_proj"),
)
RANKS = (16, 4, 9, 33)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Engine:
    """A base with a bank, stepped by hand."""

    def __init__(
        self, core: Core, recorder: Recorder, bank: AdapterBank, adapters: list[Adapter]
    ) -> None:
        self.core, self.recorder, self.bank, self.adapters = core, recorder, bank, adapters

    def submit(self, work: Take, number: int | None, *, salt: str = "") -> Take:
        """Submit with an adapter, or with the base alone."""
        work.sequence.salt = salt
        if number is None:
            self.core.submit(work)
            return work
        adapter = self.adapters[number]
        work.sequence.adapter = self.core._roster.take(adapter.digest)
        self.core.submit(work)
        self.core._roster.release(adapter)
        return work

    def finish(self) -> None:
        """Step to the end; nothing may be left behind."""
        while self.core.step():
            self.core.check()
        for adapter in self.adapters:
            self.core._roster.drop(adapter.digest, lambda: None)
        self.core._roster.check()
        self.bank.check()


def served(
    base: FrozenDecoder,
    weights: list[AdapterWeights],
    *,
    chosen: Chosen = "fp32",
    max_batch_tokens: int = 512,
    num_blocks: int = 120,
) -> Engine:
    """Serve adapters beside a base that may serve elsewhere too."""
    dtype = torch.float32 if chosen == "fp32" else torch.bfloat16
    bank = AdapterBank(base.config, dtype=dtype, adapter_bytes=2**24)
    roster = Roster(bank.free)
    adapters = [bank.load(str(number), one) for number, one in enumerate(weights)]
    for adapter in adapters:
        roster.put(adapter)
    recorder = Recorder(base, KVCache(base.config, num_blocks=num_blocks), bank)
    core = Core(recorder, max_batch_tokens=max_batch_tokens, roster=roster)
    return Engine(core, recorder, bank, adapters)


def random_weights(
    config: DecoderConfig, *, rank: int, targets: tuple[str, ...], seed: int
) -> AdapterWeights:
    """Draw an adapter that changes a good part of every output; the last layer is left alone."""
    generator = torch.Generator().manual_seed(seed)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for site in sites_of(config):
        for target, num_outputs in zip(site.targets, site.num_outputs, strict=True):
            if target.partition(".")[2] not in targets:
                continue
            for layer in range(config.num_layers - 1):
                a_RI = torch.randn(rank, site.num_inputs, generator=generator) * 0.2
                b_OR = torch.randn(num_outputs, rank, generator=generator) * 0.2
                pairs[f"layers.{layer}.{target}"] = a_RI, b_OR
    return AdapterWeights(rank=rank, scale=0.5, pairs=pairs)


def four(config: DecoderConfig) -> list[AdapterWeights]:
    """Draw adapters of several ranks and several layers."""
    return [
        random_weights(config, rank=rank, targets=targets, seed=rank)
        for rank, targets in zip(RANKS, TARGETS, strict=True)
    ]


def frozen(config: DecoderConfig, chosen: Chosen) -> FrozenDecoder:
    """Build the base."""
    return FrozenDecoder(decoder(config), linears=linears(chosen))


def test_eight_adapters_in_one_batch_give_the_tokens_of_eight_merged_models(
    tmp_path: Path,
) -> None:
    """Logits too: float32 sums in another order, 1e-4; the best two are further apart.

    A merged model writes the tokens if each is its best one after those before it.
    """
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_config(FAMILIES["llama"]).eval()
    base.save_pretrained(tmp_path / "base")
    prompts, merged = {}, {}
    for number, kind in enumerate(KINDS):
        prompts[kind] = ids_of(20 + 13 * number, seed=number)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
        merged[kind] = write(model, tmp_path / kind, seed=number, kind=kind)
    weights = [read_adapter(tmp_path / kind, _config(tmp_path)) for kind in KINDS]
    engine = served(
        FrozenDecoder(load_folder(tmp_path / "base")), weights, max_batch_tokens=3 * TILE_TOKENS
    )
    works = [
        engine.submit(Take(kind, prompts[kind], NUM_NEW), number)
        for number, kind in enumerate(KINDS)
    ]
    engine.finish()
    for kind, work in zip(KINDS, works, strict=True):
        tokens = work.sequence.tokens
        with torch.inference_mode():
            expected_TV = merged[kind](torch.tensor([tokens])).logits[0, :-1]
        found_TV = torch.stack([engine.recorder.logits[kind, p] for p in range(len(tokens) - 1)])
        torch.testing.assert_close(found_TV, expected_TV, atol=1e-4, rtol=0)
        best_2 = expected_TV[len(prompts[kind]) - 1 :].topk(2)
        assert (best_2.values[:, 0] - best_2.values[:, 1]).min() > MARGIN, "choose another seed"
        assert tokens[len(prompts[kind]) :] == best_2.indices[:, 0].tolist(), kind


def _config(folder: Path) -> DecoderConfig:
    return load_folder(folder / "base").config


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "smollm3"])
def test_other_families_compute_what_a_merged_decoder_does(family: str, tmp_path: Path) -> None:
    """Biases, norms of queries, four norms, other activations; float32, 1e-4."""
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    model.save_pretrained(tmp_path / "base")
    write(model, tmp_path / "adapter", seed=4, kind="all")
    merged = load_folder(tmp_path / "base")
    load_adapter(merged, tmp_path / "adapter")
    merge(merged)
    weights = [read_adapter(tmp_path / "adapter", merged.config)]
    engine = served(FrozenDecoder(load_folder(tmp_path / "base")), weights)
    work = engine.submit(Take("a", ids_of(70, seed=3), 10), 0)
    engine.finish()
    with torch.no_grad():
        dense_TV = merged(torch.tensor([work.sequence.tokens]))[0]
    found_TV = torch.stack([engine.recorder.logits["a", p] for p in range(79)])
    torch.testing.assert_close(found_TV, dense_TV[:-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("chosen", PRECISIONS)
def test_logits_have_the_same_bits_alone_and_among_other_adapters(chosen: Chosen) -> None:
    """Chunked prefill, prefix hits, preemption, and the base itself among them."""
    config = CONFIGS["grouped"]
    base, weights = frozen(config, chosen), four(config)
    prompt = prompt_of(75, config)
    numbers = (0, 1, 2, 3, None)
    alone: dict[int | None, Recorder] = {}
    tokens = {}
    for number in numbers:
        engine = served(base, weights[:4] if number != 3 else weights, chosen=chosen)
        tokens[number] = engine.submit(Take("a", prompt, 12), number).sequence.tokens
        engine.finish()
        alone[number] = engine.recorder
    assert len({tuple(one) for one in tokens.values()}) > 3, "the adapters change nothing"

    crowded = served(
        base, weights, chosen=chosen, max_batch_tokens=2 * TILE_TOKENS + 7, num_blocks=28
    )
    for number in numbers:  # read once, to be found again
        crowded.submit(Take(f"early {number}", [*prompt[:64], 5], 1), number, salt="p")
    while crowded.core.step():
        crowded.core.check()
    works = {n: crowded.submit(_unread(f"a {n}", prompt), n, salt="p") for n in numbers}
    for number in (2, 0, None, 3, 1):
        length = 10 + 3 * (number or 0)
        crowded.submit(Take(f"late {number}", prompt_of(length, config, seed=9), 90), number)
        crowded.core.step()
    while crowded.core.step():
        crowded.core.check()
    stats = crowded.core.stats()
    assert stats.preemptions > 0
    assert stats.prefix_hit_tokens > 0
    for number, work in works.items():
        assert work.sequence.tokens == tokens[number]
        for position in range(len(work.sequence.tokens) - 1):
            found = crowded.recorder.logits.get((f"a {number}", position))
            if found is not None:  # else it was found in the cache
                assert torch.equal(found, alone[number].logits["a", position]), (number, position)
    crowded.finish()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_added_the_same_bits_at_any_number_of_threads_and_rows(dtype: torch.dtype) -> None:
    config = CONFIGS["grouped"]
    bank = AdapterBank(config, dtype=dtype, adapter_bytes=2**24)
    adapters = [bank.load(str(number), one) for number, one in enumerate(four(config))]
    torch.manual_seed(0)
    for number, site in enumerate(bank.sites):
        x_TI = torch.randn(40, site.num_inputs)
        rows = tuple((row, adapters[row % 4]) for row in range(0, 40, 2))
        added_TO = torch.zeros(40, sum(site.num_outputs))
        StepAdditions(bank, 40, rows, ()).add_(number, 0, x_TI, added_TO)
        assert not added_TO[1::2].any()
        torch.set_num_threads(2)
        for row, adapter in rows[:4]:
            alone_TO = torch.zeros(1, added_TO.shape[1])
            step = StepAdditions(bank, 1, ((0, adapter),), ())
            step.add_(number, 0, x_TI[row : row + 1], alone_TO)
            assert torch.equal(alone_TO[0], added_TO[row])
        torch.set_num_threads(1)


def _unread(name: str, prompt: list[int]) -> Take:
    """Return work whose prompt may be found in the cache: nobody reads its logits."""
    work = Take(name, prompt, 12)
    work.sequence.prompt_logprobs_from = None
    return work


@pytest.mark.parametrize("chosen", PRECISIONS)
def test_the_base_computes_the_same_bits_as_without_adapters(chosen: Chosen) -> None:
    config = CONFIGS["gemma"]
    base = frozen(config, chosen)
    plain = Recorder(base, KVCache(config, num_blocks=60))
    core = Core(plain, max_batch_tokens=512)
    core.submit(Take("a", prompt_of(40, config), 9))
    while core.step():
        core.check()
    engine = served(base, four(config), chosen=chosen)
    for number in (0, None, 3, 2):
        name = "a" if number is None else f"other {number}"
        engine.submit(Take(name, prompt_of(40, config), 9), number)
    engine.finish()
    for key, logits_V in plain.logits.items():
        assert torch.equal(engine.recorder.logits[key], logits_V), key


def test_what_one_adapter_has_in_the_cache_is_found_by_itself_alone() -> None:
    config = CONFIGS["grouped"]
    engine = served(frozen(config, "fp32"), four(config))
    prompt, found = prompt_of(70, config), list[int]()
    for number in (0, 1, None, 0, None, 1, 2):
        work = engine.submit(_unread(f"r{len(found)}", prompt), number, salt="p")
        while engine.core.step():
            engine.core.check()
        found.append(work.sequence.num_reused)
    assert found == [0, 0, 0, 64, 64, 64, 0]
    engine.finish()
