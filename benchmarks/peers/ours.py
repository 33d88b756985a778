"""Our side of the bars: an engine process over its socket, and a whole server over HTTP."""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.peers.answer import Answer
from benchmarks.peers.cache import cache, child_environment
from benchmarks.peers.child import cpu_seconds
from benchmarks.peers.model import model_folder
from benchmarks.peers.server import HttpPeer, free_port
from purvey.client.purvey import Purvey
from purvey.contracts.adapter import LoadAdapter
from purvey.contracts.deployment import Precision
from purvey.contracts.engine import Delta, Generate, LoadModel, TokenPrompt
from purvey.contracts.model import ModelSource
from purvey.contracts.sampling import Sampling
from purvey.engine.client import LocalEngineLauncher

KEY = "pv-benchmarks-0123456789abcdef0123456789abcdef"
KV_CACHE_BYTES = 512 * 2**20
MAX_BATCH_TOKENS = 512
ADAPTER_BYTES = 512 * 2**20
NUM_LOGPROBS = 20


class OurEngine:
    """An engine process on the shared model, as a server would start it. A context manager.

    Args:
        precision: What it computes in.
        threads: Its compute threads.
        folder: Another model than the shared one.
        prefix_cache: Whether known beginnings are looked for.
    """

    def __init__(
        self,
        precision: Precision,
        *,
        threads: int,
        folder: Path | None = None,
        prefix_cache: bool = True,
    ) -> None:
        where = folder or model_folder()
        load = LoadModel(
            source=ModelSource(name="bench", folder=str(where), digest=""),
            num_threads=threads,
            kv_cache_bytes=KV_CACHE_BYTES,
            max_batch_tokens=MAX_BATCH_TOKENS,
            precision=precision,
            adapter_bytes=ADAPTER_BYTES,
            prefix_cache=prefix_cache,
        )
        self._runner = asyncio.Runner()
        self._engine = self._runner.run(LocalEngineLauncher(cwd=where).launch(load))
        self._asked = 0

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        *,
        with_ids: bool = False,
        adapters: Sequence[str] = (),
    ) -> Answer:
        """Continue each prompt greedily, all at once; ids cost time and are not always told.

        Args:
            prompts: Token ids.
            max_tokens: Tokens after each.
            with_ids: Whether the answer tells them.
            adapters: One for each prompt, by name; none for the base alone.
        """
        names = adapters or [""] * len(prompts)
        return self._runner.run(self._generate(prompts, max_tokens, names, with_ids=with_ids))

    def load_adapter(self, name: str, folder: Path) -> int:
        """Load an adapter beside the base, and return the bytes it takes."""
        self._asked += 1
        request = LoadAdapter(request_id=f"bench-{self._asked}", adapter=name, folder=str(folder))
        return self._runner.run(self._engine.load_adapter(request)).num_bytes

    def first_logprobs(self, prompts: Sequence[Sequence[int]]) -> list[dict[int, float]]:
        """Return the best tokens of each prompt's first output with their log-probabilities."""
        return [self._runner.run(self._first(prompt)) for prompt in prompts]

    @property
    def weights_bytes(self) -> int:
        """Weights as they are computed with."""
        return self._engine.model.weights_bytes

    @property
    def precision(self) -> str:
        """What it computes in, as it says itself."""
        return self._engine.model.precision

    def cpu_seconds(self) -> float:
        """Processor seconds of the engine process so far."""
        return cpu_seconds(self._engine.pid)

    async def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        adapters: Sequence[str],
        *,
        with_ids: bool,
    ) -> Answer:
        start = time.perf_counter()
        tokens: list[list[int]] = [[] for _ in prompts]
        moments: list[list[float]] = [[] for _ in prompts]

        async def one(number: int, prompt: Sequence[int]) -> None:
            request = self._request(
                prompt, max_tokens, num_logprobs=0 if with_ids else None, adapter=adapters[number]
            )
            async for event in self._engine.generate(request):
                if isinstance(event, Delta):
                    moments[number] += [time.perf_counter() - start] * event.num_tokens
                    tokens[number] += [token.token_id for token in event.tokens]

        await asyncio.gather(*(one(i, prompt) for i, prompt in enumerate(prompts)))
        return Answer(tokens=tokens, moments_s=moments)

    async def _first(self, prompt: Sequence[int]) -> dict[int, float]:
        request = self._request(prompt, 1, num_logprobs=NUM_LOGPROBS)
        found: dict[int, float] = {}
        async for event in self._engine.generate(request):
            if isinstance(event, Delta):
                for token in event.tokens:
                    found |= {one.token_id: one.logprob for one in token.alternatives}
        return found

    def _request(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        *,
        num_logprobs: int | None,
        adapter: str = "",
    ) -> Generate:
        self._asked += 1
        return Generate(
            request_id=f"bench-{self._asked}",
            prompt=TokenPrompt(tokens=tuple(prompt)),
            adapter=adapter,
            sampling=Sampling(temperature=0.0, max_tokens=max_tokens, num_logprobs=num_logprobs),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._runner.run(self._engine.close(timeout_s=10))
        self._runner.close()


def our_server(precision: Precision, *, threads: int) -> HttpPeer:
    """Start `purvey serve` on the shared model, registered and loaded, ledger and all."""
    port, data = free_port(), cache() / "purvey-data"
    shutil.rmtree(data, ignore_errors=True)
    own = {
        "PURVEY_PORT": str(port),
        "PURVEY_DATA_DIR": str(data),
        "PURVEY_MODEL_ROOTS": str(model_folder().parent),
        "PURVEY_BOOTSTRAP_KEY": KEY,
        "PURVEY_PRECISION": precision,
        "PURVEY_ENGINE_THREADS": str(threads),
        "PURVEY_KV_CACHE_BYTES": str(KV_CACHE_BYTES),
    }
    peer = HttpPeer(
        f"purvey-{precision}",
        [sys.executable, "-m", "purvey", "serve"],
        child_environment(threads, own),
        base_url=f"http://127.0.0.1:{port}",
        health="/readyz",
        model="bench",
        key=KEY,
    )
    with Purvey(peer.base_url, KEY) as client:
        client.models.register("bench", os.fspath(model_folder()))
    return peer
