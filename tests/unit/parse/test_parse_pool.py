"""The processes of a pool: replaced when dead, late or worn; never more than allowed."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from PIL import Image

from purvey.contracts.limits import LIMITS
from purvey.contracts.parse import (
    CheckTemplate,
    DecodeImage,
    ImageDecoded,
    TemplateChecked,
    Unusable,
)
from purvey.errors import InvalidValueError, WorkerCrashedError
from purvey.parse.parser import Parser
from purvey.parse.pool import ParseFailedError, ParsePool
from tests.unit.parse.pictures import encoded, scan_bomb

Make = Callable[..., ParsePool]
CHECK = CheckTemplate(source="a")
LONG_S = 60.0
BEGIN = """
import argparse, os
from purvey.contracts.parse import ParserReady, TemplateChecked, ToParser, Unusable
from purvey.ipc.lifetime import die_with_parent
from purvey.ipc.link import Link
parser = argparse.ArgumentParser()
parser.add_argument("--fd", type=int)
parser.add_argument("--parent", type=int)
arguments = parser.parse_args()
die_with_parent(arguments.parent)
link = Link(arguments.fd, ToParser)
"""
SAY_PID = (
    BEGIN
    + """
link.send(ParserReady())
while link.receive() is not None:
    link.send(Unusable(message=str(os.getpid())))
"""
)


@pytest.fixture
def make() -> Iterator[Make]:
    """Make pools, all closed in the end."""
    made: list[ParsePool] = []

    def pool(program: str = "", **options: int | float) -> ParsePool:
        command = (sys.executable, "-P", "-c", program) if program else None
        made.append(ParsePool(command=command, **options))  # type: ignore[arg-type]
        return made[-1]

    yield pool
    for one in made:
        one.close()


def pid_of(pool: ParsePool) -> str:
    answer = pool.ask(CHECK, timeout_s=LONG_S)
    assert isinstance(answer, Unusable)
    return answer.message


def alive() -> list[psutil.Process]:
    """The children of this process that parse."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is none either
            if "parse" in child.cmdline():
                found.append(child)
    return found


def test_a_process_is_kept_and_replaced_when_it_is_worn(make: Make) -> None:
    pool = make(SAY_PID, uses=3)
    pids = [pid_of(pool) for _ in range(6)]
    assert len(set(pids[:3])) == len(set(pids[3:])) == 1
    assert pids[0] != pids[3]


def test_a_process_that_was_killed_while_idle_costs_nobody_anything(make: Make) -> None:
    pool = make(SAY_PID)
    first = pid_of(pool)
    os.kill(int(first), signal.SIGKILL)
    assert pid_of(pool) != first


@pytest.mark.row("FIL-07")
def test_fil07_a_process_killed_in_the_middle_is_replaced_in_silence(make: Make) -> None:
    pool = make(size=1)
    question = DecodeImage(
        data=encoded(Image.new("L", (5_000, 8_000), 255), compress_level=1),
        height=1,
        width=1,
        channels=1,
        max_pixels=LIMITS.image_pixels,
    )
    before = {child.pid for child in alive()}
    assert isinstance(pool.ask(CHECK, timeout_s=LONG_S), TemplateChecked)
    victim = _next_child(before)
    idle_bytes = victim.memory_info().rss
    with ThreadPoolExecutor(1) as executor:
        asked = executor.submit(pool.ask, question, timeout_s=LONG_S)
        _wait_until_busy(victim, idle_bytes)
        victim.kill()
        answer = asked.result(LONG_S)
    assert isinstance(answer, ImageDecoded)
    assert answer.pixels == b"\xff"


@pytest.mark.row("FIL-07")
def test_fil07_a_process_killed_twice_is_one_clear_error(make: Make) -> None:
    pool = make(size=1)
    bomb = DecodeImage(
        data=scan_bomb(4_000, 100_000), height=1, width=1, channels=1, max_pixels=2**24
    )
    before = {child.pid for child in alive()}
    assert isinstance(pool.ask(CHECK, timeout_s=LONG_S), TemplateChecked)
    idle_bytes = _next_child(before).memory_info().rss
    with ThreadPoolExecutor(1) as executor:
        asked = executor.submit(Parser(pool).decode, bomb, param="inputs.0", timeout_s=2 * LONG_S)
        for _ in range(2):
            victim = _next_child(before)
            _wait_until_busy(victim, idle_bytes)
            before.add(victim.pid)
            victim.kill()
        with pytest.raises(InvalidValueError, match="ended the process") as refusal:
            asked.result(LONG_S)
    assert refusal.value.param == "inputs.0"
    assert isinstance(pool.ask(CHECK, timeout_s=LONG_S), TemplateChecked)


