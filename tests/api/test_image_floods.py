"""FIL-09: too many images, and images that are mostly encoding, are refused before an engine."""

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx2
import pytest

from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

pytestmark = pytest.mark.row("FIL-09")
HEAD = "data:image/png;base64,"
TINY = HEAD + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()


@pytest.fixture(scope="module")
def flooded(register: Callable[..., str]) -> str:
    """A registered image classifier."""
    image = ImageSpec(height=8, width=8)
    return register("flooded", labels=("0", "1"), inputs={"input": image})


@pytest.mark.parametrize("count", [LIMITS.classify_inputs + 1, 10**4])
def test_fil09_more_images_than_the_limit_are_refused(
    http: httpx2.Client, flooded: str, refused: "Refusal", count: int
) -> None:
    most = {"model": flooded, "inputs": [{"image": TINY}] * LIMITS.classify_inputs}
    assert http.post("/v1/classify", json=most).status_code == 200
    answer = http.post("/v1/classify", json=most | {"inputs": [{"image": TINY}] * count})
    refused(answer, 400, "invalid_value", "inputs")


@pytest.mark.parametrize("filling", [" ", "\\n", "=", "A", "!"])
def test_fil09_a_hundred_megabytes_of_base64_are_refused_by_their_length(
    http: httpx2.Client, flooded: str, refused: "Refusal", filling: str
) -> None:
    url = TINY + filling * (100 * 10**6 // len(filling))
    body = f'{{"model": "{flooded}", "input": {{"image": "{url}"}}}}'
    answer = http.post("/v1/classify", content=body, headers={"content-type": "application/json"})
    refused(answer, 413, "request_too_large")


@pytest.mark.parametrize("filling", [" ", "\n", "\t", "=", "====", "!", "-_", "é"])
@pytest.mark.parametrize("size", [1, 10**6])
def test_fil09_base64_that_is_not_exact_is_refused(
    http: httpx2.Client, flooded: str, refused: "Refusal", filling: str, size: int
) -> None:
    for url in (TINY + filling * size, TINY[:-4] + filling * size + TINY[-4:]):
        answer = http.post("/v1/classify", json={"model": flooded, "input": {"image": url}})
        refused(answer, 400, "invalid_value", "input.image")
