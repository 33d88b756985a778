"""Zeros that take memory when they are written to."""

import contextlib
import mmap
from math import prod

import torch
from torch import Tensor


def untouched_zeros(shape: tuple[int, ...]) -> Tensor:
    """Return float32 zeros on the CPU in fresh pages of the kernel's, huge ones where it has them.

    `torch.zeros` writes each of them: of a cache of 256 MiB that is a good part of a cold start.
    """
    memory = mmap.mmap(-1, max(1, prod(shape)) * torch.float32.itemsize)
    with contextlib.suppress(OSError):  # a kernel that has none
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32, count=prod(shape)).view(shape)
