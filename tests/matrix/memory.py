"""How much memory a process took at most while something was done to it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def peak_growth(pid: int) -> Iterator[Callable[[], int]]:
    """Yield a function that tells by how many bytes resident memory has peaked since then."""
    process = Path(f"/proc/{pid}")
    (process / "clear_refs").write_text("5", "ascii")  # the peak is the present again
    before = _status_bytes(process, "VmRSS")
    yield lambda: _status_bytes(process, "VmHWM") - before


def _status_bytes(process: Path, name: str) -> int:
    for line in (process / "status").read_text("ascii").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 2**10
    raise AssertionError(f"no {name}")
