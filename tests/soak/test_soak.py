"""A server that is used for long holds what it held at first, and has counted everything.

`make soak` sends 10^5 requests; the suite sends some hundreds, and some more to a server with a
planted leak, which the same analysis must see. Everything is chosen by a seed, which is printed;
what varies between two runs with one seed is how requests of different clients interleave.
"""

import asyncio
import json
import secrets
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.soak.analysis import PER, Bounds, faults, rss_growth, settled, slope
from tests.soak.soak import Soak, Soaked, soaked

SHORT = Bounds(rss=None, blocks=1.0)
"""Two objects kept for each request are seen in a thousand. Resident memory is not judged: it
settles in the first ten thousand requests, as pools, caches and the allocator fill."""
LONG = Bounds(rss=0.01, blocks=0.05)
"""A line through some forty samples of the second half: about 1 MB for 10^5 requests, and one
object in twenty of them. What may grow so much is the list of generations that were left: the
client of each engine keeps their ids, 16,384 at most."""
ENDINGS = ("request.failed", "supervisor.broke", "stream.failed", "engine.crashed", "store.refused")
"""Events that no request of a soak may cause."""


async def run(server: Soaked, *, seed: int, num_portions: int, num_errands: int) -> Soak:
    """Soak a server: a warm-up, then portions of mixed requests with a rest after each."""
    soak = Soak(server, seed=seed)
    await soak.prepare()
    for _ in range(num_portions):
        await soak.portion(num_errands)
        await soak.rest()
    assert await soak.differences() == []
    return soak


def report(soak: Soak) -> None:
    """Print what was measured, one line for each sample."""
    for sample in soak.samples:
        sys.stdout.write(json.dumps(asdict(sample)) + "\n")
    later = settled(soak.samples)
    blocks = slope(later, lambda s: s.blocks)
    sys.stdout.write(f"memory {rss_growth(soak.samples):+.3%} for {PER} requests; ")
    sys.stdout.write(f"blocks {blocks:+.4f} a request; {dict(soak.book.statuses)}\n")


def check_disk(server: Soaked) -> None:
    """Every blob has a row and every row its blob; the database is sound."""
    with server.database() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        named = {sha256 for (sha256,) in connection.execute("SELECT sha256 FROM files")}
        twice = (
            "SELECT request_id FROM usage_ledger GROUP BY request_id, attempt HAVING count(*) > 1"
        )
        assert connection.execute(twice).fetchall() == []
    assert {path.name for path in (server.root / "data" / "blobs").iterdir()} == named


def check_log(server: Soaked) -> None:
    """Nothing broke on the way."""
    with server.log.open() as lines:
        broken = [line for line in lines if json.loads(line)["event"] in ENDINGS]
    assert broken == []


@pytest.mark.row("OVL-07")
@pytest.mark.timeout(900)
def test_a_short_soak_leaves_nothing_behind(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    sys.stdout.write(f"seed {seed}\n")
    with soaked(tmp_path) as server:
        soak = asyncio.run(run(server, seed=seed, num_portions=4, num_errands=180))
        report(soak)
        assert faults(soak.samples, SHORT) == []
        check_disk(server)
    check_log(server)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_planted_leak_is_seen(tmp_path: Path) -> None:
    with soaked(tmp_path, "--leak", "4") as server:
        soak = asyncio.run(run(server, seed=1, num_portions=2, num_errands=120))
        report(soak)
        assert any("blocks for each request" in fault for fault in faults(soak.samples, SHORT))


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_a_hundred_thousand_requests_leave_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = secrets.randbits(32)
    with soaked(tmp_path) as server:
        soak = asyncio.run(run(server, seed=seed, num_portions=88, num_errands=800))
        with capsys.disabled():
            sys.stdout.write(f"seed {seed}\n")
            report(soak)
        assert soak.book.requests >= PER
        assert faults(soak.samples, LONG) == []
        check_disk(server)
    check_log(server)
