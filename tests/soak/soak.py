"""One soak: a server in a process of its own, portions of mixed requests, a sample after each."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import psutil
from openai import AsyncOpenAI

from purvey.contracts.model import MANIFEST_NAME, ModelManifest, TextSpec
from purvey.testing.model_folder import TENSOR, safetensors_bytes, write_plausible_folder
from tests.soak.analysis import Sample
from tests.soak.book import ENDLESS, Book
from tests.soak.customer import Customer
from tests.soak.mistakes import mistakes
from tests.soak.rude import Rude
from tests.soak.soaked_server import KEY

SERVER = Path(__file__).with_name("soaked_server.py")
NUM_CLIENTS = 16
PATIENCE_S = 60.0
WARM_UP = 10 * NUM_CLIENTS
"""Errands before the first sample: pools of threads and connections are full by then."""
ROWS = b'{"messages":[{"role":"user","content":"%d?"},{"role":"assistant","content":"%d."}]}\n'


@dataclass(frozen=True, kw_only=True)
class Soaked:
    """A server under a soak.

    Attributes:
        root: Folder of everything it writes.
        log: What it has logged.
    """

    root: Path
    base_url: str
    process: psutil.Process
    log: Path

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """Read the database beside the server."""
        path = self.root / "data" / "purvey.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            yield connection

    async def probe(self) -> dict[str, Any]:  # JSON values
        """Ask the process about itself."""
        reader, writer = await asyncio.open_unix_connection(self.root / "probe", limit=2**24)
        writer.write(b"\n")
        told: dict[str, Any] = json.loads(await reader.readline())
        writer.close()
        return told


@contextmanager
def soaked(root: Path, *options: str) -> Iterator[Soaked]:
    """Run a server in `root` until the block ends; it must then end well by itself."""
    for part in ("models", "tmp"):
        (root / part).mkdir()
    log = root / "log"
    environment = {"PATH": os.defpath, "HOME": str(root), "TMPDIR": str(root / "tmp")}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, str(SERVER), str(root), *options],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            base_url = process.stdout.readline().strip()
            assert base_url, log.read_text()[-3_000:]
            yield Soaked(root=root, base_url=base_url, process=psutil.Process(process.pid), log=log)
            process.stdin.close()
            assert process.wait(timeout=60) == 0, log.read_text()[-3_000:]
        finally:
            process.kill()


class Soak:
    """The clients of one server, and the samples that were taken of it.

    Args:
        server: Who is asked.
        seed: Decides everything that is chosen by chance.
    """

    def __init__(self, server: Soaked, *, seed: int) -> None:
        self.book, self.samples = Book(), list[Sample]()
        self._server, self._seed, self._portion = server, seed, 0
        self._dataset = self._training_file = ""

    async def prepare(self) -> None:
        """Register models, store what jobs are made of, and use everything once."""
        models = self._server.root / "models"
        for name in ("echo", ENDLESS):
            write_plausible_folder(models / name)
        _write_classifier(models / "mail")
        async with self._customer(_chance(self._seed)) as customer:
            for name in ("echo", ENDLESS, "mail"):
                body = {"id": name, "source": str(models / name)}
                await customer.ask("POST", "/v1/models", json=body)
            rows = b"".join(ROWS % (i, i) for i in range(12))
            self._training_file = await self._store(customer, "fine-tune", rows)
            source = await self._store(customer, "user_data", b"text,label\nhi,ham\n")
            made = await customer.json("POST", "/v1/datasets", json={"file_ids": [source]})
            self.book.metered("dataset")
            self._dataset = made["id"]
            while (await customer.json("GET", f"/v1/datasets/{made['id']}"))["status"] != "ready":
                pass
        async with self._customer(_chance(self._seed)) as customer:
            for errand, _ in customer.errands:
                await errand()
            for mistake in range(len(mistakes(customer.chance))):
                await self._err(customer, mistake)
            for way in self._rude(customer.chance).ways:
                await way()
        await self.portion(WARM_UP)
        await self.rest()

    async def portion(self, num_errands: int) -> None:
        """Have every client run its share of errands, at once, and leave."""
        self._portion += 1
        each = -(-num_errands // NUM_CLIENTS)
        async with asyncio.TaskGroup() as clients:
            for number in range(NUM_CLIENTS):
                chance = _chance(self._seed, self._portion, number)
                clients.create_task(self._client(chance, each))

    async def rest(self) -> None:
        """Wait until the server holds no more than at first, as long as patience lasts; sample."""
        deadline, before = time.monotonic() + PATIENCE_S, None
        while True:
            sample = await self.sample()
            first = self.samples[0] if self.samples else before
            is_at_rest = first is not None and not _more(sample, first)
            if is_at_rest or time.monotonic() > deadline:
                break
            before = sample
            await asyncio.sleep(0.25)
        self.samples.append(sample)
        with (self._server.root / "samples.jsonl").open("a") as stream:
            stream.write(json.dumps(asdict(sample)) + "\n")

    async def sample(self) -> Sample:
        """Look at the server once."""
        told, process, root = await self._server.probe(), self._server.process, self._server.root
        data = root / "data"
        with self._server.database() as connection:
            rows = sum(_count(connection, table) for table in _tables(connection))
        asides = [p for p in data.rglob("*") if p.name.startswith(".") and p.is_file()]
        left = [*asides, *(root / "tmp").iterdir(), *(data / "jobs").iterdir()]
        return Sample(
            requests=self.book.requests,
            rss_bytes=process.memory_info().rss,
            blocks=told["blocks"],
            fds=process.num_fds(),
            threads=process.num_threads() - told["pooled"],
            tasks=told["tasks"],
            tables=told["tables"],
            temporary=tuple(sorted(str(p.relative_to(root)) for p in left)),
            database_bytes=sum(p.stat().st_size for p in data.glob("purvey.db*")),
            rows=rows,
        )

    async def differences(self) -> list[str]:
        """Compare the ledger with what the clients have counted."""
        async with self._customer(_chance(0)) as customer:
            sums = [
                (await customer.json("GET", "/v1/usage", params={"by": by}))["data"]
                for by in ("kind", "model")
            ]
        by_kind, by_model = ({total["group"]: total for total in data} for data in sums)
        return self.book.differences(by_kind, by_model)

    async def _client(self, chance: Random, num_errands: int) -> None:
        async with self._customer(chance) as customer:
            rude = self._rude(chance)
            errands, weights = zip(*customer.errands, strict=True)
            for _ in range(num_errands):
                dice = chance.random()
                if dice < 0.10:
                    await chance.choice(rude.ways)()
                elif dice < 0.25:
                    await self._err(customer, chance.randrange(35))
                else:
                    await chance.choices(errands, weights)[0]()

    async def _err(self, customer: Customer, number: int) -> None:
        mistake = mistakes(customer.chance)[number]
        await customer.ask(mistake.method, mistake.path, mistake.status, **mistake.request)
        if mistake.meters:
            self.book.metered(mistake.meters)

    async def _store(self, customer: Customer, purpose: str, content: bytes) -> str:
        files = {"file": ("rows", content), "purpose": (None, purpose)}
        file_id: str = (await customer.json("POST", "/v1/files", files=files))["id"]
        return file_id

    def _rude(self, chance: Random) -> Rude:
        address = urlsplit(self._server.base_url)
        assert address.hostname is not None
        assert address.port is not None
        return Rude(
            host=address.hostname, port=address.port, key=KEY, book=self.book, chance=chance
        )

    @asynccontextmanager
    async def _customer(self, chance: Random) -> AsyncIterator[Customer]:
        base_url = self._server.base_url
        async with (
            httpx2.AsyncClient(
                base_url=base_url,
                headers={"authorization": f"Bearer {KEY}"},
                timeout=PATIENCE_S,
                verify=False,
            ) as http,
            AsyncOpenAI(
                base_url=f"{base_url}/v1",
                api_key=KEY,
                max_retries=0,
                http_client=httpx2.AsyncClient(timeout=PATIENCE_S, verify=False),
            ) as sdk,
        ):
            yield Customer(
                http=http,
                sdk=sdk,
                book=self.book,
                chance=chance,
                dataset=self._dataset,
                training_file=self._training_file,
            )


def _chance(*seeds: int) -> Random:
    return Random(" ".join(map(str, seeds)))  # noqa: S311 (a soak is repeated by its seed)


def _write_classifier(folder: Path) -> None:
    folder.mkdir()
    manifest = ModelManifest(
        family="text-ngrams",
        task="text-classification",
        labels=("ham", "spam"),
        inputs={"input": TextSpec()},
        is_calibrated=True,
    )
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    (folder / "model.safetensors").write_bytes(safetensors_bytes({"weight": TENSOR}))


def _tables(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return [name for (name,) in found]


def _count(connection: sqlite3.Connection, table: str) -> int:
    (number,) = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608
    return int(number)


def _more(sample: Sample, first: Sample) -> bool:
    """Whether something goes on, or is held, that was not at first."""
    grown = (
        sample.fds > first.fds
        or sample.tables != first.tables
        or any(n > first.tasks.get(t, 0) for t, n in sample.tasks.items())
    )
    return grown or any("run_asgi" in name or name.startswith("run-") for name in sample.tasks)
