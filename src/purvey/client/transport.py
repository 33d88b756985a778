"""HTTP to one server: JSON in and out, errors rebuilt, creating calls safe to repeat."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, TypeVar

import httpx2
import msgspec

from purvey.client.repeating import repeated
from purvey.errors import (
    CapacityError,
    DeadlineExceededError,
    InternalError,
    InvalidValueError,
    PurveyError,
    from_code,
)

V = TypeVar("V")
Json = dict[str, Any]  # JSON values
Query = Mapping[str, str | int | float | bool | None]
DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
CONNECT_TIMEOUT_S = 5.0
DONE = "[DONE]"


class Transport:
    """One connection pool to one server.

    Args:
        base_url: Address with or without the trailing `/v1`.
        api_key: Sent as a bearer token; None sends none.
        timeout_s: Longest silence of the server while it answers.
        longest_pause_s: Bound of the pauses before a creating call is sent again.
        http: Carrier of the requests, for tests.

    Raises:
        InvalidValueError: The address begins with neither `http://` nor `https://`.
    """

    def __init__(
        self,
        *,
        base_url: str = DEFAULT_BASE_URL,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        longest_pause_s: float = 2.0,
        http: httpx2.BaseTransport | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise InvalidValueError(
                f"the address {base_url!r} has no scheme.",
                param="base_url",
                hint=f"Write http://{base_url} (PURVEY_BASE_URL).",
            )
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._longest_pause_s = longest_pause_s
        self.address = base_url.rstrip("/").removesuffix("/v1")
        self._client = httpx2.Client(
            base_url=self.address,
            headers=headers,
            timeout=httpx2.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            transport=http,
        )

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def get(self, path: str, shape: type[V], *, query: Query | None = None) -> V:
        """Fetch an object."""
        return self._answer(self._request("GET", path, query=query), shape)

    def post(self, path: str, shape: type[V], *, body: Json | None = None) -> V:
        """Ask for something, or act on it."""
        return self._answer(self._request("POST", path, body=body or {}), shape)

    def create(self, path: str, shape: type[V], *, body: Json) -> V:
        """Create something once, under a fresh idempotency key, repeated if the answer is lost."""
        return self._once(
            lambda headers: self._client.post(path, json=body, headers=headers), shape
        )

    def delete(self, path: str) -> None:
        """Delete an object."""
        self._request("DELETE", path)

    def fetch(self, path: str) -> bytes:
        """Fetch raw content."""
        return self._request("GET", path).content

    def save(self, path: str, file: IO[bytes], *, query: Query | None = None) -> None:
        """Write raw content into an open file, as it comes."""
        with (
            self._named_failures(),
            self._client.stream("GET", path, params=_present(query)) as response,
        ):
            if response.is_error:
                response.read()
                raise error_of(response)
            for chunk in response.iter_bytes():
                file.write(chunk)

    def upload(
        self, path: str, shape: type[V], *, fields: Json, name: str, content: IO[bytes]
    ) -> V:
        """Create something from a file, once, sent as a multipart form.

        Args:
            path: Where to.
            shape: Type of the answer.
            fields: The other fields of the form.
            name: File name.
            content: An open binary file that can be read again.
        """

        def send(headers: dict[str, str]) -> httpx2.Response:
            content.seek(0)
            files = {"file": (name, content)}
            return self._client.post(path, data=fields, files=files, headers=headers)

        return self._once(send, shape)

    def stream(
        self, method: str, path: str, *, body: Json | None = None, query: Query | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Yield name and JSON data of each server-sent event until the server ends the stream.

        Raises:
            PurveyError: The server refused, or sent an error event.
        """
        with (
            self._named_failures(),
            self._client.stream(method, path, json=body, params=_present(query)) as response,
        ):
            if response.is_error:
                response.read()
                raise error_of(response)
            for event in httpx2.EventSource(response):
                if event.data == DONE:
                    return
                data = json.loads(event.data) if event.data else None
                if isinstance(data, dict) and isinstance(data.get("error"), dict):
                    raise error_from_body(data["error"])
                yield event.event, data

    def _request(
        self, method: str, path: str, *, query: Query | None = None, body: Json | None = None
    ) -> httpx2.Response:
        with self._named_failures():
            response = self._client.request(method, path, params=_present(query), json=body)
        return self._checked(response)

    def _once(self, send: Callable[[dict[str, str]], httpx2.Response], shape: type[V]) -> V:
        with self._named_failures():
            response = repeated(send, longest_pause_s=self._longest_pause_s)
        return self._answer(self._checked(response), shape)

    def _checked(self, response: httpx2.Response) -> httpx2.Response:
        if response.is_error:
            raise error_of(response)
        return response

    def _answer(self, response: httpx2.Response, shape: type[V]) -> V:
        try:
            return msgspec.json.decode(response.content, type=shape)
        except msgspec.MsgspecError as error:
            raise InternalError(
                f"the server's answer is not what this client knows: {error}.",
                hint="Are server and client of the same version?",
            ) from error

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        """Turn failures of the network into errors that say what to do."""
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise CapacityError(
                f"no server answers at {self.address!r}.",
                hint="Start one with `purvey serve`, or set PURVEY_BASE_URL.",
            ) from error
        except httpx2.TimeoutException as error:
            raise DeadlineExceededError(f"the server at {self.address!r} fell silent.") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise CapacityError(
                f"the connection to {self.address!r} failed: {type(error).__name__}."
            ) from error


def error_of(response: httpx2.Response) -> PurveyError:
    """Rebuild the error that a response carries; one that is not ours becomes internal."""
    try:
        body = response.json()["error"]
        return error_from_body(body)
    except (ValueError, KeyError, TypeError):
        return InternalError(
            f"the server answered {response.status_code} without an error body.",
            hint="Is PURVEY_BASE_URL the address of a Purvey server?",
        )


def error_from_body(body: Mapping[str, Any]) -> PurveyError:
    """Rebuild an error from the API's error object, whose message already holds the hint."""
    return from_code(str(body["code"]), str(body["message"]), param=body.get("param"))


def _present(query: Query | None) -> dict[str, str | int | float | bool]:
    return {name: value for name, value in (query or {}).items() if value is not None}
