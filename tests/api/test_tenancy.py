"""Two projects on one server: what one owns does not exist for the other, on any path, in any body.

Project A is the default one, which a forgotten filter would show first. Two keys of project B
try: an ordinary one with every scope but `admin`, and one with `admin`. Whatever names an
object of A must get the very answer that a made-up id gets.
"""

import asyncio
import base64
import json
import re
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2
import pytest
from sqlalchemy import Connection, Table, func, select
from sqlalchemy.sql import ColumnElement

from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.jobs import CheckpointSaved, Heartbeat, JobStopped
from purvey.contracts.model import ImageSpec
from purvey.store.tables import JOBS, LEDGER, METADATA
from purvey.testing import scripted_jobs
from purvey.testing.model_folder import BERT, write_plausible_adapter
from purvey.testing.scripted_answers import tiny_png
from purvey.testing.scripted_jobs import Conversation, ScriptedJobLauncher

if TYPE_CHECKING:
    from tests.api.conftest import Refusal
    from tests.conftest import RunningServer

Json = dict[str, Any]
Answer = tuple[int, str, list[tuple[str, str]]]
Snapshot = tuple[dict[str, list[Json]], dict[str, bytes]]

# Each cell is one call about one object of A by one of B's keys.
CUBE_CELLS = 3_264
REFERENCE_CELLS = 376
PAGE_CELLS = 779

CHANGED = "not as many cells as before: correct the number, if that is on purpose"
CANARY = "canary"
"""Part of every name that A gives; no answer to B may hold it."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
VOLATILE = {"last_used_at", "lease_expires_at"}
"""Columns that change with time alone."""
PNG_URL = "data:image/png;base64," + base64.b64encode(tiny_png()).decode()
FILES, DATASETS, MODELS = "/v1/files", "/v1/datasets", "/v1/models"
TUNING, TRAINING, EXPLANATIONS = "/v1/fine_tuning/jobs", "/v1/training/jobs", "/v1/explanations"
DEPLOYMENTS, SWEEPS, FEEDBACK = "/v1/deployments", "/v1/training/sweeps", "/v1/feedback"
VALIDATE = "/v1/recipes/validate"
REACHING = f"{MODELS}/{{model}}"
"""The path whose id may hold slashes: it takes what follows, too, for methods that end there."""
SHOWING = {
    FEEDBACK, FILES, DATASETS, MODELS, TUNING, TRAINING, SWEEPS, EXPLANATIONS, DEPLOYMENTS,
    "/v1/keys", "/v1/usage", "/v1/server",
}  # fmt: skip
"""Paths without an id that show what a project owns."""


@dataclass(kw_only=True)
class Owner:
    """One project's key, and the ids of what it made by the path parameter that takes them."""

    client: httpx2.Client
    jobs: ScriptedJobLauncher
    mark: str
    ids: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    inner: list[str] = field(default_factory=list)
    """Ids of events and checkpoints, which no path takes."""

    def everything(self) -> list[str]:
        return [*self.inner, *(one for owned in self.ids.values() for one in owned)]

    def post(self, path: str, kind: str, **body: object) -> str:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        self.ids[kind].append(answer.json()["id"])
        return self.ids[kind][-1]

    def upload(self, name: str, content: bytes, purpose: str) -> str:
        name = f"{self.mark}-{name}"
        answer = self.client.post(FILES, files={"file": (name, content)}, data={"purpose": purpose})
        self.ids["file_id"].append(answer.raise_for_status().json()["id"])
        return self.ids["file_id"][-1]

    def wait(self, path: str, *statuses: str) -> Json:
        pause, deadline = threading.Event(), time.monotonic() + 20
        while True:
            found: Json = self.client.get(path).raise_for_status().json()
            if found["status"] in statuses:
                return found
            assert time.monotonic() < deadline, f"still {found['status']}, waited for {statuses}"
            pause.wait(0.01)

    def tune(self) -> str:
        body = {"model": self.ids["model"][0], "training_file": self.ids["file_id"][0]}
        return f"{TUNING}/{self.post(TUNING, 'job_id', **body)}"

    def train(self) -> str:
        recipe = {
            "task": "text-classification",
            "dataset": self.ids["dataset_id"][0],
            "name": f"{self.mark}-trained-{secrets.token_hex(8)}",
        }
        return f"{TRAINING}/{self.post(TRAINING, 'job_id', recipe=recipe)}"

    def sweep(self) -> str:
        recipe = {
            "task": "text-classification",
            "dataset": self.ids["dataset_id"][0],
            "name": f"{self.mark}-swept-{secrets.token_hex(8)}",
        }
        space = {"seed": {"values": [1]}}
        body = {"recipe": recipe, "space": space, "max_trials": 1}
        return f"{SWEEPS}/{self.post(SWEEPS, 'job_id', **body)}"


