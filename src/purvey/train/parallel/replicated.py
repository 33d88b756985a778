"""`ddp`: every rank holds the whole module and computes its share of each batch (Li et al. 2020).

Gradients are added up once for each step, after the last backward. `DistributedDataParallel`,
which adds them up while backward is still running, gains nothing where a rank has one core to
do both, and would have to be told of accumulated portions and of parameters that a batch leaves
unused; so the reduction is written here.
"""

import math
from collections.abc import Iterator, Sequence

import msgspec
import torch

from purvey.train.checkpoint import Snapshot
from purvey.train.early_stopping import Validation
from purvey.train.learner import Comparing, Learner
from purvey.train.parallel.group import Group
from purvey.train.parallel.team import Alone, Portion
from purvey.train.saving.writer import CheckpointWriter
from purvey.train.step import StepTaken


class Replicated(Alone):
    """Ranks that divide a batch.

    With losses `l_r`, means over weights `w_r`, the batch's loss is `sum w_r l_r / sum w_r`; the
    gradient is put together in the same proportion, so a share with fewer targets counts less.

    Args:
        learner: What is trained; the same on every rank.
        group: The ranks.
    """

    def __init__(self, learner: Learner, group: Group) -> None:
        super().__init__(learner)
        self.group = group

    @property
    def chance(self) -> tuple[str | int, ...]:
        """The rank; the first one draws as a single process does."""
        return () if self.group.is_first else ("rank", self.group.rank)

    def portions(self, rows: Sequence[int], *, at_once: int) -> Iterator[Portion]:
        """Yield every n-th row, from the rank's own on: neighbours are of like length.

        All ranks get as many portions, at the end of an epoch also stand-ins.
        """
        share = rows[self.group.rank :: self.group.size]
        largest = math.ceil(len(rows) / self.group.size)
        count = math.ceil(largest / at_once)
        for number in range(count):
            mine = share[number::count]
            yield Portion(rows=mine or rows[:1], is_counted=bool(mine))

    def survey(self, rows: Sequence[int], portions: Sequence[Portion]) -> None:
        """Show the step: other ranks have rows that this one's are compared with."""
        if isinstance(self.learner, Comparing):
            mine = [portion.rows for portion in portions if portion.is_counted]
            self.learner.survey(rows, mine, self.group)

    def unit(self, first: float) -> float:
        """Return 1: the weights of other ranks are not known yet."""
        return 1.0

    def joined(self, taken: StepTaken) -> StepTaken:
        """Add up what the ranks have computed; a loss that is not finite on one is so on all."""
        loss, weight, rows, tokens = self.group.total(
            [taken.loss * taken.weight, taken.weight, taken.num_rows, taken.num_tokens]
        )
        return StepTaken(
            loss=loss / weight, weight=weight, num_rows=round(rows), num_tokens=round(tokens)
        )

    def settle(self) -> None:
        """Add up the gradients; one that a rank does not have counts as zero, if any has it."""
        trained = [p for p in self.own.parameters() if p.requires_grad]
        held = self.group.total([float(p.grad is not None) for p in trained])
        used = [p for p, count in zip(trained, held, strict=True) if count]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.group.add_up([p.grad for p in used if p.grad is not None])

    def validate(self) -> Validation | None:
        """Evaluate on the first rank, and tell the others."""
        found = self.learner.validate() if self.group.is_first else None
        return told_validation(found, self.group)

    def agreed(self, claim: object) -> bool:
        """Return whether the first rank's claim is true."""
        return self.group.agreed(claim)

    def save(self, live: Snapshot, writer: CheckpointWriter) -> None:
        """Begin to write it, on the first rank; the others hold the same."""
        if self.group.is_first:
            writer.begin(live)


def told_validation(found: Validation | None, group: Group) -> Validation | None:
    """Return what the first rank has found."""
    payload = group.told_bytes(msgspec.msgpack.encode(found))
    return msgspec.msgpack.decode(payload, type=Validation | None)
