"""A process whose every way out is noted: `python watched.py LOG MODE ...` is a worker.

The hook cannot be taken off again, and what it notes is on disk before the call goes on.
"""

import contextlib
import json
import os
import runpy
import socket
import sys

EVENTS = {
    *("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"),
    *("socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request"),
}
PROBED = "192.0.2.1"
"""An address that is nobody's (RFC 5737): what a watched process is seen to reach for, once."""


def watch(log: str, who: str) -> None:
    """Note every connection, datagram and look-up of this process from now on."""
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event in EVENTS:
            given = [a for a in arguments if not isinstance(a, socket.socket)]
            family = [a.family.name for a in arguments if isinstance(a, socket.socket)]
            line = {"who": who, "event": event, "family": family, "to": repr(given)}
            os.write(out, json.dumps(line).encode() + b"\n")

    sys.addaudithook(note)
    os.write(out, json.dumps({"who": who, "event": "watched"}).encode() + b"\n")


def main() -> None:
    """Be the worker that the command line names, or a probe that reaches outside."""
    log, mode = sys.argv.pop(1), sys.argv[1]
    watch(log, mode)
    if mode == "probe":
        with contextlib.suppress(OSError):
            socket.create_connection((PROBED, 443), timeout=0.05).close()
        return
    runpy.run_module("purvey.worker", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
