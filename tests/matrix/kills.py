"""Jobs that are killed, and the same jobs undisturbed: what they must have in common.

A `World` is a data folder with inputs, a base model, and one undisturbed run of each job in
`JOBS`. A test works on a copy of it: runs some of the jobs again, has something killed, and
holds them to the undisturbed ones.
"""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil

from purvey.contracts.jobs import TERMINAL
from tests.matrix.invariants import check_store, job_row, reading
from tests.matrix.kill_inputs import NET, bodies_of, job_building
from tests.matrix.served import Served, serving
from tests.matrix.waiting import wait_until

JOBS = ("table", "images", "language", "adapter", "rows")
TRAINED = JOBS[:4]
SETTINGS = {
    "MAX_RUNNING_JOBS": "4",
    "JOB_MAX_ATTEMPTS": "20",
    "JOB_LEASE_S": "60",
    "LOG_LEVEL": "warning",
}
Died = bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job ended in, apart from ids and times.

    Attributes:
        weights: Hex SHA-256 of each file of weights or rows, by path.
        told: Step, training loss and validation loss of every evaluation.
        result: Test report, trained tokens and rows; or a dataset's digest and rows.
        usage: Tokens and rows of each of its lines in the ledger.
    """

    weights: dict[str, str]
    told: list[tuple[int, float, float]]
    result: dict[str, Any]  # JSON values
    usage: list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class World:
    """A folder to copy, and what its jobs ended in."""

    folder: Path
    bodies: dict[str, tuple[str, dict[str, Any]]]  # path and JSON body
    undisturbed: dict[str, Outcome]
    models: dict[str, str]

    def copy_to(self, root: Path) -> None:
        """Make a server's folder of it; `root` must be empty."""
        shutil.copytree(self.folder, root, dirs_exist_ok=True)

    def submit(self, served: Served, name: str, *, key: str) -> str:
        """Start the job under an idempotency key and return its id."""
        path, body = self.bodies[name]
        with served.witness.client(timeout=120) as http:
            answer = http.post(path, json=body, headers={"idempotency-key": key})
            made = answer.raise_for_status().json()
            return str(made.get("job_id") or made["id"])

    def check(self, root: Path, jobs: dict[str, str]) -> None:
        """Assert that each job ended as its undisturbed twin, and that the store is whole."""
        for name, job_id in jobs.items():
            row = job_row(root / "data", job_id)
            assert row["status"] == "succeeded", (name, row["status"], row["error"])
            assert outcome(root / "data", job_id) == self.undisturbed[name], name
        check_store(root / "data")
        work = root / "data" / "jobs"
        assert not [path.name for path in work.iterdir() if path.name in jobs.values()]


def make_world(folder: Path, *names: str) -> World:
    """Build the folder: upload, prepare, run every job once without a fault.

    Args:
        folder: Where.
        names: Which of `TRAINED`; `language` is among them, and `rows` comes by itself.
    """
    (folder / "modules").mkdir(parents=True)
    (folder / "modules" / "net.py").write_text(NET)
    with serving(folder, settings=SETTINGS) as served:
        bodies = bodies_of(served, names)
        ids = {name: _submitted(served, *bodies[name]) for name in names if name != "adapter"}
        wait_until_ended(folder, [ids["language"]])
        if "adapter" in names:
            ids["adapter"] = _submitted(served, *bodies["adapter"])
        ids["rows"] = job_building(folder, bodies["table"][1]["recipe"]["dataset"])
        wait_until_ended(folder, ids.values())
        assert served.stop() == 0
    data = folder / "data"
    return World(
        folder=folder,
        bodies=bodies,
        undisturbed={name: outcome(data, job_id) for name, job_id in ids.items()},
        models={name: str(job_row(data, ids[name])["fine_tuned_model"]) for name in names},
    )