async def _saves(worker: Conversation) -> int:
    """Write a checkpoint, then succeed."""
    folder = f"{worker.spec.work_dir}/step-2"
    worker.say(CheckpointSaved(step=2, folder=folder, digest="0" * 64, metrics={"loss": 0.5}))
    return await scripted_jobs.succeed(worker)


async def _works(worker: Conversation) -> int:
    """Report for as long as nobody asks for an end, and add nothing to the job's story."""
    asked = asyncio.ensure_future(worker.stop_asked())
    while not asked.done():
        worker.say(Heartbeat())
        await asyncio.wait([asked], timeout=1)
    worker.say(JobStopped(reason=asked.result()))
    return 0


def _furnish(owner: Owner, chat_rows: bytes) -> None:
    """Let a project that has models own one of everything else."""
    owner.upload("chats.jsonl", chat_rows, "fine-tune")
    table = owner.upload("rows.csv", b"text,label\nhi,ham\n", "user_data")
    owner.upload("picture.png", tiny_png(), "vision")
    made = owner.post(DATASETS, "dataset_id", file_ids=[table], name=owner.mark)
    owner.ids["job_id"].append(owner.wait(f"{DATASETS}/{made}", "ready")["job_id"])
    for start, key in ((owner.tune, "fine_tuned_model"), (owner.train, "model")):
        owner.jobs.then(_saves)
        url = start()
        owner.ids["model"].append(owner.wait(url, "succeeded")[key])
        for part in ("events", "checkpoints"):
            listed = owner.client.get(f"{url}/{part}").json()["data"]
            owner.inner += [one["id"] for one in listed]
    swept = owner.wait(owner.sweep(), "succeeded")
    owner.ids["model"].append(swept["model"])
    owner.ids["job_id"].append(swept["trials"][0]["job"])
    _, spam, digits, *_ = owner.ids["model"]
    owner.post(FEEDBACK, "feedback_id", model=spam, input=owner.mark, rating="good")
    owner.post(EXPLANATIONS, "explanation_id", model=spam, input={"text": "spam"})
    shown = owner.post(EXPLANATIONS, "explanation_id", model=digits, input={"image": PNG_URL})
    picture = owner.client.get(f"{EXPLANATIONS}/{shown}").json()["artifacts"]["png"]
    owner.ids["file_id"].append(picture.split("/")[3])


def _deploy(owner: Owner, admin: httpx2.Client) -> None:
    """Let an administrator deploy the project's first model."""
    name = f"{owner.mark}-deployed-{secrets.token_hex(8)}"
    body = {"id": name, "model": owner.ids["model"][0], "profiles": {"exact": {}}}
    owner.ids["deployment"].append(admin.post(DEPLOYMENTS, json=body).json()["id"])


def _leave_unfinished(owner: Owner) -> None:
    """Let a project have jobs that its owner could pause, resume and cancel."""
    for start in (owner.tune, owner.train):
        owner.jobs.then(_works)
        url = start()
        owner.wait(url, "running")
        owner.client.post(f"{url}/pause").raise_for_status()
        owner.wait(url, "paused")
    owner.jobs.then(_works, _works)
    owner.wait(owner.tune(), "running")
    owner.wait(owner.train(), "queued")  # one job runs at a time


