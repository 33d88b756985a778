"""Limits that a process puts on itself, each met by a process of its own."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from purvey.ipc import confinement
from purvey.ipc.confinement import memory_of_machine

CONFINED = """
import json, os, resource, socket, subprocess, sys
from purvey.ipc.confinement import Confinement
confined = Confinement(memory_bytes=2**28, file_bytes=0, open_files={open_files})
found = {{}}
def attempt(name, work):
    try:
        work()
        found[name] = "done"
    except (OSError, MemoryError, ValueError) as error:
        found[name] = type(error).__name__
"""
REPORT = "\nprint(json.dumps(found), flush=True)\n"


def run(program: str, *, open_files: int = 0) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-c", CONFINED.format(open_files=open_files) + program + REPORT],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def found(program: str, *, open_files: int = 0) -> dict[str, str]:
    done = run(program, open_files=open_files)
    assert done.returncode == 0, done.stderr
    told: dict[str, str] = json.loads(done.stdout)
    return told


def test_nothing_can_be_opened_and_memory_ends(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    told = found(
        f"""
attempt("write", lambda: open({str(canary)!r}, "w"))
attempt("read", lambda: open("/etc/passwd"))
attempt("connect", lambda: socket.socket())
attempt("run", lambda: subprocess.run([sys.executable, "-c", ""]))
attempt("little", lambda: bytearray(2**27))
attempt("much", lambda: bytearray(2**29))
attempt("loosen", lambda: resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))
        if os.geteuid() else resource.setrlimit(resource.RLIMIT_AS, (2, 1)))
"""
    )
    assert told == {
        "write": "OSError",
        "read": "OSError",
        "connect": "OSError",
        "run": "OSError",
        "little": "done",
        "much": "MemoryError",
        "loosen": "ValueError",
    }
    assert not canary.exists()


def test_files_may_be_read_but_not_written_where_some_may_be_open(tmp_path: Path) -> None:
    told = found(
        f"""
attempt("read", lambda: open("/etc/passwd").read())
attempt("write", lambda: open({str(tmp_path / "canary")!r}, "w", buffering=1).write("a\\n"))
""",
        open_files=64,
    )
    assert told == {"read": "done", "write": "OSError"}
    assert (tmp_path / "canary").read_bytes() == b""


def test_a_piece_of_work_has_less_memory_and_the_next_one_more() -> None:
    told = found(
        """
confined.allow(memory_bytes=2**20, cpu_s=100)
attempt("tight", lambda: bytearray(2**27))
confined.allow(memory_bytes=2**40, cpu_s=100)
attempt("wide", lambda: bytearray(2**27))
attempt("beyond", lambda: bytearray(2**29))
"""
    )
    assert told == {"tight": "MemoryError", "wide": "done", "beyond": "MemoryError"}


def test_the_kernel_ends_what_computes_for_too_long() -> None:
    done = run("confined.allow(memory_bytes=2**28, cpu_s=0)\nwhile True: pass\n")
    assert done.returncode == -signal.SIGXCPU


def test_there_is_no_core_dump() -> None:
    told = found("found['core'] = str(resource.getrlimit(resource.RLIMIT_CORE))")
    assert told == {"core": "(0, 0)"}


@pytest.mark.parametrize(("written", "least"), [("max\n", False), ("1048576\n", True)])
def test_a_container_may_have_less_memory_than_its_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, written: str, least: bool
) -> None:
    monkeypatch.setattr(confinement, "_CONTAINER_MEMORY", tmp_path / "none")
    whole = memory_of_machine()
    assert whole > 2**28
    (tmp_path / "max").write_text(written, encoding="ascii")
    monkeypatch.setattr(confinement, "_CONTAINER_MEMORY", tmp_path / "max")
    assert memory_of_machine() == (2**20 if least else whole)
