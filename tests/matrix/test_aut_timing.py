"""Wrong keys and foreign models are told apart by nothing: not by answers, work, or time."""

import math
import random
import statistics
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from purvey.access.keys import PREFIX
from purvey.store import keys
from purvey.store.database import Database
from tests.conftest import FIRST_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.matrix.conftest import Held

SEED = 20_261_125
SHARED = (0, 8, 31, 47)
"""How many leading characters a wrong key shares with a right one of 48."""


def _chance() -> random.Random:
    return random.Random(SEED)  # noqa: S311 (an order, not a secret)


def _wrong_keys(chance: random.Random) -> dict[str, str]:
    """Return one key of each class that a clock must not tell from the others."""
    assert len(FIRST_KEY) == 48

    def noise(num_chars: int) -> str:
        return "".join(chance.choices("0123456789abcdef", k=num_chars))

    sharing = {
        f"{n} characters of a right key": FIRST_KEY[:n] + "x" + noise(len(FIRST_KEY) - n - 1)
        for n in SHARED
    }
    known = PREFIX + noise(len(FIRST_KEY) - len(PREFIX))
    return sharing | {"a known prefix": known, "an unknown one": noise(len(FIRST_KEY))}


def _headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _welch_t(a: list[float], b: list[float]) -> float:
    error = statistics.variance(a) / len(a) + statistics.variance(b) / len(b)
    return (statistics.fmean(a) - statistics.fmean(b)) / math.sqrt(error)


def _auc(a: list[float], b: list[float]) -> float:
    """Return the probability that one of `a` exceeds one of `b` (Mann and Whitney 1947)."""
    ranked = sorted((value, which) for which, values in enumerate((a, b)) for value in values)
    rank_sum = sum(rank for rank, (_, which) in enumerate(ranked, start=1) if which == 0)
    return (rank_sum - len(a) * (len(a) + 1) / 2) / (len(a) * len(b))


def _timed(
    client: httpx2.Client, asks: "dict[str, Callable[[], httpx2.Response]]", *, num_rounds: int
) -> dict[str, list[float]]:
    """Time each of the questions so many times, in a fresh random order each round."""
    chance, found = _chance(), defaultdict[str, list[float]](list)
    names = list(asks)
    for number in range(num_rounds + 100):
        chance.shuffle(names)
        for name in names:
            began = time.perf_counter()
            asks[name]()
            if number >= 100:  # warm
                found[name].append(time.perf_counter() - began)
    return {name: _trimmed(values) for name, values in found.items()}