@pytest.fixture(scope="module")
def sources(register: Callable[..., str], api: "RunningServer") -> dict[str, str]:
    """Folders by the names under which A has registered them: a generator, two classifiers,
    a model for embedding."""
    tail, image = secrets.token_hex(8), ImageSpec(height=8, width=8)
    register(f"{CANARY}-echo-{tail}")
    register(f"{CANARY}-spam-{tail}", labels=("ham", "spam"))
    register(f"{CANARY}-digits-{tail}", labels=("0", "1"), inputs={"input": image})
    register(f"{CANARY}-vectors-{tail}", config=BERT)
    names = (f"{CANARY}-{kind}-{tail}" for kind in ("echo", "spam", "digits", "vectors"))
    return {name: str(api.data_dir.parent / "models" / name) for name in names}


@pytest.fixture(scope="module")
def b(
    api: "RunningServer", stranger: httpx2.Client, sources: dict[str, str], chat_rows: bytes
) -> Iterator[Owner]:
    """Project B, by its ordinary key; it has registered A's folders under names of its own."""
    secret = stranger.post("/v1/keys", json={"name": "ordinary"}).json()["key"]
    headers = {"authorization": f"Bearer {secret}"}
    assert api.jobs is not None
    with httpx2.Client(base_url=api.base_url, headers=headers, verify=False, timeout=60) as client:
        owner = Owner(client=client, jobs=api.jobs, mark="own")
        for name, source in sources.items():
            body = {"id": name.replace(CANARY, owner.mark), "source": source}
            owner.ids["model"].append(stranger.post(MODELS, json=body).json()["id"])
        _deploy(owner, stranger)
        _furnish(owner, chat_rows)
        yield owner


@pytest.fixture(scope="module")
def a(b: Owner, http: httpx2.Client, sources: dict[str, str], chat_rows: bytes) -> Owner:
    """Project A with one of everything; its last jobs keep the only worker."""
    owner = Owner(client=http, jobs=b.jobs, mark=CANARY)
    owner.ids["model"] += sources
    owner.post("/v1/keys", "key_id", name=CANARY)
    _deploy(owner, http)
    _furnish(owner, chat_rows)
    _leave_unfinished(owner)
    owner.ids["rest"].append(owner.ids["job_id"][1])  # of what is not implemented; any id will do
    return owner


@pytest.fixture(scope="module")
def callers(b: Owner, stranger: httpx2.Client) -> dict[str, httpx2.Client]:
    return {"ordinary": b.client, "admin": stranger}


@pytest.fixture(scope="module")
def paths(keyless: httpx2.Client) -> dict[str, Json]:
    """Operations by method by path, from the live document."""
    found: dict[str, Json] = keyless.get("/openapi.json").json()["paths"]
    return found


@pytest.fixture(scope="module")
def history(api: "RunningServer", a: Owner, paths: dict[str, Json]) -> list[Snapshot]:
    """A's rows and what A sees, before the first test and after each."""
    return [_snapshot(api, a, paths)]


@pytest.fixture(autouse=True)
def _a_is_unharmed(
    api: "RunningServer", a: Owner, paths: dict[str, Json], history: list[Snapshot]
) -> Iterator[None]:
    """No test changes a row of A or what A sees."""
    yield
    history.append(_snapshot(api, a, paths))
    assert history[-1] == history[-2]


def _snapshot(api: "RunningServer", a: Owner, paths: dict[str, Json]) -> Snapshot:
    seen = {}
    for cell in _cells(paths, a.ids):
        if cell.method == "GET" and cell.status == 404 and not cell.query:
            seen[cell.url(cell.id)] = a.client.get(cell.url(cell.id)).content
    return api.application.services.database.read_now(_rows_of_a), seen


def _rows_of_a(conn: Connection) -> dict[str, list[Json]]:
    rows = {}
    for table in METADATA.sorted_tables:
        columns = [column for column in table.c if column.name not in VOLATILE]
        found = conn.execute(select(*columns).where(_is_of_a(table)).order_by(table.c.position))
        rows[table.name] = [dict(row._mapping) for row in found]
    return rows


