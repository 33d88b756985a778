"""How a URL is read: one strict spelling, a named host, nothing that two readers differ on."""

import pytest

from purvey.contracts.limits import LIMITS
from purvey.errors import SettingError, UrlNotAllowedError
from purvey.network.urls import AllowedHosts

HOSTS = AllowedHosts(("images.example", "*.cdn.example", "Mixed.Example"))
ADDRESSES = [
    *("127.0.0.1", "127.0.0.1.", "127.1", "127.0.1", "2130706433", "017700000001", "0177.0.0.1"),
    *("0x7f000001", "0x7f.0.0.1", "0X7F.1", "0x", "0", "0.0.0.0", "1.1.1.1", "images.example.1"),
    *("[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[fe80::1%25eth0]", "[fe80::1%eth0]"),
    *("[v1.a]", "::1", "①②⑦.⓪.⓪.①", "127。0。0。1", "\uff11\uff12\uff17.0.0.1", "%31%32%37.0.0.1"),
    *("localhost.", "images.example.", ".images.example", "images..example", "-a.example", ""),
    *("images.example\u3002", "\u0131mages.example", "images_a.example", "im\x00ages.example"),
]


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("https://images.example", "images.example", "/"),
        ("HTTPS://IMAGES.EXAMPLE:443/A%20b", "images.example", "/A%20b"),
        ("https://images.example?a=1#top", "images.example", "/?a=1"),
        ("https://a.b.cdn.example/x;y=1/[z]?q=%2F&r='s'", "a.b.cdn.example", None),
        ("https://mixed.example/../x", "mixed.example", "/../x"),
        ("https://xn--nxasmq6b.cdn.example/", "xn--nxasmq6b.cdn.example", "/"),
    ],
)
def test_a_plain_address_of_an_allowed_host_is_read(url: str, host: str, path: str | None) -> None:
    target = HOSTS.read(url)
    assert target.host == host
    assert target.path == (path if path is not None else "/x;y=1/[z]?q=%2F&r='s'")


@pytest.mark.row("NET-01")
@pytest.mark.parametrize("host", ADDRESSES)
def test_a_number_in_any_spelling_is_no_host(host: str) -> None:
    for rest in ("", "/", "/a.png", "?a"):
        with pytest.raises(UrlNotAllowedError):
            HOSTS.read(f"https://{host}{rest}")


@pytest.mark.row("NET-01")
@pytest.mark.parametrize(
    "url",
    [
        "https://images.example@evil.example/",
        "https://evil.example\\@images.example/",
        "https://evil.example\\.images.example/",
        "https://user:password@images.example/",
        "https://images.example:443@evil.example/",
        "https://evil.example#@images.example/",
        "https://evil.example?.images.example",
        "https://evil.example/.images.example",
        "https:images.example/",
        "https:/images.example/",
        "https:\\\\images.example/",
        "https:///images.example/",
        "//images.example/",
        " https://images.example/",
        "https://images.example /",
        "https://images.example/\r\nHost: evil.example",
        "https://images.example/\ta",
        "https://images.example/ü",
        "https://images.example/a b",
        "https://images.example/<a>",
        "https://images.example:80/",
        "https://images.example:0443/",
        "https://images.example:/",
        "https://cdn.example/",
        "https://evilcdn.example/",
        "https://images.example.evil.example/",
        f"https://images.example/{'a' * LIMITS.url_chars}",
        f"https://{'a' * 64}.cdn.example/",
        f"https://{'a.' * 130}cdn.example/",
    ],
)
def test_what_another_reader_could_take_for_an_allowed_host_is_refused(url: str) -> None:
    with pytest.raises(UrlNotAllowedError):
        HOSTS.read(url)


@pytest.mark.row("NET-05")
@pytest.mark.parametrize(
    "scheme",
    [
        *("file", "ftp", "gopher", "jar", "unix", "s3", "hf", "dict", "ldap", "blob", "http"),
        *("httpsx", "ws", "wss", "javascript", "jar:https", "view-source:https", "data"),
    ],
)
def test_only_https_is_read(scheme: str) -> None:
    for url in (f"{scheme}://images.example/a", f"{scheme}:images.example", f"{scheme}:///etc/x"):
        with pytest.raises(UrlNotAllowedError, match="only https:// addresses"):
            HOSTS.read(url)


def test_an_address_may_be_as_long_as_the_limit_and_no_longer() -> None:
    whole = "https://images.example/".ljust(LIMITS.url_chars, "a")
    assert HOSTS.read(whole).url == whole
    with pytest.raises(UrlNotAllowedError, match=str(LIMITS.url_chars)):
        HOSTS.read(f"{whole}a")


def test_with_no_host_allowed_the_refusal_names_the_setting() -> None:
    with pytest.raises(UrlNotAllowedError) as refusal:
        AllowedHosts(()).read("https://images.example/a.png")
    assert "'outbound_hosts'" in refusal.value.text
    with pytest.raises(UrlNotAllowedError) as refusal:
        HOSTS.read("https://elsewhere.example/secret?token=1")
    assert "'outbound_hosts'" in refusal.value.text
    assert "secret" not in refusal.value.text
    assert "token" not in refusal.value.text


@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "*.", "https://images.example", "images.example:443", "images.example/a"),
        *("127.0.0.1", "[::1]", "2130706433", "a.*.example", "**.example", "bücher.example", ""),
    ],
)
def test_a_setting_that_names_no_host_is_refused(pattern: str) -> None:
    with pytest.raises(SettingError) as refusal:
        AllowedHosts(("images.example", pattern))
    assert refusal.value.param == "outbound_hosts"
