"""A client that holds every answer to the error contract."""

from collections import Counter

import httpx2

from purvey.errors import error_classes

UNEXPECTED = {500}


class Witness:
    """Looks at every answer of the clients it makes.

    Attributes:
        statuses: How often each status came.
    """

    def __init__(self, base_url: str, key: str) -> None:
        self.statuses: Counter[int] = Counter()
        self._base_url, self._key = base_url, key

    def client(self, *, key: str | None = "", timeout: float = 30.0) -> httpx2.Client:
        """Return a client; without `key` it has the administrator's, with None none at all."""
        shown = self._key if key == "" else key
        headers = {"authorization": f"Bearer {shown}"} if shown else {}
        return httpx2.Client(
            base_url=self._base_url,
            headers=headers,
            timeout=timeout,
            event_hooks={"response": [self.look]},
            trust_env=False,
        )

    def look(self, response: httpx2.Response) -> None:
        """G13: a refusal has the one shape, a request id and advice on retrying; no 500."""
        self.statuses[response.status_code] += 1
        assert response.headers["x-request-id"].startswith("req_")
        if response.is_success or response.status_code == 304:
            return
        response.read()
        assert_refusal(response)


def assert_refusal(response: httpx2.Response) -> None:
    """Assert the error contract of one answer that is not a success."""
    assert response.status_code not in UNEXPECTED, response.text
    assert response.headers["content-type"] == "application/json"
    if response.request.method == "HEAD":
        return
    body = response.json()
    assert set(body) == {"error"}, body
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert error["message"]
    assert isinstance(error["message"], str)
    assert error["type"] == error_classes()[error["code"]].type
    assert "0x" not in error["message"]
    assert "Traceback" not in response.text
    if response.status_code in {408, 409, 429} or response.status_code >= 500:
        assert response.headers["x-should-retry"] in {"true", "false"}
    if response.headers.get("x-should-retry") == "true" and response.status_code in {429, 503}:
        assert 0 < int(response.headers["retry-after"]) <= 120
