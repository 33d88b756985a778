"""Doubles of the outside world: a host that misbehaves, and a listener that nobody may reach."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address

import pytest

from purvey.network.addresses import Address, is_public
from purvey.network.outbound import Outbound
from purvey.network.resolving import Endpoint
from purvey.testing.certificate import Certificate, make_certificate
from purvey.testing.https_double import Answer, HttpsDouble, Listener

HOST = "images.example"
OPEN = IPv4Address("127.0.0.1")
"""Where the doubles are: the one address of loopback that these tests let be connected to."""


class Names:
    """A resolver that knows what it is told, and notes what it is asked."""

    def __init__(self) -> None:
        self.known: dict[str, list[Endpoint]] = {}
        self.asked: list[str] = []

    def put(self, host: str, *addresses: str, port: int) -> None:
        """Let a name lead to these addresses."""
        self.known[host] = [Endpoint(address=ip_address(a), port=port) for a in addresses]

    async def __call__(self, host: str, port: int) -> Sequence[Endpoint]:
        """Answer from memory."""
        assert port == 443
        self.asked.append(host)
        if host not in self.known:
            raise OSError("no such name")
        return self.known[host]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def canary() -> Iterator[Listener]:
    """A listener inside that nothing may ever reach."""
    with Listener("0.0.0.0") as listener:  # every address of loopback
        yield listener


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    return make_certificate(HOST, "cdn.images.example")


@pytest.fixture
def serve(names: Names, certificate: Certificate) -> Iterator[Callable[..., HttpsDouble]]:
    """A function that puts a double behind a name; more than one may share a certificate."""
    with ExitStack() as running:

        def start(
            answer: Answer, host: str = HOST, *, shown: Certificate = certificate
        ) -> HttpsDouble:
            double = running.enter_context(HttpsDouble(shown, answer))
            names.put(host, str(OPEN), port=double.port)
            return double

        yield start


@pytest.fixture
def outbound(names: Names, certificate: Certificate) -> Outbound:
    """A client of the doubles; every address but theirs is judged as in production."""

    def may_connect(address: Address) -> bool:
        return address == OPEN or is_public(address)

    return Outbound(
        (HOST, "*.images.example", "evil.example"),
        resolver=names,
        may_connect=may_connect,
        tls=certificate.client_context(),
        deadline_s=10.0,
    )