def _trimmed(values: list[float]) -> list[float]:
    """Leave out the slowest tenth: interruptions of the machine, which hit all classes alike."""
    return sorted(values)[: len(values) * 9 // 10]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the database is asked, by the name of the function that asks."""
    seen: list[str] = []
    for name in ("read", "write"):
        plain = getattr(Database, name)

        def noting(self: Database, ask: Any, plain: Any = plain) -> Any:
            if not ask.__qualname__.startswith("sweep_once"):  # comes by the clock, for nobody
                seen.append(ask.__qualname__)
            return plain(self, ask)

        monkeypatch.setattr(Database, name, noting)
    return seen


@pytest.mark.row("AUT-05")
def test_every_wrong_key_costs_the_same_work_and_gets_the_same_answer(
    held: "Held", work: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked up is a keyed hash of the whole key, so no prefix of it can matter."""
    hashes: list[bytes] = []
    find = keys.find
    monkeypatch.setattr(keys, "find", lambda conn, it: hashes.append(it) or find(conn, it))  # type: ignore[func-returns-value]  # append is the note
    answers, wrong = set(), _wrong_keys(_chance())
    with held.witness.client(key=None) as client:
        for key in wrong.values():
            answer = client.get("/v1/models", headers=_headers(key))
            headers = {k: v for k, v in answer.headers.items() if k not in {"date", "x-request-id"}}
            answers.add((answer.status_code, answer.text, tuple(sorted(headers.items()))))
    assert len(answers) == 1
    assert {status for status, *_ in answers} == {401}
    assert work == ["KeyRing._look_up.<locals>.<lambda>"] * len(wrong), "one look-up each"
    assert [len(one) for one in hashes] == [32] * len(wrong)
    assert len({one[:2] for one in hashes}) == len(wrong), "alike keys have unlike hashes"


@pytest.mark.row("AUT-05")
@pytest.mark.faults
def test_no_clock_tells_wrong_keys_apart(held: "Held") -> None:
    """Welch's |t| below 4.5 between any two classes, 20,000 timings in all."""
    wrong = _wrong_keys(_chance())
    with held.witness.client(key=None) as client:

        def asking(key: str) -> "Callable[[], httpx2.Response]":
            return lambda: client.get("/v1/models", headers=_headers(key))

        asks = {name: asking(key) for name, key in wrong.items()}
        found = _timed(client, asks, num_rounds=20_000 // len(wrong) + 1)
    first, *others = found
    scores = {name: _welch_t(found[first], found[name]) for name in others}
    assert all(abs(t) < 4.5 for t in scores.values()), (SEED, scores)


def _models(held: "Held") -> tuple[httpx2.Client, str, str]:
    """Return a stranger, the name of a model that is not theirs, and one that nobody has."""
    asked = {"name": "b", "project": "proj_stranger", "scopes": ["admin"]}
    key = held.http.post("/v1/keys", json=asked).json()["key"]
    return held.witness.client(key=key), held.model, "ecko"


def _asking(client: httpx2.Client, model: str) -> "dict[str, Callable[[], httpx2.Response]]":
    turns = [{"role": "user", "content": "hi"}]
    return {
        "chat": lambda: client.post(
            "/v1/chat/completions", json={"model": model, "messages": turns}
        ),
        "completion": lambda: client.post("/v1/completions", json={"model": model, "prompt": "hi"}),
        "classify": lambda: client.post("/v1/classify", json={"model": model, "input": "hi"}),
        "tokenize": lambda: client.post("/v1/tokenize", json={"model": model, "prompt": "hi"}),
        "get": lambda: client.get(f"/v1/models/{model}"),
        "delete": lambda: client.delete(f"/v1/models/{model}"),
    }


@pytest.mark.row("AUT-09")
def test_a_foreign_model_costs_the_work_of_none_and_gets_its_answer(
    held: "Held", work: list[str]
) -> None:
    client, theirs, nobodys = _models(held)
    num_asked = held.num_engine_requests
    with client:
        client.get("/v1/models").raise_for_status()  # the key is known from now on
        for name in _asking(client, theirs):
            seen = []
            for model in (theirs, nobodys):
                work.clear()
                answer = _asking(client, model)[name]()
                assert answer.status_code == 404
                assert answer.json()["error"]["code"] == "model_not_found"
                text = answer.text.replace(model, "<model>")
                seen.append((text, sorted(answer.headers.keys()), list(work)))
            assert seen[0] == seen[1], name
            assert work
    assert held.num_engine_requests == num_asked


@pytest.mark.row("AUT-09")
@pytest.mark.faults
def test_no_clock_tells_a_foreign_model_from_none(held: "Held") -> None:
    """The area under the curve is within 0.02 of chance, at 5,000 timings each."""
    client, theirs, nobodys = _models(held)
    with client:
        asks = {model: _asking(client, model)["completion"] for model in (theirs, nobodys)}
        found = _timed(client, asks, num_rounds=5_000)
    auc = _auc(found[theirs], found[nobodys])
    assert abs(auc - 0.5) < 0.02, (SEED, auc)


def test_the_statistics_are_those_of_their_names() -> None:
    chance = _chance()
    same = [[chance.gauss(1, 0.1) for _ in range(2_000)] for _ in range(2)]
    slower = [value + 0.02 for value in same[1]]
    assert abs(_welch_t(*same)) < 4.5 < abs(_welch_t(same[0], slower))
    assert abs(_auc(*same) - 0.5) < 0.02 < abs(_auc(same[0], slower) - 0.5)
