"""What a process has freed is the system's again, where it asked for that."""

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
