"""The control plane's tests need no tensor library: all of them import where there is none."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COLLECT = """
import sys

class Blocker:
    names = {"torch", "numpy", "transformers", "pyarrow", "tokenizers", "sklearn", "safetensors",
             "PIL", "jinja2", "llguidance", "peft"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError("blocked: " + name)

sys.meta_path.insert(0, Blocker())
import pytest
folders = ["tests/unit", "tests/property", "tests/contract", "tests/api"]
sys.exit(pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *folders]))
"""


def test_they_are_collected_where_there_is_no_torch() -> None:
    out = subprocess.run(
        [sys.executable, "-c", COLLECT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert out.returncode == 0, out.stdout[-3_000:] + out.stderr
    files = dict(line.rsplit(": ", 1) for line in out.stdout.splitlines() if ".py: " in line)
    assert sum(map(int, files.values())) > 1_000
    for folder in ("api", "contract/jobs", "unit/jobs", "unit/engine_torch_free", "property"):
        assert any(file.startswith(f"tests/{folder}/") for file in files), folder
