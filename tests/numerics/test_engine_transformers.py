"""64 greedy tokens as `transformers` writes them: alone, and among others with split prompts.

The fixtures' logits are far apart: at every step the best two differ by more than the
1e-4 that bounds what float32 summation order can move (STYLE, "Equal tokens"; asserted here).
"""

from pathlib import Path

import pytest

from purvey.engine.core import Core
from purvey.engine.door import Door
from purvey.engine.frozen import FrozenDecoder
from purvey.engine.kv_cache import KVCache
from purvey.engine.runner import Runner
from purvey.models.weights import load_folder
from tests.numerics.greedy import CONFIGS, door_of, generate, prompt_of, theirs


@pytest.mark.parametrize("family", CONFIGS)
def test_64_greedy_tokens_alone_and_in_a_crowd(family: str, tmp_path: Path) -> None:
    prompts = [prompt_of(length, seed=length) for length in (33, 5, 120)]
    expected = theirs(family, prompts, tmp_path)
    alone = []
    for number, prompt in enumerate(prompts):
        core, door = _engine(tmp_path)
        alone.append(generate(core, door, {f"r{number}": prompt})[f"r{number}"])
    assert alone == expected
    core, door = _engine(tmp_path)
    together = generate(core, door, {f"r{i}": prompt for i, prompt in enumerate(prompts)})
    assert list(together.values()) == expected


def _engine(folder: Path) -> tuple[Core, Door]:
    decoder = load_folder(folder)
    runner = Runner(FrozenDecoder(decoder), KVCache(decoder.config, num_blocks=80))
    core = Core(runner, max_batch_tokens=80)
    return core, door_of(core)
