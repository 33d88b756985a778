"""The control plane's end of an engine process: many requests over one link, told apart by id.

Torch-free. One task per engine reads the link and hands each reply to the request whose id
it carries; a reply that nobody asked for means that the two ends disagree, and ends the engine.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from purvey.contracts.adapter import AdapterDropped, AdapterLoaded, DropAdapter, LoadAdapter
from purvey.contracts.embedding import Embed, Embedded, Rank, Ranked
from purvey.contracts.engine import (
    Answer,
    Cancel,
    Classified,
    Classify,
    Delta,
    Drain,
    EngineStats,
    Explain,
    Explained,
    Finished,
    FromEngine,
    Generate,
    GenerationEvent,
    LoadFailed,
    LoadModel,
    ModelLoaded,
    Question,
    Refused,
    Score,
    Scored,
    Started,
    Tokenize,
    Tokenized,
    Waiting,
)
from purvey.contracts.limits import LIMITS
from purvey.contracts.speech.transcription import (
    Heard,
    Transcribe,
    Transcribed,
    TranscriptEvent,
)
from purvey.engine.awaited import Awaited
from purvey.engine.spare import Spare, end
from purvey.errors import (
    CapacityError,
    InternalError,
    PurveyError,
    ShuttingDownError,
    WorkerCrashedError,
    from_code,
)
from purvey.ipc.child import Child, spawn, thread_limits, worker_command
from purvey.ipc.sharing import UNSHARED, Sharing
from purvey.telemetry import metrics

logger = logging.getLogger(__name__)

A = TypeVar(
    "A",
    Scored,
    Classified,
    Embedded,
    Ranked,
    Tokenized,
    Explained,
    AdapterLoaded,
    AdapterDropped,
)
_SPARE = ("--spare",)
_STREAMED, _NOT_LAST = (Started, Delta, Finished), (Started, Delta, Heard)
_OF_LOADING = (Waiting, ModelLoaded, LoadFailed)
_NUM_REMEMBERED = 16_384
SILENCE_S = 60.0
"""How long an engine that has requests may say nothing, not even its statistics of every second."""
_LOOKS = 6
"""Looks that make up this silence: counting them, a server that was itself stopped kills nobody."""
_STUCK_LOOKS = 5 * _LOOKS
"""Looks for which an engine may have work and finish no layer, whatever its other threads say."""


class LocalEngineLauncher:
    """Starts engines as child processes of this one.

    Args:
        cwd: Working directory of the processes; nothing is written there by intent.
        load_timeout_s: Longest time a model may take to load.
        silence_s: Longest time that a loaded engine with requests may say nothing.
        command: What to run instead of `python -m purvey.worker engine`.
        sharing: Hears when they have work, and says which processors they may use.
    """

    def __init__(
        self,
        *,
        cwd: Path,
        load_timeout_s: float = 900.0,
        silence_s: float = SILENCE_S,
        command: Sequence[str] | None = None,
        sharing: Sharing = UNSHARED,
    ) -> None:
        self._cwd, self._command, self._sharing = cwd, command, sharing
        self._load_timeout_s, self._silence_s = load_timeout_s, silence_s
        self._spares: dict[int, Spare] = {}

    async def keep_spare(self, num_threads: int) -> None:
        """Keep a process ready for the next launch with so many threads, until cancelled."""
        spare = Spare(partial(self._spawn, num_threads, *_SPARE))
        self._spares[num_threads] = spare
        try:
            await spare.keep()
        finally:
            del self._spares[num_threads]

    async def launch(self, load: LoadModel) -> "IpcEngine":
        """Start an engine and wait until its model is loaded.

        Raises:
            PurveyError: The error of `LoadFailed`, or `WorkerCrashedError`.
        """
        child, messages = await self._start(load.num_threads)
        self._sharing.add_engine(child)
        self._sharing.tell_busy(child, is_busy=True)  # somebody waits for it
        loaded: ModelLoaded | None = None
        try:
            async with asyncio.timeout(self._load_timeout_s):
                await child.send(load)
                loaded = await self._first_reply(messages)
        except TimeoutError as error:
            raise WorkerCrashedError("the engine took too long to load its model") from error
        finally:
            if loaded is None:  # whatever it was, no process is left behind
                await end(child)
        logger.info("engine.loaded", extra={"model": load.source.name, "pid": child.pid})
        self._sharing.tell_busy(child, is_busy=False)
        return IpcEngine(child, messages, loaded, silence_s=self._silence_s, sharing=self._sharing)

    async def _start(self, num_threads: int) -> tuple[Child[FromEngine], AsyncIterator[FromEngine]]:
        """Take the process that waits, if one does, or start one."""
        spare = self._spares.get(num_threads)
        started = spare.take() if spare else None
        if started is not None:
            return started.child, started.messages
        child = await self._spawn(num_threads)
        return child, child.messages()

    async def _spawn(self, num_threads: int, *arguments: str) -> Child[FromEngine]:
        return await spawn(
            "engine",
            incoming=FromEngine,
            env=thread_limits(num_threads),
            cwd=self._cwd,
            command=(*(self._command or worker_command("engine")), *arguments),
        )

    async def _first_reply(self, messages: AsyncIterator[FromEngine]) -> ModelLoaded:
        match await anext(messages, None):
            case ModelLoaded() as loaded:
                return loaded
            case LoadFailed(code=code, message=message):
                raise from_code(code, message)
            case None:
                raise WorkerCrashedError("the engine process died while it loaded its model")
            case other:
                raise InternalError(f"an engine began with {type(other).__name__}")


class IpcEngine:
    """An `EngineClient` whose model lives in a child process.

    Invariant: every id in `_inboxes` belongs to a request that somebody awaits; whatever
    ends a request takes its id out.
    """

    def __init__(
        self,
        child: Child[FromEngine],
        messages: AsyncIterator[FromEngine],
        model: ModelLoaded,
        *,
        silence_s: float,
        sharing: Sharing,
    ) -> None:
        self.pid = child.pid
        self._sharing = sharing
        self._child, self._messages, self._model = child, messages, model
        self._stats: EngineStats | None = None
        # Unbounded: an answer is bounded by the context, and blocking one would block all.
        self._inboxes: dict[str, Awaited[Answer | None]] = {}
        self._forgotten: OrderedDict[str, None] = OrderedDict()
        self._ended: PurveyError | None = None
        self._is_draining = False
        self._sending: set[asyncio.Task[None]] = set()
        self._num_silent_looks = self._num_stuck_looks = 0
        self._watch = asyncio.create_task(self._end_when_frozen(silence_s), name="engine-watch")
        self._pump = asyncio.create_task(self._read_replies(), name=f"engine-{child.pid}")

    @property
    def model(self) -> ModelLoaded:
        """What was loaded."""
        return self._model

    @property
    def stats(self) -> EngineStats | None:
        """The newest statistics, if any came yet."""
        return self._stats

    @property
    def is_alive(self) -> bool:
        """Whether the process still answers."""
        return self._ended is None

    async def generate(self, request: Generate) -> AsyncIterator[GenerationEvent]:
        """Stream one generation; closing the iterator early cancels the request."""
        inbox = self._open(request.request_id)
        try:
            await self._child.send(request)
            while True:
                told = await inbox.get()
                if type(told) is Delta:  # nearly all are
                    yield told
                    continue
                answer = self._checked(request.request_id, told)
                if not isinstance(answer, _STREAMED):
                    raise self._disagree(answer)
                yield answer
                if isinstance(answer, Finished):
                    return
        finally:
            self._close_inbox(request.request_id)

    async def score(self, request: Score) -> Scored:
        """Return log-probabilities of given outputs."""
        return await self._ask(request, Scored)

    async def classify(self, request: Classify) -> Classified:
        """Return class probabilities."""
        return await self._ask(request, Classified)

    async def transcribe(self, request: Transcribe) -> AsyncIterator[TranscriptEvent]:
        """Stream what a recording says; closing the iterator early cancels the request."""
        inbox = self._open(request.request_id)
        try:
            await self._child.send(request)
            while True:
                answer = self._checked(request.request_id, await inbox.get())
                if not isinstance(answer, (Heard, Transcribed)):
                    raise self._disagree(answer)
                yield answer
                if isinstance(answer, Transcribed):
                    return
        finally:
            self._close_inbox(request.request_id)

    async def embed(self, request: Embed) -> Embedded:
        """Return vectors of texts."""
        return await self._ask(request, Embedded)

    async def rank(self, request: Rank) -> Ranked:
        """Return how well the texts of pairs fit."""
        return await self._ask(request, Ranked)

    async def tokenize(self, request: Tokenize) -> Tokenized:
        """Return token ids."""
        return await self._ask(request, Tokenized)

    async def explain(self, request: Explain) -> Explained:
        """Return an attribution with its faithfulness."""
        return await self._ask(request, Explained)

    async def load_adapter(self, request: LoadAdapter) -> AdapterLoaded:
        """Make an adapter ready; concurrent calls for one of them load it once."""
        return await self._ask(request, AdapterLoaded)

    async def drop_adapter(self, request: DropAdapter) -> AdapterDropped:
        """Forget an adapter, once nothing computes with it."""
        return await self._ask(request, AdapterDropped)

    async def close(self, *, timeout_s: float) -> None:
        """Drain, then end the process; kill it when the time has passed."""
        self._is_draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._child.send(Drain())
                await self._child.wait()
        except (TimeoutError, WorkerCrashedError):
            logger.warning("engine.killed", extra={"pid": self.pid})
        finally:
            self._child.kill()
        await self._child.wait()
        await self._pump

    async def _ask(self, request: Question, kind: type[A]) -> A:
        inbox = self._open(request.request_id)
        try:
            await self._child.send(request)
            answer = self._checked(request.request_id, await inbox.get())
        finally:
            self._close_inbox(request.request_id)
        if not isinstance(answer, kind):
            raise self._disagree(answer)
        return answer

    def _open(self, request_id: str) -> Awaited[Answer | None]:
        if self._ended is not None:
            raise self._ended
        if self._is_draining:
            raise ShuttingDownError("the engine takes no new requests")
        most = LIMITS.queued_requests
        if len(self._inboxes) >= most:  # no word to the engine: it has enough to do
            raise CapacityError(f"{most} requests are running or waiting already.")
        assert request_id not in self._inboxes, "a request id was used twice"
        inbox: Awaited[Answer | None] = Awaited()
        self._inboxes[request_id] = inbox
        self._sharing.tell_busy(self._child, is_busy=True)
        return inbox

    def _checked(self, request_id: str, answer: Answer | None) -> Answer:
        """Return an answer that is one; a last one takes the request's inbox away."""
        if answer is None:
            raise self._ended or WorkerCrashedError("the engine process died")
        if not isinstance(answer, _NOT_LAST):
            self._inboxes.pop(request_id, None)
        if isinstance(answer, Refused):
            raise from_code(answer.code, answer.message, param=answer.param)
        return answer

    def _close_inbox(self, request_id: str) -> None:
        """Cancel a request that has not had its last answer."""
        is_unanswered = self._inboxes.pop(request_id, None) is not None
        self._sharing.tell_busy(self._child, is_busy=bool(self._inboxes))
        if not is_unanswered or self._ended is not None:
            return
        self._forgotten[request_id] = None  # answers that are under way still come
        if len(self._forgotten) > _NUM_REMEMBERED:
            self._forgotten.popitem(last=False)
        self._background(self._cancel(request_id))

    async def _cancel(self, request_id: str) -> None:
        try:
            await self._child.send(Cancel(request_id=request_id))
        except WorkerCrashedError:
            logger.debug("engine.gone", extra={"pid": self.pid})

    def _background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _read_replies(self) -> None:
        error: PurveyError = WorkerCrashedError("the engine process died")
        try:
            async for message in self._messages:
                self._num_silent_looks = 0
                self._dispatch(message)
        except InternalError as wrong:
            logger.exception("engine.disagreed", extra={"pid": self.pid, "reason": wrong.message})
            error = wrong
        except Exception:
            logger.exception("engine.reply_broke", extra={"pid": self.pid})
            metrics.BROAD_CATCHES.labels(where="engine.client").inc()
            error = InternalError("a reply of the engine could not be taken")
        self._ended = error
        self._watch.cancel()
        for inbox in self._inboxes.values():
            inbox.put(None)
        if not self._is_draining:  # else `close` waits for it to exit by itself
            await end(self._child)

    async def _end_when_frozen(self, silence_s: float) -> None:
        """Kill an engine that is stopped or locked up; its requests then end as for a death.

        Statistics come from a thread of their own: they show that the process lives, and by
        their count of steps whether its loop does.
        """
        seen: EngineStats | None = None
        while self._num_silent_looks < _LOOKS and self._num_stuck_looks < _STUCK_LOOKS:
            await asyncio.sleep(silence_s / _LOOKS)
            self._num_silent_looks = self._num_silent_looks + 1 if self._inboxes else 0
            is_stuck = _is_stuck(seen, self._stats)
            self._num_stuck_looks = self._num_stuck_looks + 1 if is_stuck else 0
            seen = self._stats
        reason = "silent" if self._num_silent_looks >= _LOOKS else "stuck"
        timeout_s = silence_s if reason == "silent" else silence_s * _STUCK_LOOKS / _LOOKS
        logger.error(
            "engine.frozen", extra={"pid": self.pid, "timeout_s": timeout_s, "reason": reason}
        )
        self._child.kill()

    def _dispatch(self, message: FromEngine) -> None:
        if type(message) is Delta:  # nearly all are
            inbox = self._inboxes.get(message.request_id)
            if inbox is not None:
                inbox.put(message)
                return
        if isinstance(message, EngineStats):
            self._stats = message
            return
        if isinstance(message, _OF_LOADING):
            raise InternalError("an engine loaded its model twice")
        inbox = self._inboxes.get(message.request_id)
        if inbox is not None:
            inbox.put(message)
        elif message.request_id not in self._forgotten:
            raise InternalError("an engine answered a request that nobody made")
        elif not isinstance(message, _NOT_LAST):
            del self._forgotten[message.request_id]  # that was its last answer

    def _disagree(self, answer: Answer) -> InternalError:
        self._child.kill()  # its other answers are not to be trusted either
        return InternalError(f"an engine answered with {type(answer).__name__}")


def _is_stuck(before: EngineStats | None, now: EngineStats | None) -> bool:
    """Tell whether there is work and no layer was finished: statistics alone are no sign of it."""
    if before is None or now is None:
        return False
    is_going_on = (now.steps, now.layers) != (before.steps, before.layers)
    return not is_going_on and now.running + now.waiting > 0
