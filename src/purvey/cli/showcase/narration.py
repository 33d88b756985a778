"""How the demonstration is told: headings, facts, progress bars, one summary at the end."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from purvey.cli.terminal import console, notices
from purvey.client.values import Event

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Narrator:
    """Tells what happens, to people or (quietly, beside JSON) to nobody.

    Args:
        as_json: Tell on standard error, so that standard output holds the summary alone.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.out = notices() if as_json else console()
        self.summary: dict[str, Any] = {}  # JSON values

    def heading(self, text: str) -> None:
        """Begin a part."""
        self.out.print(f"\n[bold]{text}[/bold]")

    def say(self, text: str) -> None:
        """Tell one thing."""
        self.out.print(f"  {text}", markup=False)

    def record(self, **facts: object) -> None:
        """Keep facts for the summary."""
        self.summary |= facts

    def stream(self, pieces: Iterable[str]) -> str:
        """Show text as it comes and return it whole."""
        told = []
        self.out.print("  ", end="")
        for piece in pieces:
            told.append(piece)
            self.out.print(piece, end="", markup=False)
        self.out.print()
        return "".join(told)

    def watch(self, title: str, events: Iterable[Event]) -> None:
        """Show a run as a progress bar with loss, speed and time left, until it ends."""
        with _bar(self) as (progress, task):
            progress.update(task, description=title)
            for event in events:
                if event.type == "metrics" and event.data:
                    _advance(progress, task, title, event.data)
            progress.update(task, completed=progress.tasks[task].total or 0)


@contextmanager
def _bar(narrator: Narrator) -> Iterator[tuple["Progress", "TaskID"]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=narrator.out,
    ) as progress:
        yield progress, progress.add_task("", total=1, numbers="")


def _advance(progress: "Progress", task: "TaskID", title: str, data: dict[str, Any]) -> None:
    step, total = data.get("step", 0), data.get("total_steps", 1)
    shown = [
        f"{label} {float(data[name]):{style}}"
        for name, label, style in (
            ("train_loss", "loss", ".3f"),
            ("valid_loss", "valid", ".3f"),
            ("tokens_per_s", "tok/s", ",.0f"),
            ("rows_per_s", "rows/s", ",.0f"),
            ("seconds_left", "left s", ".0f"),
        )
        if isinstance(data.get(name), int | float)
    ]
    progress.update(task, description=title, completed=step, total=total, numbers="  ".join(shown))
