"""Asking a model: classes, explanations, and text as it is generated."""

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from purvey.client.paging import Waiter, items
from purvey.client.transport import Json, Transport
from purvey.client.values import Classification, Explanation, Page, Transcript
from purvey.errors import InternalError, UserError, from_code

IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
}

AUDIO_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
}


def image_input(path: Path) -> Json:
    """Return an image file as the API's input: `{"image": "data:..."}`."""
    return {"image": _data_url(path, IMAGE_TYPES.get(path.suffix.lower(), "image/png"))}


def image_part(path: Path) -> Json:
    """Return an image file as a part of a message: `{"type": "image_url", ...}`."""
    return {"type": "image_url", "image_url": {"url": image_input(path)["image"]}}


def audio_input(path: Path) -> Json:
    """Return a recording's file as the API's input: `{"audio": "data:..."}`."""
    return {"audio": _data_url(path, AUDIO_TYPES.get(path.suffix.lower(), "audio/wav"))}


class Explanations:
    """Attributions."""

    def __init__(self, transport: Transport, waiter: Waiter) -> None:
        self._transport, self._waiter = transport, waiter

    def create(
        self,
        model: str,
        input: Json,  # noqa: A002 (the API's name)
        **options: object,
    ) -> Explanation:
        """Ask why; `wait` when the answer is still `in_progress`.

        Args:
            model: Name of the model.
            input: `{"text"}`, `{"messages"}` or `{"image"}`.
            options: `output`, `target`, `method`, `units`, `perturbation`, `budget`,
                `faithfulness`, `include`, `seed`; None leaves one out.
        """
        given = {name: value for name, value in options.items() if value is not None}
        body = {"model": model, "input": input, **given}
        return self._transport.create("/v1/explanations", Explanation, body=body)

    def get(self, explanation_id: str) -> Explanation:
        """Return an explanation."""
        return self._transport.get(_explanation(explanation_id), Explanation)

    def list(self) -> Iterator[Explanation]:
        """Yield every explanation, newest first."""
        return items(self._transport, "/v1/explanations", Page[Explanation])

    def delete(self, explanation_id: str) -> None:
        """Delete an explanation and its picture."""
        self._transport.delete(_explanation(explanation_id))

    def wait(self, explanation: Explanation) -> Explanation:
        """Wait until an explanation is complete.

        Raises:
            PurveyError: The error that it failed with.
        """
        for turn in self._waiter.turns():
            found = explanation if turn == 0 else self.get(explanation.id)
            if found.status == "completed":
                return found
            if found.status == "failed":
                error = found.error or {}
                raise from_code(
                    str(error.get("code", "internal_error")),
                    str(error.get("message", "the explanation failed")),
                    param=error.get("param"),
                )
        raise AssertionError("turns never end")

    def picture(self, explanation: Explanation) -> bytes | None:
        """Return the heat map PNG, where there is one."""
        path = (explanation.artifacts or {}).get("png")
        return self._transport.fetch(path) if path else None


class Answers:
    """Models that answer now."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def classify(
        self, model: str, inputs: Sequence[object], *, top_k: int | None = None
    ) -> Classification:
        """Return classes or score of each input.

        An input is text, a number, `{"image"}`, `{"audio"}` or a named mixture; `top_k` is for
        models that have labels.
        """
        body: Json = {"model": model, "inputs": list(inputs)}
        if top_k is not None:
            body["top_k"] = top_k
        return self._transport.post("/v1/classify", Classification, body=body)

    def transcribe(self, model: str, path: Path) -> str:
        """Return what a recording says.

        Raises:
            PurveyError: The model is for something else, or the recording is refused.
        """
        with path.open("rb") as content:
            answer = self._transport.upload(
                "/v1/audio/transcriptions",
                Transcript,
                fields={"model": model},
                name=path.name,
                content=content,
            )
        return answer.text

    def takes_chat(self, model: str) -> bool:
        """Tell whether a model takes conversations, by having one tokenised.

        Raises:
            PurveyError: There is no such model, or the server refuses for another reason.
        """
        body: Json = {"model": model, "messages": [{"role": "user", "content": "."}]}
        try:
            self._transport.post("/v1/tokenize", dict[str, object], body=body)
        except UserError as error:
            if error.status in (400, 422):
                return False
            raise
        return True

    def chat(self, model: str, messages: Sequence[Json], **sampling: object) -> Iterator[str]:
        """Yield the text of a chat answer as it is generated."""
        body = _generation(model, sampling) | {"messages": list(messages)}
        for choice in self._choices("/v1/chat/completions", body):
            yield str(choice.get("delta", {}).get("content") or "")

    def complete(self, model: str, prompt: str, **sampling: object) -> Iterator[str]:
        """Yield the text of a completion as it is generated."""
        body = _generation(model, sampling) | {"prompt": prompt}
        for choice in self._choices("/v1/completions", body):
            yield str(choice.get("text") or "")

    def _choices(self, path: str, body: Json) -> Iterator[Json]:
        for _, chunk in self._transport.stream("POST", path, body=body):
            if not isinstance(chunk, dict):
                raise InternalError("the stream holds something that is not a chunk.")
            yield from chunk.get("choices", [])[:1]


def _data_url(path: Path, kind: str) -> str:
    encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{kind};base64,{encoded}"


def _generation(model: str, sampling: dict[str, object]) -> Json:
    given = {name: value for name, value in sampling.items() if value is not None}
    return {"model": model, "stream": True, **given}


def _explanation(explanation_id: str) -> str:
    return f"/v1/explanations/{quote(explanation_id, safe='')}"
