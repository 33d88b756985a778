"""The report as one page, top to bottom."""

from purvey.server.reporting.curves import learning_curves
from purvey.server.reporting.markup import element, joined
from purvey.server.reporting.origin import moment, origin_table, recipe_text
from purvey.server.reporting.pictures import confusion_matrix, reliability_diagram
from purvey.server.reporting.sheet import section, sheet
from purvey.server.reporting.tested import labels_table, metrics_table, slices_table
from purvey.server.reporting.values import RunReport, estimates
from purvey.server.reporting.wording import confidence_of, headline


def rendered(report: RunReport) -> bytes:
    """Return the page, UTF-8; a function of the report alone."""
    job = report.job
    name = job.fine_tuned_model or job.recipe.get("name") or job.id
    told = estimates(report.metrics)
    return sheet(
        f"{name}: training report",
        element("h1", f"{name}"),
        element("p", f"{job.recipe['task']} · {moment(job.finished_at)}", class_="soft"),
        element("p", headline(told), class_="lead"),
        section("The final test", metrics_table(report.metrics), note=_intervals(report)),
        section("Learning curves", learning_curves(report)),
        section("Each label", labels_table(report.metrics)),
        section("What is taken for what", confusion_matrix(report.metrics)),
        section("How sure it is, and how right", reliability_diagram(report.metrics)),
        section("Where it does better or worse", slices_table(report.metrics)),
        section("Where it came from", joined(origin_table(report), recipe_text(report))),
    )


def _intervals(report: RunReport) -> str:
    """Say what was measured on, and what the intervals are."""
    told = estimates(report.metrics)
    is_validation = any(name.startswith("validation_") for name in told)
    rows = (
        "Measured once, after training, on rows that training has not learned from but that chose "
        "which weights were kept: a little better than on new rows."
        if is_validation
        else "Measured once, after training, on rows that neither training nor the choice of "
        "weights has seen."
    )
    return (
        f"{rows} The {confidence_of(told)} interval says how far the number may move on other "
        "rows of the same kind (percentile bootstrap over rows); few rows make it wide."
    )
