"""Where peers, their environments and the shared model are kept: `PURVEY_PEERS`, or `.peers/`."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
VARIABLE = "PURVEY_PEERS"
CHILDREN = Path(__file__).parent / "children"
_DONE = ".done"


def cache() -> Path:
    """Return the cache folder; it may be deleted at any time, and is filled again when needed."""
    return Path(os.environ.get(VARIABLE) or ROOT / ".peers").absolute()


def child_environment(threads: int, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a subject: thread counts pinned, no hub, none of our settings.

    Barriers spin or sleep as each library chooses: both sides get what their users get.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PURVEY_")}
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return kept | dict.fromkeys(names, str(threads)) | {"HF_HUB_OFFLINE": "1"} | dict(extra or {})


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A virtual environment with exactly these requirements, made once.

    Args:
        name: Folder under the cache.
        requirements: Pinned, as pip reads them.
        without: What these bring along and must not stay.
    """

    name: str
    requirements: Sequence[str]
    without: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """The peer's folder; its environment is `venv` within."""
        return cache() / self.name

    def python(self) -> Path:
        """Return the interpreter, having made the environment where it is missing or stale."""
        interpreter = self.folder / "venv" / "bin" / "python"
        wanted = "\n".join((*self.requirements, "without", *self.without))
        digest = hashlib.sha256(wanted.encode()).hexdigest()
        done = self.folder / "venv" / _DONE
        if not (done.is_file() and done.read_text(encoding="ascii") == digest):
            _say(f"{self.name}: making its environment")
            shutil.rmtree(self.folder / "venv", ignore_errors=True)
            run([sys.executable, "-m", "venv", str(self.folder / "venv")])
            pip = [str(interpreter), "-m", "pip"]
            run([*pip, "install", "--quiet", *self.requirements])
            if self.without:
                run([*pip, "uninstall", "--quiet", "--yes", *self.without])
            done.write_text(digest, encoding="ascii")
        return interpreter


def run(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Run a step of the set-up; its output goes to standard error.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    subprocess.run(list(command), cwd=cwd, env=env, check=True, stdout=sys.stderr)


def once(target: Path) -> bool:
    """Whether `target` has still to be made; says so where it has."""
    if target.exists():
        return False
    _say(f"making {target.relative_to(cache())}")
    target.parent.mkdir(parents=True, exist_ok=True)
    return True


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
