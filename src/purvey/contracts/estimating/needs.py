"""What a run would take, said before it runs."""

import msgspec


class MemoryNeed(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of memory at the peak of a run, all ranks together, beside what there is.

    Args:
        process_bytes: The interpreter and its libraries.
        data_bytes: The dataset, and what is prepared of it once.
        weights_bytes: Parameters and buffers.
        gradients_bytes: Of the parameters that are trained.
        optimizer_bytes: What the rule remembers of them.
        copies_bytes: Best weights, running mean, and the state that a checkpoint is written from.
        activations_bytes: What a step keeps for the way back; None where a user's module could
            not be followed without numbers.
        free_bytes: What can be had now without swapping.
    """

    process_bytes: int
    data_bytes: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    copies_bytes: int
    activations_bytes: int | None
    free_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """Everything that is added up, by name."""
        return {
            "process": self.process_bytes,
            "data": self.data_bytes,
            "weights": self.weights_bytes,
            "gradients": self.gradients_bytes,
            "optimizer": self.optimizer_bytes,
            "copies": self.copies_bytes,
            "activations": self.activations_bytes or 0,
        }

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return sum(self.parts.values())


class DiskNeed(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on disk while a run goes on, beside what there is.

    Args:
        checkpoints_bytes: Those that are kept, and the one that is being written.
        model_bytes: What is left in the end.
        free_bytes: Room on the server's disk.
    """

    checkpoints_bytes: int
    model_bytes: int
    free_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """Everything that is added up, by name."""
        return {"checkpoints": self.checkpoints_bytes, "model": self.model_bytes}

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return sum(self.parts.values())


class TimeNeed(msgspec.Struct, frozen=True, kw_only=True):
    """How long a run takes if nothing stops it early.

    Args:
        steps: Optimizer steps.
        low_s: As fast as the fastest step that was tried, or as the arithmetic allows.
        high_s: As slow as may be expected, evaluations included.
        is_measured: Whether steps were tried; else it follows from the machine's rate alone.
    """

    steps: int
    low_s: float
    high_s: float
    is_measured: bool


class Estimated(msgspec.Struct, frozen=True, kw_only=True, tag="estimated"):
    """What a run would take. Last message of the worker.

    Args:
        parameters: All parameters.
        trained_parameters: Those that change.
        memory: At its peak.
        disk: While it runs.
        time: From its first step to its last.
        notes: What the run would warn of, and what the numbers leave out.
    """

    parameters: int
    trained_parameters: int
    memory: MemoryNeed
    disk: DiskNeed
    time: TimeNeed
    notes: tuple[str, ...] = ()


def sum_in_words(parts: dict[str, int]) -> str:
    """Return `weights 1.2 GiB + gradients 1.2 GiB = 2.4 GiB`; parts of nothing are left out."""
    terms = " + ".join(f"{name} {in_units(size)}" for name, size in parts.items() if size)
    return f"{terms or '0'} = {in_units(sum(parts.values()))}"


def in_units(num_bytes: int) -> str:
    """Return a size in MiB, from 1024 of them on in GiB."""
    mebibytes = num_bytes / 2**20
    return f"{mebibytes / 1024:,.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:,.1f} MiB"
