"""What people see: explanations, progress, reports, tables."""

import io

import msgspec
import pytest
from rich.console import Console

from purvey.cli.commands.explaining import print_explanation
from purvey.cli.commands.progress import metrics_text, show_progress
from purvey.cli.details import metric_text, model_fields, report_fields
from purvey.cli.moments import span
from purvey.cli.terminal import print_error, print_table
from purvey.client.values import Event, Explanation, Model, ModelEngine
from purvey.errors import InvalidValueError

EXPLANATION = {
    "id": "expl_1",
    "status": "completed",
    "created": 1,
    "model": "spam",
    "target": {
        "kind": "label",
        "value_full": -0.01,
        "value_empty": -2.3,
        "unit": "logprob",
        "label": "spam",
    },
    "units": [
        {"id": 0, "kind": "word", "modality": "text", "score": -0.25, "rank": 3, "text": "dear"},
        {"id": 1, "kind": "word", "modality": "text", "score": 1.5, "rank": 1, "text": "[WIN]"},
        {"id": 2, "kind": "word", "modality": "text", "score": 0.5, "rank": 2, "text": "now"},
    ],
    "faithfulness": {
        "score": 0.9,
        "gap": 0.8,
        "random_gap": {"mean": 0.01, "sd": 0.2, "n": 16},
        "p_value": 0.0588,
        "comprehensiveness": 0.9,
        "sufficiency_loss": 0.1,
        "completeness_error": 0.02,
        "verdict": "faithful",
        "perturbation": "delete",
        "curves": {"k": [0, 1], "deletion": [1, 0], "insertion": [0, 1]},
    },
    "warnings": ["few units"],
}


def test_an_explanation_shows_parts_by_rank_verdict_and_caveat(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_explanation(msgspec.convert(EXPLANATION, Explanation))
    shown = capsys.readouterr().out
    assert shown.index("[WIN]") < shown.index("now") < shown.index("dear")
    assert "why 'spam'" in shown
    assert "+1.500" in shown
    assert "verdict: faithful" in shown
    assert "warning: few units" in shown
    assert "not what is true" in shown


def test_an_unfinished_explanation_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    unfinished = {"id": "expl_1", "status": "in_progress", "created": 1, "model": "m"}
    print_explanation(msgspec.convert(unfinished, Explanation))
    assert capsys.readouterr().out == "expl_1: in_progress\n"


def metrics(step: int, **numbers: float) -> Event:
    data = {"step": step, "total_steps": 20, **numbers}
    return Event(id=f"e{step}", created_at=1, level="info", message="", type="metrics", data=data)


def test_metrics_read_as_loss_metric_speed_and_time_left() -> None:
    data = {"train_loss": 0.12345, "valid_loss": 0.2, "rows_per_s": 1234.5, "seconds_left": 75}
    assert metrics_text(data) == "loss 0.1235  valid loss 0.2  1,234 rows/s  1:15 left"
    assert metrics_text({"train_loss": None}) == ""
    assert metrics_text({"accuracy": 0.97, "valid_loss": 1.0}) == "accuracy 0.97"


def test_progress_on_a_terminal_is_one_bar_with_messages_above() -> None:
    told = io.StringIO()
    out = Console(file=told, force_terminal=True, width=100, color_system=None)
    message = Event(id="e0", created_at=1, level="info", message="reading [data]")
    events = [message, metrics(10, train_loss=0.5), metrics(20, train_loss=0.25, rows_per_s=100)]
    show_progress(events, out=out)
    assert "reading [data]" in told.getvalue()
    assert "20/20 loss 0.25  100 rows/s" in told.getvalue()


def test_progress_elsewhere_is_plain_lines_of_evaluations() -> None:
    told = io.StringIO()
    message = Event(id="e0", created_at=1, level="info", message="reading")
    events = [message, metrics(10, train_loss=0.5), metrics(20, train_loss=0.2, valid_loss=0.3)]
    show_progress(events, out=Console(file=told, width=100))
    assert told.getvalue() == "reading\nstep 20/20  loss 0.2  valid loss 0.3\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (
            {"value": 0.98123, "low": 0.97, "high": 0.99, "num_rows": 557},
            "0.9812 (0.97 to 0.99, 557 rows)",
        ),
        ({"value": 12.5}, "12.5"),
    ],
)
def test_a_metric_shows_its_interval(value: dict[str, float], shown: str) -> None:
    assert metric_text(value) == shown


def test_a_report_shows_numbers_and_leaves_tables_out() -> None:
    report = {"accuracy": {"value": 1.0}, "confusion": [[1]], "labels": {"ham": {}}}
    assert report_fields(report) == {"test accuracy": "1"}
    assert report_fields(None) == {}


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "-"), (0.4, "0 s"), (61, "1:01"), (3725, "1:02:05")]
)
def test_spans(seconds: float | None, shown: str) -> None:
    assert span(seconds) == shown


def test_cells_are_text_and_never_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "N"), [("[red]x[/red]", 3), (None, 0.12345)], empty="none")
    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown
    assert "0.1235" in shown
    print_table(("NAME",), [], empty="none")
    assert capsys.readouterr().out == "none\n"


def test_an_error_is_one_line_with_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    error = InvalidValueError("bad\nthing", param="x", hint="Fix it.")
    print_error(error, as_json=False)
    assert capsys.readouterr().err == "error: bad thing Fix it.\n"


def test_a_model_that_transformers_computes_is_said_to_be_slower() -> None:
    sizes = {"weights_bytes": 2**20, "kv_cache_bytes": 0, "workspace_bytes": 0}
    engines = [ModelEngine(precision="float32", path="transformers", **sizes)]
    fields = model_fields(Model(id="gpt2", created=0.0, engines=engines))
    assert fields["in memory"] == "float32, through transformers (slower): weights 1.0 MiB"
