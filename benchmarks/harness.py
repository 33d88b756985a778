"""How a bar is measured and reported.

Blocks run in the order peer, us, us, peer; a ratio is taken within each such round, and the
report gives the median ratio with a bootstrap 95 % interval. Rounds during which the
hypervisor stole processor time are thrown away and counted. Each bar prints one JSON line and
writes a dated report with commit, hardware, command, warm-up, repetitions and spread.
"""

import datetime
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.quick import is_quick

ROOT = Path(__file__).parents[1]
REPORTS = Path(__file__).parent / "reports"
MAX_STEAL_FRACTION = 0.02


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A paired comparison: `median` of ours over peer's (or the inverse, as the bar says)."""

    median: float
    low: float
    high: float
    rounds: int
    discarded: int
    ours: list[float]
    peer: list[float]

    def figures(self) -> dict[str, Any]:
        """Return what a report tells of it; both sides by their medians."""
        return {
            "ratio": self.median,
            "ratio_95": [self.low, self.high],
            "ours": statistics.median(self.ours),
            "peer": statistics.median(self.peer),
            "rounds": self.rounds,
            "discarded": self.discarded,
        }


@dataclass(kw_only=True)
class Report:
    """One bar's outcome; `verdict` compares with the target that the bar states."""

    bar: str
    workload: str
    target: str
    verdict: str
    figures: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def paired(
    ours: Callable[[], float], peer: Callable[[], float], *, rounds: int = 5, warmup: int = 1
) -> Ratio:
    """Measure two subjects in interleaved rounds.

    Args:
        ours: Runs one block of ours and returns its figure.
        peer: Runs one block of the peer and returns its figure, in the same unit.
        rounds: Rounds that must survive the steal check.
        warmup: Blocks of each that are run first and not counted.
    """
    for _ in range(warmup):
        peer(), ours()
    kept_ours: list[float] = []
    kept_peer: list[float] = []
    discarded = 0
    while len(kept_ours) < rounds and discarded < rounds:
        before = _stolen()
        first_peer, first, second, second_peer = peer(), ours(), ours(), peer()
        if _stolen_fraction(before) > MAX_STEAL_FRACTION and not is_quick():
            discarded += 1
            continue
        kept_ours.append((first + second) / 2)
        kept_peer.append((first_peer + second_peer) / 2)
    if not kept_ours:
        raise RuntimeError(f"the hypervisor took processor time in each of {discarded} rounds")
    ratios = [a / b for a, b in zip(kept_ours, kept_peer, strict=True)]
    low, high = bootstrap(ratios)
    return Ratio(
        median=statistics.median(ratios),
        low=low,
        high=high,
        rounds=len(ratios),
        discarded=discarded,
        ours=kept_ours,
        peer=kept_peer,
    )


def bootstrap(values: list[float], *, samples: int = 2_000) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the median (Efron 1979)."""
    generator = random.Random(0)  # noqa: S311 (resampling, not a secret)
    medians = sorted(
        statistics.median(generator.choices(values, k=len(values))) for _ in range(samples)
    )
    return medians[int(0.025 * samples)], medians[int(0.975 * samples)]


def spread(values: list[float]) -> dict[str, float]:
    """Minimum, median and maximum of repeated figures."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def publish(report: Report) -> None:
    """Print the JSON line and write the dated report; the quick form is no report."""
    now = datetime.datetime.now(tz=datetime.UTC)
    conditions = {
        "date": now.isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", "src")),
        "hardware": hardware(),
        "load_before": Path("/proc/loadavg").read_text(encoding="utf-8").split()[0],
        "python": platform.python_version(),
        "command": f"python -m benchmarks {report.bar}",
    }
    verdict = "not judged: quick" if is_quick() else report.verdict
    line = {"bar": report.bar, "verdict": verdict, **report.figures, **conditions}
    print(json.dumps(line))
    if is_quick():
        return
    REPORTS.mkdir(exist_ok=True)
    path = REPORTS / f"{now:%Y-%m-%d}-{report.bar.replace('_', '-')}.md"
    path.write_text(_page(report, conditions), encoding="utf-8")
    print(f"report: {path.relative_to(ROOT)}", file=sys.stderr)


def hardware() -> str:
    """Describe processor, cores and memory in one line."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((x.split(":", 1)[1].strip() for x in cpu if x.startswith("model name")), "?")
    cores = sum(1 for x in cpu if x.startswith("processor"))
    memory = Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
    return f"{model}, {cores} cores, {int(memory) / 2**20:.0f} GiB, {platform.system()}"


def timed(work: Callable[[], object]) -> float:
    """Return wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _page(report: Report, conditions: dict[str, Any]) -> str:
    rows = "\n".join(f"| {k} | {_cell(v)} |" for k, v in {**report.figures, **conditions}.items())
    notes = "\n".join(f"- {note}" for note in report.notes)
    return (
        f"# {report.bar}\n\n{report.workload}\n\nTarget: {report.target}. "
        f"Verdict: **{report.verdict}**.\n\n| figure | value |\n|---|---|\n{rows}\n"
        + (f"\n{notes}\n" if notes else "")
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_cell(v) for v in value)
    return str(value)


def _git(*args: str) -> str:
    out = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return out.stdout.strip()


def _stolen() -> tuple[int, int]:
    fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    return int(fields[7]), sum(int(f) for f in fields[:8])


def _stolen_fraction(before: tuple[int, int]) -> float:
    stolen, total = _stolen()
    return (stolen - before[0]) / max(1, total - before[1])
