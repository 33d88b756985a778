"""Bar 17: what a training job and the people who chat cost each other on the same cores.

A real server, a 27M-parameter Llama shape with random weights that it serves, a 4M-parameter
language model that it trains. Two loads: one stream that asks again as soon as it is answered, and
two with pauses of 1.5 to 4 s. Every round measures both loads while the job is paused, the job
alone, and both loads beside it; in every second round the job comes first. The load generator is a
process of its own on the same cores.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from urllib.parse import urlsplit

import httpx2
import torch
import transformers

from benchmarks.harness import Report, bootstrap, publish, spread
from benchmarks.quick import is_quick
from purvey.client.purvey import Purvey
from purvey.models.tokenizer import Tokenizer

MODEL, JOB = "served", "trained"
ROUNDS, BLOCK_S, REST_S = 5, 9.0, 3.0
PROMPT_TOKENS, OUTPUT_TOKENS = 64, 48
PAUSES_S = (1.5, 4.0)
SHAPE: dict[str, Any] = {
    "vocab_size": 8_192,
    "hidden_size": 512,
    "intermediate_size": 1_408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,
}
RECIPE: dict[str, Any] = {
    "task": "text-generation",
    "name": JOB,
    "model": {
        "architecture": "decoder",
        "hyperparameters": {"hidden_size": 256, "num_layers": 4, "num_heads": 4},
    },
    "tokenizer": {"vocabulary_size": 1_024},
    "train": {
        "epochs": 10_000,
        "batch_size": 8,
        "sequence_tokens": 128,
        "evals_per_epoch": 1,
        "checkpoint_interval_s": 3_600,
    },
}


@dataclass
class Figures:
    """What all rounds have found, milliseconds and steps per second."""

    calm: dict[str, list[float]] = field(default_factory=lambda: {"busy": [], "paused": []})
    beside: dict[str, list[float]] = field(default_factory=lambda: {"busy": [], "paused": []})
    alone_steps: list[float] = field(default_factory=list)
    beside_steps: dict[str, list[float]] = field(default_factory=lambda: {"busy": [], "paused": []})


def main() -> int:
    """Measure and publish; correct only if an answer is the same text beside the job."""
    key, rounds = secrets.token_hex(24), 1 if is_quick() else ROUNDS
    with (
        tempfile.TemporaryDirectory() as name,
        _server(Path(name), key) as address,
        Purvey(address, key) as purvey,
    ):
        purvey.models.register(MODEL, str(Path(name) / "models" / MODEL))
        subject = _Subject(address, key, purvey, _begin_training(purvey, Path(name)))
        probe = subject.answer()
        figures, is_equal = Figures(), True
        for turn in range(rounds):
            phases = [subject.without_job, subject.with_job]
            for phase in reversed(phases) if turn % 2 else phases:
                phase(figures)
                is_equal = is_equal and subject.answer() == probe
        purvey.training_jobs.act(subject.job_id, "cancel")
    _publish(figures, is_equal=is_equal, rounds=rounds)
    return 0 if is_equal else 1


class _Subject:
    """The server with its job."""

    def __init__(self, address: str, key: str, purvey: Purvey, job_id: str) -> None:
        self._address, self._key, self._purvey = address, key, purvey
        self.job_id = job_id

    def answer(self) -> str:
        """Return the greedy answer to a fixed prompt."""
        headers = {"authorization": f"Bearer {self._key}"}
        body = _question(0) | {"temperature": 0, "stream": False}
        url = f"{self._address}/v1/completions"
        answer = httpx2.post(url, headers=headers, json=body, timeout=120).raise_for_status()
        return str(answer.json()["choices"][0]["text"])

    def without_job(self, figures: Figures) -> None:
        """Measure both loads while the job is paused."""
        self._move("pause", "paused")
        figures.calm["busy"].append(self._p95_ms(1, pauses=False))
        figures.calm["paused"].append(self._p95_ms(2, pauses=True))

    def with_job(self, figures: Figures) -> None:
        """Measure the job alone, then both loads beside it."""
        self._move("resume", "running")
        time.sleep(REST_S)
        figures.alone_steps.append(self._rate(lambda: time.sleep(BLOCK_S)))
        for name, streams in (("busy", 1), ("paused", 2)):

            def load(name: str = name, streams: int = streams) -> None:
                p95_ms = self._p95_ms(streams, pauses=name == "paused")
                figures.beside[name].append(p95_ms)

            figures.beside_steps[name].append(self._rate(load))
            time.sleep(REST_S)

    def _move(self, action: str, wanted: str) -> None:
        """Pause or resume the job, and wait until it is paused, or trains."""
        job = self._purvey.training_jobs.get(self.job_id)
        if job.status == wanted:
            return
        since = time.time()
        self._purvey.training_jobs.act(self.job_id, action)  # type: ignore[arg-type]
        while self._purvey.training_jobs.get(self.job_id).status != wanted:
            time.sleep(0.1)
        while wanted == "running" and not self._rates(since):
            time.sleep(0.2)

    def _rate(self, during: Callable[[], None]) -> float:
        """Return the steps per second that the job reports while something else goes on."""
        since = time.time()
        during()
        return statistics.mean(self._rates(since + 2))  # what is told earlier began before

    def _rates(self, since: float) -> list[float]:
        events = self._purvey.training_jobs.events(self.job_id)
        batch = RECIPE["train"]["batch_size"]
        return [
            event.data["rows_per_s"] / batch
            for event in events
            if event.type == "metrics" and event.data and event.created_at >= since
        ]

    def _p95_ms(self, streams: int, *, pauses: bool) -> float:
        gaps = asyncio.run(_load(self._address, self._key, streams, pauses=pauses))
        return statistics.quantiles(gaps, n=20)[-1] * 1e3


async def _load(address: str, key: str, streams: int, *, pauses: bool) -> list[float]:
    """Ask for one block's time; return the seconds between the tokens of each answer."""
    until = time.perf_counter() + BLOCK_S
    asked = [_stream(address, key, seed, until, pauses=pauses) for seed in range(streams)]
    return [gap for gaps in await asyncio.gather(*asked) for gap in gaps]


