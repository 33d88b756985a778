"""Upstreams of the settings: their keys come from files, and no message holds one."""

from pathlib import Path

import pytest

from purvey.app.upstream_keys import configs_of
from purvey.errors import SettingError
from purvey.settings import UpstreamSettings, load_settings

URL = "http://127.0.0.1:8001/v1"


def _refusal(*upstreams: UpstreamSettings) -> SettingError:
    with pytest.raises(SettingError) as caught:
        configs_of(upstreams)
    assert caught.value.param == "upstreams"
    return caught.value


def test_a_key_is_the_files_only_line(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("  sk-s3cr3t\n", encoding="ascii")
    one = UpstreamSettings(name="box", url=URL, key_file=file, silence_s=5, max_connections=7)
    (config,) = configs_of([one])
    assert (config.key, config.silence_s, config.max_connections) == ("sk-s3cr3t", 5, 7)
    assert "s3cr3t" not in repr(config)
    assert configs_of([UpstreamSettings(name="box", url=URL)])[0].key is None
    assert configs_of([]) == []


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b"s3cr3t\ns3cr3t", b"s3cr3t x", b"s3cr3t\x07", b"s3cr3t\xff", b"s3cr3t" * 2_000],
)
def test_what_is_no_key_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    error = _refusal(UpstreamSettings(name="box", url=URL, key_file=file))
    assert "'box'" in error.text
    assert "s3cr3t" not in error.text


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    _refusal(UpstreamSettings(name="box", url=URL, key_file=tmp_path / "none"))
    _refusal(UpstreamSettings(name="box", url=URL, key_file=tmp_path))


def test_a_name_is_given_once() -> None:
    box, other = (UpstreamSettings(name=name, url=URL) for name in ("box", "other"))
    assert "2 upstreams 'box'" in _refusal(box, other, box).message


def test_they_are_read_from_a_file_and_from_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "purvey.toml"
    file.write_text(f'[[upstreams]]\nname = "box"\nurl = "{URL}"\n', encoding="utf-8")
    assert [one.name for one in load_settings(toml=file).upstreams] == ["box"]
    monkeypatch.setenv("PURVEY_UPSTREAMS", f'[{{"name": "env", "url": "{URL}"}}]')
    assert [one.name for one in load_settings(toml=file).upstreams] == ["env"]


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ('[[upstreams]]\nname = "box"\nurl = "u"\nkey = "s3cr3t"\n', "upstreams.0.key"),
        ('[[upstreams]]\nname = "a b"\nurl = "u"\n', "upstreams.0.name"),
        ('[[upstreams]]\nname = "box"\n', "upstreams.0.url"),
        ('[[upstreams]]\nname = "box"\nurl = "u"\nsilence_s = 0\n', "upstreams.0.silence_s"),
    ],
)
def test_a_wrong_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, param: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "purvey.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError) as caught:
        load_settings(toml=file)
    assert caught.value.param == param
    assert "s3cr3t" not in caught.value.text
