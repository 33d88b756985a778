"""Text output against the definition, for every way to cut a text into tokens."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from purvey.engine.output.text_output import TextOutput

letters = st.text(alphabet="abc", max_size=24)
stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3)


class Pieces:
    """Token ids that stand for pieces of a text."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces

    def push(self, token_id: int) -> str:
        return self._pieces[token_id]

    def finish(self) -> str:
        return ""


def before_first_stop(text: str, stop: list[str]) -> str:
    """Return what stands before the stop string that is complete first, the longest of equals."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


@settings(deadline=None)  # the machine may be busy
@given(text=letters, stop=stops, cuts=st.lists(st.integers(0, 24), max_size=10))
def test_token_borders_do_not_matter(text: str, stop: list[str], cuts: list[int]) -> None:
    """The same text is released, always a prefix of the final one, never part of a stop."""
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    output = TextOutput(Pieces(pieces), tuple(stop))
    expected = before_first_stop(text, stop)
    shown = ""
    for token_id in range(len(pieces)):
        shown += output.push(token_id)
        assert expected.startswith(shown)
        if output.is_stopped:
            break
    assert shown + output.finish() == expected
    assert output.is_stopped == any(s in text for s in stop)
