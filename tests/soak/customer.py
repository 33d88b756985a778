"""A client of a soak that uses every resource as it should be used, over pooled connections."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx2
from openai import AsyncOpenAI

from tests.soak.book import Book

WORDS = ["spam", "ham", "prize", "meeting", "lottery", "invoice", "hello", "tomorrow"]
POLL_S = 0.05
ENDED = ("succeeded", "failed", "cancelled")
CHOICE = {
    "type": "choice",
    "instructions": "Which?",
    "choices": [{"value": "spam"}, {"value": "ham"}],
}


@dataclass(kw_only=True)
class Customer:
    """One client.

    Args:
        http: Speaks plain HTTP, with the administrator's key.
        sdk: The official client with the same key.
        book: Where requests are counted.
        chance: Decides.
        dataset: Id of a ready dataset.
        training_file: Id of a file of conversations.
    """

    http: httpx2.AsyncClient
    sdk: AsyncOpenAI
    book: Book
    chance: Random
    dataset: str
    training_file: str
    _own: list[str] = field(default_factory=list)

    @property
    def errands(self) -> tuple[tuple[Callable[[], Awaitable[None]], int], ...]:
        """Every use, and how often it comes."""
        return (
            (self.chat, 14),
            (self.streamed_chat, 8),
            (self.chat_by_sdk, 3),
            (self.streamed_chat_by_sdk, 3),
            (self.completion, 8),
            (self.classify, 10),
            (self.decide, 8),
            (self.tokenize, 8),
            (self.explain, 4),
            (self.explain_later, 2),
            (self.upload, 6),
            (self.upload_again, 2),
            (self.download_and_delete, 6),
            (self.equal_files, 2),
            (self.listings, 8),
            (self.key_and_revocation, 3),
            (self.build_dataset, 2),
            (self.train, 2),
            (self.fine_tune, 1),
            (self.watch_and_cancel, 2),
            (self.public_pages, 3),
        )

    async def ask(
        self,
        method: str,
        path: str,
        *expected: int,
        **request: Any,  # what httpx2 takes
    ) -> httpx2.Response:
        """Send a request and check its answer; any 2xx is expected unless told otherwise."""
        self.book.sent()
        answer = await self.http.request(method, path, **request)
        self._check(answer, expected or range(200, 300))
        return answer

    async def json(self, method: str, path: str, **request: Any) -> Any:  # JSON values
        """Send a request that succeeds, and return its JSON."""
        return (await self.ask(method, path, **request)).json()

    async def chat(self) -> None:
        text = self._text()
        told = await self.json("POST", "/v1/chat/completions", json=_chat(text))
        assert told["choices"][0]["message"]["content"] == text
        self._count_chat(text)

    async def streamed_chat(self) -> None:
        text = self._text()
        body = _chat(text) | {"stream": True}
        told = (await self.ask("POST", "/v1/chat/completions", json=body)).text
        *chunks, done, rest = told.split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        parsed = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
        said = [chunk["choices"][0]["delta"].get("content", "") for chunk in parsed]
        assert "".join(said) == text
        self._count_chat(text)

    async def chat_by_sdk(self) -> None:
        text = self._text()
        self.book.sent()
        told = await self.sdk.chat.completions.create(**_chat(text))
        assert told.choices[0].message.content == text
        self._count_chat(text)

    async def streamed_chat_by_sdk(self) -> None:
        text, said = self._text(), ""
        self.book.sent()
        async for chunk in await self.sdk.chat.completions.create(**_chat(text), stream=True):
            said += chunk.choices[0].delta.content or ""
        assert said == text
        self._count_chat(text)

    async def completion(self) -> None:
        text = self._text()
        body = {"model": "echo", "prompt": text, "max_tokens": 5}
        told = await self.json("POST", "/v1/completions", json=body)
        assert told["choices"][0]["text"] == text[:5]
        self.book.metered("completion", given=len(text), made=min(5, len(text)))

    async def classify(self) -> None:
        inputs = [self._text() for _ in range(self.chance.randint(1, 3))]
        told = await self.json("POST", "/v1/classify", json={"model": "mail", "inputs": inputs})
        assert len(told["results"]) == len(inputs)
        self.book.metered("classify")

    async def decide(self) -> None:
        body = {"model": "mail", "input": self._text(), "questions": [CHOICE]}
        told = await self.json("POST", "/v1/decisions", json=body)
        assert told["answers"][0]["choice"] in {"spam", "ham"}
        self.book.metered("decision")

    async def tokenize(self) -> None:
        text = self._text()
        body = {"model": "echo", "prompt": text}
        assert (await self.json("POST", "/v1/tokenize", json=body))["count"] == len(text)
        self.book.metered("tokenize", given=len(text))

    async def explain(self) -> None:
        body = {"model": "mail", "input": {"text": self._text()}}
        name = {"idempotency-key": self._name()}
        told = await self.json("POST", "/v1/explanations", json=body, headers=name)
        self.book.metered("explanation")
        if self.chance.random() < 0.3:
            again = await self.json("POST", "/v1/explanations", json=body, headers=name)
            assert again["id"] == told["id"]
        if self.chance.random() < 0.9:
            await self.ask("DELETE", f"/v1/explanations/{told['id']}")

    async def explain_later(self) -> None:
        body = {"model": "mail", "input": {"text": self._text()}, "budget": {"max_ms": 0}}
        told = await self.json("POST", "/v1/explanations", json=body)
        self.book.metered("explanation")
        found = await self._until(f"/v1/explanations/{told['id']}", "completed", "failed")
        assert found["status"] == "completed"

    async def upload(self) -> None:
        await self._upload(self._content())

    async def upload_again(self) -> None:
        content, name = self._content(), self._name()
        first = await self._upload(content, key=name)
        assert await self._upload(content, key=name) == first
        other = {"file": ("a.bin", b"other" + content), "purpose": (None, "user_data")}
        headers = {"idempotency-key": name}
        await self.ask("POST", "/v1/files", 422, files=other, headers=headers)

    async def download_and_delete(self) -> None:
        if not self._own:
            return await self.upload()
        chosen = self._own.pop(self.chance.randrange(len(self._own)))
        content = (await self.ask("GET", f"/v1/files/{chosen}/content")).content
        assert hashlib.sha256(content).hexdigest() == self.book.files[chosen]
        del self.book.files[chosen]
        await self.ask("DELETE", f"/v1/files/{chosen}")
        await self.ask("GET", f"/v1/files/{chosen}", 404)
        return None

    async def equal_files(self) -> None:
        """Store bytes that other clients store and delete at the same time."""
        content = self.chance.choice(WORDS).encode()
        files = {"file": ("same.txt", content), "purpose": (None, "user_data")}
        answer = await self.ask("POST", "/v1/files", files=files)
        if answer.status_code == 200:
            await self.ask("DELETE", f"/v1/files/{answer.json()['id']}")

    async def listings(self) -> None:
        path = self.chance.choice(
            ("models", "files", "datasets", "training/jobs", "fine_tuning/jobs", "keys")
        )
        page = await self.json("GET", f"/v1/{path}", params={"limit": self.chance.randint(1, 20)})
        if page["data"] and path != "keys":
            await self.ask("GET", f"/v1/{path}/{page['data'][0]['id']}", 200, 404)

    async def key_and_revocation(self) -> None:
        made = await self.json("POST", "/v1/keys", json={"name": "n", "scopes": ["inference"]})
        headers = {"authorization": f"Bearer {made['key']}"}
        await self.ask("GET", "/v1/server", headers=headers)
        await self.ask("GET", "/v1/usage", 403, headers=headers)
        await self.ask("DELETE", f"/v1/keys/{made['id']}")
        await self.ask("GET", "/v1/server", 401, headers=headers)

    async def build_dataset(self) -> None:
        file_id = await self._upload(b"text,label\n" + self._content()[:200])
        name = {"idempotency-key": self._name()}
        body = {"file_ids": [file_id]}
        made = await self.json("POST", "/v1/datasets", json=body, headers=name)
        assert (await self.json("POST", "/v1/datasets", json=body, headers=name))["id"] == made[
            "id"
        ]
        self.book.metered("dataset")
        await self._until(f"/v1/datasets/{made['id']}", "ready")
        await self.ask("DELETE", f"/v1/datasets/{made['id']}")

    async def train(self) -> None:
        job_id = await self._train(self._name())
        told = await self._follow(job_id, b"event: done")
        assert told.count(b"job.event") >= 3
        job = await self.json("GET", f"/v1/training/jobs/{job_id}")
        assert job["status"] == "succeeded", job
        await self.ask("DELETE", f"/v1/models/{job['model']}")

    async def fine_tune(self) -> None:
        self.book.sent()
        made = await self.sdk.fine_tuning.jobs.create(
            model="echo", training_file=self.training_file, suffix="s"
        )
        self.book.metered("training")
        job = await self._until(f"/v1/fine_tuning/jobs/{made.id}", *ENDED)
        assert job["status"] == "succeeded", job
        self.book.sent()
        assert [e.id async for e in self.sdk.fine_tuning.jobs.list_events(made.id, limit=100)]
        if self.chance.random() < 0.05:  # a process of its own: it comes, and goes again
            body = _chat("hello") | {"model": job["fine_tuned_model"]}
            await self.ask("POST", "/v1/chat/completions", json=body)
            self._count_chat("hello")
        await self.ask("DELETE", f"/v1/models/{job['fine_tuned_model']}")

    async def watch_and_cancel(self) -> None:
        """Leave the stream of a job that has nothing more to tell, then end the job."""
        job_id = await self._train("waits")
        for _ in range(self.chance.randint(1, 3)):
            await self._follow(job_id, b"Waiting.")
        await self.ask("POST", f"/v1/training/jobs/{job_id}/cancel")
        job = await self._until(f"/v1/training/jobs/{job_id}", *ENDED)
        assert job["status"] == "cancelled"

    async def public_pages(self) -> None:
        await self.ask("GET", self.chance.choice(("/healthz", "/readyz", "/metrics")))

    async def _train(self, name: str) -> str:
        recipe = {"task": "text-classification", "name": name, "dataset": self.dataset}
        made = await self.json("POST", "/v1/training/jobs", json={"recipe": recipe})
        self.book.metered("training")
        job_id: str = made["id"]
        return job_id

    async def _follow(self, job_id: str, until: bytes) -> bytes:
        self.book.sent()
        told = b""
        path = f"/v1/training/jobs/{job_id}/events"
        async with self.http.stream("GET", path, params={"stream": "true"}) as answer:
            async for chunk in answer.aiter_bytes():
                told += chunk
                if until in told:
                    break
        assert until in told, told
        return told

    async def _upload(self, content: bytes, *, key: str | None = None) -> str:
        files = {"file": ("a.bin", content), "purpose": (None, "user_data")}
        headers = {"idempotency-key": key} if key else {}
        made = await self.json("POST", "/v1/files", files=files, headers=headers)
        file_id: str = made["id"]
        if file_id not in self.book.files:
            self._own.append(file_id)
        self.book.files[file_id] = hashlib.sha256(content).hexdigest()
        return file_id

    async def _until(self, path: str, *statuses: str) -> Any:  # JSON values
        while True:
            found = await self.json("GET", path)
            if found["status"] in statuses:
                return found
            await asyncio.sleep(POLL_S)

    def _check(self, answer: httpx2.Response, expected: Collection[int]) -> None:
        request_id = answer.headers.get("x-request-id", "")
        self.book.check(answer.status_code, answer.content, request_id, expected)

    def _count_chat(self, text: str) -> None:
        self.book.metered("chat", given=len(f"user: {text}\n"), made=len(text))

    def _text(self) -> str:
        return " ".join(self.chance.choices(WORDS, k=self.chance.randint(1, 3)))

    def _content(self) -> bytes:
        size = 1_200_000 if self.chance.random() < 0.02 else self.chance.randint(1, 5_000)
        return self.chance.randbytes(16) + bytes(size)

    def _name(self) -> str:
        return f"n{self.chance.getrandbits(64):016x}"


def _chat(text: str) -> Any:  # the SDK's union of message types
    return {"model": "echo", "messages": [{"role": "user", "content": text}]}