def _is_of_a(table: Table) -> ColumnElement[bool]:
    if "project_id" in table.c:
        return table.c.project_id == DEFAULT_PROJECT
    if "job_id" in table.c:
        jobs = select(JOBS.c.id).where(JOBS.c.project_id == DEFAULT_PROJECT)
        return table.c.job_id.in_(jobs)
    assert table.name == "projects", f"whose are the rows of {table.name!r}?"
    return table.c.id == DEFAULT_PROJECT


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One call about one object of A, and the status that it must get."""

    method: str
    path: str
    param: str
    id: str
    status: int
    query: str = ""
    has_body: bool = False

    @property
    def is_admins(self) -> bool:
        """Whether only administrators may make it, whosever the object is."""
        return self.param == "key_id" or (
            self.param == "deployment" and self.method in {"POST", "DELETE"}
        )

    def url(self, used_id: str) -> str:
        return self.path.replace(f"{{{self.param}}}", used_id) + self.query


def _cells(paths: dict[str, Json], ids: dict[str, list[str]]) -> Iterator[Cell]:
    for path, given in paths.items():
        param = _param(path)
        operations = paths[REACHING] | given if path.startswith(REACHING) else given
        for own in ids[param] if param else ():
            for method in METHODS:
                yield (
                    cell := Cell(
                        method=method,
                        path=path,
                        param=param,
                        id=own,
                        status=_status(operations, method),
                        has_body="requestBody" in operations.get(method.lower(), {}),
                    )
                )
                if method == "GET" and _takes(operations, "stream"):
                    yield replace(cell, query="?stream=true")


def _param(path: str) -> str:
    found = re.findall(r"\{(\w+)\}", path)
    assert len(found) <= 1, f"{path} takes several ids: teach the cube to fill them"
    return found[0] if found else ""


def _status(operations: Json, method: str) -> int:
    operation = operations.get("get" if method == "HEAD" else method.lower())
    if operation is None:
        return 405
    return 501 if operation["tags"] == ["Not implemented"] else 404


def _takes(operations: Json, query: str) -> bool:
    taken = operations.get("get", {}).get("parameters", ())
    return any(one["name"] == query and one["in"] == "query" for one in taken)


def _like(own: str) -> str:
    """Return a made-up id of the same form and length."""
    made_up = re.sub(r"[0-9a-f]{8,}", lambda found: secrets.token_hex(len(found[0]) // 2), own)
    assert made_up != own, f"{own} has no random part"
    return made_up


def _ask(client: httpx2.Client, method: str, url: str, used_id: str, **given: object) -> Answer:
    """Return all of an answer that may tell one id from another."""
    try:
        answer = client.request(method, url, **given)  # type: ignore[arg-type]  # `json`
    except httpx2.ReadTimeout:  # of a job that goes on, as nobody else should see
        return 0, "a stream without an end", []
    headers = [h for h in answer.headers.multi_items() if h[0] not in {"date", "x-request-id"}]
    return answer.status_code, answer.text.replace(used_id, "<id>"), sorted(headers)


def _faults(theirs: Answer, made_up: Answer, status: int, code: str, param: str) -> list[str]:
    """Say how an answer about an object of A differs from what it must be."""
    faults = [] if theirs == made_up else [f"tells {theirs} from {made_up}"]
    if theirs[0] != status:
        return [*faults, f"is {theirs[0]}, not {status}: {theirs[1]}"]
    if theirs[1] and code:
        error = json.loads(theirs[1])["error"]
        if (error["code"], error["param"]) != (code, param):
            faults.append(f"says {error}, not {code} of {param}")
    return faults


def _missing(param: str) -> str:
    return "model_not_found" if param == "model" else "not_found"


class Cube:
    """One caller's way through the cells. Calls with made-up ids of one form are made once."""

    def __init__(self, who: str, client: httpx2.Client) -> None:
        self.faults: list[str] = []
        self.num_cells = 0
        self._who, self._client = who, client
        self._made_up: dict[tuple[str, str], Answer] = {}

    def visit(self, cell: Cell) -> None:
        self.num_cells += 1
        theirs = self._ask(cell, cell.id)
        status = 403 if self._who == "ordinary" and cell.is_admins else cell.status
        code = _missing(cell.param) if status == 404 else ""
        for fault in _faults(theirs, self._answer_to_made_up(cell), status, code, cell.param):
            self.faults.append(f"{self._who}: {cell.method} {cell.url(cell.id)} {fault}")

    def _answer_to_made_up(self, cell: Cell) -> Answer:
        form = cell.method, cell.url(re.sub(r"[0-9a-f]", "0", cell.id))
        if form not in self._made_up:
            made_up = _like(cell.id)
            self._made_up[form] = self._ask(cell, made_up)
        return self._made_up[form]

    def _ask(self, cell: Cell, used_id: str) -> Answer:
        body: dict[str, Json] = {"json": {}} if cell.has_body else {}
        return _ask(self._client, cell.method, cell.url(used_id), used_id, **body)


