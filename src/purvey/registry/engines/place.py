"""Where one model's engine is, comes to be, or was until it crashed; and what it may use."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from purvey.contracts.adapter import AdapterLoaded
from purvey.contracts.deployment import Device, EngineOptions
from purvey.contracts.engine import EngineClient, EngineStats, ModelLoaded
from purvey.contracts.records import ModelRecord
from purvey.errors import CapacityError

logger = logging.getLogger(__name__)

State = Literal["waiting", "loading", "ready", "leaving"]
"""`waiting`: for room in memory. `leaving`: takes nothing new and finishes what runs."""


class Key(NamedTuple):
    """One engine: tenants never share any, and neither do two ways of computing."""

    project_id: str
    model: str
    options: EngineOptions


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """What each engine may use, what all may use together, and how patient the pool is.

    Args:
        num_threads: Compute threads of one engine.
        kv_cache_bytes: Key/value cache of one engine.
        device: Where language models are computed.
        prefix_cache: Whether what it holds is used again by later prompts.
        adapter_bytes: What the adapters of one engine may take together; part of `memory_bytes`.
        kept_folder: Where weights are kept as they are computed with; "" keeps none.
        kept_bytes: What may be kept there.
        max_batch_tokens: Tokens of one step.
        memory_bytes: Memory of all engines together.
        max_loaded: Engines that may exist at one time.
        room_wait_s: How long a model may wait for room in memory.
        yield_after_s: How long the first in that queue waits for an engine to become idle
            before one in use is told to take nothing new.
        backoff_s: Pause before the second start after a crash; doubles with every crash.
        breaker_crashes: Crashes in a row after which nobody is made to wait any more.
        breaker_open_s: How long requests are then refused before one more try.
        close_timeout_s: How long an engine whose model is gone may finish what it runs.
        failpoints: Plan for every engine; empty but in tests.
    """

    num_threads: int
    kv_cache_bytes: int
    max_batch_tokens: int
    memory_bytes: int
    max_loaded: int = 16
    room_wait_s: float = 120.0
    yield_after_s: float = 2.0
    backoff_s: float = 0.5
    breaker_crashes: int = 3
    breaker_open_s: float = 30.0
    close_timeout_s: float = 10.0
    prefix_cache: bool = True
    adapter_bytes: int = 2**28
    kept_folder: str = ""
    kept_bytes: int = 0
    device: Device = "auto"
    failpoints: str = ""


@dataclass(frozen=True, kw_only=True)
class ResidentAdapter:
    """One adapter in an engine; as `ResidentEngine` says, of the adapter alone."""

    name: str
    digest: str
    state: State
    num_bytes: int
    num_users: int
    idle_s: float | None
    expires_in_s: float | None
    is_pinned: bool


@dataclass(frozen=True, kw_only=True)
class ResidentEngine:
    """One engine that holds memory or waits for some, for whoever wants to know.

    Args:
        num_bytes: Memory that is counted for it, adapters included; 0 while it waits.
        idle_s: Seconds since its last request; None while it is used or not ready.
        expires_in_s: Seconds until it leaves if nobody asks; None where it stays.
        model: What was loaded; None until then.
        adapters: Those that it holds or is getting, oldest first.
    """

    project_id: str
    name: str
    digest: str
    options: EngineOptions
    state: State
    num_bytes: int
    num_users: int
    idle_s: float | None
    expires_in_s: float | None
    is_pinned: bool
    model: ModelLoaded | None
    stats: EngineStats | None
    adapters: tuple[ResidentAdapter, ...] = ()


@dataclass(kw_only=True)
class Breaker:
    """Crashes in a row, and when the next start may be."""

    crashes: int = 0
    retry_at: float = 0.0

    def count(self, name: str, limits: EngineLimits, *, now: float) -> None:
        """Note one more crash."""
        self.crashes += 1
        if self.crashes >= limits.breaker_crashes:
            pause_s = limits.breaker_open_s
        else:
            pause_s = limits.backoff_s * 2.0 ** (self.crashes - 1)
        self.retry_at = now + pause_s
        logger.error("engine.crashed", extra={"model": name, "crashes": self.crashes})

    def require_closed(self, name: str, limits: EngineLimits, *, now: float) -> None:
        """Refuse to start what has crashed too often.

        Raises:
            CapacityError: It has, and the pause is not over.
        """
        wait_s = self.retry_at - now
        if self.crashes >= limits.breaker_crashes and wait_s > 0:
            raise CapacityError(
                f"the model {name!r} crashed {self.crashes} times in a row.",
                hint=f"It is tried again in {wait_s:.0f} s; the server's log says why it died.",
            )


@dataclass(kw_only=True, eq=False)
class AdapterPlace:
    """One adapter in the engine of its base; `held_bytes` is part of what its place holds.

    Attributes:
        loaded: What the engine said; None until then.
        dropping: The engine's forgetting of it, once that has begun.
        is_leaving: Whether it is dropped as soon as nobody uses it.
    """

    record: ModelRecord
    loaded: AdapterLoaded | None = None
    loading: "asyncio.Task[AdapterLoaded] | None" = None
    dropping: "asyncio.Task[None] | None" = None
    held_bytes: int = 0
    num_users: int = 0
    num_waiting: int = 0
    last_used: float = 0.0
    keep_alive_s: float = -1.0
    is_pinned: bool = False
    is_leaving: bool = False

    @property
    def is_idle(self) -> bool:
        """Whether it is there, nobody uses it, and it may go."""
        return self.loaded is not None and not self.num_users and self.dropping is None

    @property
    def state(self) -> State:
        """What it is doing."""
        if self.is_leaving or self.dropping is not None:
            return "leaving"
        if self.loaded is not None:
            return "ready"
        return "loading" if self.held_bytes else "waiting"

    def expires_in_s(self, *, now: float) -> float | None:
        """Return the seconds until it leaves if nobody asks; None where it stays."""
        if self.is_pinned or self.keep_alive_s < 0 or self.num_users:
            return None
        return max(0.0, self.last_used + self.keep_alive_s - now)

    def shown(self, *, now: float) -> ResidentAdapter:
        """Return what is worth knowing of it at one moment."""
        return ResidentAdapter(
            name=self.record.name,
            digest=self.record.digest,
            state=self.state,
            num_bytes=self.held_bytes,
            num_users=self.num_users,
            idle_s=max(0.0, now - self.last_used) if self.is_idle else None,
            expires_in_s=self.expires_in_s(now=now) if self.is_idle else None,
            is_pinned=self.is_pinned,
        )


@dataclass(kw_only=True, eq=False)
class Place:
    """One engine's whole life; `held_bytes` is what the budget counts for it.

    Attributes:
        adapters: Those in the engine, by digest, oldest first.
        loading_adapter: Held by the one adapter that is being loaded.
        is_own_pinned: Whether the model itself is pinned, whatever its adapters are.
        may_close: Set while nobody uses it, or when it must end although somebody does.
    """

    key: Key
    record: ModelRecord
    engine: EngineClient | None = None
    loading: "asyncio.Task[EngineClient] | None" = None
    held_bytes: int = 0
    num_users: int = 0
    num_waiting: int = 0
    last_used: float = 0.0
    loaded_at: float = 0.0
    keep_alive_s: float = -1.0
    is_own_pinned: bool = False
    is_leaving: bool = False
    breaker: Breaker = field(default_factory=Breaker)
    may_close: asyncio.Event = field(default_factory=asyncio.Event)
    adapters: dict[str, AdapterPlace] = field(default_factory=dict)
    loading_adapter: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_pinned(self) -> bool:
        """Whether it always stays: a pinned adapter keeps its base."""
        return self.is_own_pinned or any(one.is_pinned for one in self.adapters.values())

    @property
    def adapters_bytes(self) -> int:
        """What the adapters take, those that are being dropped included."""
        return sum(one.held_bytes for one in self.adapters.values())

    @property
    def dropping_bytes(self) -> int:
        """What is about to be given back."""
        return sum(one.held_bytes for one in self.adapters.values() if one.dropping is not None)

    @property
    def is_resident(self) -> bool:
        """Whether it has an engine or is getting one."""
        return self.engine is not None or self.loading is not None

    @property
    def is_idle(self) -> bool:
        """Whether it has an engine that nobody uses and that may go."""
        return self.engine is not None and not self.num_users and not self.is_leaving

    @property
    def state(self) -> State:
        """What it is doing."""
        if self.is_leaving:
            return "leaving"
        if self.engine is not None:
            return "ready"
        return "loading" if self.held_bytes else "waiting"

    def expires_in_s(self, *, now: float) -> float | None:
        """Return the seconds until it leaves if nobody asks; None where it stays.

        It stays as long as the last of its adapters does.
        """
        if self.is_pinned or self.keep_alive_s < 0 or not self.is_idle:
            return None
        left = max(0.0, self.last_used + self.keep_alive_s - now)
        for adapter in self.adapters.values():
            if adapter.dropping is None:
                stays = adapter.expires_in_s(now=now)
                if stays is None:
                    return None
                left = max(left, stays)
        return left

    def shown(self, *, now: float) -> ResidentEngine:
        """Return what is worth knowing of it at one moment."""
        engine = self.engine
        return ResidentEngine(
            project_id=self.key.project_id,
            name=self.key.model,
            digest=self.record.digest,
            options=self.key.options,
            state=self.state,
            num_bytes=self.held_bytes,
            num_users=self.num_users,
            idle_s=max(0.0, now - self.last_used) if self.is_idle else None,
            expires_in_s=self.expires_in_s(now=now),
            is_pinned=self.is_pinned,
            model=engine.model if engine else None,
            stats=engine.stats if engine else None,
            adapters=tuple(one.shown(now=now) for one in self.adapters.values()),
        )
