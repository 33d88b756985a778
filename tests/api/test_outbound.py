"""Addresses in requests: fetched from allowed hosts only, and never from inside."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from purvey.contracts.embedding import Picture
from purvey.contracts.engine import ImageInput
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec, TextSpec
from purvey.network.addresses import Address, is_public
from purvey.network.outbound import Outbound
from purvey.testing.certificate import make_certificate
from purvey.testing.https_double import HttpsDouble, Listener, answer_of
from purvey.testing.scripted_answers import tiny_png
from purvey.testing.scripted_engine import ScriptedEngine
from tests.conftest import RunningServer, scripted_server
from tests.unit.network.conftest import HOST, Names
from tests.unit.network.test_addresses import INTERNAL

if TYPE_CHECKING:
    from tests.api.conftest import Refusal

OPEN = IPv4Address("127.0.0.1")
URL = f"https://{HOST}/a.png"
DIGITS = {"model": "digits"}
CHOICES = [{"value": "0"}, {"value": "1"}]
LITERALS = [
    *("127.0.0.1", "0.0.0.0", "localhost", "localhost.", "[::1]", "[::ffff:127.0.0.1]"),
    *("[64:ff9b::7f00:1]", "169.254.169.254", "10.0.0.1", "172.16.0.1", "192.168.0.1"),
    *("100.64.0.1", "[fe80::1]", "[fe80::1%25lo]", "[fc00::1]", "224.0.0.1", "[ff02::1]"),
    *("2130706433", "017700000001", "0177.0.0.1", "0x7f000001", "0x7f.1", "127.1", "127.0.1"),
    *("①②⑦.⓪.⓪.①", "127。0。0。1", "%31%32%37.0.0.1", f"{HOST}@127.0.0.1"),
    "metadata.google.internal",
]
SCHEMES = ["file", "ftp", "gopher", "jar", "unix", "s3", "hf", "dict", "ldap", "blob", "http"]


class Sink:
    """A field of a request that takes the address of an image."""

    def __init__(self, path: str, param: str, body: Callable[[str], dict[str, Any]]) -> None:
        self.path, self.param, self.body = path, param, body

    def send(self, http: httpx2.Client, url: str) -> httpx2.Response:
        """Send a request with this address."""
        return http.post(self.path, json=self.body(url))


def _decision(url: str) -> dict[str, Any]:
    part = {"type": "input_image", "image_url": url}
    question = {"type": "choice", "instructions": "Which?", "choices": CHOICES}
    given = [{"role": "user", "content": [part]}]
    return {"model": "digits", "input": given, "questions": [question]}


def _question(url: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"model": "seer", "messages": [{"role": "user", "content": [part]}]}


SINKS = {
    "classify": Sink("/v1/classify", "input.image", lambda u: {**DIGITS, "input": {"image": u}}),
    "classify text": Sink("/v1/classify", "input", lambda u: {**DIGITS, "input": u}),
    "classify many": Sink("/v1/classify", "inputs.0", lambda u: {**DIGITS, "inputs": [u]}),
    "classify mixture": Sink(
        "/v1/classify",
        "input.photo.image",
        lambda u: {"model": "mixed", "input": {"note": "0", "photo": {"image": u}}},
    ),
    "embed": Sink(
        "/v1/embeddings", "input.1.image", lambda u: {"model": "clip", "input": ["a", {"image": u}]}
    ),
    "explain": Sink("/v1/explanations", "input.image", lambda u: {**DIGITS, "input": {"image": u}}),
    "decide": Sink("/v1/decisions", "input.0.content.0.image_url", _decision),
    "chat": Sink("/v1/chat/completions", "messages.0.content.0.image_url.url", _question),
    "tokenize": Sink("/v1/tokenize", "messages.0.content.0.image_url.url", _question),
}


@pytest.fixture(scope="module")
def names() -> Names:
    return Names()


@pytest.fixture(scope="module")
def canary() -> Iterator[Listener]:
    """A listener on every address of loopback that nothing may ever reach."""
    with Listener("0.0.0.0") as listener:
        yield listener


@pytest.fixture(scope="module")
def outside(names: Names) -> Iterator[HttpsDouble]:
    """A host that serves an image, and misbehaves on request."""
    answers = {
        "/a.png": answer_of(200, tiny_png()),
        "/large": answer_of(200, bytes(LIMITS.image_bytes + 1)),
        "/largest": answer_of(200, bytes(LIMITS.image_bytes)),
        "/inside": answer_of(302, b"an internal page", location="https://127.0.0.2/"),
    }
    certificate = make_certificate(HOST)
    missing = answer_of(404, b"an internal page")
    with HttpsDouble(certificate, lambda path: [answers.get(path, missing)]) as double:
        yield double


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, names: Names, outside: HttpsDouble
) -> Iterator[RunningServer]:
    """A server that may fetch from two hosts; where the double is counts as public."""

    def may_connect(address: Address) -> bool:
        return address == OPEN or is_public(address)

    outbound = Outbound(
        (HOST, "evil.example"),
        resolver=names,
        may_connect=may_connect,
        tls=outside.certificate.client_context(),
    )
    with scripted_server(tmp_path_factory.mktemp("outbound"), outbound=outbound) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def _models(register: Callable[..., str], seer: str, clip: str) -> None:
    assert (seer, clip) == ("seer", "clip"), "the models of sinks in chat and of what embeds"
    image = ImageSpec(height=8, width=8)
    register("digits", labels=("0", "1"), inputs={"input": image})
    register("mixed", labels=("0", "1"), inputs={"note": TextSpec(), "photo": image})


@pytest.fixture(autouse=True)
def _at_home(names: Names, outside: HttpsDouble) -> None:
    names.put(HOST, str(OPEN), port=outside.port)


def _num_asked(api: RunningServer) -> int:
    """Count what engines were asked."""
    assert api.engines is not None
    return sum(len(e.requests) for made in api.engines.engines.values() for e in made)


@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_an_image_is_fetched_before_the_engine_is_asked(
    http: httpx2.Client, sink: Sink, engine_of: Callable[[str], ScriptedEngine]
) -> None:
    answer = sink.send(http, URL)
    assert answer.status_code == 200, answer.text
    name = sink.body(URL)["model"]
    request: Any = engine_of(name).requests[-1]
    if sink.path == "/v1/explanations":
        assert request.request.image == tiny_png()
    elif sink.path == "/v1/embeddings":
        assert request.inputs == ("a", Picture(data=tiny_png()))
    elif sink.path in {"/v1/chat/completions", "/v1/tokenize"}:
        assert request.prompt.images == (ImageInput(data=tiny_png()),)
    else:
        assert ImageInput(data=tiny_png()) in request.inputs[0].values()


@pytest.mark.row("NET-01")
@pytest.mark.parametrize("host", LITERALS)
@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_an_address_inside_is_refused_in_every_spelling(
    api: RunningServer,
    http: httpx2.Client,
    canary: Listener,
    refused: "Refusal",
    sink: Sink,
    host: str,
) -> None:
    before = _num_asked(api)
    for port in ("", f":{canary.port}", ":443"):
        answer = sink.send(http, f"https://{host}{port}/a.png")
        refused(answer, 400, "url_not_allowed", sink.param)
    assert canary.num_connections == 0
    assert _num_asked(api) == before


@pytest.mark.row("NET-01")
@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_an_allowed_name_that_leads_inside_is_refused(
    api: RunningServer,
    http: httpx2.Client,
    names: Names,
    canary: Listener,
    refused: "Refusal",
    sink: Sink,
) -> None:
    before = _num_asked(api)
    for address in [*INTERNAL, "127.0.0.2"]:
        if address == str(OPEN):
            continue
        names.put("evil.example", address, port=canary.port)
        answer = sink.send(http, "https://evil.example/a.png")
        assert "not public" in refused(answer, 400, "url_not_allowed", sink.param)
    assert canary.num_connections == 0
    assert _num_asked(api) == before


@pytest.mark.row("NET-05")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_a_scheme_other_than_https_is_refused(
    http: httpx2.Client, canary: Listener, refused: "Refusal", sink: Sink, scheme: str
) -> None:
    for url in (f"{scheme}://127.0.0.1:{canary.port}/", f"{scheme}:///etc/passwd", f"{scheme}:a"):
        refused(sink.send(http, url), 400, "url_not_allowed", sink.param)
    assert canary.num_connections == 0


@pytest.mark.row("NET-05")
@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_a_data_url_has_the_cap_of_an_image(
    http: httpx2.Client, refused: "Refusal", sink: Sink
) -> None:
    url = "data:image/png;base64," + "A" * (4 * (LIMITS.image_bytes // 3 + 1) + 4)
    refused(sink.send(http, url), 413, "request_too_large", sink.param)


@pytest.mark.row("NET-03")
@pytest.mark.parametrize("sink", SINKS.values(), ids=SINKS)
def test_what_the_outside_does_wrong_is_told_and_not_echoed(
    api: RunningServer,
    http: httpx2.Client,
    canary: Listener,
    refused: "Refusal",
    sink: Sink,
) -> None:
    before = _num_asked(api)
    for path in ("/inside", "/gone"):
        answer = sink.send(http, f"https://{HOST}{path}")
        message = refused(answer, 502, "upstream_not_allowed", sink.param)
        assert "page" not in message
    answer = sink.send(http, f"https://{HOST}/large")
    refused(answer, 413, "request_too_large", sink.param)
    assert _num_asked(api) == before
    assert canary.num_connections == 0
    assert http.get("/healthz").status_code == 200


def test_an_image_of_the_largest_size_is_fetched(http: httpx2.Client) -> None:
    assert SINKS["classify"].send(http, f"https://{HOST}/largest").status_code == 200


def test_a_request_has_as_many_addresses_as_it_may_and_no_more(
    http: httpx2.Client, outside: HttpsDouble, refused: "Refusal"
) -> None:
    limit, before = LIMITS.request_urls, outside.num_connections
    answer = http.post("/v1/classify", json=DIGITS | {"inputs": [URL] * limit})
    assert len(answer.json()["results"]) == limit
    assert outside.num_connections == before + limit
    answer = http.post("/v1/classify", json=DIGITS | {"inputs": [URL] * (limit + 1)})
    refused(answer, 400, "invalid_value", f"inputs.{limit}")
    many = http.post("/v1/classify", json=DIGITS | {"inputs": [URL] * LIMITS.classify_inputs})
    refused(many, 400, "invalid_value", f"inputs.{limit}")
    assert outside.num_connections == before + 3 * limit


def test_no_address_is_fetched_for_a_model_that_is_not_there(
    http: httpx2.Client, outside: HttpsDouble, refused: "Refusal"
) -> None:
    before = outside.num_connections
    for sink in SINKS.values():
        answer = http.post(sink.path, json=sink.body(URL) | {"model": "missing"})
        refused(answer, 404, "model_not_found", "model")
    assert outside.num_connections == before


def test_what_is_no_address_says_which_forms_there_are(
    http: httpx2.Client, refused: "Refusal"
) -> None:
    for given in ("", "//images.example/a", " https://images.example", "/etc/passwd", "[::1]"):
        answer = SINKS["classify"].send(http, given)
        assert "https://" in refused(answer, 400, "invalid_value", "input.image")


def test_chat_fetches_nothing_for_a_model_that_reads_text(
    http: httpx2.Client, echo: str, canary: Listener
) -> None:
    part = {"type": "image_url", "image_url": {"url": f"https://127.0.0.1:{canary.port}/"}}
    messages = [{"role": "user", "content": [part]}]
    answer = http.post("/v1/chat/completions", json={"model": echo, "messages": messages})
    assert answer.json()["error"]["code"] == "unsupported_value"
    assert canary.num_connections == 0