def test_every_path_parameter_is_known(paths: dict[str, Json], a: Owner) -> None:
    """A new kind of object belongs into `_furnish`, so that the cube tries it."""
    for path in paths:
        param = _param(path)
        assert not param or a.ids[param], f"{path}: give A one and note it as ids[{param!r}]"


def test_the_owner_gets_an_answer_where_the_others_get_none(
    paths: dict[str, Json], a: Owner
) -> None:
    """Else a 404 to others would prove nothing."""
    silent = {path for path in paths if _param(path) and "get" in paths[path]}
    for cell in _cells(paths, a.ids):
        if cell.method == "GET" and not cell.query and cell.path in silent:
            status = a.client.get(cell.url(cell.id)).status_code
            silent -= {cell.path} if status in {200, 501} else set()
    assert not silent


@pytest.mark.row("AUT-07")
def test_no_path_takes_an_id_of_another_project(
    paths: dict[str, Json], a: Owner, callers: dict[str, httpx2.Client]
) -> None:
    num_cells = 0
    for who, client in callers.items():
        cube = Cube(who, client)
        for cell in _cells(paths, a.ids):
            cube.visit(cell)
        assert not cube.faults, "\n".join(cube.faults[:20])
        num_cells += cube.num_cells
    assert num_cells == CUBE_CELLS, CHANGED


class Reference(NamedTuple):
    """A body that names an object of this kind in this field, as `<it>`."""

    path: str
    kind: str
    param: str
    own: str
    """What B could name there, see `_filled`."""
    body: Json


