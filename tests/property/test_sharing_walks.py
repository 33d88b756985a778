"""Any walk of jobs, engines and requests: everybody is where the rule says, after every step."""

import asyncio
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from hypothesis import given
from hypothesis import strategies as st

from purvey.ipc.sharing import Sharing

ALL, JOBS, ENGINES = frozenset({0, 1}), frozenset({0}), frozenset({1})
MOVES = ("job", "engine", "busy", "idle", "calm", "job ends", "engine ends")


class Process:
    """Is where it was put last."""

    def __init__(self) -> None:
        self.place: AbstractSet[int] = ALL
        self.is_busy = False
        self.end: Callable[[], None] = lambda: None

    def run_on(self, processors: AbstractSet[int]) -> None:
        self.place = processors

    def when_ended(self, call: Callable[[], None]) -> None:
        self.end = call


@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 3)), max_size=40))
def test_everybody_is_where_the_rule_says(walk: list[tuple[str, int]]) -> None:
    async def follow() -> None:
        sharing = Sharing(job_share=0.5, num_processors=2, calm_s=0.0, allowed=lambda: ALL)
        jobs: list[Process] = []
        engines: list[Process] = []
        was_busy = False
        for move, chosen in walk:
            if move in ("job", "engine"):
                process = Process()
                (jobs if move == "job" else engines).append(process)
                (sharing.add_job if move == "job" else sharing.add_engine)(process)
            elif move in ("busy", "idle") and engines:
                process = engines[chosen % len(engines)]
                process.is_busy = move == "busy"
                sharing.tell_busy(process, is_busy=process.is_busy)
            elif move == "calm":
                await asyncio.sleep(0.001)  # past the timer, which has nothing to wait for
                was_busy = False
            elif move == "job ends" and jobs:
                jobs.pop(chosen % len(jobs)).end()
            elif move == "engine ends" and engines:
                engines.pop(chosen % len(engines)).end()
            was_busy = was_busy or any(engine.is_busy for engine in engines)
            is_divided = bool(jobs) and was_busy
            assert {job.place for job in jobs} <= {JOBS if is_divided else ALL}, move
            assert {engine.place for engine in engines} <= {ENGINES if is_divided else ALL}, move

    asyncio.run(follow())
