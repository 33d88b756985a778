"""Certificates for a test's HTTPS server, made on the spot: nothing to expire, no key at rest.

X.509 (RFC 5280) in DER, signed with ECDSA over P-256 (FIPS 186-4, section 6). Slow and not in
constant time: for keys that live as long as a test.
"""

import base64
import hashlib
import secrets
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1  # field
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # order of the group
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_Point = tuple[int, int] | None

_SEQUENCE, _SET, _INTEGER, _BITS, _OCTETS, _OID, _UTC_TIME, _UTF8 = (
    *(0x30, 0x31, 0x02, 0x03),
    *(0x04, 0x06, 0x17, 0x0C),
)
_P256 = bytes.fromhex("2a8648ce3d030107")
_EC_PUBLIC_KEY = bytes.fromhex("2a8648ce3d0201")
_ECDSA_SHA256 = bytes.fromhex("2a8648ce3d040302")
_COMMON_NAME = bytes.fromhex("550403")
_SUBJECT_ALT_NAME = bytes.fromhex("551d11")


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A self-signed certificate with its key, both in PEM."""

    certificate: str
    key: str

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a server that shows it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            both = Path(folder, "both.pem")
            both.write_text(self.certificate + self.key, encoding="ascii")
            context.load_cert_chain(both)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return the context of a client that believes it and no other, names checked."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.certificate)
        return context


def make_certificate(*hosts: str) -> Certificate:
    """Make a certificate for these names."""
    private = secrets.randbelow(_N - 1) + 1
    x, y = _known(_times(private, _G))
    public = b"\x04" + x.to_bytes(32) + y.to_bytes(32)
    algorithm = _der(_SEQUENCE, _der(_OID, _ECDSA_SHA256))
    name = _der(_SEQUENCE, _der(_SET, _der(_SEQUENCE, _der(_OID, _COMMON_NAME), _text("test"))))
    alternatives = _der(_SEQUENCE, *(_der(0x82, host.encode("ascii")) for host in hosts))
    extension = _der(_SEQUENCE, _der(_OID, _SUBJECT_ALT_NAME), _der(_OCTETS, alternatives))
    curve = _der(_SEQUENCE, _der(_OID, _EC_PUBLIC_KEY), _der(_OID, _P256))
    body = _der(
        _SEQUENCE,
        _der(0xA0, _integer(2)),  # version 3
        _integer(secrets.randbits(63)),
        algorithm,
        name,
        _der(_SEQUENCE, _der(_UTC_TIME, b"200101000000Z"), _der(_UTC_TIME, b"491231235959Z")),
        name,
        _der(_SEQUENCE, curve, _bits(public)),
        _der(0xA3, _der(_SEQUENCE, extension)),
    )
    whole = _der(_SEQUENCE, body, algorithm, _bits(_signature(private, body)))
    key = _der(
        _SEQUENCE,
        _integer(1),
        _der(_OCTETS, private.to_bytes(32)),
        _der(0xA0, _der(_OID, _P256)),
        _der(0xA1, _bits(public)),
    )
    return Certificate(certificate=_pem("CERTIFICATE", whole), key=_pem("EC PRIVATE KEY", key))


def _signature(private: int, message: bytes) -> bytes:
    digest = int.from_bytes(hashlib.sha256(message).digest())
    nonce = secrets.randbelow(_N - 1) + 1
    r = _known(_times(nonce, _G))[0] % _N
    s = pow(nonce, -1, _N) * (digest + r * private) % _N
    return _der(_SEQUENCE, _integer(r), _integer(s))


def _times(scalar: int, point: _Point) -> _Point:
    total: _Point = None
    while scalar:
        if scalar & 1:
            total = _plus(total, point)
        point = _plus(point, point)
        scalar >>= 1
    return total


def _plus(one: _Point, other: _Point) -> _Point:
    if one is None or other is None:
        return one or other
    (x1, y1), (x2, y2) = one, other
    if x1 == x2 and (y1 + y2) % _P == 0:
        return None
    if one == other:
        slope = (3 * x1 * x1 - 3) * pow(2 * y1, -1, _P)
    else:
        slope = (y2 - y1) * pow(x2 - x1, -1, _P)
    x3 = (slope * slope - x1 - x2) % _P
    return x3, (slope * (x1 - x3) - y1) % _P


def _known(point: _Point) -> tuple[int, int]:
    assert point is not None, "a multiple below the order is never infinite"  # noqa: S101
    return point


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + content


def _integer(value: int) -> bytes:
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def _bits(content: bytes) -> bytes:
    return _der(_BITS, b"\x00" + content)


def _text(value: str) -> bytes:
    return _der(_UTF8, value.encode())


def _pem(label: str, content: bytes) -> str:
    lines = base64.encodebytes(content).decode("ascii")
    return f"-----BEGIN {label}-----\n{lines}-----END {label}-----\n"
