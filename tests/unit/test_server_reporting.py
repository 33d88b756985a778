"""The report page: everything on it, nothing from outside, every text escaped, parsed as HTML."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from purvey.server.reporting.axes import Axis, ticks
from purvey.server.reporting.curves import MOST_POINTS
from purvey.server.reporting.markup import element
from purvey.server.reporting.page import rendered
from purvey.server.reporting.style import INSIDE, POLICY
from purvey.server.reporting.values import RunReport
from tests.unit.reported_run import (
    HOSTILE,
    classifier_metrics,
    estimate,
    points,
    reported_run,
)

_VOID = {"meta"}


class Parsed(HTMLParser):
    """A page as a browser sees it: elements with attributes, their text, and balanced tags."""

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(page.decode())
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "style":
            self.style += data
        else:
            self.text.append(data)

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def words(self) -> str:
        return "\n".join(self.text)


def parsed(report: RunReport) -> Parsed:
    return Parsed(rendered(report))


def test_a_classifier_is_shown_with_curves_test_tables_and_origin() -> None:
    page = parsed(reported_run())
    titles = [attributes["aria-label"] for attributes in page.tags("svg")]
    for wanted in (
        "Loss by step",
        "Accuracy by step",
        "Learning rate by step",
        "Confusion matrix: rows are true labels, columns are answers",
        "Reliability diagram",
    ):
        assert titles.count(wanted) == 1, wanted
    assert "Of 120 rows that training never saw, 90 % were answered right." in page.words
    assert "The 95 % interval for rows like these is 0.86 to 0.93." in page.words
    for told in ("AUROC", "spam", "ham answered as spam: 2 of 40", "text: 4 to 9 characters"):
        assert told in page.words, told
    for digest in ("9f86d081" * 8, *(pair * 32 for pair in ("a1", "b2", "c3", "d4", "e5"))):
        assert digest in page.words
    for told in ("2.13.0", "3.11.9", "960", "12000", "2026-11-23 20:50 UTC", "18.25 s"):
        assert told in page.words, told
    assert "rows_per_s" not in page.words
    assert {tag: len(page.tags(tag)) for tag in ("h1", "h2")} == {"h1": 1, "h2": 7}


def test_text_from_outside_is_text() -> None:
    page = parsed(reported_run(name=HOSTILE))
    allowed = (
        "html head meta title style body h1 h2 p section div figure figcaption ul li table caption "
        "thead tbody tr th td code pre details summary svg g line circle polyline rect text"
    )
    assert {tag for tag, _ in page.elements} <= set(allowed.split())
    named = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in named if name.startswith("on") or name in {"style", "href", "src"}}
    assert HOSTILE in page.text, "and it is all there"
    assert f"region: {HOSTILE}" in page.text
    attribute = element("p", "x", class_='"><script>')
    assert attribute == '<p class="&quot;&gt;&lt;script&gt;">x</p>'


def test_the_page_loads_nothing_and_its_policy_allows_its_style_alone() -> None:
    page = parsed(reported_run())
    assert not re.search(r"url\(|@import|https?:", page.style)
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in INSIDE
    assert POLICY.startswith("default-src 'none';")
    assert INSIDE in [meta.get("content") for meta in page.tags("meta")]
    assert "prefers-color-scheme: dark" in page.style


def test_the_kept_step_is_marked_in_every_plot_of_curves() -> None:
    assert reported_run().kept_step == 250
    assert parsed(reported_run()).text.count("kept") == 3
    unknown = reported_run(told=points(3))
    assert unknown.kept_step is None
    assert parsed(unknown).text.count("kept") == 0


@pytest.mark.parametrize("count", [1, 2, MOST_POINTS + 1, 5 * MOST_POINTS])
def test_long_curves_are_thinned_and_keep_their_end(count: int) -> None:
    page = parsed(reported_run(told=points(count)))
    [loss, *_] = [a for a in page.tags("polyline") if a["class"] == "line1"]
    places = (loss["points"] or "").split()
    assert min(count, MOST_POINTS) / 2 < len(places) <= MOST_POINTS + 1
    assert places[-1].startswith("446.0,"), "the last step lies at the right end"


def test_numbers_that_are_none_do_not_spoil_a_curve() -> None:
    told: list[dict[str, Any]] = [
        {"step": 1, "train_loss": None},
        {"step": 2, "train_loss": 1e300},
        {"step": 3},
    ]
    page = parsed(reported_run(told=told))
    assert "Learning curves" not in page.words
    flat: list[dict[str, Any]] = [{"step": step, "train_loss": 0.0} for step in (1, 2)]
    assert "Loss by step" in parsed(reported_run(told=flat)).words


def test_a_run_without_a_test_says_so() -> None:
    page = parsed(reported_run({}, has_model=False))
    assert "has not been tested" in page.words
    assert "not registered, or deleted since" in page.words
    assert "The final test" not in page.words


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({"mae": estimate(2.5)}, "the score was off by 2.5 on average"),
        ({"wer": estimate(0.125)}, "12.5 % of the words were mistaken"),
        ({"perplexity": estimate(9.0)}, "the perplexity was 9."),
        ({"validation_perplexity": estimate(9.0)}, "On 120 validation texts"),
        ({"reward_accuracy": estimate(0.75)}, "75 % got the better answer"),
    ],
)
def test_every_task_has_its_sentence(metrics: dict[str, object], sentence: str) -> None:
    page = parsed(reported_run(metrics))
    assert sentence in page.words
    assert ("chose which weights were kept" in page.words) == ("validation" in sentence)


def test_a_metric_that_is_unknown_here_is_shown_by_its_name() -> None:
    page = parsed(reported_run({"words_kept": {"value": 0.5, "num_rows": 3}}))
    assert "words kept" in page.text
    assert "has not been tested" not in page.words


@pytest.mark.parametrize("count", [2, 20, 50])
def test_matrices_of_all_sizes_are_drawn(count: int) -> None:
    labels = tuple(f"label number {number}" for number in range(count))
    page = parsed(reported_run(classifier_metrics(labels)))
    cells = [a for a in page.tags("rect") if a["class"] == "cell"]
    assert len(cells) == count**2
    assert ("36" in page.text) == (count == 2), "counts are written where there is room"


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.0, 14.0, [0, 5, 10]),
        (1e-9, 6e-9, [1e-9, 2e-9, 3e-9, 4e-9, 5e-9, 6e-9]),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert ticks(Axis(name="", low=low, high=high)) == pytest.approx(wanted)
