"""A training run in the terminal: one live line on a terminal, plain lines elsewhere."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from purvey.cli.moments import span

if TYPE_CHECKING:
    from rich.console import Console

    from purvey.client.purvey import Purvey
    from purvey.client.values import Event, Job

METRICS = ("accuracy", "macro_f1", "exact_match", "reward_accuracy", "perplexity", "valid_loss")
"""Which validation metric the bar shows: the first of these that is known."""
Numbers = dict[str, Any]  # metrics of an event, JSON values


def show_progress(events: Iterable["Event"], *, out: "Console") -> None:
    """Show events as they come, until they end."""
    if out.is_terminal:
        _show_bar(events, out)
    else:
        _show_lines(events, out)


def watch(client: "Purvey", job_id: str, out: "Console") -> "Job":
    """Show a job as it goes on until it has ended, and return it; Ctrl-C leaves it running."""
    try:
        show_progress(client.training_jobs.follow(job_id), out=out)
    except KeyboardInterrupt:
        out.print(f"The job goes on. `purvey jobs cancel {job_id}` ends it.", markup=False)
        raise
    return client.training_jobs.get(job_id)


def metrics_text(data: Numbers) -> str:
    """Return loss, metric, speed and time left, as far as they are known."""
    parts: list[str] = []
    if isinstance(data.get("train_loss"), (int, float)):
        parts.append(f"loss {data['train_loss']:.4g}")
    metric = next((name for name in METRICS if isinstance(data.get(name), (int, float))), None)
    if metric is not None:
        parts.append(f"{metric.replace('_', ' ')} {data[metric]:.4g}")
    for unit in ("tokens", "rows"):
        if isinstance(data.get(f"{unit}_per_s"), (int, float)):
            parts.append(f"{data[f'{unit}_per_s']:,.0f} {unit}/s")
    if isinstance(data.get("seconds_left"), (int, float)):
        parts.append(f"{span(data['seconds_left'])} left")
    return "  ".join(parts)


def _show_bar(events: Iterable["Event"], out: "Console") -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
    )
    known: Numbers = {}
    with Progress(*columns, console=out) as bar:
        task: TaskID | None = None
        for event in events:
            if event.type != "metrics":
                bar.console.print(event.message, markup=False)
                continue
            known |= {name: v for name, v in (event.data or {}).items() if v is not None}
            if task is None:
                task = bar.add_task("training", total=None, numbers="")
            bar.update(
                task,
                completed=known.get("step", 0),
                total=known.get("total_steps"),
                numbers=metrics_text(known),
            )


def _show_lines(events: Iterable["Event"], out: "Console") -> None:
    """Print messages, and of the metrics those of an evaluation."""
    for event in events:
        data = event.data or {}
        if event.type != "metrics":
            out.print(event.message, markup=False)
        elif any(data.get(name) is not None for name in METRICS):
            step = f"step {data.get('step', '?')}/{data.get('total_steps', '?')}"
            out.print(f"{step}  {metrics_text(data)}", markup=False)
