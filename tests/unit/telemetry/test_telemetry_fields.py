"""Every field that the code logs is on the closed list, so that none is dropped unseen."""

import ast
from collections.abc import Iterator
from pathlib import Path

import purvey
from purvey.telemetry.logs import FIELDS

SOURCE = Path(purvey.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def logged_fields(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr not in LEVELS or not isinstance(node.func.value, ast.Name):
            continue
        for keyword in node.keywords:
            if keyword.arg == "extra" and isinstance(keyword.value, ast.Dict):
                yield from (
                    str(key.value) for key in keyword.value.keys if isinstance(key, ast.Constant)
                )


def test_logged_fields_are_on_the_list() -> None:
    found = {
        field: path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for field in logged_fields(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found, "the walk sees the code"
    assert {f: where for f, where in found.items() if f not in FIELDS} == {}
