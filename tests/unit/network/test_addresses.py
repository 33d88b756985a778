"""Which addresses are public: no form of an internal one is."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purvey.network.addresses import is_public

INTERNAL = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255"),
    *("172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255", "169.254.169.254"),
    *("100.64.0.1", "100.127.255.255", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
    *("224.0.0.1", "224.0.1.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1"),
    *("64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::1", "2002:808:808::1", "2001::1"),
    *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "3fff::1", "100::1", "5f00::1"),
    *("fe80::1", "fe80::1%eth0", "2606:4700::1%1", "fec0::1", "fc00::1", "fd00:ec2::254"),
    *("ff02::1", "ff0e::1"),
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "100.128.0.1", "172.32.0.1", "192.167.255.255", "2606:4700::1111"]


@pytest.mark.row("NET-01")
@pytest.mark.parametrize("written", INTERNAL)
def test_an_internal_address_is_not_public(written: str) -> None:
    assert not is_public(ip_address(written))


@pytest.mark.parametrize("written", PUBLIC)
def test_a_host_of_the_internet_is_public(written: str) -> None:
    assert is_public(ip_address(written))


@pytest.mark.row("NET-01")
@given(st.integers(min_value=0, max_value=2**32 - 1))
def test_no_ipv6_form_opens_an_ipv4_address(number: int) -> None:
    v4 = IPv4Address(number)
    embedded = (
        IPv6Address(number),
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x64FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
        IPv6Address((0x20010000 << 96) | (number ^ 0xFFFFFFFF)),
    )
    assert not any(is_public(address) for address in embedded)
    assert not is_public(v4) or v4.is_global


@given(st.ip_addresses(v=6))
def test_what_is_public_is_global_unicast(address: IPv6Address) -> None:
    assert not is_public(address) or (address.is_global and int(address) >> 125 == 1)
