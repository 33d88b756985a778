"""Nothing calls home: a whole life without a network, every process watched."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIFE = Path(__file__).with_name("offline_life.py")
LOOPBACK = ("'127.0.0.1'", "'::1'", "'localhost'")
PROBED = "'192.0.2.1'"


def _is_at_home(seen: dict[str, Any]) -> bool:
    """Whether a call stays on this machine."""
    if seen["event"] == "watched" or seen.get("family") == ["AF_UNIX"]:
        return True
    return str(seen["to"]).lstrip("[(").startswith(LOOPBACK)


@pytest.mark.row("NET-11")
def test_a_whole_life_makes_no_outbound_connection(tmp_path: Path) -> None:
    out = subprocess.run(
        [sys.executable, str(LIFE), str(tmp_path)],
        env={"PATH": os.defpath, "HOME": str(tmp_path), "LANG": "C.UTF-8"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert out.returncode == 0, out.stdout[-2_000:] + out.stderr[-4_000:]
    assert (tmp_path / "ended.json").exists()
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    watched = [entry["who"] for entry in seen if entry["event"] == "watched"]
    assert watched.count("server") == watched.count("probe") == 1
    assert watched.count("engine") == 2
    assert watched.count("job") >= 2
    assert any(s["who"] == "server" and s["event"] == "socket.connect" for s in seen), "the client"
    outside = [entry for entry in seen if not _is_at_home(entry)]
    assert {entry["who"] for entry in outside} == {"probe"}, outside
    assert any(PROBED in entry["to"] for entry in outside)
