"""Bar 18: two ranks on one core each against one process on one core; memory of a sharded rank.

Speed: a decoder of 30 million parameters, 16 rows of 256 tokens a step, AdamW in float32, through
the job's own path; one process pinned to one core against two ranks (`ddp`) pinned to two cores,
one thread each, with the same batch. Memory: a decoder of 200 million parameters, two rows of 64
tokens, the highest resident memory of any rank of two (`fsdp`) over that of a single process, the
interpreter and its libraries counted in both; neither has written a checkpoint.
"""

import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness import ROOT, Report, paired, publish
from benchmarks.peers.cache import child_environment
from benchmarks.peers.child import JsonChild
from benchmarks.quick import is_quick
from purvey.contracts.data import DatasetConfig, SplitConfig
from purvey.contracts.jobs import InputDataset, InputFile, JobSpec
from purvey.contracts.recipe import parse_recipe
from purvey.data.build import build_dataset

ROUNDS = 1 if is_quick() else 3
SPEED, BEYOND_SPEED, MEMORY, BEYOND_MEMORY = 1.6, 1.9, 0.65, 0.55
SMALL: dict[str, Any] = {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "mlp_size": 1_408}
LARGE: dict[str, Any] = {"hidden_size": 1_024, "num_layers": 16, "num_heads": 16, "mlp_size": 2_816}
TINY: dict[str, Any] = {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "mlp_size": 128}
LARGEST_LOSS_GAP = 1e-3


class Run:
    """A job that trains a few steps at a time, in processes of its own. A context manager."""

    def __init__(self, name: str, spec: JobSpec, *, cores: int) -> None:
        path = Path(spec.work_dir) / "spec.json"
        path.write_bytes(msgspec.json.encode(spec))
        processors = ",".join(str(p) for p in sorted(os.sched_getaffinity(0))[:cores])
        command = [
            *("taskset", "-c", processors, sys.executable, "-m", "benchmarks.ranks_subject"),
            str(path),
        ]
        environment = child_environment(cores, {"PYTHONPATH": str(ROOT)})
        self._child = JsonChild(f"ranks-{name}", command, environment)
        self.losses: list[float] = []
        self.peak_bytes = 0

    def steps_per_s(self) -> float:
        """Train one step further and return the rate."""
        answer = self._child.ask(steps=1)
        self.losses.append(answer["loss"])
        self.peak_bytes = max(answer["peak_bytes"])
        return 1 / float(answer["seconds"])

    def __enter__(self) -> "Run":
        self._child.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._child.__exit__(None, None, None)


def main() -> int:
    """Measure and publish; correct only if one process and two ranks have the same losses."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = _dataset(folder)
        speed, speed_gap = _speed(folder, dataset)
        memory, memory_gap = _memory(folder, dataset)
    is_sound = max(speed_gap, memory_gap) <= LARGEST_LOSS_GAP
    ratio = memory["ratio"]
    is_met = speed["ratio"] >= SPEED and ratio <= MEMORY
    is_beyond = speed["ratio"] >= BEYOND_SPEED and ratio <= BEYOND_MEMORY
    verdict = ("met, beyond" if is_beyond else "met") if is_met else "missed"
    publish(
        Report(
            bar="ranks",
            workload=__doc__.split("\n\n")[1].replace("\n", " "),
            target=f"two ranks >= {SPEED} of one; memory of a rank <= {MEMORY} of one process",
            verdict=verdict if is_sound else "GATE FAILED",
            figures={
                **{f"speed_{key}": value for key, value in speed.items()},
                **{f"memory_{key}": value for key, value in memory.items()},
                "loss_gap": max(speed_gap, memory_gap),
            },
        )
    )
    return 0 if is_sound else 1


def _speed(folder: Path, dataset: InputDataset) -> tuple[dict[str, Any], float]:
    shape = TINY if is_quick() else SMALL
    train = {"batch_size": 16, "sequence_tokens": 256, "epochs": 1_000}
    with ExitStack() as stack:
        one_spec = _spec(folder / "one", dataset, shape, train, cores=1)
        two_spec = _spec(folder / "two", dataset, shape, train, cores=2, strategy="ddp")
        one = stack.enter_context(Run("one", one_spec, cores=1))
        two = stack.enter_context(Run("two", two_spec, cores=2))
        found = paired(two.steps_per_s, one.steps_per_s, rounds=ROUNDS)
        return found.figures(), _gap(one, two)


def _memory(folder: Path, dataset: InputDataset) -> tuple[dict[str, Any], float]:
    shape = TINY if is_quick() else LARGE
    train = {"batch_size": 2, "sequence_tokens": 64, "epochs": 1_000}
    peaks, runs = {}, []
    for name, cores, strategy in (("whole", 2, None), ("sharded", 2, "fsdp")):
        spec = _spec(folder / name, dataset, shape, train, cores=cores, strategy=strategy)
        with Run(name, spec, cores=cores) as run:
            run.steps_per_s()
            run.steps_per_s()
            peaks[name] = run.peak_bytes
            runs.append(run)
    return {
        "ratio": peaks["sharded"] / peaks["whole"],
        "one_process_bytes": peaks["whole"],
        "rank_bytes": peaks["sharded"],
    }, _gap(*runs)


def _gap(one: Run, two: Run) -> float:
    pairs = zip(one.losses, two.losses, strict=True)
    return max(abs(a / b - 1) for a, b in pairs)


def _spec(
    folder: Path,
    dataset: InputDataset,
    shape: dict[str, Any],
    train: dict[str, Any],
    *,
    cores: int,
    strategy: str | None = None,
) -> JobSpec:
    for part in ("work", "output"):
        (folder / part).mkdir(parents=True)
    recipe: dict[str, Any] = {
        "task": "text-generation",
        "model": {"architecture": "decoder", "hyperparameters": shape},
        "tokenizer": {"vocabulary_size": 4_096},
        "optimizer": {"name": "adamw", "learning_rate": 1e-4},
        "train": train | {"evals_per_epoch": 1_000, "checkpoint_interval_s": 86_400.0},
    }
    if strategy is not None:
        recipe["parallel"] = {"strategy": strategy, "ranks": 2}
    return JobSpec(
        job_id="job_ranks",
        kind="training",
        attempt=1,
        fence=1,
        recipe=parse_recipe(recipe).model_dump(mode="json"),
        dataset=dataset,
        work_dir=str(folder / "work"),
        output_dir=str(folder / "output"),
        num_threads=cores,
    )


def _dataset(folder: Path) -> InputDataset:
    """Make a dataset of the manual that ships with Python, without rows to evaluate on."""
    from pydoc_data.topics import topics

    source, target = folder / "text.jsonl", folder / "dataset"
    rows = [json.dumps({"text": topics[name]}) for name in sorted(topics)]
    source.write_text("\n".join(rows), encoding="utf-8")
    target.mkdir()
    file = InputFile(
        role="source",
        path=str(source),
        name=source.name,
        sha256="",
        num_bytes=source.stat().st_size,
    )
    config = DatasetConfig(splits=SplitConfig(validation=0.0, test=0.0))
    return InputDataset(folder=str(target), manifest=build_dataset([file], config, target))


if __name__ == "__main__":
    sys.exit(main())
