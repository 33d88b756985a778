"""Reference pages are what the code says, and nothing that a user may name is missing from them."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
sys.path.insert(0, str(ROOT))  # `docs.generate` is run from the repository, not installed

from docs import generate  # noqa: E402 (after the path)


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    """Text of each page by its name."""
    return generate.pages()


def _page(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def test_every_page_is_what_make_docs_writes(generated: dict[str, str]) -> None:
    stale = [name for name, text in generated.items() if _page(name) != text]
    assert stale == [], "run `make docs` and commit what it writes"


def test_every_command_and_option_is_documented() -> None:
    from typer.main import get_command

    from purvey.cli.main import app

    def walk(path: str, command: Any) -> None:
        section = _page("cli.md").split(f"\n## {path}\n")[1].split("\n## ")[0]
        assert command.help, f"{path} says nothing of itself"
        for parameter in command.params:
            if parameter.name != "help":
                assert getattr(parameter, "help", None), f"{path} {parameter.name} has no help"
                spelt = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name
                assert (spelt or "").lower() in section.lower(), f"{path} {spelt}"
        for name, below in getattr(command, "commands", {}).items():
            walk(f"{path} {name}", below)

    walk("purvey", get_command(app))


def test_every_setting_is_documented() -> None:
    from pydantic import BaseModel

    from purvey.settings import Settings

    def walk(schema: type[BaseModel], above: str) -> None:
        for name, field in schema.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                walk(field.annotation, f"{above}{name}__")
                continue
            assert field.description, f"{name} means nothing"
            assert f"`PURVEY_{above}{name}`".upper() in _page("settings.md").upper()

    walk(Settings, "")


def test_every_route_of_a_built_application_is_documented() -> None:
    document = generate.openapi()
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}`" in _page("http.md") or (
                f"- `{path}`: " in _page("http.md")
            ), f"{method} {path}"


def test_every_metric_that_is_exposed_is_documented() -> None:
    from purvey.telemetry.metrics import REGISTRY

    ours = [family for family in REGISTRY.collect() if family.name.startswith("purvey_")]
    assert len(ours) > 10
    for family in ours:
        spelt = family.name + ("_total" if family.type == "counter" else "")
        assert f"| `{spelt}` |" in _page("metrics.md"), spelt


def test_every_error_code_is_documented() -> None:
    from purvey.errors import error_classes

    for code, cls in error_classes().items():
        row = re.search(rf"^\| `{code}` \| {cls.status} \|", _page("errors.md"), re.MULTILINE)
        assert row, code


def test_every_limit_and_recipe_key_means_something() -> None:
    for name in ("limits.md", "recipe.md", "settings.md", "metrics.md", "errors.md"):
        empty = [line for line in _page(name).splitlines() if line.endswith("|  |")]
        assert empty == [], name


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}
    reached = {p for p in pages if p in navigation or p.startswith("decisions/")}
    assert pages - reached == set()
