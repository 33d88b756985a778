"""Dividing a step's rows among ranks: each row once, as many passes for everybody."""

from typing import TYPE_CHECKING, cast

from hypothesis import given
from hypothesis import strategies as st

from purvey.train.parallel.group import Group
from purvey.train.parallel.replicated import Replicated
from purvey.train.parallel.team import Alone, Portion

if TYPE_CHECKING:
    from purvey.train.learner import Learner

NOBODY = cast("Learner", None)  # dividing asks nothing of a learner


def portions(rows: list[int], *, size: int, at_once: int) -> list[list[Portion]]:
    teams = [Replicated(NOBODY, Group(rank=rank, size=size)) for rank in range(size)]
    return [list(team.portions(rows, at_once=at_once)) for team in teams]


@given(
    num_rows=st.integers(1, 40),
    size=st.integers(2, 9),
    at_once=st.integers(1, 50),
    first=st.integers(0, 5),
)
def test_every_row_is_counted_once(num_rows: int, size: int, at_once: int, first: int) -> None:
    rows = list(range(first, first + num_rows))
    found = portions(rows, size=size, at_once=at_once)
    counted = [row for mine in found for p in mine if p.is_counted for row in p.rows]
    assert sorted(counted) == rows
    assert len({len(mine) for mine in found}) == 1, "a rank would wait for another's pass"
    for mine in found:
        assert all(1 <= len(p.rows) <= at_once for p in mine)
        assert all(set(p.rows) <= set(rows) for p in mine)


@given(num_rows=st.integers(2, 40), size=st.integers(2, 9))
def test_shares_are_of_like_size(num_rows: int, size: int) -> None:
    found = portions(list(range(num_rows)), size=size, at_once=num_rows)
    sizes = [sum(len(p.rows) for p in mine if p.is_counted) for mine in found]
    assert max(sizes) - min(sizes) <= 1


@given(num_rows=st.integers(1, 40), at_once=st.integers(1, 50))
def test_a_single_process_takes_the_rows_in_their_order(num_rows: int, at_once: int) -> None:
    rows = list(range(num_rows))
    found = list(Alone(NOBODY).portions(rows, at_once=at_once))
    assert [row for p in found for row in p.rows] == rows
    assert all(p.is_counted and len(p.rows) <= at_once for p in found)
