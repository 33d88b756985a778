"""A server that may fetch from the double of a hub, and from its storage."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from purvey.network.outbound import Outbound
from purvey.testing.certificate import make_certificate
from purvey.testing.https_double import HttpsDouble
from purvey.testing.hub_double import HUB, STORAGE, HubDouble
from tests.conftest import RunningServer, scripted_server
from tests.unit.network.conftest import OPEN, Names


@contextmanager
def server_of_hub(hub: HubDouble, folder: Path) -> Iterator[RunningServer]:
    """Serve from the folder until the block is left; the hub notes what it is asked."""
    certificate, names = make_certificate(HUB, STORAGE), Names()
    with HttpsDouble(certificate, hub) as double:
        hub.heads = double.heads
        for host in (HUB, STORAGE):
            names.put(host, str(OPEN), port=double.port)
        outbound = Outbound(
            (HUB, STORAGE),
            resolver=names,
            may_connect=lambda address: address == OPEN,
            tls=certificate.client_context(),
        )
        with scripted_server(folder, outbound=outbound) as running:
            yield running
