"""An engine without a model that computes in steps: each tells every request its next token.

Run by `LocalEngineLauncher(command=COMMAND)`. A step's answers leave in one write, as those of a
batch do; how long a step takes is what a small model's would.
"""

import argparse
import sys
import threading

from purvey.contracts.engine import (
    Cancel,
    Delta,
    Drain,
    Finished,
    Generate,
    LoadModel,
    Started,
    ToEngine,
)
from purvey.contracts.wire import pack
from purvey.ipc.lifetime import die_with_parent
from purvey.ipc.link import Link
from purvey.testing.scripted_engine import text_generation

COMMAND = (sys.executable, "-m", "benchmarks.stepping_engine")
STEP_S = 0.02
WORDS = (" the", " quick", " brown", " fox", " jumps", " over", " a", ' "lazy"', " dog", ".\n")


class Steps:
    """Requests under way and how far each has come."""

    def __init__(self, link: "RawLink") -> None:
        self._link = link
        self._left: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self.ended = threading.Event()

    def add(self, request: Generate) -> None:
        with self._lock:
            self._left[request.request_id] = (0, request.sampling.max_tokens or 16)
        self._link.send(Started(request_id=request.request_id, prompt_tokens=8))

    def remove(self, request_id: str) -> None:
        with self._lock:
            self._left.pop(request_id, None)

    def run(self) -> None:
        while not self.ended.wait(STEP_S):
            frames = bytearray()
            with self._lock:
                for request_id, (done, wanted) in list(self._left.items()):
                    frames += pack(Delta(request_id=request_id, text=WORDS[done % len(WORDS)]))
                    self._left[request_id] = (done + 1, wanted)
                    if done + 1 == wanted:
                        frames += pack(_finished(request_id, wanted))
                        del self._left[request_id]
            if frames:
                self._link.send_raw(bytes(frames))


class RawLink(Link[ToEngine]):
    def send_raw(self, frames: bytes) -> None:
        with self._sending:
            self._socket.sendall(frames)


def main() -> int:
    """Serve over the inherited socket until drained."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    link = RawLink(arguments.fd, ToEngine)
    assert isinstance(link.receive(), LoadModel)
    link.send(text_generation())
    steps = Steps(link)
    thread = threading.Thread(target=steps.run)
    thread.start()
    while (message := link.receive()) is not None and not isinstance(message, Drain):
        if isinstance(message, Generate):
            steps.add(message)
        elif isinstance(message, Cancel):
            steps.remove(message.request_id)
    steps.ended.set()
    thread.join()
    return 0


def _finished(request_id: str, num_tokens: int) -> Finished:
    return Finished(
        request_id=request_id, reason="length", prompt_tokens=8, completion_tokens=num_tokens
    )


if __name__ == "__main__":
    sys.exit(main())
