"""Named places where a test makes a process fail, as a crash or a bad disk would.

Reaching one that is not armed costs a look at a module's global. They are armed by the setting
`failpoints`, which only a build with `purvey.testing` in it accepts: no wheel has it.

A plan is `NAME=ACTION` or `NAME=ACTION#N`, comma-separated: at the N-th time (the first unless
said) that the process reaches the place. `#N+` is that time and every later one.
"""

import errno
import importlib.util
import os
import signal
import threading
from dataclasses import dataclass
from difflib import get_close_matches

NAMES = frozenset(
    {
        # A job, in the order in which it gets there. Server:
        "job.created",
        "job.committed",
        "resp.sent",
        "lease.taken",
        # Its worker:
        "job.received",
        "data.ready",
        "base.loaded",
        "train.step",
        "eval.done",
        "ckpt.tmp",
        "ckpt.fsync",
        "ckpt.renamed",
        "gc.old",
        "ckpt.reported",
        "output.written",
        # Server again:
        "ckpt.committed",
        "artifact.published",
        "model.registered",
        "usage.settled",
        "job.terminal",
        # An upload:
        "upload.received",
        "blob.tmp",
        "blob.fsync",
        "blob.renamed",
        "file.created",
        "file.committed",
        # Whatever is stored:
        "db.commit",
        "disk.fsync",
        # An engine:
        "engine.loading",
        "engine.step",
    }
)
ACTIONS = ("kill9", "kill9_both", "stop", "delay", "enospc", "eio", "raise")
"""`kill9_both` ends the parent first; `delay:SECONDS` waits; `enospc` and `eio` are `OSError`."""


@dataclass(frozen=True, kw_only=True)
class Failpoint:
    """What happens at one place.

    Args:
        name: The place, one of `NAMES`.
        action: One of `ACTIONS`.
        seconds: Of `delay`.
        hit: The first time it happens, counted from 1.
        is_lasting: Whether it happens at every later time too.
    """

    name: str
    action: str
    seconds: float = 0.0
    hit: int = 1
    is_lasting: bool = False


_armed: dict[str, Failpoint] = {}
_reached: dict[str, int] = {}
_counting = threading.Lock()


def reach(name: str) -> None:
    """Say that the process is at this place.

    Raises:
        OSError: `enospc` or `eio` is armed here.
        RuntimeError: `raise` is armed here.
    """
    if _armed:
        _fire(name)


def arm(plan: str) -> None:
    """Arm this process with a plan, instead of what was armed before; "" disarms.

    Raises:
        ValueError: The plan cannot be read, or this build has no failpoints.
    """
    points = parse(plan)
    with _counting:
        _reached.clear()
        _armed.clear()
        _armed.update({point.name: point for point in points})


def parse(plan: str) -> tuple[Failpoint, ...]:
    """Read a plan.

    Raises:
        ValueError: It cannot be read, or this build has no failpoints.
    """
    points = tuple(_point(entry.strip()) for entry in plan.split(",") if entry.strip())
    if points and not is_test_build():
        raise ValueError("needs a test build; this one has no failpoints")
    return points


def is_test_build() -> bool:
    """Tell whether `purvey.testing` is installed; the wheel leaves it out."""
    return importlib.util.find_spec("purvey.testing") is not None


def _point(entry: str) -> Failpoint:
    name, _, what = entry.partition("=")
    what, _, times = what.partition("#")
    action, _, seconds = what.partition(":")
    if name not in NAMES:
        nearest = get_close_matches(name, NAMES, n=1)
        raise ValueError(f"{name!r} is no failpoint" + (f"; {nearest[0]!r} is" if nearest else ""))
    if action not in ACTIONS:
        raise ValueError(f"{action!r} is none of {', '.join(ACTIONS)}")
    return Failpoint(
        name=name,
        action=action,
        seconds=float(seconds or 0),
        hit=int(times.removesuffix("+") or 1),
        is_lasting=times.endswith("+"),
    )


def _fire(name: str) -> None:
    with _counting:
        point = _armed.get(name)
        if point is None:
            return
        count = _reached[name] = _reached.get(name, 0) + 1
    if count == point.hit or (point.is_lasting and count > point.hit):
        _act(point)


def _act(point: Failpoint) -> None:
    match point.action:
        case "kill9_both":
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill9":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "delay":
            threading.Event().wait(point.seconds)
        case "enospc" | "eio" as number:
            raise OSError(getattr(errno, number.upper()), f"failpoint {point.name}")
        case _:
            raise RuntimeError(f"failpoint {point.name}")
