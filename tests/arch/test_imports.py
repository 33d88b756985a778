"""The walls: import contracts hold, and each contract catches a planted violation."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = [c["name"] for c in PYPROJECT["tool"]["importlinter"]["contracts"]]

PLANTED = {
    "Layers point down": ("contracts/clock.py", "import purvey.store.database"),
    "The control plane never imports torch": ("meter/ledger.py", "import torch"),
    "Decisions are torch-free: scheduling and block accounting": (
        "engine/blocks.py",
        "import torch",
    ),
    "Parsing needs no tensor library": ("parse/images.py", "import numpy"),
    "The web framework stays at the edge": ("train/loss.py", "import fastapi"),
    "Only settings reads the environment library": ("jobs/service.py", "import pydantic_settings"),
    "Control and data plane meet only through contracts": (
        "server/application.py",
        "import purvey.models.decoder",
    ),
    "The data plane has no way out": ("worker/train.py", "import httpx2"),
}


def _lint(source: Path, where: Path) -> subprocess.CompletedProcess[str]:
    """Run the linter of this environment over the package in `source`."""
    code = (
        f"import sys; sys.path.insert(0, {str(source)!r}); "
        "from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    return subprocess.run(
        [sys.executable, "-P", "-c", code, "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_every_contract_has_a_planted_violation() -> None:
    assert sorted(PLANTED) == sorted(CONTRACTS)


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_planted_violation_is_caught(contract: str, tmp_path: Path) -> None:
    file, line = PLANTED[contract]
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path / "src" / "purvey" / file
    target.write_text(target.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    result = _lint(tmp_path / "src", tmp_path)
    assert result.returncode != 0
    assert f"{contract} BROKEN" in result.stdout, result.stdout


def test_the_tree_as_it_is_keeps_every_contract(tmp_path: Path) -> None:
    result = _lint(ROOT / "src", tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    "statement",
    ["import purvey", "import purvey.module", "import purvey.cli.main", "import purvey.app"],
)
def test_the_control_plane_loads_no_tensor_library(statement: str) -> None:
    code = (
        f"import sys; {statement}; "
        "print([m for m in ('torch', 'numpy', 'transformers', 'pyarrow', 'tokenizers', 'PIL') "
        "if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "[]"


def test_the_control_plane_imports_where_there_is_no_torch() -> None:
    """Walk every control-plane module under an import blocker."""
    code = """
import importlib, pkgutil, sys

class Blocker:
    names = {"torch", "numpy", "transformers", "pyarrow", "tokenizers", "sklearn", "safetensors"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
import purvey
data_plane = ("models", "engine", "train", "explain", "evaluate", "data", "worker")
count = 0
for module in pkgutil.walk_packages(purvey.__path__, "purvey."):
    part = module.name.split(".")[1]
    if part in data_plane or part == "__main__":
        continue
    if ".migrations." in module.name:
        continue
    importlib.import_module(module.name)
    count += 1
importlib.import_module("purvey.engine.client")
print(count)
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert out.returncode == 0, out.stderr
    assert int(out.stdout) > 40
