"""Settings: which source wins, and what a misspelt name is told."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from purvey import settings as settings_module
from purvey.errors import SettingError
from purvey.settings import HttpSettings, Settings, client_environment, load_settings


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No file and no variable of the developer's own machine."""
    monkeypatch.chdir(tmp_path)
    for name in ("PURVEY_BASE_URL", "PURVEY_API_KEY", "PURVEY_PORT", "PURVEY_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def refusal(**sources: object) -> SettingError:
    with pytest.raises(SettingError) as caught:
        load_settings(**sources)  # type: ignore[arg-type]  # each test gives what the loader takes
    return caught.value


def toml(text: str) -> Path:
    path = Path("chosen.toml")
    path.write_text(text, encoding="utf-8")
    return path


def test_later_sources_win_over_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    file = toml("port = 1001\nlog_level = 'error'\nmax_loaded_models = 7\n")
    monkeypatch.setenv("PURVEY_PORT", "1002")
    monkeypatch.setenv("PURVEY_LOG_LEVEL", "debug")
    settings = load_settings(flags={"port": 1003}, toml=file)
    assert settings.port == 1003
    assert settings.log_level == "debug"
    assert settings.max_loaded_models == 7
    assert settings.host == "127.0.0.1"


def test_sections_are_joined_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    file = toml("[http]\nbacklog = 11\nmax_connections = 12\nkeep_alive_s = 13\n")
    monkeypatch.setenv("PURVEY_HTTP__MAX_CONNECTIONS", "22")
    http = load_settings(flags={"http.keep_alive_s": 33}, toml=file).http
    assert (http.backlog, http.max_connections, http.keep_alive_s) == (11, 22, 33)


def test_a_flag_that_was_not_given_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURVEY_PORT", "1002")
    assert load_settings(flags={"port": None}).port == 1002


def test_the_current_folders_file_is_read_unasked() -> None:
    Path("purvey.toml").write_text("port = 1004\n", encoding="utf-8")
    assert load_settings().port == 1004


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [
        ("log_fromat = 'json'", "log_format"),
        ("[http]\nbaklog = 3", "http.backlog"),
        ("[htpp]\nbacklog = 3", "http"),
    ],
)
def test_a_misspelt_key_of_the_file_is_refused(misspelt: str, nearest: str) -> None:
    error = refusal(toml=toml(misspelt))
    assert f"Did you mean {nearest!r}?" in error.text


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("PURVEY_LOG_FROMAT", "PURVEY_LOG_FORMAT"),
        ("purvey_log_fromat", "PURVEY_LOG_FORMAT"),
        ("PURVEY_HTTP__BAKLOG", "PURVEY_HTTP__BACKLOG"),
        ("PURVEY_HTPP__BACKLOG", "PURVEY_HTTP"),
    ],
)
def test_a_misspelt_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, nearest: str
) -> None:
    monkeypatch.setenv(variable, "3")
    error = refusal()
    assert f"Did you mean {nearest!r}?" in error.text
    assert variable.upper().startswith(error.param or "?")


@pytest.mark.parametrize(
    ("flag", "nearest"), [("log_fromat", "--log-format"), ("http.baklog", "--http.backlog")]
)
def test_a_misspelt_flag_is_refused(flag: str, nearest: str) -> None:
    assert f"Did you mean {nearest!r}?" in refusal(flags={flag: "x"}).text


def test_a_part_of_a_setting_without_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURVEY_PORT__NUMBER", "3")
    assert "PURVEY_PORT__NUMBER" in refusal().message


