"""What a process has freed is the system's again, or stays for later, as it asked for."""

import subprocess
import sys

import pytest

MIB = 2**20
FREEING = """
import sys
from pathlib import Path

from purvey.train.parallel.heap import give_back_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "asked":
    give_back_blocks()
block = b"x" * 16 * 2**20
del block  # from here on glibc takes blocks of this size from its own heap
before = resident()
blocks, small = [], []
for _ in range(8):
    blocks.append(b"x" * 8 * 2**20)
    small.append(b"x" * 100_000)  # stands behind the block, and keeps the heap from shrinking
del blocks
print(resident() - before)
"""


@pytest.mark.parametrize(
    ("how", "least", "most"), [("asked", -MIB, 4 * MIB), ("not", 32 * MIB, 128 * MIB)]
)
def test_blocks_are_given_back_by_a_process_that_asked_for_it(
    how: str, least: int, most: int
) -> None:
    command = [sys.executable, "-c", FREEING, how]
    kept = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert least <= int(kept.stdout) <= most


KEEPING = """
import resource
import sys

from purvey.train.parallel.heap import keep_blocks

if sys.argv[1] == "asked":
    keep_blocks()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"x" * 4 * 2**20 for _ in range(16)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults(), faults())
"""


@pytest.mark.parametrize(("how", "most"), [("asked", 100), ("not", None)])
def test_a_step_finds_what_the_one_before_it_freed(how: str, most: int | None) -> None:
    """Else the system hands out 64 MiB page by page again, 16,384 pages of 4 KiB."""
    command = [sys.executable, "-c", KEEPING, how]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    faults = [int(word) for word in ran.stdout.split()]
    assert max(faults) <= most if most is not None else min(faults) > 1_000
