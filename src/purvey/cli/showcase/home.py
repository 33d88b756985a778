"""The demonstration's own server: a real `purvey serve` in a process beside it."""

import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from purvey.cli.showcase.sources import examples_folder
from purvey.client.purvey import Purvey
from purvey.errors import CapacityError, PurveyError, UserError

PREFERRED_PORT = 8000
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 60.0
_MARK = ".purvey-demo"


class Home:
    """A folder for what the demonstration makes, and the server that runs on it.

    Use as a context manager: leaving it stops the server with SIGTERM and waits.

    Args:
        folder: Made afresh; an earlier demonstration's is replaced.

    Raises:
        UserError: The folder exists and no demonstration made it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _make_afresh(folder)
        self.port = _free_port()
        self.key = f"sk-purvey-{secrets.token_urlsafe(32)}"
        self.address = f"http://127.0.0.1:{self.port}"
        self._log = (folder / "server.log").open("wb")
        self._process = subprocess.Popen(  # noqa: S603 (our own command)
            [
                *(sys.executable, "-m", "purvey", "serve", "--port", str(self.port)),
                *("--data-dir", str(folder / "data"), "--module-path", str(examples_folder())),
                *("--log-format", "json"),
            ],
            env={"PURVEY_BOOTSTRAP_KEY": self.key, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            stdout=self._log,
            stderr=self._log,
        )
        self.client = Purvey(self.address, self.key)

    def __enter__(self) -> "Home":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.client.close()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=STOP_TIMEOUT_S)
        self._log.close()

    def wait_ready(self) -> None:
        """Return once the server takes work.

        Raises:
            CapacityError: It ended or took too long; its log says why.
        """
        pause = threading.Event()
        for _ in range(int(READY_TIMEOUT_S / 0.05)):
            if self._process.poll() is not None:
                break
            if self._answers():
                return
            pause.wait(0.05)
        raise CapacityError(f"the server did not start; see {self.folder / 'server.log'}.")

    def stay(self) -> None:
        """Wait until the server ends or the reader presses Ctrl-C."""
        try:
            self._process.wait()
        except KeyboardInterrupt:
            return

    def _answers(self) -> bool:
        try:
            return self.client.server.is_ready()
        except PurveyError:
            return False


def _make_afresh(folder: Path) -> None:
    if folder.exists():
        if not (folder / _MARK).exists():
            raise UserError(f"{str(folder)!r} exists and is no demonstration's; move it away.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / _MARK).touch()


def _free_port() -> int:
    for wanted in (PREFERRED_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise CapacityError("no free port on 127.0.0.1.")
