"""Names into addresses, by the machine's own resolver."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

from purvey.network.addresses import Address


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a connection goes."""

    address: Address
    port: int


class Resolver(Protocol):
    """Finds the addresses of a name."""

    async def __call__(self, host: str, port: int) -> Sequence[Endpoint]:
        """Return every endpoint that serves this port of the host.

        Raises:
            OSError: There is none, or nobody knows.
        """
        ...


async def resolve(host: str, port: int) -> list[Endpoint]:
    """Ask the machine's resolver.

    Raises:
        OSError: The name has no address, or nobody knows.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(str(place[4][0]) for place in found)
    return [Endpoint(address=ip_address(address), port=port) for address in addresses]
