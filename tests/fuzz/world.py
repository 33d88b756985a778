"""One of everything on a running server, so that generated calls reach past the 404s."""

import base64
import csv
import io
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec

from purvey.contracts.model import MANIFEST_NAME, ImageSpec, ModelManifest, TextSpec
from purvey.testing.model_folder import (
    ADAPTABLE,
    BERT,
    CROSS_ENCODER,
    TENSOR,
    safetensors_bytes,
    write_plausible_adapter,
    write_plausible_folder,
    write_plausible_recogniser,
    write_plausible_whisper,
)
from purvey.testing.scripted_answers import tiny_png
from purvey.testing.scripted_jobs import Conversation, succeed, until_stopped

if TYPE_CHECKING:
    from tests.conftest import RunningServer

Json = Any
PNG_URL = "data:image/png;base64," + base64.b64encode(tiny_png()).decode()
CHAT_ROW = {
    "messages": [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "It is a test."},
    ]
}
CHOICE = {
    "type": "choice",
    "instructions": "Is it spam?",
    "choices": [{"value": "ham"}, {"value": "spam"}],
}
TURNS = [{"role": "user", "content": "say it"}]
ENDED = ("succeeded", "failed", "cancelled")
PATIENCE_S = 60.0
DEPLOYED = "some-id"
"""The one deployment that is always there, of this name."""
STEERED_SEED = 1_234_567_890
"""A job with this seed runs until it is stopped; every other one succeeds at once."""


async def _by_seed(worker: Conversation) -> int:
    is_steered = worker.spec.recipe.get("seed") == STEERED_SEED
    return await (until_stopped(worker) if is_steered else succeed(worker))


