"""What a run is computed with: versions, the source itself, the machine."""

import hashlib
import platform
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import purvey

_CPUINFO = Path("/proc/cpuinfo")


def environment(*, threads: int, ranks: int) -> dict[str, Any]:
    """Return what a run is computed with, as JSON values."""
    return {
        "purvey": purvey.__version__,
        "code_sha256": code_sha256(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "threads": threads,
        "ranks": ranks,
    }


@cache
def code_sha256() -> str:
    """Return one digest of all of this package's source, which a version alone does not name."""
    root = Path(purvey.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