def _next_child(before: set[int]) -> psutil.Process:
    pause = threading.Event()
    while not (found := [child for child in alive() if child.pid not in before]):
        pause.wait(0.01)
    return found[0]


def _wait_until_busy(process: psutil.Process, idle_bytes: int) -> None:
    """Wait until it holds the pixels of what it decodes, beside what it holds when it waits."""
    pause = threading.Event()
    while process.memory_info().rss < idle_bytes + 20 * 2**20:
        pause.wait(0.001)


def test_what_is_said_that_is_no_answer_ends_the_process(make: Make) -> None:
    garbage = "link.send(ParserReady())\nlink.receive()\nos.write(arguments.fd, b'\\xc1' * 9)\n"
    pool = make(BEGIN + garbage + "link.receive()\n")
    with pytest.raises(ParseFailedError, match="ended the process"):
        pool.ask(CHECK, timeout_s=LONG_S)


def test_the_deadline_ends_the_process_and_is_not_asked_again(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    deaf = "link.send(ParserReady())\nimport threading; threading.Event().wait()\n"
    pool = make(BEGIN + deaf)
    with (
        caplog.at_level(logging.INFO, logger="purvey"),
        pytest.raises(ParseFailedError, match=r"longer than 0\.2 s"),
    ):
        pool.ask(CHECK, timeout_s=0.2)
    assert [r.message for r in caplog.records] == ["parse.replaced"]


@pytest.mark.parametrize("program", ["raise SystemExit(3)", "import time; time.sleep(60)"])
def test_where_none_starts_a_caller_is_told_so(make: Make, program: str) -> None:
    with pytest.raises(WorkerCrashedError, match="no parse process") as refusal:
        make(program, start_timeout_s=1.0).ask(CHECK, timeout_s=LONG_S)
    assert refusal.value.status == 503


def test_one_that_is_slow_leaves_the_other_to_the_rest(make: Make) -> None:
    """Two at a time, not one; and a third caller waits for the first that is free."""
    pool = make(size=2)
    bomb = DecodeImage(
        data=scan_bomb(4_000, 100_000), height=1, width=1, channels=1, max_pixels=2**24
    )
    with ThreadPoolExecutor(1) as executor:
        slow = executor.submit(pool.ask, bomb, timeout_s=3.0)
        for _ in range(3):
            assert isinstance(pool.ask(CHECK, timeout_s=LONG_S), TemplateChecked)
        assert not slow.done()
        with pytest.raises(ParseFailedError, match="longer"):
            slow.result(LONG_S)


def test_many_callers_share_at_most_so_many_processes(make: Make) -> None:
    pool = make(SAY_PID, size=2, uses=5)
    with ThreadPoolExecutor(8) as executor:
        pids = list(executor.map(lambda _: pid_of(pool), range(40)))
    assert len(pids) == 40
    assert all(pids.count(pid) <= 5 for pid in set(pids))


def test_a_closed_pool_has_no_processes_and_takes_no_questions(make: Make) -> None:
    pool = make(SAY_PID)
    pid = int(pid_of(pool))
    pool.close()
    assert not psutil.pid_exists(pid)
    with pytest.raises(WorkerCrashedError):
        pool.ask(CHECK, timeout_s=LONG_S)
    make(SAY_PID).close()  # one that never had any


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_their_owner(how: signal.Signals) -> None:
    owner = """
import threading
from purvey.contracts.parse import CheckTemplate
from purvey.parse.pool import ParsePool
pool = ParsePool()
pool.ask(CheckTemplate(source="a"), timeout_s=60)
print("ready", flush=True)
threading.Event().wait()
"""
    with psutil.Popen([sys.executable, "-P", "-c", owner], stdout=-1) as process:
        assert process.stdout.readline() == b"ready\n"
        children = process.children()
        assert len(children) == 1
        process.send_signal(how)
        process.wait(LONG_S)
        _, left = psutil.wait_procs(children, timeout=LONG_S)
    assert left == []
