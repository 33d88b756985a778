"""The command line as a program: help, errors, exit statuses, JSON, no heavy imports."""

import json
import subprocess
import sys

import pytest

from purvey.cli.main import run

COMMANDS = [  # frozen names
    *("serve", "demo", "run", "chat", "train", "sweep", "jobs", "list", "show"),
    *("explain", "feedback", "keys", "usage", "doctor", "backup", "restore"),
]


def ends_with(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run(words)
    return int(ended.value.code or 0)


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURVEY_BASE_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("PURVEY_API_KEY", "sk-nothing")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with("--help") == 0
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if f" {name} " not in shown] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with(name, "--help") == 0
    assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["bogus"], ["train"], ["jobs", "cancel"], ["usage", "--by", "mood"], ["list", "-x"]]
)
def test_wrong_usage_is_one_line_and_exit_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(*words) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["show", "m"],
        ["jobs", "list"],
        ["jobs", "events", "job_1"],
        ["keys", "list"],
        ["usage"],
        ["run", "m", "--prompt", "x"],
        ["explain", "m", "x"],
    ],
)
def test_without_a_server_every_command_says_how_to_start_one(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends_with(*words) == 75
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: no server answers at 'http://127.0.0.1:9'")
    assert "purvey serve" in told.err


@pytest.mark.usefixtures("no_server")
def test_json_errors_are_objects(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with("list", "--json") == 75
    told = capsys.readouterr()
    assert told.out == ""
    assert json.loads(told.err)["error"]["code"] == "server_is_overloaded"


@pytest.mark.usefixtures("no_server")
def test_doctor_names_what_is_missing_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with("doctor", "--json") == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["purvey"]["is_well"]
    assert not checks["server"]["is_well"]


def test_no_key_is_told_when_a_server_is_not_the_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from purvey.client.admin import Server

    monkeypatch.setattr(Server, "is_ready", lambda self: True)
    monkeypatch.delenv("PURVEY_API_KEY", raising=False)
    assert ends_with("list") == 77
    assert "PURVEY_API_KEY" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from purvey.cli.main import run\n"
        "try:\n    run(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'httpx2', 'sqlalchemy', 'fastapi'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from purvey import __version__

    with pytest.raises(SystemExit) as ended:
        run(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == __version__
