"""The adapters of a scripted engine: folders are looked at, and nothing of them is computed."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from purvey.contracts.adapter import AdapterLoaded, LoadAdapter
from purvey.errors import AdapterNotLoadedError, CapacityError, InvalidCheckpointError

_BYTES_PER_RANK = 64


class _Config(msgspec.Struct, frozen=True):
    """What is read of `adapter_config.json`."""

    rank: int = msgspec.field(name="r")


class ScriptedAdapters:
    """What is loaded, and how many requests compute with each.

    Args:
        adapter_bytes: What they may take together.
    """

    def __init__(self, *, adapter_bytes: int) -> None:
        self._adapter_bytes = adapter_bytes
        self._loaded: dict[str, AdapterLoaded] = {}
        self._running: Counter[str] = Counter()

    @property
    def digests(self) -> tuple[str, ...]:
        """Those that requests may name."""
        return tuple(sorted(self._loaded))

    def load(self, request: LoadAdapter) -> AdapterLoaded:
        """Take an adapter in; one that is loaded already changes nothing."""
        known = self._loaded.get(request.adapter) or self._read(request)
        self._loaded[request.adapter] = known
        return msgspec.structs.replace(known, request_id=request.request_id)

    async def drop(self, adapter: str) -> None:
        """Forget an adapter, and wait until nothing computes with it."""
        self._loaded.pop(adapter, None)
        while self._running[adapter]:  # noqa: ASYNC110 (requests end in other loops' threads)
            await asyncio.sleep(0.001)

    @contextmanager
    def held(self, adapter: str) -> Iterator[None]:
        """Count a request that computes with an adapter, or with none ("")."""
        if adapter and adapter not in self._loaded:
            raise AdapterNotLoadedError(f"the adapter {adapter!r} is not loaded.", param="model")
        self._running[adapter] += 1
        try:
            yield
        finally:
            self._running[adapter] -= 1

    def _read(self, request: LoadAdapter) -> AdapterLoaded:
        folder = Path(request.folder)
        try:
            text = (folder / "adapter_config.json").read_bytes()
            config = msgspec.json.decode(text, type=_Config)
        except (OSError, msgspec.MsgspecError):
            message = "adapter_config.json is not usable."
            raise InvalidCheckpointError(message, param="model") from None
        used = sum(one.num_bytes for one in self._loaded.values())
        num_bytes = config.rank * _BYTES_PER_RANK
        if used + num_bytes > self._adapter_bytes:
            raise CapacityError(f"adapters would take {used + num_bytes} bytes.")
        return AdapterLoaded(
            request_id=request.request_id,
            adapter=request.adapter,
            rank=config.rank,
            num_bytes=num_bytes,
            has_chat_template=(folder / "chat_template.jinja").is_file(),
        )