HI: Json = {"messages": [{"role": "user", "content": "hi"}]}
TEXT: Json = {"input": "hi"}
ASKED: Json = {"questions": [{"type": "predicate", "instructions": "0"}]}
PICTURED: Json = {"type": "input_image", "image_url": "<it>"}
IMAGE = {"image": "<it>"}
IT: Json = {"model": "<it>"}
DIGITS: Json = {"model": "<digits>"}
TUNE: Json = {"model": "<echo>", "training_file": "<chats>"}
TRAIN: Json = {"task": "text-classification", "dataset": "<dataset>"}
SWEPT: Json = {"space": {"seed": {"values": [1]}}, "max_trials": 1}
# fmt: off
REFERENCES = [
    Reference("/v1/chat/completions", "model", "model", "<echo>", IT | HI),
    Reference("/v1/chat/completions", "model", "model", "<echo>", IT | HI | {"stream": True}),
    Reference("/v1/completions", "model", "model", "<echo>", IT | {"prompt": "hi"}),
    Reference("/v1/completions", "model", "model", "<echo>", IT | {"prompt": "a", "stream": True}),
    Reference("/v1/tokenize", "model", "model", "<echo>", IT | {"prompt": "hi"}),
    Reference("/tokenize", "model", "model", "<echo>", IT | HI),
    Reference("/v1/classify", "model", "model", "<spam>", IT | TEXT),
    Reference("/v1/classify", "model", "model", "<spam>", IT | {"inputs": ["a"], "explain": True}),
    Reference("/v1/classify", "file_id", "input", "<png>", DIGITS | {"input": "<it>"}),
    Reference("/v1/classify", "file_id", "input.image", "<png>", DIGITS | {"input": IMAGE}),
    Reference("/v1/classify", "file_id", "input.input.image", "<png>",
              DIGITS | {"input": {"input": IMAGE}}),
    Reference("/v1/classify", "file_id", "inputs.1", "<png>",
              DIGITS | {"inputs": [PNG_URL, "<it>"]}),
    Reference("/v1/embeddings", "model", "model", "<vectors>", IT | TEXT),
    Reference("/v1/rerank", "model", "model", "<vectors>",
              IT | {"query": "a", "documents": ["b"]}),
    Reference("/v1/score", "model", "model", "<vectors>", IT | {"text_1": "a", "text_2": "b"}),
    Reference("/v1/decisions", "model", "model", "<echo>", IT | TEXT | ASKED),
    Reference("/v1/decisions", "file_id", "input.0.content.0.image_url", "<png>",
              DIGITS | ASKED | {"input": [{"role": "user", "content": [PICTURED]}]}),
    Reference(EXPLANATIONS, "model", "model", "<spam>", IT | {"input": {"text": "hi"}}),
    Reference(EXPLANATIONS, "model", "model", "<digits>", IT | {"input": {"image": "<png>"}}),
    Reference(EXPLANATIONS, "file_id", "input.image", "<png>", DIGITS | {"input": IMAGE}),
    Reference(DATASETS, "file_id", "file_ids.0", "<rows>", {"file_ids": ["<it>"]}),
    Reference(DATASETS, "file_id", "file_ids.1", "<rows>", {"file_ids": ["<rows>", "<it>"]}),
    Reference(f"{DATASETS}/<dataset>/versions", "file_id", "file_ids.0", "<rows>",
              {"file_ids": ["<it>"]}),
    *(
        Reference(path, kind, param, mark, TUNE | {param: "<it>"})
        for path in (TUNING, "/v1/fine_tuning/validate")
        for kind, param, mark in (
            ("model", "model", "<echo>"),
            ("file_id", "training_file", "<chats>"),
            ("file_id", "validation_file", "<chats>"),
        )
    ),
    Reference(TRAINING, "dataset_id", "recipe.dataset", "<dataset>",
              {"recipe": TRAIN | {"dataset": "<it>"}}),
    Reference(TRAINING, "model", "recipe.model.base", "<spam>",
              {"recipe": TRAIN | {"model": {"base": "<it>"}}}),
    Reference(VALIDATE, "dataset_id", "recipe.dataset", "<dataset>",
              {"recipe": TRAIN | {"dataset": "<it>"}}),
    Reference(VALIDATE, "model", "recipe.model.base", "<spam>",
              {"recipe": TRAIN | {"model": {"base": "<it>"}}}),
    Reference(SWEEPS, "dataset_id", "recipe.dataset", "<dataset>",
              SWEPT | {"recipe": TRAIN | {"dataset": "<it>"}}),
    Reference(SWEEPS, "model", "recipe.model.base", "<spam>",
              SWEPT | {"recipe": TRAIN | {"model": {"base": "<it>"}}}),
]
# fmt: on
MODEL_MARKS = ("<echo>", "<spam>", "<digits>", "<vectors>")
"""Stand for an owner's models, in the order of `sources`."""
NAMING_NOTHING = {"/v1/keys", "/v1/models", "/v1/pulls", FEEDBACK}
"""Bodies without a reference to an object: for administrators, and of what need not be there."""
DEPLOYING = {DEPLOYMENTS, f"{DEPLOYMENTS}/{{deployment}}"}
"""Bodies for administrators that name a model."""


def _filled(body: Json, owner: Owner, it: str) -> Json:
    """Put B's own objects into a body, and `it` where the reference is."""
    names = {
        "<it>": it,
        "<dataset>": owner.ids["dataset_id"][0],
        **dict(
            zip(("<echo>", "<spam>", "<digits>", "<vectors>"), owner.ids["model"], strict=False)
        ),
        **dict(zip(("<chats>", "<rows>", "<png>"), owner.ids["file_id"], strict=False)),
    }
    text = json.dumps(body)
    for name, value in names.items():
        text = text.replace(name, value)
    filled: Json = json.loads(text)
    return filled


