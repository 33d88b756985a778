"""The analysis of a soak sees what was planted, and nothing where nothing was."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from purvey.errors import error_classes
from tests.soak.analysis import PER, Bounds, Sample, faults, rss_growth, settled, slope
from tests.soak.book import ENDLESS, Book

BOUNDS = Bounds(rss=0.01, blocks=0.02)
MEGABYTE = 10**6


def at(requests: int) -> Sample:
    """A sound server: it warms up by 30 MB, then stays, but for the noise of an allocator."""
    noise = Random(requests)  # noqa: S311 (the same each time)
    warming = 30 * MEGABYTE * min(1.0, requests / (PER / 4))
    return Sample(
        requests=requests,
        rss_bytes=round(90 * MEGABYTE + warming + noise.uniform(-1, 1) * MEGABYTE / 5),
        blocks=430_000 + noise.randint(-300, 300),
        fds=36,
        threads=8,
        tasks={"http": 1, "supervisor": 1},
        tables={"keys": 1},
        database_bytes=4 * MEGABYTE + 900 * requests,
        rows=500 + 2 * requests,
    )


def soak(fault: Callable[[Sample], Sample] = lambda sample: sample) -> list[Sample]:
    """Forty samples of 10^5 requests, each with the fault."""
    return [fault(at(requests)) for requests in range(0, PER + 1, PER // 40)]


def leak(num_bytes: float) -> Callable[[Sample], Sample]:
    """Keep so many bytes for each request."""
    return lambda s: replace(s, rss_bytes=s.rss_bytes + round(num_bytes * s.requests))


def test_a_sound_server_has_no_faults() -> None:
    assert faults(soak(), BOUNDS) == []


def test_a_warm_up_is_not_taken_for_a_leak() -> None:
    assert abs(rss_growth(soak())) < 0.005
    whole = slope(soak(), lambda s: s.rss_bytes) * PER
    assert whole > 5 * MEGABYTE, "the first half would hide what is measured"


@pytest.mark.parametrize("num_bytes", [20, 100, 4_096])
def test_a_leak_of_some_bytes_a_request_is_seen(num_bytes: int) -> None:
    (fault,) = faults(soak(leak(num_bytes)), BOUNDS)
    assert fault.startswith("resident memory grows by ")


def test_a_server_that_shrinks_is_sound() -> None:
    assert faults(soak(leak(-100)), BOUNDS) == []


def test_one_object_in_twenty_requests_is_seen() -> None:
    kept = soak(lambda s: replace(s, blocks=s.blocks + s.requests // 20))
    (fault,) = faults(kept, BOUNDS)
    assert fault.endswith("blocks for each request")


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ({"fds": 37}, "fds: 36 at first, 37 at the end"),
        ({"threads": 9}, "threads: 8 at first, 9 at the end"),
        ({"tasks": {"http": 1, "watch": 2}}, "task 'watch': 0 at first, 2 at the end"),
        ({"tables": {"keys": 3}}, "table 'keys': 1 at first, 3 at the end"),
        ({"temporary": ("data/blobs/.incoming-1",)}, "left on the disk: data/blobs/.incoming-1"),
    ],
)
def test_what_is_left_behind_is_named(last: dict[str, object], told: str) -> None:
    samples = soak()
    samples[-1] = replace(samples[-1], **last)  # type: ignore[arg-type]  # fields by name
    assert faults(samples, BOUNDS) == [told]


def test_a_database_that_takes_more_and_more_for_a_row_is_seen() -> None:
    swollen = soak(lambda s: replace(s, database_bytes=s.requests**2))
    (fault,) = faults(swollen, BOUNDS)
    assert fault.startswith("the database took ")


def test_memory_is_not_judged_where_no_bound_is_given() -> None:
    assert faults(soak(leak(4_096)), replace(BOUNDS, rss=None)) == []


def test_the_second_half_is_counted_in_requests() -> None:
    assert settled(soak())[0].requests == PER / 2


def test_a_slope_is_that_of_the_line() -> None:
    line = [replace(at(x), rss_bytes=7 * x + 3) for x in (0, 1, 5, 9)]
    assert slope(line, lambda s: s.rss_bytes) == pytest.approx(7)


def test_a_book_that_agrees_has_no_differences() -> None:
    by_kind = {"chat": _sum(2, 15, 9), "training": _sum(1, 120, 0)}
    assert _book().differences(by_kind, {ENDLESS: _sum(1, 5, 4)}) == []


@pytest.mark.parametrize(
    ("kind", "metered"),
    [("chat", (3, 15, 9)), ("chat", (2, 16, 9)), ("chat", (2, 15, 10)), ("training", (0, 0, 0))],
)
def test_a_row_or_token_too_many_or_too_few_is_a_difference(
    kind: str, metered: tuple[int, int, int]
) -> None:
    by_kind = {"chat": _sum(2, 15, 9), "training": _sum(1, 120, 0), kind: _sum(*metered)}
    assert len(_book().differences(by_kind, {ENDLESS: _sum(1, 5, 4)})) == 1


def test_a_kind_that_nobody_asked_for_and_a_lost_row_are_differences() -> None:
    by_kind = {"chat": _sum(2, 15, 9), "training": _sum(1, 0, 0), "score": _sum(1, 1, 1)}
    assert len(_book().differences(by_kind, {ENDLESS: _sum(0, 0, 4)})) == 2


@pytest.mark.parametrize(
    ("status", "code", "body"),
    [
        (404, None, b"Not Found"),
        (404, None, b'{"error": "no"}'),
        (404, "not_found", b"extra"),
        (500, "internal_error", b""),
        (503, "server_is_overloaded", b""),
        (400, "invalid_value", b""),
    ],
)
def test_an_answer_that_is_not_due_is_refused(status: int, code: str | None, body: bytes) -> None:
    with pytest.raises((AssertionError, ValueError)):
        Book().check(status, (_refusal(code) if code else b"") + body, "req_1", {404, 500, 503})


def test_answers_that_are_due_are_counted() -> None:
    book = Book()
    book.check(200, b"", "req_1", range(200, 300))
    book.check(404, _refusal("not_found"), "req_2", {404})
    book.check(503, _refusal("storage_unavailable"), "req_3", {200})
    assert dict(book.statuses) == {200: 1, 404: 1, 503: 1}
    with pytest.raises(AssertionError):
        book.check(200, b"", "", {200})


def _book() -> Book:
    book = Book(endless=1)
    book.metered("chat", given=10, made=5)
    book.metered("chat", given=5)
    book.metered("training")
    return book


def _sum(requests: int, given: int, made: int) -> dict[str, int]:
    return {"requests": requests, "input_tokens": given, "output_tokens": made}


def _refusal(code: str) -> bytes:
    kind = error_classes()[code].type
    return (f'{{"error":{{"message":"no","type":"{kind}","param":null,"code":"{code}"}}}}').encode()
