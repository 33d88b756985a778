"""`kill -9` of a process that writes: what it was told is stored, is stored."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from sqlalchemy import Connection

from purvey.store.database import Database
from purvey.store.tables import PROJECTS
from purvey.testing.clock import FakeClock

WRITER = """
import sys, threading
from purvey.contracts.clock import SystemClock
from purvey.store import projects
from purvey.store.database import Database

database = Database.open(sys.argv[1], clock=SystemClock())

def add(worker):
    for i in range(1_000_000):
        name = f"p{worker}-{i}"
        database.write_now(lambda c: projects.ensure(c, name, name=name, now=1.0))
        sys.stdout.write(name + "\\n")
        sys.stdout.flush()

for worker in range(4):
    threading.Thread(target=add, args=(worker,)).start()
"""
LINES = 200


def test_acknowledged_writes_survive_a_kill(file: Path) -> None:
    url = f"sqlite:///{file}"
    child = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [child.stdout.readline().strip() for _ in range(LINES)]
    os.kill(child.pid, signal.SIGKILL)
    told += child.stdout.read().split("\n")[:-1]  # the last line may be torn
    child.stdout.close()
    child.wait()
    database = Database.open(url, clock=FakeClock())
    stored = database.read_now(_names)
    verdict = database.read_now(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar_one())
    database.close()
    assert len(told) >= LINES
    assert set(told) <= stored
    assert len(stored) - len(set(told)) <= 8, "at most what was under way is stored untold"
    assert verdict == "ok"


def _names(conn: Connection) -> set[str]:
    return {row.id for row in conn.execute(PROJECTS.select())}