def test_foreign_and_client_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURVEYOR_NAME", "somebody")
    monkeypatch.setenv("PURVEY_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("PURVEY_API_KEY", "sk-purvey-x")
    assert load_settings().port == 8_000
    assert client_environment() == ("http://127.0.0.1:1", "sk-purvey-x")


def test_absent_and_empty_client_variables_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURVEY_API_KEY", "")
    environment = client_environment()
    assert environment.base_url is None
    assert environment.api_key is None


def test_a_value_out_of_range_names_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURVEY_PORT", "70000")
    assert refusal().param == "port"


def test_a_refused_secret_is_not_in_the_message() -> None:
    error = refusal(toml=toml("bootstrap_key = ['canary-secret']"))
    assert error.param == "bootstrap_key"
    assert "canary" not in error.text


def test_the_secret_is_hidden_when_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURVEY_BOOTSTRAP_KEY", "canary-secret")
    settings = load_settings()
    assert "canary" not in repr(settings) + settings.model_dump_json()
    assert settings.bootstrap_key is not None
    assert settings.bootstrap_key.get_secret_value() == "canary-secret"


def test_a_chosen_file_must_be_there() -> None:
    assert refusal(toml=Path("absent.toml")).param == "toml"


def test_a_file_that_is_not_toml_is_refused() -> None:
    assert "is not TOML" in refusal(toml=toml("port = = 3")).message


def test_a_section_that_is_no_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURVEY_HTTP", "{not json")
    assert "http" in refusal().message


def test_lists_are_split_at_their_separator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURVEY_MODEL_ROOTS", "/srv/a:/srv/b")
    monkeypatch.setenv("PURVEY_ALLOWED_HOSTS", "one.example, two.example")
    settings = load_settings()
    assert settings.model_roots == (Path("/srv/a"), Path("/srv/b"))
    assert settings.allowed_hosts == ("one.example", "two.example")


def test_the_database_lies_in_the_data_folder_unless_named() -> None:
    assert load_settings(flags={"data_dir": "/srv/p"}).database_url == "sqlite:////srv/p/purvey.db"
    chosen = load_settings(flags={"database_url": "sqlite:////else/where.db"})
    assert chosen.database_url == "sqlite:////else/where.db"


def test_keywords_alone_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURVEY_PORT", "1002")
    assert Settings().port == 8_000


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]  # the refusal is what is tested


def test_every_setting_says_what_it_means() -> None:
    fields = {**Settings.model_fields, **HttpSettings.model_fields}
    assert [name for name, field in fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/\n", {}, []),
        ("0::/\n", {"": "250000 100000\n"}, [2.5]),
        ("0::/\n", {"": "max 100000\n"}, []),
        ("0::/a/b\n", {"a/b": "max 100000", "a": "150000 100000"}, [1.5]),
        ("0::/a/b\n", {"a/b": "50000 100000", "a": "400000 100000"}, [0.5, 4.0]),
        ("2:cpu:/x\n0::/a\n", {"a": "300000 100000"}, [3.0]),
        ("0::/elsewhere\n", {"": "200000 100000"}, [2.0]),
        ("0::/../../etc\n", {"": "200000 100000"}, [2.0]),
        ("0::/\n", {"": "nonsense\n"}, []),
        ("1:name=systemd:/\n", {"": "200000 100000"}, [2.0]),
    ],
)
def test_the_quotas_of_every_group_around_count(
    tmp_path: Path, own: str, limits: dict[str, str], expected: list[float]
) -> None:
    root, told = tmp_path / "groups", tmp_path / "own"
    root.mkdir()
    told.write_text(own)
    for group, limit in limits.items():
        (root / group).mkdir(parents=True, exist_ok=True)
        (root / group / "cpu.max").write_text(limit)
    assert list(settings_module._quotas(root, told)) == expected


def test_a_quota_bounds_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    for quotas, expected in (([], 64), ([2.5, 80.0], 2), ([0.5], 1), ([100.0], 64)):
        monkeypatch.setattr(settings_module, "_quotas", lambda *_, q=quotas: iter(q))
        assert Settings().job_threads == Settings().engine_threads == expected
    assert Settings(job_threads=8).job_threads == 8, "what is given is taken"


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan", "half"])
def test_a_share_is_a_share(share: str) -> None:
    assert refusal(flags={"job_share": share}).param == "job_share"