def test_every_body_that_may_name_an_object_is_known(paths: dict[str, Json]) -> None:
    taking = {
        path
        for path, operations in paths.items()
        for operation in operations.values()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }
    known = {reference.path.replace("<dataset>", "{dataset_id}") for reference in REFERENCES}
    known |= NAMING_NOTHING | DEPLOYING
    assert taking == known, "what does a new body name? add it to REFERENCES"


@pytest.mark.row("AUT-07", "AUT-09")
def test_no_body_may_name_an_object_of_another_project(
    a: Owner, b: Owner, callers: dict[str, httpx2.Client]
) -> None:
    faults, num_cells = [], 0
    for who, client in callers.items():
        for path, kind, param, _, body in REFERENCES:
            url = path.replace("<dataset>", b.ids["dataset_id"][0])
            for own in a.ids[kind]:
                theirs, made_up = (
                    _ask(client, "POST", url, i, json=_filled(body, b, i))
                    for i in (own, _like(own))
                )
                found = _faults(theirs, made_up, 404, _missing(kind), param)
                faults += [f"{who}: POST {path} {param} {own} {fault}" for fault in found]
                num_cells += 1
    assert not faults, "\n".join(faults[:20])
    assert num_cells == REFERENCE_CELLS, CHANGED


@pytest.mark.row("AUT-07", "AUT-09")
def test_no_administrator_deploys_a_model_of_another_project(
    a: Owner, b: Owner, stranger: httpx2.Client
) -> None:
    own = f"{DEPLOYMENTS}/{b.ids['deployment'][0]}"
    for model in a.ids["model"]:
        for path, body in ((DEPLOYMENTS, {"id": "taken"}), (own, {})):
            theirs, made_up = (
                _ask(stranger, "POST", path, name, json=body | {"model": name})
                for name in (model, _like(model))
            )
            assert not _faults(theirs, made_up, 404, "model_not_found", "model"), (path, model)
    for name in a.ids["deployment"]:
        for used in (name, f"{name}:exact"):
            asked = {"model": used, "prompt": "hi"}
            theirs, made_up = (
                _ask(b.client, "POST", "/v1/completions", i, json=asked | {"model": i})
                for i in (used, _like(used))
            )
            assert not _faults(theirs, made_up, 404, "model_not_found", "model"), used


@pytest.mark.row("AUT-07", "AUT-09")
def test_no_administrator_names_an_adapter_or_a_base_of_another_project(
    a: Owner, b: Owner, stranger: httpx2.Client, api: "RunningServer"
) -> None:
    folder = write_plausible_adapter(api.data_dir.parent / "models" / "an-adapter")
    profile: Json = {"id": "taken", "model": "<echo>", "profiles": {"p": {"adapter": "<it>"}}}
    based: Json = {"id": "taken", "source": str(folder), "base": "<it>"}
    for model in a.ids["model"]:
        for path, param, body in (
            (DEPLOYMENTS, "profiles.p.adapter", profile),
            (MODELS, "base", based),
        ):
            theirs, made_up = (
                _ask(stranger, "POST", path, name, json=_filled(body, b, name))
                for name in (model, _like(model))
            )
            assert not _faults(theirs, made_up, 404, "model_not_found", param), (path, model)


def test_each_body_may_name_an_object_of_its_own_project(b: Owner) -> None:
    """Else a 404 about the other project's would prove nothing."""
    for path, _, param, own, body in REFERENCES:
        url = path.replace("<dataset>", b.ids["dataset_id"][0])
        answer = b.client.post(url, json=_filled(body, b, own))
        assert answer.status_code == 200, (path, param, answer.text)
        if path in {TUNING, TRAINING, SWEEPS}:  # it waits behind the job of A
            b.client.post(f"{path}/{answer.json()['id']}/cancel").raise_for_status()
        elif path.startswith(DATASETS):
            b.client.delete(f"{DATASETS}/{answer.json()['id']}").raise_for_status()


def test_a_fine_tuning_recipe_names_no_other_base(a: Owner, b: Owner, refused: "Refusal") -> None:
    """Whosever it is: the base is the request's `model`."""
    theirs = a.ids["model"][0]
    for base in (theirs, _like(theirs), b.ids["model"][1]):
        body = _filled(TUNE, b, "") | {"recipe": {"model": {"base": base}}}
        answer = b.client.post(TUNING, json=body)
        refused(answer, 400, "invalid_value", "recipe.model.base")


