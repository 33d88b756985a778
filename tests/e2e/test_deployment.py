"""The files that deploy the server keep what their page promises; no container engine is needed.

The last test runs the server as they do: another user, who may write to the data folder only.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from purvey.client.purvey import Purvey
from purvey.settings import Settings

ROOT = Path(__file__).parents[2]
KEY = "sk-test-administrator-0123456789abcdef0123456789"
NOBODY = 65_534
DRAIN_TIMEOUT_S = Settings.model_fields["drain_timeout_s"].default


def instructions() -> list[tuple[str, str]]:
    """Return every instruction of the Dockerfile with its arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split()[0], line.split(None, 1)[1]) for line in lines]


def last_stage(name: str) -> list[str]:
    """Return the arguments of one instruction in the image that runs."""
    all_of_them = instructions()
    start = max(n for n, (word, _) in enumerate(all_of_them) if word == "FROM")
    return [arguments for word, arguments in all_of_them[start:] if word == name]


def unit(section: str) -> dict[str, list[str]]:
    """Return the settings of one section of the systemd unit."""
    text = (ROOT / "deploy" / "purvey.service").read_text(encoding="utf-8")
    part = re.search(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", text, re.M | re.S)
    assert part
    found: dict[str, list[str]] = {}
    for line in part[1].splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def service() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    described: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = described["services"]["purvey"]
    assert [volume.split(":")[0] for volume in found["volumes"]] == list(described["volumes"])
    return found


def test_the_image_is_slim_and_takes_torch_from_where_it_is_told() -> None:
    assert {arguments.split()[0] for word, arguments in instructions() if word == "FROM"} == {
        "python:3.11-slim"
    }
    assert any(word == "ARG" and text.startswith("TORCH_INDEX=") for word, text in instructions())
    install = next(text for word, text in instructions() if word == "RUN" and "pip" in text)
    assert '${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"}' in install
    assert "-c constraints.txt" in install


def test_the_build_sees_what_it_copies() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        source
        for word, arguments in instructions()
        if word == "COPY" and "--from" not in arguments
        for source in arguments.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source.removeprefix('./')}" in ignored, source


def test_the_image_runs_as_nobody_special() -> None:
    assert last_stage("USER") == ["10001:10001"]
    assert last_stage("VOLUME") == ["/var/lib/purvey"]
    assert "PURVEY_DATA_DIR=/var/lib/purvey/data" in last_stage("ENV")[0]
    assert "HOME=/tmp" in last_stage("ENV")[0]
    assert last_stage("STOPSIGNAL") == ["SIGTERM"]
    assert (last_stage("ENTRYPOINT"), last_stage("CMD")) == (['["purvey"]'], ['["serve"]'])


def healthcheck() -> str:
    """Return the program of the health check."""
    found = re.search(r'CMD \["python", "-c", "(.*)"\]$', last_stage("HEALTHCHECK")[0])
    assert found
    return found[1]


def test_compose_runs_it_hardened() -> None:
    found = service()
    assert found["read_only"] is True
    assert [entry.split(":")[0] for entry in found["tmpfs"]] == ["/tmp"]  # noqa: S108 (a mount of the container)
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["volumes"] == ["data:/var/lib/purvey"]
    assert found["build"]["args"].keys() == {"TORCH_INDEX"}
    assert all(port.startswith("127.0.0.1:") for port in found["ports"])
    assert float(found["stop_grace_period"].removesuffix("s")) > DRAIN_TIMEOUT_S
    assert not {"privileged", "cap_add", "user", "network_mode"} & found.keys()


def test_the_unit_is_hardened() -> None:
    found = unit("Service")
    expected = {
        "User": "purvey",
        "StateDirectory": "purvey",
        "StateDirectoryMode": "0700",
        "UMask": "0077",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "Restart": "on-failure",
        "KillSignal": "SIGTERM",
        "KillMode": "mixed",
        "RestartPreventExitStatus": "78",
    }
    assert {name: found[name] for name in expected} == {n: [v] for n, v in expected.items()}
    assert float(found["TimeoutStopSec"][0]) > DRAIN_TIMEOUT_S
    assert "PURVEY_DATA_DIR=/var/lib/purvey/data" in found["Environment"]
    assert found["ExecStart"][0].endswith("/purvey serve")
    assert unit("Install") == {"WantedBy": ["multi-user.target"]}


def test_variables_that_they_set_are_settings() -> None:
    names = {f"PURVEY_{name.upper()}" for name in Settings.model_fields}
    texts = [
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("Dockerfile", "compose.yaml", "deploy/purvey.service")
    ]
    found = {name for text in texts for name in re.findall(r"\bPURVEY_[A-Z_]+", text)}
    assert found
    assert found <= names


def as_nobody(*words: str) -> list[str]:
    """Return a command line that runs as another user without any right to write.

    The only capability that is left lets it read an interpreter in a home folder.
    """
    capability = "-all,+dac_read_search"
    return [
        "setpriv",
        *(f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={capability}", f"--ambient-caps={capability}"),
        f"--bounding-set={capability}",
        *words,
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run it as another user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv")
def test_another_user_serves_with_only_the_data_folder_to_write_to(tmp_path: Path) -> None:
    state, closed = tmp_path / "state", tmp_path / "closed"
    for folder in (state, closed):
        folder.mkdir(mode=0o755)
    os.chown(state, NOBODY, NOBODY)
    environment = {
        "PATH": os.defpath,
        "HOME": str(closed),
        "TMPDIR": str(closed),
        "PURVEY_BOOTSTRAP_KEY": KEY,
        "PURVEY_DATA_DIR": str(state / "data"),
    }
    purvey = [sys.executable, "-m", "purvey"]
    with subprocess.Popen(
        as_nobody(*purvey, "serve", "--port", "0"),
        env=environment,
        cwd=closed,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+:(\d+)", process.stdout.readline())
            assert address
            checked = subprocess.run(
                [sys.executable, "-c", healthcheck()],
                env={"PURVEY_PORT": address[1]},
                check=False,
            )
            assert checked.returncode == 0
            _use(address[0])
            backup = as_nobody(*purvey, "backup", str(state / "copy"))
            subprocess.run(backup, env=environment, cwd=closed, check=True)
            process.terminate()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    assert list(closed.iterdir()) == []
    assert {path.stat().st_uid for path in state.rglob("*")} == {NOBODY}


def _use(address: str) -> None:
    """Upload, read back, and have a worker make a dataset."""
    assert httpx2.get(f"{address}/readyz").status_code == 200
    with OpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
        content = b"text,label\n" + b"".join(b"word %d,%d\n" % (n, n % 2) for n in range(40))
        file = client.files.create(file=("rows.csv", content), purpose="user_data")
        assert client.files.content(file.id).content == content
    with Purvey(address, KEY) as native:
        made = native.datasets.wait(native.datasets.create([file.id]).id)
        assert made.status == "ready", made.error
