"""`/v1/exports`: the files of a model that was made here, to be taken elsewhere."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from fastapi import Query, Response
from pydantic import Field
from typing_extensions import TypedDict

from purvey.errors import IntegrityError, MethodUnsupportedError
from purvey.server.openai.files import Attachment, disposition
from purvey.server.policy import Call, Caller
from purvey.server.routing import Routes
from purvey.server.validation import Question
from purvey.telemetry import alarms

routes = Routes(tag="Models")
BYTES = "application/octet-stream"


class ExportQuery(Question):
    """What of the model."""

    file: Annotated[str, Field(min_length=1, max_length=4_096)] | None = Field(
        None, description="Of one of its files, the bytes; a list of them unless given."
    )


class ExportedFile(TypedDict):
    """One file of the model's folder; `file` is its path there."""

    file: str
    bytes: int
    sha256: str


class ExportedFiles(TypedDict):
    """All files of a model's folder."""

    object: Literal["list"]
    model: str
    data: list[ExportedFile]


EXAMPLE: dict[str, Any] = {  # JSON values
    "object": "list",
    "model": "ft:stories:default::6f1c9a0e",
    "data": [
        {
            "file": "adapter_model.safetensors",
            "bytes": 1_048_576,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        }
    ],
}


@routes.add(
    "GET",
    "/v1/exports/{model:path}",
    scope="models:write",
    returns=ExportedFiles,
    example=EXAMPLE,
    extra={
        "responses": {
            "200": {"content": {BYTES: {"example": "(the bytes of adapter_model.safetensors)"}}}
        }
    },
)
async def export(call: Caller, model: str, query: Annotated[ExportQuery, Query()]) -> Any:  # noqa: ANN401 (JSON, or a file)
    """List the files of a model that a job made; download one with `file`.

    Together they are a folder that `transformers` reads, or, of a model that was fine-tuned with
    LoRA, one that `peft` reads: an adapter, without its base. A download is always an attachment.
    """
    artifact = await _artifact(call, model)
    if query.file is not None:
        return await _download(call, artifact, query.file)
    with _alarmed(artifact):
        files = await asyncio.to_thread(call.services.artifacts.files, artifact)
    data: list[ExportedFile] = [
        {"file": file.path, "bytes": file.num_bytes, "sha256": file.sha256} for file in files
    ]
    return {"object": "list", "model": model, "data": data}


async def _download(call: Call, artifact: str, file: str) -> Response:
    with _alarmed(artifact):
        path = await asyncio.to_thread(call.services.artifacts.intact, artifact, file)
    return Attachment(
        path,
        stat_result=await asyncio.to_thread(path.stat),
        media_type=BYTES,
        headers={
            "content-disposition": disposition(PurePosixPath(file).name),
            "accept-ranges": "none",
        },
    )


async def _artifact(call: Call, name: str) -> str:
    record = await call.services.models.get(call.project_id, name)
    if record.artifact is None:
        raise MethodUnsupportedError(
            f"the model {name!r} was not made here.",
            param="model",
            hint="It is served from a folder of the operator: copy that.",
        )
    return record.artifact


@contextmanager
def _alarmed(artifact: str) -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        alarms.integrity_failed("model", digest=artifact)
        raise