@pytest.mark.row("AUT-07")
def test_no_list_shows_what_another_project_owns(
    paths: dict[str, Json], a: Owner, callers: dict[str, httpx2.Client]
) -> None:
    secret, showing = [CANARY, *a.everything()], set()
    for path, operations in paths.items():
        if _param(path) or _status(operations, "GET") != 404:
            continue
        url = path + ("?limit=100" if _takes(operations, "limit") else "")
        for who, client in {"a": a.client, **callers}.items():
            answer = client.get(url)
            is_refused = who == "ordinary" and path in {"/v1/keys", "/v1/pulls"}
            assert answer.status_code == (403 if is_refused else 200), (who, path)
            shown = [one for one in secret if one in answer.text]
            assert who == "a" or not shown, (who, path)
            showing |= {path} if shown else set()
    assert showing == SHOWING


def _num_used(conn: Connection) -> dict[str, int]:
    """Count the rows of the ledger by project."""
    project = LEDGER.c.project_id
    found = conn.execute(select(project, func.count()).group_by(project))
    return {row[0]: row[1] for row in found}


def test_sums_count_only_what_is_ones_own(api: "RunningServer", a: Owner, b: Owner) -> None:
    num_used = api.application.services.database.read_now(_num_used)
    for owner, project, num_running in ((a, DEFAULT_PROJECT, 1), (b, "proj_b", 0)):
        for by in ("model", "kind", "day"):
            totals = owner.client.get("/v1/usage", params={"by": by}).json()["data"]
            assert sum(total["requests"] for total in totals) == num_used[project] > 0
        assert owner.client.get("/v1/server").json()["jobs_running"] == num_running


@pytest.mark.row("AUT-07")
def test_no_page_goes_on_after_an_item_of_another_project(
    paths: dict[str, Json], a: Owner, b: Owner, stranger: httpx2.Client
) -> None:
    faults, num_cells = [], 0
    for path, operations in paths.items():
        param = _param(path)
        if not _takes(operations, "after"):
            continue
        for mine in b.ids[param] if param else [""]:
            url = path.replace(f"{{{param}}}", mine)
            if stranger.get(url).status_code != 200:
                continue  # a job of the other resource
            for own in a.everything():
                found_after, made_up = (
                    _ask(stranger, "GET", f"{url}?after={i}", i) for i in (own, _like(own))
                )
                found = _faults(found_after, made_up, 400, "invalid_value", "after")
                faults += [f"GET {url} after {own} {fault}" for fault in found]
                num_cells += 1
    assert not faults, "\n".join(faults[:20])
    assert num_cells == PAGE_CELLS, CHANGED


def test_a_name_is_each_projects_own(
    a: Owner, b: Owner, stranger: httpx2.Client, sources: dict[str, str]
) -> None:
    """Models belong to the project of the key that registered them, the operator's folders too."""
    echo, spam, *_ = sources
    url = f"{MODELS}/{echo}"
    made = stranger.post(MODELS, json={"id": echo, "source": sources[spam]}).json()
    mine, theirs = a.client.get(url).json(), b.client.get(url).json()
    assert theirs == made
    assert (mine["owned_by"], theirs["owned_by"]) == (DEFAULT_PROJECT, "proj_b")
    assert (mine["labels"], theirs["labels"]) == ([], ["ham", "spam"])
    body = {"model": echo, "input": "spam"}
    assert b.client.post("/v1/classify", json=body).status_code == 200
    assert b.client.delete(url).status_code == 200
    assert b.client.get(url).status_code == 404
    assert a.client.get(url).json() == mine


def test_bytes_that_two_projects_have_outlive_the_file_of_one(
    a: Owner, b: Owner, chat_rows: bytes
) -> None:
    again = b.upload("again.jsonl", chat_rows, "fine-tune")
    for file_id in (b.ids["file_id"][0], again):
        assert b.client.delete(f"{FILES}/{file_id}").status_code == 200
    assert a.client.get(f"{FILES}/{a.ids['file_id'][0]}/content").content == chat_rows
