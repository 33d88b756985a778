"""The report of a run as a person sees it: in a real browser, light and dark."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
import pytest

from purvey.contracts.jobs import JobEvent, ModelTrained
from purvey.contracts.model import MANIFEST_NAME, ModelManifest
from purvey.testing.scripted_jobs import Conversation, deliver_dataset
from tests.console.chromium import Chromium, executable
from tests.unit.reported_run import classifier_metrics, points

if TYPE_CHECKING:
    from tests.conftest import RunningServer

pytestmark = pytest.mark.browser

CURVES = """[...document.querySelectorAll("svg")].map(svg => ({
  title: svg.getAttribute("aria-label"),
  lines: [...svg.querySelectorAll("polyline")].map(line => ({
    points: [...line.points].map(p => [p.x, p.y]),
    length: line.getTotalLength(),
    width: line.getBoundingClientRect().width,
    stroke: getComputedStyle(line).stroke,
  })),
}))"""
MATRIX = """[...document.querySelectorAll("svg.matrix g, svg.matrix rect")]
  .map(cell => cell.querySelector(":scope > title")).filter(Boolean).map(t => t.textContent)"""
CONTRASTS = """(() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return null;
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.closest("title, details:not([open]) pre") || e.classList.contains("on")) continue;
    const style = getComputedStyle(e);
    const ink = parse(e.ownerSVGElement ? style.fill : style.color), paper = behind(e);
    const [a, b] = [light(ink), light(paper)];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.slice(0, 40)]);
  }
  return found;
})()"""
PAPER = "getComputedStyle(document.body).backgroundColor"


async def trained(worker: Conversation) -> int:
    """Tell thirty points of a run and a whole report of its test."""
    if worker.spec.kind == "dataset":
        deliver_dataset(worker)
        return 0
    for point in points():
        worker.say(JobEvent(kind="metrics", message="Step", data=point))
    metrics = classifier_metrics()
    manifest = ModelManifest(
        family="text-ngrams",
        task="text-classification",
        labels=tuple(metrics["labels"]),
        report=metrics,
    )
    worker.write(MANIFEST_NAME, msgspec.json.encode(manifest))
    worker.say(ModelTrained(trained_rows=30, compute_s=1.5, report=metrics))
    return 0


def report_of(server: "RunningServer") -> str:
    assert server.jobs is not None
    server.jobs.script = trained
    headers = {"authorization": f"Bearer {server.admin_key}"}
    with httpx2.Client(base_url=server.base_url, headers=headers) as http:
        file: dict[str, Any] = {
            "file": ("rows.csv", b"text,label\nhi,ham\n"),
            "purpose": (None, "user_data"),
        }
        asked = {"file_ids": [http.post("/v1/files", files=file).raise_for_status().json()["id"]]}
        dataset = http.post("/v1/datasets", json=asked).raise_for_status().json()["id"]
        stream = {"stream": "true"}
        pause = threading.Event()
        while http.get(f"/v1/datasets/{dataset}").json()["status"] != "ready":
            pause.wait(0.02)
        recipe = {"task": "text-classification", "dataset": dataset, "name": "letters"}
        made = http.post("/v1/training/jobs", json={"recipe": recipe}).raise_for_status().json()
        url = f"/v1/training/jobs/{made['id']}"
        http.get(f"{url}/events", params=stream).raise_for_status()
        assert http.get(url).json()["status"] == "succeeded"
    return f"{server.base_url}{url}/report?format=html"


@pytest.fixture(scope="module")
def page(api: "RunningServer", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The report of a run, open in a browser."""
    command = executable()
    if command is None:
        pytest.fail("no Chromium on this machine, so the page was not looked at: install one")
    url = report_of(api)
    with Chromium(command, tmp_path_factory.mktemp("profile")) as browser:
        browser.open(url, {"authorization": f"Bearer {api.admin_key}"})
        yield browser


def test_the_page_asks_for_nothing_else_and_complains_of_nothing(
    page: Chromium, api: "RunningServer"
) -> None:
    asked = [
        event["params"]["request"]["url"]
        for event in page.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert len(asked) == 1, asked
    assert asked[0].startswith(f"{api.base_url}/v1/training/jobs/")
    (answer,) = (
        e["params"]["response"] for e in page.events if e["method"] == "Network.responseReceived"
    )
    assert (answer["status"], answer["mimeType"]) == (200, "text/html")
    told = [e for e in page.events if e["method"] in {"Log.entryAdded", "Runtime.exceptionThrown"}]
    assert told == []


def test_curves_are_drawn(page: Chromium) -> None:
    drawn = {svg["title"]: svg["lines"] for svg in page.run(CURVES)}
    for title, num_lines in (("Loss", 2), ("Accuracy", 1), ("Learning rate", 1)):
        lines = drawn[f"{title} by step"]
        assert len(lines) == num_lines, title
        for line in lines:
            assert len(line["points"]) >= 6
            assert all(0 <= value <= 1_000 for point in line["points"] for value in point)
            assert line["length"] > 100
            assert line["width"] > 100, "it has a place on the screen"
            assert re.fullmatch(r"rgb\(\d+, \d+, \d+\)", line["stroke"])


def test_the_matrix_holds_the_counts_of_the_report(page: Chromium) -> None:
    metrics = classifier_metrics()
    told = page.run(MATRIX)
    counts = [int(found[1]) for text in told if (found := re.search(r": (\d+) of \d+$", text))]
    assert counts == [count for line in metrics["confusion"] for count in line]
    assert sum(counts) == sum(map(sum, metrics["confusion"]))


def test_intervals_are_read_as_text(page: Chromium) -> None:
    words: str = page.run("document.body.innerText")
    assert "The 95 % interval for rows like these is 0.86 to 0.93." in words


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_light_and_dark(page: Chromium, scheme: str) -> None:
    page.prefer(scheme)
    red, green, blue = map(int, re.findall(r"\d+", page.run(PAPER))[:3])
    assert (red + green + blue > 600) == (scheme == "light")
    contrasts: list[Any] = page.run(CONTRASTS)
    assert len(contrasts) > 100
    assert [found for found in contrasts if found[0] < 4.5] == []  # WCAG 2.2, 1.4.3
    width = page.run("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0, "nothing is cut off at the side"


def test_a_picture_of_it_is_not_empty(page: Chromium, tmp_path: Path) -> None:
    image = page.call("Page.captureScreenshot", format="png")["data"]
    assert len(image) > 20_000
