"""Signatures by the published examples, answers in XML that lie, and a store that says nothing."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from purvey.errors import PurveyError, SettingError, UpstreamNotAllowedError
from purvey.network.base_urls import Kind
from purvey.network.sites import Site
from purvey.registry.s3.answers import Listed, error_code, read_page
from purvey.registry.s3.objects import Store
from purvey.registry.s3.signing import EMPTY_SHA256, Credentials, Question, signed
from tests.api.s3_double import CREDENTIALS, REGION, S3Double
from tests.api.upstream_double import UpstreamDouble, plain

EXAMPLE = Credentials(
    key_id="AKIAIOSFODNN7EXAMPLE", secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)
AT = 1_369_353_600.0  # 24 May 2013, 00:00:00 UTC
KIND = Kind(noun="setting", setting="s3.url", hint="Write it.")


@pytest.mark.parametrize(
    ("question", "names", "signature"),
    [
        (
            Question(method="GET", path="/test.txt", headers={"range": "bytes=0-9"}),
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            Question(method="GET", path="/", query=[("lifecycle", "")]),
            "host;x-amz-content-sha256;x-amz-date",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            Question(method="GET", path="/", query=[("prefix", "J"), ("max-keys", "2")]),
            "host;x-amz-content-sha256;x-amz-date",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_the_published_examples_are_signed_as_published(
    question: Question, names: str, signature: str
) -> None:
    host = "examplebucket.s3.amazonaws.com"
    sent = signed(question, EXAMPLE, authority=host, region="us-east-1", at=AT)
    assert sent["x-amz-date"] == "20130524T000000Z"
    assert sent["x-amz-content-sha256"] == EMPTY_SHA256
    assert sent["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders={names},Signature={signature}"
    )
    assert EXAMPLE.secret not in repr(EXAMPLE)


PAGE = (
    b"<ListBucketResult><IsTruncated>%b</IsTruncated>%b"
    b"<Contents><Key>%b</Key><Size>%b</Size></Contents></ListBucketResult>"
)


def test_a_page_is_read_and_names_are_unescaped() -> None:
    page = read_page(PAGE % (b"false", b"", b"a%20b+c%2B%26.csv", b"3"))
    assert (page.objects, page.more) == ((Listed(key="a b c+&.csv", num_bytes=3),), None)
    more = b"<NextContinuationToken>x&amp;y</NextContinuationToken>"
    assert read_page(PAGE % (b"true", more, b"a", b"3")).more == "x&y"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        PAGE % (b"true", b"", b"a", b"3"),
        PAGE % (b"perhaps", b"", b"a", b"3"),
        PAGE % (b"false", b"", b"a", b"-3"),
        PAGE % (b"false", b"", b"a%FF", b"3"),
        PAGE % (b"false", b"", b"a" * 5_000, b"3"),
        (PAGE % (b"false", b"", b"a", b"3"))[:-5],
        b"<Error><Code>AccessDenied</Code></Error>",
        b"<ListBucketResult>" + b"<a>" * 10_000,
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + PAGE % (b"false", b"", b"&a;", b"3"),
    ],
)
def test_what_is_no_page_is_refused(content: bytes) -> None:
    with pytest.raises(UpstreamNotAllowedError, match="not understood"):
        read_page(content)


def test_an_error_that_cannot_be_read_has_no_code() -> None:
    assert error_code(b"<Error><Code>NoSuchKey</Code></Error>") == "NoSuchKey"
    for content in (b"", b"<html>", b"<Error><Code>a b</Code></Error>", b"<!DOCTYPE x><Error/>"):
        assert error_code(content) == ""


def _store(url: str, **changes: object) -> Store:
    site = Site(url, name="the store", kind=KIND, most=2, monotonic=time.monotonic, silence_s=0.2)
    given = {"credentials_file": None, "profile": "default", "region": REGION, "now": time.time}
    return Store(site, **(given | changes))  # type: ignore[arg-type]


async def test_an_open_bucket_needs_no_signature_and_a_closed_one_does(tmp_path: Path) -> None:
    shown = tmp_path / "credentials"
    shown.write_text(CREDENTIALS, encoding="utf-8")
    double = S3Double(objects={"a.csv": b"x"}, is_open=True, sums={"a.csv": "kms"})
    with UpstreamDouble(double) as running:
        url = f"http://127.0.0.1:{running.port}"
        found = await _store(url).look_up("letters", "a.csv")
        assert (found.num_bytes, found.digest) == (1, None), "that ETag is no MD5"
        assert not any("authorization" in heard.headers for heard in running.heard)
        double.is_open = False
        with pytest.raises(PurveyError, match="does not show"):
            await _store(url).look_up("letters", "a.csv")
        skewed = _store(url, credentials_file=shown, region="eu-west-1")
        with pytest.raises(PurveyError, match="does not know"):
            await skewed.look_up("letters", "a.csv")
        double.sums["a.csv"] = "parts"
        signed_in = _store(url, credentials_file=shown)
        assert (await signed_in.look_up("letters", "a.csv")).digest is None
        double.sums["a.csv"] = "gzip"
        with pytest.raises(PurveyError, match="content encoding 'gzip'"):
            await signed_in.look_up("letters", "a.csv")


async def test_a_store_that_says_nothing_or_nonsense_is_given_up() -> None:
    over = threading.Event()

    def hold(_: object) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 X\r\n"
        over.wait(20)

    with UpstreamDouble(hold) as silent:
        with pytest.raises(UpstreamNotAllowedError, match="says nothing for"):
            await _store(f"http://127.0.0.1:{silent.port}").look_up("letters", "a")
        over.set()
        silent.script = lambda _: [plain(200, b"hello")]
        with pytest.raises(UpstreamNotAllowedError, match="not understood"):
            await _store(f"http://127.0.0.1:{silent.port}").listed("letters", "", bool)
        port = silent.port
    with pytest.raises(UpstreamNotAllowedError, match="cannot be reached"):
        await _store(f"http://127.0.0.1:{port}").look_up("letters", "a")


async def test_a_listing_that_never_ends_is_given_up() -> None:
    more = b"<NextContinuationToken>x</NextContinuationToken>"
    answer = plain(200, PAGE % (b"true", more, b"a.txt", b"3"))
    with UpstreamDouble(lambda _: [answer]) as endless:
        url = f"http://127.0.0.1:{endless.port}"
        with pytest.raises(PurveyError, match="further down"):
            await _store(url).listed("letters", "", lambda key: key.endswith(".csv"))
        assert len(endless.heard) == 100


def test_a_url_that_is_none_names_its_setting() -> None:
    with pytest.raises(SettingError) as caught:
        _store("http://user:s3cr3t@host/")
    assert (caught.value.param, "s3cr3t" in caught.value.text) == ("s3.url", False)