def outcome(data_dir: Path, job_id: str) -> Outcome:
    """Read what a job that has succeeded left."""
    row = job_row(data_dir, job_id)
    assert row["status"] == "succeeded", (row["status"], row["error"])
    with reading(data_dir) as db:
        if row["kind"] == "dataset":
            where = "SELECT artifact FROM datasets WHERE id = ?", (row["dataset_id"],)
        else:
            where = "SELECT artifact FROM models WHERE name = ?", (row["fine_tuned_model"],)
        digest = db.execute(*where).fetchone()["artifact"]
        events = db.execute(
            "SELECT data FROM job_events WHERE job_id = ? AND type = 'metrics' ORDER BY seq",
            (job_id,),
        ).fetchall()
        usage = db.execute(
            "SELECT input_tokens, rows FROM usage_ledger WHERE request_id = ?", (job_id,)
        ).fetchall()
    numbers = [json.loads(event["data"]) for event in events]
    return Outcome(
        weights=_hashes(data_dir / "artifacts" / digest),
        told=[(n["step"], n["train_loss"], n["valid_loss"]) for n in numbers if "valid_loss" in n],
        result=json.loads(row["result"]),
        usage=[(line["input_tokens"], line["rows"]) for line in usage],
    )


def attempts(root: Path, job_id: str) -> int:
    """Count how often a job was given to a worker."""
    fence: int = job_row(root / "data", job_id)["fence"]
    return fence


def messages(root: Path, job_id: str) -> list[str]:
    """Return what a job told, numbers apart."""
    with reading(root / "data") as db:
        told = db.execute(
            "SELECT message FROM job_events WHERE job_id = ? AND type = 'message' ORDER BY seq",
            (job_id,),
        ).fetchall()
    return [row["message"] for row in told]


def wait_until_ended(root: Path, ids: Iterable[str], *, served: Served | None = None) -> Died:
    """Wait until every job has ended; stop waiting when the server dies, and say whether it did."""
    pending = list(ids)

    def is_over() -> bool:
        while pending and job_row(root / "data", pending[-1])["status"] in TERMINAL:
            pending.pop()
        return not pending or (served is not None and served.process.poll() is not None)

    wait_until(is_over)
    return bool(pending)


@dataclass(kw_only=True)
class Disturbed:
    """A run that was disturbed: the ids of its jobs, and how often the server died."""

    jobs: dict[str, str]
    num_deaths: int = 0


def run_with(
    world: World,
    root: Path,
    plan: str,
    names: Sequence[str],
    *,
    settings: dict[str, str] | None = None,
    while_down: Callable[[dict[str, str]], object] = lambda jobs: None,
) -> Disturbed:
    """Run jobs under a plan of failpoints; start the server again, without one, if it dies.

    Every job is asked for again under its key after a death, which must not make a second.

    Args:
        world: Where the jobs come from.
        root: An empty folder.
        plan: Of `purvey.failpoints`.
        names: Which jobs.
        settings: Over `SETTINGS`.
        while_down: Called with the jobs between death and restart.
    """
    world.copy_to(root)
    before = _num_jobs(root)
    keys = {name: f"key-{name}" for name in names}
    run = Disturbed(jobs={})
    chosen = SETTINGS | (settings or {})
    with serving(root, settings=chosen, failpoints=plan) as served:
        with suppress(httpx2.TransportError):  # it may die of being asked
            for name in names:
                run.jobs[name] = world.submit(served, name, key=keys[name])
        has_died = len(run.jobs) < len(names) or wait_until_ended(
            root, run.jobs.values(), served=served
        )
        assert (served.process.wait(timeout=30) if has_died else served.stop()) == (
            -signal.SIGKILL if has_died else 0
        )
    if has_died:
        run.num_deaths = 1
        while_down(run.jobs)
        with serving(root, settings=chosen) as served:
            for name in names:
                job_id = world.submit(served, name, key=keys[name])
                assert run.jobs.setdefault(name, job_id) == job_id
            wait_until_ended(root, run.jobs.values())
            assert served.stop() == 0
    assert _num_jobs(root) == before + len(names)
    return run


def kill(process: psutil.Process) -> bool:
    """Send SIGKILL to one recorded process; say whether it was there."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def tell(num_kills: int, how: str) -> None:
    """Print what was survived; `pytest -s` shows it."""
    print(f"{num_kills} killed: {how}")  # noqa: T201


def _num_jobs(root: Path) -> int:
    with reading(root / "data") as db:
        count: int = db.execute("SELECT count(*) FROM jobs").fetchone()[0]
    return count


def _hashes(folder: Path) -> dict[str, str]:
    endings = (".safetensors", ".parquet", "tokenizer.json")
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.name.endswith(endings)
    }


def _submitted(served: Served, path: str, body: dict[str, Any]) -> str:
    with served.witness.client() as http:
        made = http.post(path, json=body).raise_for_status().json()
    return str(made.get("job_id") or made["id"])
