"""Clients of completions whose engine or server is killed, and what the ledger must say of them."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.matrix.invariants import check_store, reading
from tests.matrix.kill_inputs import BASE
from tests.matrix.kills import SETTINGS
from tests.matrix.served import Served, serving

SHORT = {"max_tokens": 24, "temperature": 1}
URL = "/v1/completions"


@dataclass(kw_only=True)
class Heard:
    """What a client heard of one streamed completion, up to now."""

    request_id: str = ""
    parts: list[str] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    is_done: bool = False
    is_over: bool = False


def prompt(number: int) -> list[int]:
    """Return nine tokens, others for each number below forty."""
    return [20 + number, *range(60, 68)]


def follow(http: httpx2.Client, body: dict[str, Any], heard: Heard) -> None:
    """Read a stream to its end, as raw server-sent events."""
    with http.stream("POST", URL, json=body | {"stream": True}) as response:
        heard.request_id = response.headers["x-request-id"]
        for line in response.iter_lines():
            value = line.removeprefix("data: ")
            if value == "[DONE]":
                heard.is_done = True
            elif value:
                assert not heard.is_done
                assert not heard.errors
                said = json.loads(value)
                if "error" in said:
                    heard.errors.append(said["error"])
                else:
                    heard.parts += [choice["text"] for choice in said["choices"]]
    heard.is_over = True


def ask(http: httpx2.Client, model: str, number: int, **sampling: object) -> dict[str, Any]:
    """Complete a prompt, whole; the number seeds it."""
    body = {"model": model, "prompt": prompt(number), "seed": number, **sampling}
    answer: dict[str, Any] = http.post(URL, json=body).raise_for_status().json()
    return answer


def text_of(answer: dict[str, Any]) -> str:
    """Return the text of a whole answer."""
    return str(answer["choices"][0]["text"])


@contextmanager
def up(root: Path, *, failpoints: str = "", **settings: str) -> Iterator[Served]:
    """Serve a copy of a world that runs no jobs."""
    chosen = SETTINGS | {"MAX_RUNNING_JOBS": "0"} | settings
    with serving(root, settings=chosen, failpoints=failpoints) as served:
        yield served


def ledger(data_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the ledger's lines by request; each has one."""
    with reading(data_dir) as db:
        rows = [dict(row) for row in db.execute("SELECT * FROM usage_ledger")]
    assert len({row["request_id"] for row in rows}) == len(rows)
    return {row["request_id"]: row for row in rows}


class Metered:
    """Clients that ask without a pause, and what each was told.

    Attributes:
        answered: Prompt and output tokens that a whole answer told, by request.
        refused: Requests that were told 503.
        num_unknown: Requests that got no answer at all.
    """

    def __init__(self, num_clients: int) -> None:
        self.answered: dict[str, tuple[int, int]] = {}
        self.refused: set[str] = set()
        self.num_clients, self.num_unknown = num_clients, 0
        self._earlier: set[str] | None = None
        self._may_go_on, self._lock = threading.Event(), threading.Lock()

    @contextmanager
    def asking(self, served: Served) -> Iterator[None]:
        """Ask from as many threads as there are clients until the block ends."""
        if self._earlier is None:
            self._earlier = set(ledger(served.data_dir))
        self._may_go_on.set()
        with ThreadPoolExecutor(self.num_clients) as pool:
            clients = [pool.submit(self._run, served, n) for n in range(self.num_clients)]
            try:
                yield
            finally:
                self._may_go_on.clear()
            for client in clients:
                client.result()

    def check(self, data_dir: Path) -> None:
        """Every answer is in the ledger once, as told; what else is there was under way."""
        lines = ledger(data_dir)
        for known in (*(self._earlier or ()), *self.refused):
            lines.pop(known, None)
        for request_id, usage in self.answered.items():
            line = lines.pop(request_id)
            assert (line["input_tokens"], line["output_tokens"]) == usage
            assert line["status"] == "ok"
        assert len(lines) <= self.num_unknown
        check_store(data_dir)

    def _run(self, served: Served, number: int) -> None:
        with served.witness.client(timeout=200) as http:
            while self._may_go_on.is_set():
                body = {"model": BASE, "prompt": prompt(number), "seed": number, **SHORT}
                try:
                    response = http.post(URL, json=body)
                except httpx2.TransportError:
                    with self._lock:
                        self.num_unknown += 1
                    return
                with self._lock:
                    self._note(response)

    def _note(self, response: httpx2.Response) -> None:
        request_id = response.headers["x-request-id"]
        if response.is_success:
            usage = response.json()["usage"]
            self.answered[request_id] = (usage["prompt_tokens"], usage["completion_tokens"])
            return
        assert response.status_code == 503
        self.refused.add(request_id)
