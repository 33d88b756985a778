"""What the clients of a soak have counted: to be equal to what the server has metered."""

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from purvey.errors import error_classes

ENDLESS = "endless"
"""The model whose answers nobody waits for: how much of them was generated is not known."""
DUE = {"storage_unavailable", "not_implemented"}
"""Codes of 5xx that are due in a soak: an upload beside the deletion of equal bytes, and what
OpenAI has and this server has not."""

OF_JOBS = {"training", "dataset"}
"""Kinds of rows that jobs leave."""


@dataclass
class Book:
    """Counts of one soak, kept by all clients of one event loop.

    Attributes:
        requests: Requests sent, those that were broken off included.
        rows: Rows of the ledger that are due, by kind.
        input_tokens: Prompt tokens of them, by kind.
        output_tokens: Generated tokens by kind, without those of `ENDLESS`.
        endless: Generations of `ENDLESS`.
        files: Ids of files that must be there, with the digest of their bytes.
        statuses: Answers by status.
    """

    requests: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    input_tokens: Counter[str] = field(default_factory=Counter)
    output_tokens: Counter[str] = field(default_factory=Counter)
    endless: int = 0
    files: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)

    def sent(self, num: int = 1) -> None:
        """Count requests."""
        self.requests += num

    def metered(self, kind: str, *, given: int = 0, made: int = 0) -> None:
        """Count a row of the ledger."""
        self.rows[kind] += 1
        self.input_tokens[kind] += given
        self.output_tokens[kind] += made

    def check(self, status: int, body: bytes, request_id: str, expected: Collection[int]) -> None:
        """Count an answer, and make sure that it is one that was due, in the one shape.

        Raises:
            AssertionError: It is not.
        """
        self.statuses[status] += 1
        assert request_id.startswith("req_"), f"no request id on {status}"
        code = None if status < 300 else refusal_code(body)
        assert status in expected or code in DUE, f"{status} {code}, not {expected}: {body[:300]!r}"
        assert status < 500 or code in DUE, f"{status} {code}"

    def differences(self, by_kind: dict[str, Any], by_model: dict[str, Any]) -> list[str]:
        """Say where the server's sums differ from these counts."""
        found = []
        endless = by_model.get(ENDLESS, {"requests": 0, "output_tokens": 0})
        if endless["requests"] != self.endless:
            found.append(f"{ENDLESS}: {self.endless} sent, {endless['requests']} metered")
        for kind in sorted({*self.rows, *by_kind}):
            told = by_kind.get(kind, {"requests": 0, "input_tokens": 0, "output_tokens": 0})
            made = told["output_tokens"] - (endless["output_tokens"] if kind == "chat" else 0)
            metered = [told["requests"], told["input_tokens"], made]
            counted = [self.rows[kind], self.input_tokens[kind], self.output_tokens[kind]]
            if kind in OF_JOBS:  # their tokens are the workers' word
                metered, counted = metered[:1], counted[:1]
            if metered != counted:
                found.append(f"{kind}: {counted} counted, {metered} metered")
        return found


def refusal_code(body: bytes) -> str:
    """Return the code of a refusal in the one shape of errors.

    Raises:
        AssertionError: It has another shape.
    """
    told = json.loads(body)
    assert set(told) == {"error"}, told
    assert set(told["error"]) == {"message", "type", "param", "code"}, told
    code: str = told["error"]["code"]
    assert told["error"]["type"] == error_classes()[code].type
    assert told["error"]["message"]
    return code
