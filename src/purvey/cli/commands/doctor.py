"""`purvey doctor`: is everything here that a server needs, and does one answer?"""

import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import typer

import purvey
from purvey.cli.terminal import AsJson, console, print_json
from purvey.errors import PurveyError

NEEDED_BY_THE_ENGINE = ("torch", "numpy", "tokenizers", "safetensors", "pyarrow", "pillow")
LOW_DISK_BYTES = 2 * 2**30


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing looked at."""

    name: str
    is_well: bool
    found: str


def doctor(as_json: AsJson = False) -> None:
    """Check this machine and the connection to the server; exit 1 if something is missing."""
    checks = [_python(), *_packages(), _disk(), *_server()]
    if as_json:
        print_json(checks)
    else:
        out = console()
        for check in checks:
            mark = "ok " if check.is_well else "no "
            out.print(f"{mark} {check.name:<12} {check.found}", markup=False)
    if not all(check.is_well for check in checks):
        raise typer.Exit(1)


def _python() -> Check:
    return Check(
        name="python",
        is_well=True,
        found=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
    )


def _packages() -> list[Check]:
    checks = [Check(name="purvey", is_well=True, found=purvey.__version__)]
    for name in NEEDED_BY_THE_ENGINE:
        try:
            checks.append(Check(name=name, is_well=True, found=metadata.version(name)))
        except metadata.PackageNotFoundError:
            hint = "missing: pip install 'purvey[engine]' to train and serve here"
            checks.append(Check(name=name, is_well=False, found=hint))
    return checks


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    return Check(
        name="disk", is_well=free >= LOW_DISK_BYTES, found=f"{free / 2**30:.1f} GiB free here"
    )


def _server() -> list[Check]:
    from purvey.cli.connection import connect

    try:
        with connect() as client:
            client.server.is_ready()
            state = client.server.state()
            address = client.address
    except PurveyError as error:
        return [Check(name="server", is_well=False, found=error.text)]
    loaded = ", ".join(state.models_loaded) or "none"
    return [
        Check(
            name="server",
            is_well=True,
            found=f"{state.version} at {address}, models loaded: {loaded}",
        )
    ]
