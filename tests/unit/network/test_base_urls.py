"""The address of an upstream: what is taken, and that nothing of what is not is shown."""

import pytest

from purvey.errors import SettingError
from purvey.network.base_urls import read_base_url


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("http://127.0.0.1:8001/v1", "http://127.0.0.1:8001/v1"),
        ("http://127.0.0.1:8001/v1/", "http://127.0.0.1:8001/v1"),
        ("HTTPS://api.example", "https://api.example"),
        ("http://[::1]:8080/a/b-c/v1", "http://[::1]:8080/a/b-c/v1"),
        ("http://gpu_box.lan:1/v1", "http://gpu_box.lan:1/v1"),
        ("http://10.0.0.7/openai/v1", "http://10.0.0.7/openai/v1"),
    ],
)
def test_any_host_that_an_operator_names_is_taken(given: str, read: str) -> None:
    url = read_base_url(given, name="box")
    assert f"{'https' if url.is_tls else 'http'}://{url.authority}{url.path}" == read


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ("http://box.lan/v1", "box.lan", 80),
        ("https://box.lan/v1", "box.lan", 443),
        ("https://[::1]:8443/v1", "::1", 8443),
    ],
)
def test_where_it_leads(given: str, host: str, port: int) -> None:
    url = read_base_url(given, name="box")
    assert (url.host, url.port, url.path) == (host, port, "/v1")


@pytest.mark.parametrize(
    "given",
    [
        "http://user:s3cr3t@127.0.0.1/v1",
        "http://s3cr3t@127.0.0.1/v1",
        "file:///etc/s3cr3t",
        "ftp://s3cr3t/v1",
        "127.0.0.1:8001/s3cr3t",
        "http:///s3cr3t",
        "http://",
        "",
        "http://host:0/s3cr3t",
        "http://host:65536/s3cr3t",
        "http://host:80:80/s3cr3t",
        "http://host/v1?key=s3cr3t",
        "http://host/v1#s3cr3t",
        "http://host/../s3cr3t",
        "http://host/a/./s3cr3t",
        "http://host//s3cr3t",
        "http://host/v1 s3cr3t",
        "http://ho st/s3cr3t",
        "http://host/v1\r\nx: s3cr3t",
        "http://host/v%31/s3cr3t",
        "http://ex\u0430mple/s3cr3t",
        "http://[::1/s3cr3t",
        "http://host/" + "s3cr3t" * 1_000,
    ],
)
def test_anything_else_is_refused_and_not_repeated(given: str) -> None:
    with pytest.raises(SettingError) as caught:
        read_base_url(given, name="box")
    assert caught.value.param == "upstreams"
    assert "'box'" in caught.value.text
    assert "s3cr3t" not in caught.value.text
