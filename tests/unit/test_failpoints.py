"""Failpoints: read, armed, counted, and refused where the product is what is installed."""

import ast
import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import purvey
from purvey import failpoints
from purvey.errors import SettingError
from purvey.settings import load_settings

SOURCE = Path(purvey.__file__).parent


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def test_nothing_happens_unarmed() -> None:
    failpoints.reach("ckpt.tmp")


def test_an_armed_one_happens_at_its_time_and_once() -> None:
    failpoints.arm("ckpt.tmp=enospc#2, blob.tmp=eio#2+")
    failpoints.reach("ckpt.tmp")
    with pytest.raises(OSError, match=r"ckpt\.tmp") as caught:
        failpoints.reach("ckpt.tmp")
    assert caught.value.errno == errno.ENOSPC
    failpoints.reach("ckpt.tmp")
    failpoints.reach("blob.tmp")
    for _ in range(3):
        with pytest.raises(OSError, match=r"blob\.tmp") as lasting:
            failpoints.reach("blob.tmp")
        assert lasting.value.errno == errno.EIO
    failpoints.arm("")
    failpoints.reach("blob.tmp")


def test_kill9_ends_the_process_at_once() -> None:
    script = (
        "from purvey import failpoints as f; f.arm('train.step=kill9#3')\n"
        "for step in range(9): f.reach('train.step'); print(step, flush=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["0", "1"])


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ("ckpt.tpm=kill9", "'ckpt.tpm' is no failpoint; 'ckpt.tmp' is"),
        ("ckpt.tmp=explode", "'explode' is none of kill9"),
        ("ckpt.tmp", "'' is none of kill9"),
        ("ckpt.tmp=kill9#x", "invalid literal"),
    ],
)
def test_a_plan_that_cannot_be_read_names_the_setting(plan: str, told: str) -> None:
    with pytest.raises(SettingError, match="failpoints") as caught:
        load_settings(flags={"failpoints": plan})
    assert told in str(caught.value)


def test_a_build_without_the_test_parts_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failpoints, "is_test_build", lambda: False)
    with pytest.raises(SettingError, match="needs a test build"):
        load_settings(flags={"failpoints": "ckpt.tmp=kill9"})
    assert load_settings(flags={"failpoints": ""}).failpoints == ""


def test_every_name_stands_in_the_code_and_no_other() -> None:
    reached = {
        node.args[0].value
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "reach"
        and isinstance(node.args[0], ast.Constant)
    }
    assert reached == failpoints.NAMES
