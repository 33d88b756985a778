"""A second rank that stays: `python -m tests.numerics.second_rank STORE` runs the specs it reads.

Its imports take longer than the runs of the tests, so they are done once.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import torch

from purvey.contracts.clock import SystemClock
from purvey.contracts.jobs import JobSpec, ModelTrained
from purvey.contracts.recipe import parse_recipe
from purvey.errors import PurveyError
from purvey.train.parallel.group import Group, connected
from purvey.worker.job_link import JobInterrupted
from purvey.worker.ranks.entry import Silence
from purvey.worker.ranks.teams import RankDone
from purvey.worker.train import train_rank
from purvey.worker.training.run import TrainingLink

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """This process, as the first of two ranks."""

    group: Group
    specs: IO[bytes]

    def run(self, spec: JobSpec, link: TrainingLink) -> ModelTrained:
        """Run a spec on both ranks."""
        self.specs.write(msgspec.json.encode(spec) + b"\n")
        self.specs.flush()
        return _run(spec, link, self.group)


@contextlib.contextmanager
def paired(folder: Path) -> Iterator[Pair]:
    """Start the second rank, and connect with it until the block is left."""
    store = folder / "store"
    command = [sys.executable, "-m", "tests.numerics.second_rank", str(store)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE) as second:
        assert second.stdin is not None
        with contextlib.ExitStack() as undo:
            undo.callback(second.kill)
            with connected(store, rank=0, size=2) as group:
                yield Pair(group=group, specs=second.stdin)
                second.stdin.close()
                assert second.wait() == 0


def main() -> None:
    """Be the second rank until there are no more specs."""
    torch.set_num_threads(1)
    with connected(Path(sys.argv[1]), rank=1, size=2) as group:
        for line in sys.stdin.buffer:
            with contextlib.suppress(JobInterrupted, RankDone, PurveyError):
                _run(msgspec.json.decode(line, type=JobSpec), Silence(), group)


def _run(spec: JobSpec, link: TrainingLink, group: Group) -> ModelTrained:
    config = parse_recipe(spec.recipe)
    return train_rank(spec, config, link=link, clock=SystemClock(), group=group)


if __name__ == "__main__":
    main()
