"""English reference text that ships with Python: its topics and the library's docstrings.

Sources are parsed, never imported, so that reading about a module does not run it.
"""

import ast
import json
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SKIPPED = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
    | {"pydoc_data", "ensurepip", "distutils", "msilib", "antigravity", "this", "encodings"}
    | {"tkinter"}
)
_SHORTEST, _LONGEST = 25, 140
_PLAIN = re.compile(r"^[A-Z][\x20-\x7e]*[a-z)`'\"]\.$")


@dataclass(frozen=True, kw_only=True)
class Documented:
    """A public thing of the standard library: dotted name, kind, docstring."""

    name: str
    kind: str
    docstring: str

    @property
    def summary(self) -> str:
        """First sentence, on one line."""
        paragraph = " ".join(self.docstring.strip().split("\n\n")[0].split())
        return re.split(r"(?<=[a-z)`'\"]\.)\s", paragraph, maxsplit=1)[0]


def documents() -> list[str]:
    """Return documents to learn English reference prose from, without repetitions."""
    texts = dict.fromkeys(_topics())
    texts |= dict.fromkeys(found.docstring.strip() for found in documented())
    return [text for text in texts if len(text) >= _SHORTEST]


def questions() -> list[tuple[str, str]]:
    """Return question/answer pairs made from one-sentence docstrings, one per question."""
    pairs: dict[str, str] = {}
    for found in documented():
        answer = found.summary
        if _SHORTEST <= len(answer) <= _LONGEST and _PLAIN.match(answer):
            pairs.setdefault(_question(found), answer)
    return list(pairs.items())


def documents_jsonl() -> bytes:
    """Return the documents as JSON lines with one column, `text`."""
    return _jsonl({"text": text} for text in documents())


def questions_jsonl(pairs: list[tuple[str, str]]) -> bytes:
    """Return pairs as JSON lines in OpenAI's chat format for supervised fine-tuning."""
    return _jsonl(
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
        for question, answer in pairs
    )


@cache
def documented() -> tuple[Documented, ...]:
    """Read the standard library's sources in order of their names (some seconds)."""
    return tuple(_in_library(Path(sysconfig.get_path("stdlib"))))


def _in_library(root: Path) -> Iterator[Documented]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED.isdisjoint(parts) and not any(_is_private(part) for part in parts):
            module = ".".join(part for part in parts if part != "__init__")
            yield from _in_source(module, path)


def _topics() -> Iterator[str]:
    from pydoc_data.topics import topics

    yield from topics.values()


def _in_source(module: str, path: Path) -> Iterator[Documented]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, OSError):
        return  # a source that this Python cannot read has nothing to teach
    yield from _in_body(module, "module", tree)


def _in_body(
    name: str, kind: str, node: ast.Module | ast.ClassDef | ast.FunctionDef
) -> Iterator[Documented]:
    docstring = ast.get_docstring(node)
    if docstring:
        yield Documented(name=name, kind=kind, docstring=docstring)
    if isinstance(node, ast.FunctionDef):
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not _is_private(child.name):
            below = "class" if isinstance(child, ast.ClassDef) else "function"
            yield from _in_body(f"{name}.{child.name}", below, child)


def _is_private(name: str) -> bool:
    return name.startswith("_") and name != "__init__"


def _question(found: Documented) -> str:
    if found.kind == "function":
        return f"What does {found.name} do?"
    return f"What is {found.name}?"


def _jsonl(rows: Iterator[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
