"""A tracking server, by the REST API of MLflow: the five calls that telling a run takes.

The API rather than the `mlflow-skinny` package: that brings twenty packages and an HTTP client of
its own, and is written for threads, where these calls are a hundred lines beside the one way out.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode

import msgspec

from purvey.contracts.limits import LIMITS
from purvey.errors import UpstreamNotAllowedError
from purvey.network.sites import Site

BASE = "/api/2.0/mlflow"
PARAM = "mlflow.url"
METRICS_AT_ONCE, PARAMS_AT_ONCE = 800, 100
"""Of one `log-batch`, which takes 1,000 metrics, 100 parameters and 100 tags, 1,000 in all."""
_ANSWER_BYTES = 4 * 2**20
_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_OURS = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    }
)
T = TypeVar("T")
RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]


class RefusedError(Exception):
    """The server is well, and does not take what it was told: told again, it would not either.

    Args:
        code: The server's, empty where it gave none.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number at a step; `at` is in epoch seconds."""

    name: str
    value: float
    step: int
    at: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the server keeps it."""

    id: str
    tags: Mapping[str, str]


class Mlflow:
    """The tracking server of the settings.

    Args:
        site: The way to it.
        authorization: What it is shown, if anything. Never logged.
        experiment: The experiment of all runs.
    """

    def __init__(self, site: Site, *, authorization: str | None, experiment: str) -> None:
        self._site, self._experiment = site, experiment
        self._headers = {"content-type": "application/json"}
        if authorization is not None:
            self._headers["authorization"] = authorization

    async def close(self) -> None:
        """Close idle connections."""
        await self._site.close()

    async def experiment_id(self) -> str:
        """Return the experiment's id; it is made if it is not there.

        Raises:
            UpstreamNotAllowedError: The server is not there or not well.
            RefusedError: It has deleted the experiment, or makes none.
        """
        asked = {"experiment_name": self._experiment}
        try:
            found = (await self._ask("GET", "experiments/get-by-name", asked, _Found)).experiment
        except RefusedError as error:
            if error.code != _ABSENT:
                raise
            asked = {"name": self._experiment}
            return (await self._ask("POST", "experiments/create", asked, _Made)).experiment_id
        if found.lifecycle_stage != "active":
            raise RefusedError("DELETED")
        return found.experiment_id

    async def find_run(self, experiment_id: str, tag: str, value: str) -> Run | None:
        """Return the run that has a tag, deleted or not; None where there is none.

        Raises:
            UpstreamNotAllowedError: The server is not there or not well.
            RefusedError: It cannot search.
        """
        asked = {
            "experiment_ids": [experiment_id],
            "filter": f"tags.`{tag}` = '{value}'",
            "run_view_type": "ALL",
            "max_results": 1,
        }
        found = (await self._ask("POST", "runs/search", asked, _RunsFound)).runs
        return _run(found[0]) if found else None

    async def create_run(
        self, experiment_id: str, *, name: str, began_at: float, tags: Mapping[str, str]
    ) -> Run:
        """Begin a run.

        Raises:
            UpstreamNotAllowedError: The server is not there or not well.
            RefusedError: It takes no run.
        """
        asked = {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": _ms(began_at),
            "tags": _pairs(tags),
        }
        return _run((await self._ask("POST", "runs/create", asked, _RunMade)).run)

    async def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[Metric] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Tell a part of a run, at most as much as one call takes.

        Raises:
            UpstreamNotAllowedError: The server is not there or not well.
            RefusedError: It does not take it.
        """
        asked = {
            "run_id": run_id,
            "metrics": [
                {"key": m.name, "value": m.value, "step": m.step, "timestamp": _ms(m.at)}
                for m in metrics
            ],
            "params": _pairs(params or {}),
            "tags": _pairs(tags or {}),
        }
        await self._ask("POST", "runs/log-batch", asked, _Nothing)

    async def update(self, run_id: str, status: RunStatus, *, ended_at: float | None) -> None:
        """Say where a run stands.

        Raises:
            UpstreamNotAllowedError: The server is not there or not well.
            RefusedError: It does not take it.
        """
        asked = {"run_id": run_id, "status": status}
        end = {} if ended_at is None else {"end_time": _ms(ended_at)}
        await self._ask("POST", "runs/update", asked | end, _Nothing)

    async def _ask(self, method: str, path: str, asked: Mapping[str, Any], told: type[T]) -> T:
        try:
            async with asyncio.timeout(LIMITS.fetch_s):
                status, content = await self._answer(method, path, asked)
        except TimeoutError:
            raise _unwell("takes too long") from None
        try:
            if status == HTTPStatus.OK:
                return msgspec.json.decode(content, type=told)
            code = msgspec.json.decode(content, type=_Error).error_code
        except msgspec.MsgspecError:
            raise _unwell(f"answers {status}, and what is not understood") from None
        if status in _OURS:
            raise RefusedError(code)
        raise _unwell(f"answers {status}")

    async def _answer(self, method: str, path: str, asked: Mapping[str, Any]) -> tuple[int, bytes]:
        target, body = f"{BASE}/{path}", b""
        if method == "GET":
            target += f"?{urlencode(asked)}"
        else:
            body = msgspec.json.encode(asked)
        content = bytearray()
        opened = self._site.ask(method, target, param=PARAM, headers=self._headers, body=body)
        async with opened as answer:
            async for piece in answer.pieces:
                content += piece
                if len(content) > _ANSWER_BYTES:
                    raise _unwell("says more than an answer may have")
            return answer.status, bytes(content)


class _Experiment(msgspec.Struct):
    experiment_id: str
    lifecycle_stage: str = "active"


class _Found(msgspec.Struct):
    experiment: _Experiment


class _Made(msgspec.Struct):
    experiment_id: str


class _Tag(msgspec.Struct):
    key: str
    value: str = ""


class _RunInfo(msgspec.Struct):
    run_id: str


class _RunData(msgspec.Struct):
    tags: list[_Tag] = []


class _RunTold(msgspec.Struct):
    info: _RunInfo
    data: _RunData = msgspec.field(default_factory=_RunData)


class _RunMade(msgspec.Struct):
    run: _RunTold


class _RunsFound(msgspec.Struct):
    runs: list[_RunTold] = []


class _Nothing(msgspec.Struct):
    pass


class _Error(msgspec.Struct):
    error_code: str


def _run(told: _RunTold) -> Run:
    return Run(id=told.info.run_id, tags={tag.key: tag.value for tag in told.data.tags})


def _unwell(how: str) -> UpstreamNotAllowedError:
    return UpstreamNotAllowedError(f"the tracking server {how}.", param=PARAM)


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": name, "value": value} for name, value in values.items()]


def _ms(at: float) -> int:
    return round(at * 1_000)
