"""Every operation of the OpenAPI document, with right and wrong data, over real HTTP."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.core.result import Ok

from tests.fuzz.calls import AnyCase, Call, Operation, Way, calls, completed, pristine, ways
from tests.fuzz.verdict import complaints
from tests.fuzz.world import World

if TYPE_CHECKING:
    from tests.conftest import RunningServer
    from tests.fuzz.conftest import Tell

TIMEOUT_S = 60.0
SAMPLED_ABSENT = 20
FETCHING = {"POST /v1/pulls"}
"""Operations that fetch from elsewhere, which the server here may not: never a success."""


class Fuzz:
    """Calls sent to one server, and what was wrong with its answers.

    Attributes:
        statuses: How often an operation answered with a status.
        wrong: Complaints with the call that provoked them, one of each kind.
    """

    def __init__(self, server: "RunningServer", world: World) -> None:
        self._server, self._world = server, world
        self._session = requests.Session()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.wrong: dict[tuple[str, str], str] = {}

    @property
    def num_sent(self) -> int:
        """Calls sent so far."""
        return self.statuses.total()

    def send(self, call: Call) -> None:
        """Send one call and judge its answer."""
        case = completed(call, self._world, admin_key=self._server.admin_key)
        response = case.call(
            base_url=self._server.base_url, session=self._session, timeout=TIMEOUT_S
        )
        label = case.operation.label
        self.statuses[label, response.status_code] += 1
        for complaint in complaints(case, response, has_own_body=call.form == "generated"):
            self.wrong.setdefault((label, complaint[:60]), f"{complaint}\n{_replay(case)}")
        self._world.settle(case.method, case.operation.path)

    def explore(self, operation: Operation, *, num_calls: int, number: int) -> None:
        """Send generated calls of one operation; fewer where there are not as many."""
        all_ways = ways(operation)
        for place, way in enumerate(all_ways):
            num = num_calls // len(all_ways) + (place < num_calls % len(all_ways))
            if num:
                self._explore(operation, way, num_calls=num, number=number * 10 + place)

    def _explore(self, operation: Operation, way: Way, *, num_calls: int, number: int) -> None:
        before = self.num_sent

        @seed(number)
        @settings(
            max_examples=num_calls,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(call=calls(operation, way))
        def each(call: Call) -> None:
            if self.num_sent - before < num_calls:
                self.send(call)

        each()

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _replay(case: AnyCase) -> str:
    return case.as_curl_command()[:2_000]


@pytest.fixture
def fuzz(server: "RunningServer") -> Iterator[Fuzz]:
    """A fuzz of a fresh server."""
    with closing(World(server)) as world, closing(Fuzz(server, world)) as made:
        yield made
        assert world.is_alive()


@pytest.fixture
def operations(server: "RunningServer") -> list[Operation]:
    """Every operation of the document that the server shows."""
    document = httpx2.get(f"{server.base_url}/openapi.json", timeout=TIMEOUT_S).json()
    config = schemathesis.Config.from_dict({"max-stream-events": 100_000})  # all of a stream
    schema = schemathesis.openapi.from_dict(document, config=config)
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(found) == sum(map(len, document["paths"].values()))
    return found


def _is_absent(operation: Operation) -> bool:
    return operation.tags == ["Not implemented"]


def _weight(operation: Operation) -> int:
    """Bodies have more to get wrong than queries, and queries than nothing."""
    if len(operation.body):
        return 8
    return 3 if any(True for _ in operation.iter_parameters()) else 0


def run(fuzz: Fuzz, operations: list[Operation], *, num_calls: int, number: int) -> None:
    """Send so many calls: one right call of each operation, then generated ones by weight."""
    present = [one for one in operations if not _is_absent(one)]
    absent = [one for one in operations if _is_absent(one)]
    every = max(1, len(absent) // SAMPLED_ABSENT) if num_calls < 2 * len(operations) else 1
    for operation in [*present, *absent[number % every :: every]]:
        fuzz.send(pristine(operation))
    share, weights = num_calls - fuzz.num_sent, sum(map(_weight, present))
    for place, operation in enumerate(present):
        if wanted := share * _weight(operation) // weights:
            fuzz.explore(operation, num_calls=wanted, number=number * 1_000 + place)
    widest = next(one for one in present if len(one.body))
    for again in range(num_calls):
        if fuzz.num_sent == num_calls:
            break
        rest = num_calls - fuzz.num_sent
        fuzz.explore(widest, num_calls=rest, number=number * 1_000 + 500 + again)


def judge(fuzz: Fuzz, operations: list[Operation], *, num_calls: int) -> None:
    """Assert that nothing was wrong and that every operation was really reached."""
    assert fuzz.num_sent == num_calls
    assert not fuzz.wrong, "\n\n".join(
        f"{label}: {what}" for (label, _), what in fuzz.wrong.items()
    )
    succeeded = {label for label, status in fuzz.statuses if status < 300}
    present = {one.label for one in operations if not _is_absent(one)}
    assert present - FETCHING == succeeded


def test_no_call_is_answered_otherwise_than_documented(
    fuzz: Fuzz, operations: list[Operation]
) -> None:
    run(fuzz, operations, num_calls=300, number=0)
    judge(fuzz, operations, num_calls=300)


@pytest.mark.faults
@pytest.mark.timeout(3_600)
def test_no_call_of_many_is_answered_otherwise_than_documented(
    fuzz: Fuzz, operations: list[Operation], fresh_seed: int, tell: "Tell"
) -> None:
    run(fuzz, operations, num_calls=5_000, number=fresh_seed)
    tell(_by_status(fuzz.statuses))
    judge(fuzz, operations, num_calls=5_000)


def _by_status(statuses: Counter[tuple[str, int]]) -> dict[int, int]:
    totals: Counter[int] = Counter()
    for (_, status), count in statuses.items():
        totals[status] += count
    return dict(sorted(totals.items()))
