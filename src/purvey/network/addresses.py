"""Which IP addresses may be connected to: those of the public internet and no others."""

from ipaddress import IPv4Address, IPv6Address, ip_network

Address = IPv4Address | IPv6Address

_REFUSED_V4 = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by the customers of a carrier
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's own services, behind an address that looks public
        "169.254.0.0/16",  # link-local, metadata of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_UNICAST_V6 = ip_network("2000::/3")
"""All that is public: v4-mapped, NAT64, local, multicast and reserved addresses lie outside."""
_REFUSED_V6 = tuple(
    ip_network(block)
    for block in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: holds an IPv4 address
        "3fff::/20",  # documentation
    )
)


def is_public(address: Address) -> bool:
    """Tell whether an address is one host of the public internet, and names nothing else.

    An IPv6 address that holds an IPv4 one (mapped, NAT64, 6to4, Teredo) is never public here,
    whatever it holds: the public host has a name that leads to its IPv4 address too.
    """
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _REFUSED_V4)
    if address.scope_id is not None or address not in _UNICAST_V6:
        return False
    return not any(address in block for block in _REFUSED_V6)
