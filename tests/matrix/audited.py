"""A server that notes, of itself and of every process it starts, what a pickle asks for.

    python -P audited.py NOTES serve
    python -P audited.py NOTES {engine,job,parse} --fd N --parent PID

Workers have an environment of their own, so the note-taker travels in their command.
"""

import os
import runpy
import sys
from typing import Any


def main() -> None:
    """Take notes from now on, then be what the command line says."""
    notes, own_mode = sys.argv[1], sys.argv[2]
    take_notes(notes, own_mode)
    if own_mode == "serve":
        from purvey.ipc import child

        def worker_command(mode: child.Mode) -> tuple[str, ...]:
            return (sys.executable, "-P", os.path.abspath(__file__), notes, mode)  # noqa: PTH100

        child.worker_command = worker_command
        sys.argv = ["purvey", "serve"]
        runpy.run_module("purvey", run_name="__main__")
    else:
        sys.argv = ["purvey.worker", *sys.argv[2:]]
        runpy.run_module("purvey.worker", run_name="__main__")


def take_notes(notes: str, mode: str) -> None:
    """Append a line for this process, and one for each name that a pickle asks for."""
    descriptor = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "pickle.find_class":
            os.write(descriptor, f"{mode} {arguments[0]}.{arguments[1]}\n".encode())

    sys.addaudithook(note)
    os.write(descriptor, f"{mode} began\n".encode())


if __name__ == "__main__":
    main()
