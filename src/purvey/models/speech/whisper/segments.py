"""What a window was written down as, divided at its moments."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from purvey.models.speech.whisper.decoding import Decoded


@dataclass(frozen=True, kw_only=True)
class Part:
    """Text between two moments.

    Args:
        ids: Of the text.
        first_step: Where it begins, in steps of the window.
        end_step: Where it ends; None where no moment says so.
        logprob: Mean natural log-probability of its tokens.
    """

    ids: tuple[int, ...]
    first_step: int
    end_step: int | None
    logprob: float


@dataclass(frozen=True, kw_only=True)
class Divided:
    """A window's parts, and where the next window begins.

    Args:
        parts: In order; each has text.
        next_step: Where what is not said to its end begins; None where all of it is.
    """

    parts: tuple[Part, ...]
    next_step: int | None


def divided(found: Decoded, *, first_moment: int) -> Divided:
    """Divide at moments (Radford et al. 2022, section 3.8).

    Two moments side by side are the end of one part and the beginning of the next. Where such a
    pair is there and the output does not end with a moment of its own, the window ends in the
    middle of a part: that one is heard anew in the next window, which begins there.

    Args:
        found: What was written.
        first_moment: The id of a window's beginning.
    """
    ids = found.ids
    moments = [number >= first_moment for number in ids]
    cuts = [place + 1 for place, pair in enumerate(pairwise(moments)) if all(pair)]
    is_open = bool(cuts) and moments[-2:] != [False, True]
    edges = [0, *cuts] if is_open else [0, *cuts, len(ids)]
    spans = pairwise(edges)
    parts = [_part(found, start, end, first_moment) for start, end in spans]
    next_step = ids[cuts[-1] - 1] - first_moment if is_open else None
    return Divided(parts=tuple(part for part in parts if part.ids), next_step=next_step)


def _part(found: Decoded, start: int, end: int, first_moment: int) -> Part:
    ids, logprobs = found.ids[start:end], found.logprobs[start:end]
    steps = [number - first_moment for number in ids if number >= first_moment]
    has_end = len(ids) > 1 and ids[-1] >= first_moment
    return Part(
        ids=_text(ids, first_moment),
        first_step=steps[0] if steps else 0,
        end_step=steps[-1] if has_end else None,
        logprob=sum(logprobs) / max(1, len(logprobs)),
    )


def _text(ids: Sequence[int], first_moment: int) -> tuple[int, ...]:
    return tuple(number for number in ids if number < first_moment)