class World:
    """What a server holds; what a call has deleted is made again before the next one.

    Args:
        server: A server whose engines and workers are scripted.
    """

    def __init__(self, server: "RunningServer") -> None:
        assert server.jobs is not None
        server.jobs.script = _by_seed
        self._server = server
        self._http = httpx2.Client(
            base_url=server.base_url,
            headers={"authorization": f"Bearer {server.admin_key}"},
            timeout=PATIENCE_S,
        )
        self._ids: dict[str, str] = {}
        self._count = 0

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def path_parameters(self, method: str, path: str) -> dict[str, str]:
        """Return parameters of a path template that name what is there."""
        if path.startswith("/v1/keys/"):
            return {"key_id": self._id("key")}
        if "{job_id}" in path:
            return {"job_id": self._job(path, is_steered=method == "POST")}
        for kind in ("file", "dataset", "explanation", "feedback"):
            if f"{{{kind}_id}}" in path:
                return {f"{kind}_id": self._id(kind)}
        if "{deployment}" in path:
            return {"deployment": self._id("deployment")}
        if path.startswith("/v1/exports/"):
            return {"model": self._id("trained")}
        if "{model}" in path:
            return {"model": self._id("spare" if method == "DELETE" else "echo")}
        return {"rest": "x/y"} if "{rest}" in path else {}

    def bodies(self, path: str) -> list[Json]:
        """Return bodies that the operation accepts."""
        return _BODIES[path](self) if path in _BODIES else []

    def settle(self, method: str, path: str) -> None:
        """Forget what a call has used up, whatever its answer was."""
        if method == "DELETE":
            for kind in _DELETED:
                named = {"deployment": "{deployment}", "spare": "{model}"}
                if named.get(kind, f"{{{kind}_id}}") in path:
                    self._ids.pop(kind, None)
        elif "{job_id}/" in path and (made := self._ids.pop("steered", None)):
            self._http.post(f"{path.partition('{')[0]}{made}/cancel")

    def is_alive(self) -> bool:
        """Tell whether the server answers and still knows its administrator."""
        return self._http.get("/v1/keys").status_code == 200

    def _id(self, kind: str) -> str:
        if kind not in self._ids:
            self._ids[kind] = _MAKERS[kind](self)
        return self._ids[kind]

    def _fresh(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}-{self._count}"

    def _made(self, path: str, body: Json) -> str:
        answer = self._http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def _uploaded(self, name: str, content: bytes, purpose: str) -> str:
        answer = self._http.post(
            "/v1/files", files={"file": (name, content)}, data={"purpose": purpose}
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def _until(self, path: str, *statuses: str) -> None:
        pause, deadline = threading.Event(), time.monotonic() + PATIENCE_S
        while self._http.get(path).json()["status"] not in statuses:
            assert time.monotonic() < deadline, path
            pause.wait(0.005)

    def _dataset(self) -> str:
        made = self._made("/v1/datasets", {"file_ids": [self._id("table")]})
        self._until(f"/v1/datasets/{made}", "ready")
        return made

    def _trained(self) -> str:
        job = self._job("/v1/fine_tuning/jobs", is_steered=False)
        return str(self._http.get(f"/v1/fine_tuning/jobs/{job}").json()["fine_tuned_model"])

    def _adaptable(self) -> str:
        folder = self._server.data_dir.parent / "models" / "stem"
        write_plausible_folder(folder, shapes=ADAPTABLE)
        return self._made("/v1/models", {"id": "stem", "source": str(folder)})

    def _plain_model(self, name: str, config: Mapping[str, object]) -> str:
        folder = self._server.data_dir.parent / "models" / name
        write_plausible_folder(folder, config)
        return self._made("/v1/models", {"id": name, "source": str(folder)})

    def _recogniser(self) -> str:
        folder = self._server.data_dir.parent / "models" / "recogniser"
        write_plausible_recogniser(folder)
        return self._made("/v1/models", {"id": "recogniser", "source": str(folder)})

    def _whisper(self) -> str:
        folder = write_plausible_whisper(self._server.data_dir.parent / "models" / "whisper")
        return self._made("/v1/models", {"id": "whisper", "source": str(folder)})

    def _model(self, name: str, labels: tuple[str, ...] = (), *, is_image: bool = False) -> str:
        folder = self._server.data_dir.parent / "models" / name
        if labels:
            spec = ImageSpec(height=8, width=8) if is_image else TextSpec()
            folder.mkdir()
            manifest = ModelManifest(
                family="text-ngrams",
                task="image-classification" if is_image else "text-classification",
                labels=labels,
                inputs={"input": spec},
                is_calibrated=True,
            )
            (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
            (folder / "model.safetensors").write_bytes(safetensors_bytes({"weight": TENSOR}))
        else:
            write_plausible_folder(folder)
        return self._made("/v1/models", {"id": name, "source": str(folder)})

    def _job(self, path: str, *, is_steered: bool) -> str:
        """Return a job that has ended or, to be steered, one that runs until it is stopped."""
        resource = path.partition("/{job_id}")[0]
        if is_steered:
            return self._steered(resource, is_paused=path.endswith("/resume"))
        if resource not in self._ids:
            self._ids[resource] = made = self._made(resource, self.bodies(resource)[0])
            self._until(f"{resource}/{made}", *ENDED)
        return self._ids[resource]

    def _steered(self, resource: str, *, is_paused: bool) -> str:
        body = self.bodies(resource)[0]
        body.get("recipe", body)["seed"] = STEERED_SEED
        self._ids["steered"] = made = self._made(resource, body)
        self._until(f"{resource}/{made}", "running")
        if is_paused:
            self._http.post(f"{resource}/{made}/pause").raise_for_status()
            self._until(f"{resource}/{made}", "paused")
        return made


def _table() -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([["text", "label"], ["hi", "ham"], ["win", "spam"]])
    return text.getvalue().encode()


def _chat_file() -> bytes:
    return "".join(json.dumps(CHAT_ROW) + "\n" for _ in range(12)).encode()


def _recipe(world: World) -> Json:
    return {
        "task": "text-classification",
        "dataset": world._id("dataset"),
        "name": world._fresh("trained"),
        "seed": 5,
    }


def _adapter(world: World) -> str:
    name = world._fresh("adapter")
    return str(write_plausible_adapter(world._server.data_dir.parent / "models" / name))


def _folder(world: World) -> str:
    name = world._fresh("folder")
    return str(write_plausible_folder(world._server.data_dir.parent / "models" / name))


def _classified(world: World) -> list[Json]:
    return [
        {"model": world._id("spam"), "input": "win the spam prize"},
        {"model": world._id("spam"), "inputs": ["hello", {"text": "spam"}], "explain": True},
        {"model": world._id("digits"), "input": {"image": PNG_URL}, "top_k": 1},
    ]


def _explained(world: World) -> list[Json]:
    return [
        {"model": world._id("spam"), "input": {"text": "win the spam prize"}},
        {"model": world._id("echo"), "input": {"messages": TURNS}, "output": {"text": "it"}},
        {"model": world._id("digits"), "input": {"image": PNG_URL}, "target": {"label": "1"}},
    ]


def _decided(world: World) -> list[Json]:
    predicate = {"type": "predicate", "instructions": "spam"}
    return [
        {"model": world._id("spam"), "input": "hello", "questions": [CHOICE, predicate]},
        {"model": world._id("echo"), "input": TURNS, "questions": [CHOICE]},
    ]


def _chatted(world: World) -> list[Json]:
    plain = {"model": world._id("echo"), "messages": TURNS}
    return [
        plain,
        plain | {"stream": True, "stream_options": {"include_usage": True}},
        plain | {"logprobs": True, "top_logprobs": 2, "stop": ["i"], "max_tokens": 3},
    ]


def _completed(world: World) -> list[Json]:
    plain = {"model": world._id("echo"), "prompt": "say it"}
    return [plain, plain | {"stream": True}, plain | {"prompt": [104, 105], "logprobs": 1}]


def _embedded(world: World) -> list[Json]:
    plain = {"model": world._id("minilm"), "input": "four"}
    return [plain, plain | {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 2}]


def _transcribed(world: World) -> list[Json]:
    plain = {"model": world._id("recogniser"), "file": b"what they say"}
    timed = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    return [plain, plain | {"stream": "true", "language": "en"}, plain | timed]


def _translated(world: World) -> list[Json]:
    plain = {"model": world._id("whisper"), "file": b"was sie sagen"}
    return [plain, plain | {"response_format": "vtt", "prompt": "names", "temperature": "0"}]


def _reranked(world: World) -> list[Json]:
    plain = {"model": world._id("ranker"), "query": "cats", "documents": ["cats eat", "dogs"]}
    return [plain, plain | {"model": world._id("minilm"), "top_n": 1, "return_documents": False}]


def _scored(world: World) -> list[Json]:
    return [
        {"model": world._id("ranker"), "text_1": "cats", "text_2": "cats eat"},
        {"model": world._id("minilm"), "queries": "a", "documents": ["c", "d"]},
        {"model": world._id("minilm"), "queries": ["a", "b"], "documents": ["c", "d"]},
    ]


def _tokenized(world: World) -> list[Json]:
    return [
        {"model": world._id("echo"), "prompt": "four"},
        {"model": world._id("echo"), "messages": TURNS},
    ]


def _deployed(world: World) -> list[Json]:
    profile = {
        "precision": "fp32",
        "generation": {"temperature": 0, "max_tokens": 4, "stop": ["x"]},
        "keep_alive_s": 60,
        "is_pinned": True,
    }
    body = {"model": world._id("echo"), "profiles": {"default": {}, "exact": profile}}
    filtering = {"model": world._id("spam"), "profiles": {"p": {"batch_window_ms": 1}}}
    return [one | {"id": world._fresh("deployed")} for one in (body, filtering)]


def _redeployed(world: World) -> list[Json]:
    world._id("deployment")
    return [{"model": one["model"], "profiles": one["profiles"]} for one in _deployed(world)[:1]]


_FEEDBACK: Json = {"model": "spam", "input": "a prize", "rating": "good", "output": "spam"}
_MAKERS: dict[str, Callable[[World], str]] = {
    "echo": lambda world: world._model("echo"),
    "spam": lambda world: world._model("spam", ("ham", "spam")),
    "minilm": lambda world: world._plain_model("minilm", BERT),
    "ranker": lambda world: world._plain_model("ranker", CROSS_ENCODER),
    "digits": lambda world: world._model("digits", ("0", "1"), is_image=True),
    "recogniser": World._recogniser,
    "whisper": World._whisper,
    "spare": lambda world: world._model(world._fresh("spare")),
    "table": lambda world: world._uploaded("rows.csv", _table(), "user_data"),
    "chats": lambda world: world._uploaded("rows.jsonl", _chat_file(), "fine-tune"),
    "file": lambda world: world._uploaded("any.txt", b"anything", "user_data"),
    "dataset": World._dataset,
    "trained": World._trained,
    "stem": World._adaptable,
    "explanation": lambda world: world._made("/v1/explanations", _explained(world)[0]),
    "feedback": lambda world: world._made("/v1/feedback", _FEEDBACK),
    "key": lambda world: world._made("/v1/keys", {"name": "spare"}),
    "deployment": lambda world: world._made(
        "/v1/deployments", {"id": DEPLOYED, "model": world._id("echo")}
    ),
}
_DELETED = ("key", "file", "dataset", "explanation", "feedback", "deployment", "spare")


def _tuned(world: World) -> Json:
    return {"model": world._id("echo"), "training_file": world._id("chats"), "suffix": "docs"}


def _versioned(world: World) -> list[Json]:
    world._id("feedback")
    return [{"file_ids": [world._id("table")]}, {"feedback_model": "spam"}]


_BODIES: dict[str, Callable[[World], list[Json]]] = {
    "/v1/chat/completions": _chatted,
    "/v1/completions": _completed,
    "/v1/embeddings": _embedded,
    "/v1/audio/transcriptions": _transcribed,
    "/v1/audio/translations": _translated,
    "/v1/rerank": _reranked,
    "/v1/score": _scored,
    "/v1/classify": _classified,
    "/v1/decisions": _decided,
    "/v1/explanations": _explained,
    "/v1/tokenize": _tokenized,
    "/tokenize": _tokenized,
    "/v1/models": lambda world: [
        {"id": world._fresh("named"), "source": _folder(world)},
        {"id": world._fresh("leaf"), "source": _adapter(world), "base": world._id("stem")},
    ],
    "/v1/files": lambda _: [{"file": _chat_file(), "purpose": "fine-tune"}],
    "/v1/fine_tuning/jobs": lambda world: [_tuned(world)],
    "/v1/fine_tuning/validate": lambda world: [_tuned(world)],
    "/v1/datasets": lambda world: [{"file_ids": [world._id("table")], "name": "rows"}],
    "/v1/datasets/{dataset_id}/versions": _versioned,
    "/v1/datasets/some-id/versions": _versioned,
    "/v1/pulls": lambda _: [{"source": "hf://datasets/acme/letters", "files": ["*.csv"]}],
    "/v1/feedback": lambda _: [_FEEDBACK, {"model": "spam", "request_id": "r", "correction": "x"}],
    "/v1/training/jobs": lambda world: [{"recipe": _recipe(world), "metadata": {"who": "me"}}],
    "/v1/training/sweeps": lambda world: [
        {
            "recipe": _recipe(world),
            "space": {"optimizer.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}},
            "metric": "macro_f1",
            "direction": "maximize",
            "max_trials": 2,
            "max_minutes": 5.0,
        },
        {"recipe": _recipe(world), "space": {"seed": {"values": [1, 2]}}, "max_trials": 1},
    ],
    "/v1/recipes/validate": lambda world: [{"recipe": _recipe(world)}],
    "/v1/deployments": _deployed,
    "/v1/deployments/{deployment}": _redeployed,
    f"/v1/deployments/{DEPLOYED}": _redeployed,
    "/v1/keys": lambda _: [{"name": "narrow", "scopes": ["inference"], "project": "other"}],
}
