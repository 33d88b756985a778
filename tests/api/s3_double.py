"""A store that speaks S3, on this machine: it checks signatures by its own arithmetic."""

import base64
import hashlib
import hmac
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import quote_plus, unquote
from xml.sax.saxutils import escape

from tests.api.upstream_double import Heard, plain

KEY_ID, SECRET, TOKEN = "AKIACANARY0123456789", "secret/canary+0123456789", "session-canary=="
REGION = "eu-central-1"
CREDENTIALS = f"[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n"


@dataclass(kw_only=True)
class S3Double:
    """One bucket.

    Attributes:
        objects: Content by key.
        page: Names of one page of a listing.
        sums: What is told of a key beside its ETag: `sha256`, `crc32`, `parts`, `kms` or `gzip`.
        tampered: Content by key that is sent instead of what was announced.
        cuts: Bytes after which the next contents break off, one each.
        refusals: Answers to the next requests that have one: status, code and headers.
        asked: Method and path of each request so far.
        token: Of the session; None of credentials that last.
        is_open: Whether nobody need sign.
        before: Called with each request before it is answered.
    """

    objects: dict[str, bytes]
    bucket: str = "letters"
    page: int = 1_000
    sums: dict[str, str] = field(default_factory=dict)
    tampered: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    refusals: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    token: str | None = None
    is_open: bool = False
    before: Callable[[Heard], object] = field(default=lambda _: None)

    def __call__(self, heard: Heard) -> Iterable[bytes]:
        """Answer one request."""
        self.before(heard)
        self.asked.append(f"{heard.method} {heard.path}")
        if self.refusals and heard.method == "GET":
            status, code, more = self.refusals.pop(0)
            return [_error(status, code, **more)]
        if why := self._stranger(heard):
            return [_error(403, why) if heard.method == "GET" else _bare(403)]
        path, _, query = heard.path.partition("?")
        bucket, _, key = unquote(path).removeprefix("/").partition("/")
        if bucket != self.bucket:
            return [_error(404, "NoSuchBucket") if heard.method == "GET" else _bare(404)]
        if not key:
            return [self._listed(dict(pair.split("=", 1) for pair in query.split("&")))]
        if key not in self.objects:
            return [_error(404, "NoSuchKey") if heard.method == "GET" else _bare(404)]
        if heard.method == "HEAD":
            size = f"content-length: {len(self.objects[key])}"
            return ["\r\n".join(["HTTP/1.1 200 X", size, *self._told(key), "", ""]).encode()]
        return self._content(heard, key)

    def etag(self, key: str) -> str:
        digest = hashlib.md5(self.objects[key], usedforsecurity=False).hexdigest()
        return f'"{digest}-2"' if self.sums.get(key) == "parts" else f'"{digest}"'

    def _told(self, key: str) -> list[str]:
        content, kind = self.objects[key], self.sums.get(key)
        told = [f"etag: {self.etag(key)}"]
        if kind in {"sha256", "parts"}:
            value = base64.b64encode(hashlib.sha256(content).digest()).decode()
            told.append(f"x-amz-checksum-sha256: {value}")  # of parts without a word, as some do
        if kind == "crc32":
            value = base64.b64encode(zlib.crc32(content).to_bytes(4)).decode()
            told += [f"x-amz-checksum-crc32: {value}", "x-amz-checksum-type: FULL_OBJECT"]
        if kind == "kms":
            told = ['etag: "0123456789abcdef0123456789abcdef"']
            told.append("x-amz-server-side-encryption: aws:kms")
        return [*told, "content-encoding: gzip"] if kind == "gzip" else told

    def _content(self, heard: Heard, key: str) -> Iterable[bytes]:
        if self.sums.get(key) != "kms" and heard.headers["if-match"] != self.etag(key):
            yield _error(412, "PreconditionFailed")
            return
        content = self.tampered.get(key, self.objects[key])
        start = int(heard.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        head = {"content_range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        whole = plain(206 if start else 200, content[start:], **(head if start else {}))
        if not self.cuts:
            yield whole
            return
        yield whole[: len(whole) - len(content[start:]) + self.cuts.pop(0)]
        raise OSError("cut")

    def _listed(self, query: dict[str, str]) -> bytes:
        prefix, begin = unquote(query["prefix"]), int(query.get("continuation-token", "0"))
        keys = sorted(key for key in self.objects if key.startswith(prefix))
        end = begin + self.page
        entries = "".join(
            f"<Contents><Key>{escape(quote_plus(key, safe='/'))}</Key>"
            f"<ETag>&quot;x&quot;</ETag><Size>{len(self.objects[key])}</Size>"
            f"<Owner><ID>1</ID></Owner></Contents>"
            for key in keys[begin:end]
        )
        is_cut = end < len(keys)
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if is_cut else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{self.bucket}</Name><IsTruncated>{'true' if is_cut else 'false'}</IsTruncated>"
            f"{more}{entries}</ListBucketResult>"
        )
        return plain(200, body.encode(), kind="application/xml")

    def _stranger(self, heard: Heard) -> str:
        """Return why a request is not believed; computed from the bytes that came."""
        if self.is_open:
            return ""
        algorithm, _, rest = heard.headers.get("authorization", "").partition(" ")
        if algorithm != "AWS4-HMAC-SHA256":
            return "AccessDenied"
        given = dict(part.strip().split("=", 1) for part in rest.split(","))
        key_id, day, region, service, end = given["Credential"].split("/")
        if (key_id, region, service, end) != (KEY_ID, REGION, "s3", "aws4_request"):
            return "InvalidAccessKeyId"
        if self.token is not None and heard.headers.get("x-amz-security-token") != self.token:
            return "ExpiredToken"
        names = given["SignedHeaders"].split(";")
        must = {"host", "x-amz-date", "x-amz-content-sha256"}
        must |= {name for name in heard.headers if name.startswith("x-amz-")}
        if not must <= set(names) or names != sorted(names):
            return "AccessDenied"
        path, _, query = heard.path.partition("?")
        lines = [heard.method, path, "&".join(sorted(filter(None, query.split("&"))))]
        lines += [f"{name}:{heard.headers[name].strip()}" for name in names]
        lines += ["", ";".join(names), heard.headers["x-amz-content-sha256"]]
        stamp = heard.headers["x-amz-date"]
        hashed = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        text = "\n".join([algorithm, stamp, f"{day}/{region}/s3/aws4_request", hashed])
        key = b"AWS4" + SECRET.encode()
        for part in (day, region, "s3", "aws4_request", text):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        is_today = stamp.startswith(day)
        return "" if is_today and key.hex() == given["Signature"] else "SignatureDoesNotMatch"


def _error(status: int, code: str, **headers: str) -> bytes:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>canary</Message></Error>"
    return plain(status, body.encode(), kind="application/xml", **headers)


def _bare(status: int) -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n".encode()
