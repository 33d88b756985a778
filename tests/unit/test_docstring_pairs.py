"""The example's pairs are what functions say beside what they do, each text once."""

from pathlib import Path

from examples import docstrings

MODULE = '''
def add(a, b):
    """Return the sum of two numbers.

    Both are finite.
    """
    return a + b

class Thing:
    def plus(self, a):
        """Return the sum of two numbers."""
        return self.b + a

    async def wait(self):
        """Wait until the thing
        is done."""
        await self.done

def silent(a):
    return a

def short():
    """Too short."""
    return 1
'''


def test_pairs_are_read_off_source(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "a.py").write_text("print 'another Python'", encoding="utf-8")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.py").write_text(MODULE.replace("sum", "product"), encoding="utf-8")
    found = docstrings.rows(tmp_path)
    assert found == [
        {
            "question": "Return the sum of two numbers.",
            "answer": "def add(a, b):\n    return a + b",
        },
        {
            "question": "Wait until the thing is done.",
            "answer": "async def wait(self):\n    await self.done",
        },
    ]
    assert docstrings.rows(tmp_path, at_most=1) == found[:1]
