"""FIL-19: stored bytes that changed are refused by whatever would use them, and said to have."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
import pytest

from purvey.contracts.jobs import InputFile, JobSpec
from purvey.contracts.model import (
    MANIFEST_NAME,
    ImageSpec,
    InputSpec,
    ModelManifest,
    ModelSource,
    TextSpec,
)
from purvey.errors import IntegrityError
from purvey.registry.model_bytes import verify_folder
from purvey.testing.model_folder import TENSOR, safetensors_bytes, write_plausible_folder
from purvey.worker.inputs import verify_inputs
from tests.matrix.damage import DAMAGES, damaged
from tests.matrix.hostile_zips import picture
from tests.matrix.invariants import check_store, job_row, reading
from tests.matrix.kills import World
from tests.matrix.served import Served, serving
from tests.matrix.waiting import wait_until

if TYPE_CHECKING:
    from tests.matrix.conftest import Held

pytestmark = pytest.mark.row("FIL-19")
CHAT_ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
TALKS = b"".join(json.dumps(CHAT_ROW | {"n": i}).encode() + b"\n" for i in range(12))


def _refused(answer: httpx2.Response, param: str | None = None) -> None:
    assert answer.status_code == 409, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("integrity_error", param)
    assert answer.headers["x-should-retry"] == "false"


def _alarms(held: "Held", kind: str) -> float:
    text = held.http.get("/metrics").text
    found = re.search(rf'^purvey_integrity_failures_total{{kind="{kind}"}} (\S+)$', text, re.M)
    return float(found[1]) if found else 0.0


def _blob_of(data_dir: Path, content: bytes) -> Path:
    [path] = [p for p in (data_dir / "blobs").iterdir() if p.read_bytes() == content]
    return path


def _upload(http: httpx2.Client, content: bytes, purpose: str = "user_data") -> str:
    answer = http.post("/v1/files", files={"file": ("a", content)}, data={"purpose": purpose})
    return str(answer.raise_for_status().json()["id"])


@pytest.fixture
def classifiers(held: "Held") -> Iterator[dict[str, str]]:
    """A registered classifier of texts and one of images, by what they take."""
    names: dict[str, str] = {}
    specs: dict[str, InputSpec] = {"text": TextSpec(), "image": ImageSpec(height=8, width=8)}
    for kind, spec in specs.items():
        folder = held.data_dir.parent / "models" / f"of-{kind}"
        folder.mkdir(exist_ok=True)
        manifest = ModelManifest(
            family="text-ngrams",
            task=f"{kind}-classification",  # type: ignore[arg-type]  # both are tasks
            labels=("ham", "spam"),
            inputs={"input": spec},
        )
        (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
        (folder / "model.safetensors").write_bytes(safetensors_bytes({"weight": TENSOR}))
        body = {"id": f"of-{kind}", "source": str(folder)}
        held.http.post("/v1/models", json=body).raise_for_status()
        names[kind] = f"of-{kind}"
    yield names
    for name in names.values():
        held.http.delete(f"/v1/models/{name}").raise_for_status()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_neither_shown_nor_used(
    held: "Held", classifiers: dict[str, str], how: str
) -> None:
    image, talks = picture(4711), TALKS
    uses = {"image": _upload(held.http, image), "talks": _upload(held.http, talks, "fine-tune")}
    before, jobs = _alarms(held, "file"), held.http.get("/v1/fine_tuning/jobs").json()
    with damaged(_blob_of(held.data_dir, image), how), damaged(_blob_of(held.data_dir, talks), how):
        for file_id in uses.values():
            _refused(held.http.get(f"/v1/files/{file_id}/content"))
        for field in ("training_file", "validation_file"):
            whole = {"training_file": uses["talks"], field: uses["talks"], "model": held.model}
            answer = held.http.post("/v1/fine_tuning/jobs", json=whole)
            _refused(answer, "training_file")
        one = {"model": classifiers["image"], "input": {"image": uses["image"]}}
        _refused(held.http.post("/v1/classify", json=one), "input.image")
        _refused(held.http.post("/v1/explanations", json=one), "input.image")
        many = {"model": classifiers["image"], "inputs": [{"image": uses["image"]}] * 2}
        _refused(held.http.post("/v1/classify", json=many), "inputs.0.image")
    assert _alarms(held, "file") == before + 7
    assert held.http.get("/v1/fine_tuning/jobs").json() == jobs
    assert held.http.get(f"/v1/files/{uses['image']}/content").content == image
    assert held.http.post("/v1/classify", json=one).status_code == 200
    for file_id in uses.values():
        held.http.delete(f"/v1/files/{file_id}").raise_for_status()


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["preview.json", "artifact.json"])
def test_damaged_rows_are_not_shown(held: "Held", how: str, name: str) -> None:
    file_id = _upload(held.http, b"text,label\na,b\n")
    made = held.http.post("/v1/datasets", json={"file_ids": [file_id]}).json()
    url = f"/v1/datasets/{made['id']}"
    wait_until(lambda: held.http.get(url).json()["status"] == "ready")
    with reading(held.data_dir) as db:
        [row] = db.execute("SELECT artifact FROM datasets WHERE id = ?", (made["id"],))
    before = _alarms(held, "dataset")
    with damaged(held.data_dir / "artifacts" / row["artifact"] / name, how):
        _refused(held.http.get(f"{url}/rows"))
    assert _alarms(held, "dataset") == before + 1
    assert held.http.get(f"{url}/rows").json()["data"]
    for path in (url, f"/v1/files/{file_id}"):
        held.http.delete(path).raise_for_status()


QUESTION = {
    "type": "choice",
    "instructions": "Which?",
    "choices": [{"value": "a"}, {"value": "b"}],
}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
    "a stream": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "hello"}], "stream": True},
    ),
    "a completion": ("/v1/completions", {"prompt": "hello"}),
    "decisions": ("/v1/decisions", {"input": "hello", "questions": [QUESTION]}),
    "tokens": ("/v1/tokenize", {"prompt": "hello"}),
}  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_folder_of_the_operator_is_not_served(held: "Held", how: str) -> None:
    folder = write_plausible_folder(held.data_dir.parent / "models" / "kept")
    body = {"id": "kept", "source": str(folder)}
    held.http.post("/v1/models", json=body).raise_for_status()
    before = _alarms(held, "model")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        with damaged(folder / name, how):
            for path, call in CALLS.values():
                answer = held.http.post(path, json=call | {"model": "kept"})
                assert answer.status_code == 409, (path, answer.text)
                _refused(answer, "model")
    assert _alarms(held, "model") == before + 3 * len(CALLS)
    (folder / "more.json").write_text("{}")
    _refused(held.http.post("/v1/completions", json={"model": "kept", "prompt": "a"}), "model")
    (folder / "more.json").unlink()
    for path, call in CALLS.values():
        assert held.http.post(path, json=call | {"model": "kept"}).status_code == 200, path
    held.http.delete("/v1/models/kept").raise_for_status()


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., JobSpec]:
    """A function that makes the spec of a job with these inputs."""

    def make(**inputs: Any) -> JobSpec:  # fields by name
        return JobSpec(
            job_id="job_1",
            kind="training",
            attempt=1,
            fence=1,
            recipe={},
            work_dir=str(tmp_path),
            output_dir=str(tmp_path),
            **inputs,
        )

    return make


@pytest.mark.parametrize("how", DAMAGES)
def test_a_worker_begins_with_what_was_stored_or_not_at_all(
    spec: Callable[..., JobSpec], tmp_path: Path, how: str
) -> None:
    import hashlib

    path = tmp_path / "blob"
    path.write_bytes(TALKS)
    sha256 = hashlib.sha256(TALKS).hexdigest()
    file = InputFile(
        role="training", path=str(path), name="a.jsonl", sha256=sha256, num_bytes=len(TALKS)
    )
    folder = write_plausible_folder(tmp_path / "base")
    digest = _digest_of(folder)
    base = ModelSource(name="base", folder=str(folder), digest=digest)
    whole = spec(files=(file,), base=base)
    verify_inputs(whole)
    with damaged(path, how), pytest.raises(IntegrityError, match=r"the file 'a\.jsonl'"):
        verify_inputs(whole)
    with damaged(folder / "model.safetensors", how), pytest.raises(IntegrityError, match="'base'"):
        verify_inputs(whole)
    (folder / "folder").mkdir()  # folders are never read
    verify_inputs(whole)


def _digest_of(folder: Path) -> str:
    from purvey.registry.folder_check import check_folder

    return check_folder(folder, model_roots=[folder.parent]).digest


def test_the_base_of_an_adapter_is_read_too(spec: Callable[..., JobSpec], tmp_path: Path) -> None:
    base, adapter = (write_plausible_folder(tmp_path / name) for name in ("base", "adapter"))
    manifest = ModelManifest(family="decoder", task="text-generation", base=_digest_of(base))
    (adapter / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    from purvey.registry.folder_check import folder_digest

    digest = folder_digest(list(adapter.iterdir()))
    verify_folder(adapter, digest, name="adapter")
    source = ModelSource(
        name="adapter",
        folder=str(adapter),
        digest=digest,
        base_folder=str(base),
        base_digest=manifest.base,
    )
    verify_inputs(spec(base=source))
    with damaged(base / "config.json", "a bit flipped"), pytest.raises(IntegrityError):
        verify_inputs(spec(base=source))


@pytest.mark.parametrize(
    "names", [("rows",), pytest.param(("rows", "table", "adapter"), marks=pytest.mark.faults)]
)
def test_a_real_server_uses_nothing_that_changed(
    world: World, tmp_path: Path, names: tuple[str, ...]
) -> None:
    world.copy_to(tmp_path)
    with serving(tmp_path, settings={"MAX_RUNNING_JOBS": "4"}) as served:
        with served.witness.client(timeout=120) as http:
            with _all_damaged(world, served) as uses:
                jobs = [_started(http, world, name) for name in names]
                for name in uses:
                    _refused(_asked(http, world, name), "model")
                for job_id in jobs:
                    ended = _when_ended(served, job_id)
                    assert ended["status"] == "failed"
                    assert json.loads(ended["error"])["code"] == "integrity_error", ended["error"]
                with reading(served.data_dir) as db:
                    [row] = db.execute("SELECT error FROM datasets WHERE status = 'failed'")
                    assert json.loads(row["error"])["code"] == "integrity_error"
            for name in uses if len(names) > 1 else ["table"]:
                assert _asked(http, world, name).status_code == 200, name
        assert served.witness.statuses[500] == 0
        kinds = _kinds_told(served.log)
        assert served.stop() == 0
    assert kinds.count("job_input") == len(names)
    assert kinds.count("model") == len(uses)
    check_store(tmp_path / "data")


@contextmanager
def _all_damaged(world: World, served: Served) -> Iterator[dict[str, Path]]:
    """Flip one bit of each stored thing that jobs and models read; yield the models' weights."""
    artifacts = served.data_dir / "artifacts"
    with reading(served.data_dir) as db:
        files = [row[0] for row in db.execute("SELECT sha256 FROM files WHERE name = 'rows.csv'")]
        datasets = [row[0] for row in db.execute("SELECT artifact FROM datasets")]
        models = dict(map(tuple, db.execute("SELECT name, artifact FROM models")))
    weights = {
        name: next((artifacts / models[model]).glob("*.safetensors"))
        for name, model in world.models.items()
    }
    with ExitStack() as undo:
        for path in {
            *(served.data_dir / "blobs" / sha256 for sha256 in files),
            *(artifacts / digest / "train.parquet" for digest in datasets),
            *weights.values(),
        }:
            undo.enter_context(damaged(path, "a bit flipped"))
        yield weights


def _started(http: httpx2.Client, world: World, name: str) -> str:
    path, body = world.bodies[name]
    made = http.post(path, json=body).raise_for_status().json()
    return str(made.get("job_id") or made["id"])


def _asked(http: httpx2.Client, world: World, name: str) -> httpx2.Response:
    model = world.models[name]
    if name in {"table", "images"}:
        import base64

        url = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
        given: Any = {"image": url} if name == "images" else "the day was fine again"
        return http.post("/v1/classify", json={"model": model, "input": given})
    body = {"model": model, "prompt": "the day", "max_tokens": 2}
    return http.post("/v1/completions", json=body)


def _when_ended(served: Served, job_id: str) -> dict[str, Any]:
    def has_ended() -> bool:
        return job_row(served.data_dir, job_id)["status"] in {"failed", "succeeded"}

    wait_until(has_ended)
    return job_row(served.data_dir, job_id)


def _kinds_told(log: Path) -> list[str]:
    lines = log.read_text("utf-8").splitlines()
    events = [json.loads(line) for line in lines if '"integrity.failed"' in line]
    return [event["kind"] for event in events if event["level"] == "error"]
