"""What happens to bytes at rest, and back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Damage = Callable[[bytes], bytes | None]


def _flipped(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES: dict[str, Damage] = {
    "a bit flipped": _flipped,
    "cut in half": lambda data: data[: len(data) // 2],
    "something behind": lambda data: data + b"\n",
    "other bytes": lambda data: bytes(byte ^ 0x55 for byte in data),
    "nothing left": lambda _data: b"",
    "gone": lambda _data: None,
}
"""By name; None removes the file."""


@contextmanager
def damaged(path: Path, how: str) -> Iterator[None]:
    """Keep a file damaged until the block ends."""
    whole = path.read_bytes()
    after = DAMAGES[how](whole)
    assert after != whole
    path.unlink() if after is None else path.write_bytes(after)
    try:
        yield
    finally:
        path.write_bytes(whole)