async def _stream(address: str, key: str, seed: int, until: float, *, pauses: bool) -> list[float]:
    url, chance = urlsplit(address), random.Random(seed)  # noqa: S311 (a load, no secret)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    gaps: list[float] = []
    with contextlib.closing(writer):
        while time.perf_counter() < until:
            if pauses:
                await asyncio.sleep(chance.uniform(*PAUSES_S))
            writer.write(_request(address, key, _question(seed) | {"stream": True}))
            gaps += await _gaps(reader)
    return gaps


async def _gaps(reader: asyncio.StreamReader) -> list[float]:
    """Read one streamed answer to its end."""
    gaps, before = [], None
    while (line := await reader.readline()) != b"0\r\n":
        if not line or b'"error"' in line:
            raise RuntimeError(line.decode())
        if line.startswith(b"data: {") and b'"text":""' not in line:
            now = time.perf_counter()
            if before is not None:
                gaps.append(now - before)
            before = now
    await reader.readline()
    assert gaps, "an answer without tokens"
    return gaps


def _question(seed: int) -> dict[str, object]:
    chance = random.Random(seed)  # noqa: S311 (a prompt, no secret)
    prompt = [chance.randrange(300, SHAPE["vocab_size"]) for _ in range(PROMPT_TOKENS)]
    return {"model": MODEL, "prompt": prompt, "max_tokens": OUTPUT_TOKENS, "temperature": 1}


def _request(address: str, key: str, question: dict[str, object]) -> bytes:
    body = json.dumps(question).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {urlsplit(address).netloc}\r\n"
        f"authorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _begin_training(purvey: Purvey, folder: Path) -> str:
    text = folder / "text.jsonl"
    lines = (json.dumps({"text": topic}) for topic in topics.values())
    text.write_text("\n".join(lines), encoding="utf-8")
    dataset = purvey.datasets.create([purvey.files.upload(text).id], name="text")
    purvey.datasets.wait(dataset.id)
    job = purvey.training_jobs.create({**RECIPE, "dataset": dataset.id})
    while purvey.training_jobs.get(job.id).status != "running":
        time.sleep(0.1)
    while not any(event.type == "metrics" for event in purvey.training_jobs.events(job.id)):
        time.sleep(0.2)
    return job.id


@contextmanager
def _server(folder: Path, key: str) -> Iterator[str]:
    _write_model(folder / "models" / MODEL)
    environment = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "PURVEY_BOOTSTRAP_KEY": key,
        "PURVEY_MODEL_ROOTS": str(folder / "models"),
    }
    command = ["-m", "purvey", "serve", "--port", "0", "--data-dir", str(folder / "data")]
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        match = re.search(r"http://\S+", process.stdout.readline())
        assert match, (folder / "server.log").read_text()[-2_000:]
        try:
            yield match.group()
        finally:
            process.terminate()


def _write_model(folder: Path) -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    with torch.no_grad():  # spread the logits, so that no near-tie decides
        model.model.embed_tokens.weight.mul_(10)
    model.save_pretrained(folder)
    Tokenizer.train(topics.values(), vocabulary_size=SHAPE["vocab_size"]).save(folder)


def _publish(figures: Figures, *, is_equal: bool, rounds: int) -> None:
    shown: dict[str, object] = {"rounds": rounds, "block_s": BLOCK_S}
    ratios, kept = {}, {}
    for load in ("busy", "paused"):
        pairs = zip(figures.beside[load], figures.calm[load], strict=True)
        ratios[load] = [beside / calm for beside, calm in pairs]
        speeds = zip(figures.beside_steps[load], figures.alone_steps, strict=True)
        kept[load] = [beside / alone for beside, alone in speeds]
        shown |= {
            f"{load}_p95_ratio": statistics.median(ratios[load]),
            f"{load}_p95_ratio_95": list(bootstrap(ratios[load])),
            f"{load}_training_kept": statistics.median(kept[load]),
            f"{load}_training_kept_95": list(bootstrap(kept[load])),
            f"{load}_calm_p95_ms": spread(figures.calm[load]),
            f"{load}_beside_p95_ms": spread(figures.beside[load]),
            f"{load}_beside_steps_per_s": spread(figures.beside_steps[load]),
        }
    shown["alone_steps_per_s"] = spread(figures.alone_steps)
    met = all(
        statistics.median(ratios[load]) <= 1.5 and statistics.median(kept[load]) >= 0.5
        for load in ratios
    )
    verdict = ("met" if met else "missed") if is_equal else "TEXTS DIFFER"
    publish(
        Report(
            bar="living_together",
            workload=" ".join(__doc__.split("\n\n", 1)[1].split()),
            target="p95 between tokens <= 1.5 x calm, training keeps >= 50 % of its speed",
            verdict=verdict,
            figures=shown,
            notes=[
                "`busy` is the one stream without pauses, `paused` the two with pauses.",
                "The rule is in docs/explanation/sharing-cores.md.",
            ],
        )
    )


if __name__ == "__main__":
    sys.exit(main())
