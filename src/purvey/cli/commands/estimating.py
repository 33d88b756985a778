"""`purvey train --estimate`: what a run would take, for the terminal."""

from typing import Any

import typer

from purvey.cli.moments import span
from purvey.cli.terminal import print_fields, print_json
from purvey.errors import InvalidValueError


def show_estimates(resolved: dict[str, Any], *, as_json: bool) -> None:
    """Print the estimates of a resolved recipe; exit 1 where there is no room for the run.

    Args:
        resolved: Answer of `/v1/recipes/validate`.
        as_json: Print that answer instead.

    Raises:
        InvalidValueError: The recipe names no dataset.
    """
    estimates = resolved["estimates"]
    if estimates is None:
        raise InvalidValueError(
            "without data there is nothing to estimate.",
            param="recipe.dataset",
            hint="Name data files, or a prepared dataset in the recipe.",
        )
    if as_json:
        print_json(resolved)
    else:
        print_fields(estimate_fields(estimates))
    needs = (estimates["memory"], estimates["disk"])
    if not all(need["fits"] for need in needs):
        raise typer.Exit(1)


def estimate_fields(estimates: dict[str, Any]) -> dict[str, object]:
    """Return estimates as names and values for a person."""
    time = estimates["time"]
    how = "measured" if time["is_measured"] else "by arithmetic"
    whole, trained = estimates["parameters"], estimates["trained_parameters"]
    return {
        "parameters": f"{whole:,}" + (f", {trained:,} of them trained" if trained < whole else ""),
        "memory": _need_text(estimates["memory"]),
        "disk": _need_text(estimates["disk"]),
        "time": f"{span(time['low_s'])} to {span(time['high_s'])} ({how}), {time['steps']:,} steps",
        "notes": " ".join(estimates["notes"]) or None,
    }


def _need_text(need: dict[str, Any]) -> str:
    verdict = "fits" if need["fits"] else "DOES NOT FIT"
    return f"{need['arithmetic']}; {need['free_bytes'] / 2**30:,.1f} GiB free: {verdict}"
