"""A tracking server of MLflow, on this machine, as strict as the oldest that is spoken to."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from tests.api.upstream_double import Heard, plain

_KEY = re.compile(r"[A-Za-z0-9_\-. /]{1,250}")


@dataclass(kw_only=True)
class Told:
    """A run as it was told."""

    info: dict[str, Any]
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def points(self, name: str) -> list[tuple[int, float]]:
        """Steps and values of a metric."""
        return [(m["step"], m["value"]) for m in self.metrics if m["key"] == name]


@dataclass(kw_only=True)
class MlflowDouble:
    """Answers the calls that telling a run takes.

    Attributes:
        experiments: Names by id.
        runs: By id.
        authorization: What callers must show; None asks for nothing.
        instead: Answers every call while it is set.
        unwanted: Names of runs that it does not take.
        num_calls: Calls so far, whatever they were answered.
    """

    experiments: dict[str, str] = field(default_factory=dict)
    runs: dict[str, Told] = field(default_factory=dict)
    authorization: str | None = None
    instead: Callable[[], Iterable[bytes]] | None = None
    unwanted: tuple[str, ...] = ()
    num_calls: int = 0

    def __call__(self, heard: Heard) -> Iterable[bytes]:
        """Answer one request."""
        self.num_calls += 1
        if self.instead is not None:
            return self.instead()
        if self.authorization and heard.headers.get("authorization") != self.authorization:
            return [plain(401, b"You are not authenticated.", kind="text/plain")]
        path, _, query = heard.path.partition("?")
        name = path.removeprefix("/api/2.0/mlflow/")
        asked = {k: v[0] for k, v in parse_qs(query).items()} if query else heard.json
        answers: dict[tuple[str, str], Callable[[Any], bytes]] = {
            ("GET", "experiments/get-by-name"): self._experiment,
            ("POST", "experiments/create"): self._made,
            ("POST", "runs/search"): self._found,
            ("POST", "runs/create"): self._begun,
            ("POST", "runs/log-batch"): self._logged,
            ("POST", "runs/update"): self._updated,
        }
        return [answers[heard.method, name](asked)]

    def run(self, job_id: str) -> Told:
        """Return the one run of a job."""
        (found,) = [run for run in self.runs.values() if run.tags["purvey.job"] == job_id]
        return found

    def _experiment(self, asked: Any) -> bytes:
        for number, name in self.experiments.items():
            if name == asked["experiment_name"]:
                return _json({"experiment": {"experiment_id": number, "lifecycle_stage": "active"}})
        return _refused(404, "RESOURCE_DOES_NOT_EXIST")

    def _made(self, asked: Any) -> bytes:
        self.experiments[number := str(len(self.experiments) + 1)] = asked["name"]
        return _json({"experiment_id": number})

    def _found(self, asked: Any) -> bytes:
        match = re.fullmatch(r"tags\.`purvey\.job` = '([A-Za-z0-9_-]+)'", asked["filter"])
        assert match, asked
        runs = [run for run in self.runs.values() if run.tags["purvey.job"] == match[1]]
        return _json({"runs": [_shown(run) for run in runs]} if runs else {})

    def _begun(self, asked: Any) -> bytes:
        if asked["run_name"] in self.unwanted:
            return _refused(400, "INVALID_PARAMETER_VALUE")
        if asked["experiment_id"] not in self.experiments:
            return _refused(404, "RESOURCE_DOES_NOT_EXIST")
        number = f"{len(self.runs):032x}"
        info = {"run_id": number, "run_name": asked["run_name"], "status": "RUNNING"}
        info["start_time"] = asked["start_time"]
        self.runs[number] = Told(info=info, tags=_pairs(asked["tags"]))
        return _json({"run": _shown(self.runs[number])})

    def _logged(self, asked: Any) -> bytes:
        run = self.runs[asked["run_id"]]
        metrics, params, tags = asked["metrics"], _pairs(asked["params"]), _pairs(asked["tags"])
        keys = [*params, *tags, *(m["key"] for m in metrics)]
        is_small = len(metrics) <= 1_000 and len(params) <= 100 and len(keys) <= 1_000
        is_short = all(len(v) <= 500 for v in params.values())
        is_short = is_short and all(len(v) <= 5_000 for v in tags.values())
        is_named = all(_KEY.fullmatch(key) for key in keys)
        is_same = all(run.params.get(k, v) == v for k, v in params.items())
        if not (is_small and is_short and is_named and is_same):
            return _refused(400, "INVALID_PARAMETER_VALUE")
        run.metrics += metrics
        run.params |= params
        run.tags |= tags
        return _json({})

    def _updated(self, asked: Any) -> bytes:
        run = self.runs[asked.pop("run_id")]
        run.info |= asked
        return _json({"run_info": run.info})


def _shown(run: Told) -> dict[str, Any]:
    tags = [{"key": k, "value": v} for k, v in run.tags.items()]
    return {"info": run.info, "data": {"tags": tags}}


def _pairs(given: list[dict[str, str]]) -> dict[str, str]:
    return {one["key"]: one["value"] for one in given}


def _json(value: Any) -> bytes:
    return plain(200, json.dumps(value).encode())


def _refused(status: int, code: str) -> bytes:
    return plain(status, json.dumps({"error_code": code, "message": "canary"}).encode())
