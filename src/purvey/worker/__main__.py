"""Entry point of workers: `python -m purvey.worker {engine,job,parse,rank} --fd N --parent PID`.

Spawned by `ipc`, and a rank by the job whose run it shares; never by hand. Each mode imports
only what it needs.
"""

import argparse
import faulthandler
import importlib
import os
import sys
import threading

from purvey.ipc.lifetime import die_with_parent
from purvey.telemetry import logs
from purvey.worker import garbage

_STANDING_BACK = 5
"""Niceness that leaves three quarters of a processor to whoever wants it."""


def main() -> int:
    """Run the worker that the command line names and return its exit status."""
    parser = argparse.ArgumentParser(prog="purvey.worker")
    parser.add_argument("mode", choices=tuple(_MODES))
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--spare", action="store_true")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    garbage.ignore()
    faulthandler.enable()
    logs.configure("json", "INFO")
    if arguments.spare:
        return _run_spare_engine(arguments.fd)
    return _MODES[arguments.mode](arguments.fd)


def _run_spare_engine(fd: int) -> int:
    """Import while standing back, say so, then be an engine like any other."""
    importing = threading.Thread(target=_import_engine, name="importing")
    importing.start()
    importing.join()
    return _run_engine(fd, is_spare=True)


def _import_engine() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _STANDING_BACK)  # this thread alone
    importlib.import_module("purvey.worker.engine")


def _run_engine(fd: int, *, is_spare: bool = False) -> int:
    from purvey.contracts.engine import ToEngine, Waiting
    from purvey.ipc.link import Link
    from purvey.worker import engine

    garbage.collect_from_here()
    link: Link[ToEngine] = Link(fd, ToEngine)
    if is_spare:
        link.send(Waiting())
    return engine.run(link)


def _run_job(fd: int) -> int:
    from purvey.contracts.jobs import ToWorker
    from purvey.ipc.link import Link
    from purvey.worker import job

    link: Link[ToWorker] = Link(fd, ToWorker)
    return job.run(link)


def _run_parse(fd: int) -> int:
    from purvey.contracts.parse import ToParser
    from purvey.ipc.link import Link
    from purvey.worker import parse

    garbage.collect_from_here()
    link: Link[ToParser] = Link(fd, ToParser)
    return parse.run(link)


def _run_rank(fd: int) -> int:
    from purvey.contracts.jobs import ToRank
    from purvey.ipc.link import Link
    from purvey.worker.ranks import entry

    garbage.collect_from_here()
    link: Link[ToRank] = Link(fd, ToRank)
    return entry.run(link)


_MODES = {"engine": _run_engine, "job": _run_job, "parse": _run_parse, "rank": _run_rank}

if __name__ == "__main__":
    sys.exit(main())
