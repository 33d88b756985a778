"""What functions say they do beside what they do: pairs of texts that every Python comes with.

`python examples/docstrings.py docstrings.jsonl` reads the source of the standard library of the
Python that runs it, and writes one row for each function or method with a docstring: `question` is
the docstring's first paragraph, `answer` the function without it. `purvey train
recipes/docstrings.toml` teaches an encoder to find the function by the words.
"""

import argparse
import ast
import json
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_LEFT_OUT = frozenset(
    {
        *("test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data"),
        *("site-packages", "dist-packages"),
    }
)
_FEWEST_WORDS, _MOST_CHARACTERS = 4, 1_000


def functions(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what each function of a folder of modules says, and its code without that.

    Files are read in the order of their names; those that are no Python of this version are not.
    """
    for path in sorted(folder.rglob("*.py")):
        if _LEFT_OUT & set(path.relative_to(folder).parts):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                said = (ast.get_docstring(node) or "").partition("\n\n")[0]
                node.body = node.body[1:]
                if said and node.body:
                    yield " ".join(said.split()), ast.unparse(node)[:_MOST_CHARACTERS]


def rows(folder: Path, *, at_most: int | None = None) -> list[dict[str, str]]:
    """Return pairs of which no question and no answer is there twice."""
    found: list[dict[str, str]] = []
    seen: set[str] = set()
    for question, answer in functions(folder):
        if len(question.split()) < _FEWEST_WORDS or seen & {question, answer}:
            continue
        seen |= {question, answer}
        found.append({"question": question, "answer": answer})
        if len(found) == at_most:
            break
    return found


def main() -> None:
    """Write the file that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, help="at most so many")
    given = parser.parse_args()
    found = rows(Path(sysconfig.get_path("stdlib")), at_most=given.rows)
    given.output.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    print(f"{len(found)} pairs in {given.output}")


if __name__ == "__main__":
    main()
