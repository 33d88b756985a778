"""Entry point of workers: `python -m purvey.worker {engine,job,parse} --fd N --parent PID`.

Spawned by `ipc`, never by hand. Each mode imports only what it needs.
"""

import argparse
import faulthandler
import sys

from purvey.ipc.lifetime import die_with_parent
from purvey.telemetry import logs


def main() -> int:
    """Run the worker that the command line names and return its exit status."""
    parser = argparse.ArgumentParser(prog="purvey.worker")
    parser.add_argument("mode", choices=tuple(_MODES))
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    faulthandler.enable()
    logs.configure("json", "INFO")
    return _MODES[arguments.mode](arguments.fd)


def _run_engine(fd: int) -> int:
    from purvey.contracts.engine import ToEngine
    from purvey.ipc.link import Link
    from purvey.worker import engine

    link: Link[ToEngine] = Link(fd, ToEngine)
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

    link: Link[ToParser] = Link(fd, ToParser)
    return parse.run(link)


_MODES = {"engine": _run_engine, "job": _run_job, "parse": _run_parse}

if __name__ == "__main__":
    sys.exit(main())
