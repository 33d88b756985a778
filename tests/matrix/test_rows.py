"""Each row that is held has a test that says so, and no test names a row that there is not."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.matrix.rows import ABSENT, HELD

TESTS = Path(__file__).parents[1]
OTHER_GROUPS = ("RES-", "OVL-", "PRI-", "SUP-", "AUT-")
"""Groups of which not every row is listed: a test may name one of them."""


@cache
def _named() -> dict[str, list[str]]:
    """Map each row to the tests that carry its marker."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        everywhere = [row for node in tree.body for row in _of_module(node)]
        for test in ast.walk(tree):
            if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) and _is_test(test):
                marked = (row for decorator in test.decorator_list for row in _rows(decorator))
                for row in (*everywhere, *marked):
                    found[row].append(f"{path.relative_to(TESTS)}::{test.name}")
    return found


def _is_test(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return function.name.startswith("test_")


def _of_module(node: ast.stmt) -> Iterator[str]:
    """Yield what `pytestmark` says of all tests of a module."""
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
        for call in ast.walk(node.value):
            yield from _rows(call)


def _rows(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.row":
        for argument in node.args:
            assert isinstance(argument, ast.Constant), ast.unparse(node)
            assert isinstance(argument.value, str), ast.unparse(node)
            yield argument.value


def test_every_row_that_is_held_has_a_test() -> None:
    missing = sorted(set(HELD) - set(_named()))
    assert not missing, f"rows without a test: {', '.join(missing)}"


def test_no_test_names_a_row_that_there_is_not() -> None:
    unknown = {
        row: tests
        for row, tests in _named().items()
        if row not in HELD and not row.startswith(OTHER_GROUPS)
    }
    assert not unknown, unknown


def test_the_rows_of_these_groups_are_held_or_said_to_be_absent() -> None:
    ends = {"INP": 23, "FIL": 21, "NET": 15, "CRA": 31}
    expected = {f"{group}-{n:02}" for group, end in ends.items() for n in range(1, end + 1, 2)}
    listed = {row for row in (*HELD, *ABSENT) if not row.startswith("AUT-")}
    assert listed == expected
    assert not set(HELD) & set(ABSENT)
