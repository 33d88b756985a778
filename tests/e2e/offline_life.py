"""A server's whole life where there is no network: `python offline_life.py FOLDER`.

The process and its children live in a network namespace with nothing but loopback, where the
system permits that, and are watched in any case.
"""

import asyncio
import csv
import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run as a script

from tests.e2e.watched import PROBED, watch

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # <linux/sched.h>
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1  # <linux/sockios.h>, <linux/if.h>


def cut_off() -> bool:
    """Move to a network of loopback alone; return whether the system let us."""
    libc, uid = ctypes.CDLL(None, use_errno=True), os.getuid()
    if libc.unshare(_CLONE_NEWNET) != 0:
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
            return False
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", encoding="ascii")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    with socket.socket() as reaching:
        reaching.settimeout(1)
        assert reaching.connect_ex((PROBED, 443)) == errno.ENETUNREACH
    return True


def live(folder: Path, log: str) -> None:
    """Start a server; train, serve and explain two models through the command line."""
    import uvloop

    from purvey.app.application import build
    from purvey.cli.main import run
    from purvey.engine.client import LocalEngineLauncher
    from purvey.jobs.launcher import LocalJobLauncher
    from purvey.settings import Settings

    # A loop whose connections the hook sees.
    uvloop.new_event_loop = asyncio.new_event_loop  # type: ignore[assignment]
    worker = (sys.executable, "-P", str(Path(__file__).with_name("watched.py")), log)
    engines = folder / "engines"
    engines.mkdir()
    key = "sk-test-administrator-0123456789abcdef0123456789"
    settings = Settings.model_validate(
        {"data_dir": folder / "data", "port": 0, "bootstrap_key": key, "job_threads": 1}
        | {"engine_threads": 1}
    )
    application = build(
        settings,
        engine_launcher=LocalEngineLauncher(cwd=engines, command=(*worker, "engine")),
        job_launcher=LocalJobLauncher(command=(*worker, "job")),
    )
    application.start()
    os.environ["PURVEY_BASE_URL"] = application.base_url
    os.environ["PURVEY_API_KEY"] = key
    try:
        for command in commands(folder):
            with pytest.raises(SystemExit) as ended:
                run(command)
            assert ended.value.code == 0, command
    finally:
        application.stop()


def commands(folder: Path) -> list[tuple[str, ...]]:
    """Write the data; return what a user does with it."""
    table, texts = folder / "table.csv", folder / "texts.jsonl"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(60):
            rows.writerow([f"win a prize now {number}", "spam"])
            rows.writerow([f"see you at lunch {number}", "ham"])
    said = [{"text": f"the {word} is here. " * 6} for word in ("cat", "dog", "sun")] * 8
    texts.write_text("\n".join(map(json.dumps, said)), encoding="utf-8")
    size = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_tokens": 64}
    small = [f"--set=model.hyperparameters.{name}={value}" for name, value in size.items()]
    small += ["--set=tokenizer.vocabulary_size=300", "--set=train.max_steps=10"]
    return [
        ("train", str(table), "--name", "spam", "--json"),
        ("run", "spam", "--prompt", "win a prize"),
        ("explain", "spam", "win a prize now please", "--json"),
        ("train", str(texts), "--task", "text-generation", "--name", "tiny", *small),
        ("run", "tiny", "--prompt", "the cat", "--max-tokens", "4"),
        ("explain", "tiny", "the cat is", "--answer", " here.", "--seed", "1"),
        ("doctor",),
    ]


def main() -> None:
    """Live, then let a probe show that the watch would have seen more."""
    folder = Path(sys.argv[1])
    is_cut_off = cut_off()
    log = str(folder / "seen.jsonl")
    watch(log, "server")
    live(folder, log)
    probe = Path(__file__).with_name("watched.py")
    subprocess.run([sys.executable, str(probe), log, "probe"], check=True, timeout=60)
    (folder / "ended.json").write_text(json.dumps({"is_cut_off": is_cut_off}), encoding="ascii")


if __name__ == "__main__":
    main()
