"""Bar 13: from a model that is not loaded to its first token, over HTTP; and memory at rest.

A Llama shape of 0.4 billion weights in bfloat16 (0.8 GB) is asked for one token with a prompt of
16, unloaded, and asked again. The first answer is a first load: every byte is hashed, weights are
made and kept. Later ones are reloads: a spare process takes the model, its files are known by
their marks, and the kept weights are mapped. The peer, where it is built, is `llama-server` with
the same weights in 8 bits, from the start of its process. Files are in the page cache for both.
At rest are the server and the spare process without any model: proportional set size, which
counts a shared page once.
"""

import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2

from benchmarks.harness import Report, publish, spread
from benchmarks.peers import llama_cpp
from benchmarks.peers.model import model_folder, token_prompts
from purvey.client.purvey import Purvey

ROUNDS, PROMPT, TARGET_S, TARGET_BYTES = 5, 16, 1.0, 250 * 10**6
MODEL, PEER_THREADS = "cold", 2
_WAIT_S, _LOOK_S, _SETTLE_S = 240.0, 0.02, 5.0


def main() -> int:
    """Measure each precision and the peer, and publish; `--quick` takes int8 alone, two rounds."""
    is_quick = "--quick" in sys.argv
    precisions = ("int8",) if is_quick else ("int8", "int4", "auto")
    figures: dict[str, object] = {}
    for precision in precisions:
        with tempfile.TemporaryDirectory() as folder, _server(Path(folder), precision) as ours:
            figures |= {f"{precision}_{k}": v for k, v in _ours(ours, is_quick=is_quick).items()}
    peer = None if is_quick else _peer()
    best_s = min(_median(figures[f"{precision}_reload_s"]) for precision in precisions)
    rest_bytes = figures[f"{precisions[0]}_at_rest_pss_bytes"]
    assert isinstance(rest_bytes, int)
    publish(
        Report(
            bar="cold_start",
            workload=__doc__.split("\n\n")[1].replace("\n", " "),
            target=f"int8 reload to first token <= {TARGET_S:g} s; at rest <= 250 MB",
            verdict="met" if best_s <= TARGET_S and rest_bytes <= TARGET_BYTES else "missed",
            figures=figures | ({"llama_server_q8_0_s": peer} if peer else {}),
            notes=["The verdict takes the fastest precision; the first load is told beside it."],
        )
    )
    return 0


class Server(NamedTuple):
    """A server of ours and where its log is."""

    address: str
    key: str
    pid: int
    log: Path


def _ours(server: Server, *, is_quick: bool) -> dict[str, object]:
    with Purvey(server.address, server.key) as client:
        client.models.register(MODEL, str(model_folder()))
        _wait_for_spare(server, 1)
        at_rest = {kind: _memory(server.pid, kind) for kind in ("Pss", "Anonymous")}
        first_s = _first_token(server)
        reloads = []
        for number in range(2 if is_quick else ROUNDS):
            time.sleep(_SETTLE_S)  # packing and sealing end
            client.models.unload(MODEL)
            while client.server.state().engines:
                time.sleep(_LOOK_S)
            _wait_for_spare(server, number + 2)
            reloads.append(_first_token(server))
    return {
        "first_load_s": first_s,
        "reload_s": spread(reloads),
        "at_rest_pss_bytes": at_rest["Pss"],
        "at_rest_anonymous_bytes": at_rest["Anonymous"],
    }


def _first_token(server: Server) -> float:
    body = {
        "model": MODEL,
        "prompt": token_prompts(1, PROMPT, seed=1)[0],
        "max_tokens": 1,
        "temperature": 0,
    }
    headers = {"authorization": f"Bearer {server.key}"}
    with httpx2.Client(base_url=server.address, headers=headers, timeout=300) as client:
        start = time.perf_counter()
        answer = client.post("/v1/completions", json=body).raise_for_status().json()
        assert answer["usage"]["completion_tokens"] == 1
        return time.perf_counter() - start


def _peer() -> dict[str, float] | None:
    if not (llama_cpp.ENVIRONMENT.folder / "build" / "bin" / "llama-server").is_file():
        return None
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        with llama_cpp.server("q8_0", threads=PEER_THREADS, slots=1, positions=512) as peer:
            body = {"prompt": token_prompts(1, PROMPT, seed=1)[0], "n_predict": 1}
            httpx2.post(f"{peer.base_url}/completion", json=body, timeout=60).raise_for_status()
            found.append(time.perf_counter() - start)
    return spread(found)


@contextmanager
def _server(folder: Path, precision: str) -> Iterator[Server]:
    key = secrets.token_hex(24)
    environment = {
        "PATH": "/usr/bin:/bin",
        "PURVEY_BOOTSTRAP_KEY": key,
        "PURVEY_PORT": "0",
        "PURVEY_DATA_DIR": str(folder / "data"),
        "PURVEY_MODEL_ROOTS": str(model_folder().parent),
        "PURVEY_PRECISION": precision,
    }
    command, log = [sys.executable, "-m", "purvey", "serve"], (folder / "log").open("wb")
    server = subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
    )
    assert server.stdout is not None
    try:
        yield Server(server.stdout.readline().split()[-1], key, server.pid, Path(log.name))
    finally:
        server.terminate()
        server.wait(timeout=60)
        log.close()


def _wait_for_spare(server: Server, number: int) -> None:
    """Wait until the server has said so many times that a spare process is ready."""
    limit = time.monotonic() + _WAIT_S
    while server.log.read_text(encoding="utf-8").count("engine.spare_ready") < number:
        if time.monotonic() > limit:
            raise RuntimeError("no spare process came up")
        time.sleep(_LOOK_S)
    time.sleep(1.0)


def _memory(pid: int, kind: str) -> int:
    """Sum over the server and its children, in bytes, what the kernel counts as `kind`."""
    return sum(_memory_of(one, kind) for one in (pid, *_children(pid)))


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text(encoding="ascii").split()]


def _memory_of(pid: int, kind: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 2**10 for line in lines if line.startswith(f"{kind}:"))


def _median(figure: object) -> float:
    assert isinstance(figure, dict)
    return float(figure["median"])


if __name__ == "__main__":
    sys.exit(main())
