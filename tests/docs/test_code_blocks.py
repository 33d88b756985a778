"""Every code block of README and docs runs, in the order of its page, against one live server.

`python` and `bash` blocks run in a folder of their own; `toml` blocks are validated as the recipe
or the settings file they are; `json` blocks parse. `text` blocks are output and stay unread.
Blocks that start a server of their own (`purvey serve ...`) are checked for their flags only, and
the two commands of the quick start are run by hand from a clean clone. The suite trains for a few
steps, and reads pages whose story `tests/e2e` tells as well; `make train` runs all as it stands.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

from purvey.cli.main import app
from purvey.contracts.recipe import parse_recipe
from purvey.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
BY_HAND = {"make demo", "make test"}
CLI_ONLY_KEYS = {"data"}
TOLD_TWICE = {
    *("docs/tutorials/openai-sdk.md", "docs/tutorials/own-data.md"),
    *(
        f"docs/howto/{name}.md"
        for name in (
            "audio-classification", "embeddings", "image-classification", "images-in-chat",
            "mixed-inputs", "text-classification", "transcribe",
        )
    ),
}  # fmt: skip
"""Pages whose story `tests/e2e` tells as well."""
AT_MOST = "--set train.max_steps=20"
"""Steps of a run in the suite; a page that sets its own keeps them."""


class Block(NamedTuple):
    language: str
    text: str
    line: int


def _blocks(page: Path) -> list[Block]:
    content = page.read_text(encoding="utf-8")
    return [
        Block(m[2], m[3].replace("\n" + m[1], "\n"), content[: m.start()].count("\n") + 1)
        for m in FENCE.finditer(content)
    ]


def _pages(*languages: str) -> list[Path]:
    return [p for p in PAGES if any(b.language in languages for b in _blocks(p))]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_every_block_names_a_known_language() -> None:
    known = {"python", "bash", "toml", "json", "text"}
    found = {(b.language, _name(p)) for p in PAGES for b in _blocks(p)}
    assert {f for f in found if f[0] not in known} == set()


@pytest.mark.parametrize("page", _pages("toml", "json"), ids=_name)
def test_data_blocks_are_valid(page: Path, tmp_path: Path) -> None:
    for block in _blocks(page):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "toml":
            values = tomllib.loads(block.text)
            if "task" in values:
                parse_recipe({k: v for k, v in values.items() if k not in CLI_ONLY_KEYS})
            else:
                file = tmp_path / "purvey.toml"
                file.write_text(block.text, encoding="utf-8")
                load_settings(flags={}, toml=file)


def _runs() -> Iterator[Any]:
    """Run pages of their own with few steps; leave the others, and whole runs, to `make train`."""
    for page in _pages("python", "bash"):
        if _name(page) not in TOLD_TWICE:
            yield pytest.param(page, True, id=_name(page))
        if any("purvey train" in block.text for block in _blocks(page)):
            yield pytest.param(page, False, id=f"{_name(page)}, whole", marks=pytest.mark.train)


@pytest.mark.parametrize("page", [ROOT / name for name in sorted(TOLD_TWICE)], ids=_name)
def test_code_blocks_that_run_elsewhere_are_sound(page: Path) -> None:
    """Python compiles, and every command knows its options."""
    for block in _blocks(page):
        if block.language == "python":
            compile(block.text, str(page), "exec")
        elif block.language == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.startswith("purvey "):
                    _read_options(shlex.split(line.partition(" > ")[0])[1:])


def _read_options(words: list[str]) -> None:
    """Raise what the command line raises at words that it does not know."""
    command: Any = get_command(app)  # its classes are not exported
    context = command.make_context("purvey", list(words))
    name, chosen, rest = command.resolve_command(context, words)
    chosen.make_context(name, rest, parent=context)


@pytest.mark.timeout(280)
@pytest.mark.parametrize(("page", "is_short"), list(_runs()))
def test_code_blocks_run(
    page: Path, is_short: bool, live_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_folder = str(Path(sys.executable).parent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copy(ROOT / "examples" / "lenet.py", live_server.settings.module_roots[0])
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/local/bin:/usr/bin:/bin")
    for variable, value in {
        "PURVEY_BASE_URL": live_server.base_url,
        "PURVEY_API_KEY": live_server.admin_key,
        "OPENAI_BASE_URL": f"{live_server.base_url}/v1",
        "OPENAI_API_KEY": live_server.admin_key,
    }.items():
        monkeypatch.setenv(variable, value)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in _blocks(page):
        if block.language == "python":
            code = compile("\n" * block.line + block.text, str(page), "exec")
            exec(code, namespace)  # noqa: S102 (our own documentation)
        elif block.language == "bash" and block.text.strip() not in BY_HAND:
            _run_shell(block, page, is_short=is_short)


def _run_shell(block: Block, page: Path, *, is_short: bool) -> None:
    script = block.text
    if is_short:
        script = script.replace("purvey train ", f"purvey train {AT_MOST} ")
    if script.strip().startswith("purvey serve"):
        script = f"{script.strip()} --help"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"{_name(page)}:{block.line}\n{done.stdout}\n{done.stderr}"
