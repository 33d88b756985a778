"""Who computes beside whom changes no bit: a process that is moved keeps its number of threads."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from purvey.engine.core import Core
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache
from purvey.engine.linears.choice import Chosen, linears
from purvey.engine.runner import Runner
from purvey.engine.score import Scorer
from purvey.ipc.processors import run_on
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from tests.numerics.test_train_resume import ADAMW, Jobs, Link, language_recipe, sentences, sha256

CONFIG = DecoderConfig(
    vocabulary_size=512,
    hidden_size=256,
    mlp_size=704,
    num_layers=2,
    num_heads=8,
    num_kv_heads=4,
    head_size=32,
    context_tokens=128,
    initializer_std=0.1,
)
Move = Callable[[], None]


@pytest.fixture
def move() -> Iterator[Move]:
    """Move this process, each time to one processor of its own or to all, in turn."""
    processors, threads = os.sched_getaffinity(0), torch.get_num_threads()
    turns = 0

    def to_the_next() -> None:
        nonlocal turns
        turns += 1
        run_on(os.getpid(), {min(processors)} if turns % 2 else processors)
        assert torch.get_num_threads() == 2

    torch.set_num_threads(2)
    yield to_the_next
    run_on(os.getpid(), processors)
    torch.set_num_threads(threads)
    assert turns >= 4, "it was hardly ever moved"


class MovingLink(Link):
    """A link that moves the process before every step."""

    def __init__(self, move: Move) -> None:
        super().__init__()
        self._move = move

    @property
    def stop_requested(self) -> None:
        """Nobody asks it to stop."""
        self._move()


def test_a_training_run_that_is_moved_ends_with_the_same_bits(tmp_path: Path, move: Move) -> None:
    jobs = Jobs(tmp_path)
    dataset = jobs.dataset("rows.csv", sentences())
    recipe = language_recipe(ADAMW)
    recipe["model"]["hyperparameters"] |= {"hidden_size": 192, "num_heads": 6, "num_layers": 2}
    recipe["train"] |= {"max_steps": 8}
    still = jobs.run(recipe, dataset, link=Link(), work=jobs.folder(), num_threads=2)
    moved = jobs.run(recipe, dataset, link=MovingLink(move), work=jobs.folder(), num_threads=2)
    for folder in (still, moved):
        manifest = json.loads((folder / "purvey.json").read_text(encoding="utf-8"))
        assert manifest["lineage"]["threads"] == 2, "too small a network to need two"
    assert sha256(moved) == sha256(still)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_an_engine_that_is_moved_gives_the_same_bits(precision: Chosen, move: Move) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randint(512, (20 + n,), generator=generator).tolist(), [n] * 40) for n in range(4)
    ]

    def scores(before_step: Move) -> list[list[float]]:
        decoder = Decoder(CONFIG).eval()
        decoder.reset_parameters(torch.Generator().manual_seed(1))
        frozen = FrozenDecoder(decoder, linears=linears(precision))
        core = Core(Runner(frozen, KVCache(CONFIG, num_blocks=64)), max_batch_tokens=64)
        future = Scorer(core, lambda *_: ([], [])).submit_encoded(pairs)
        while core.step():
            before_step()
        return future.result()

    assert scores(move) == scores(lambda: None)
