"""A dataset that a task cannot learn from is refused when the run is asked for."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
import pytest

from purvey.contracts.data import DATASET_MANIFEST_NAME, Column, ColumnKind, DatasetManifest
from purvey.contracts.jobs import DatasetBuilt
from purvey.testing import scripted_jobs
from purvey.testing.scripted_jobs import Conversation

if TYPE_CHECKING:
    from tests.api.conftest import Refusal, Until
    from tests.conftest import RunningServer

Make = Callable[..., str]


@pytest.fixture
def dataset(api: "RunningServer", http: httpx2.Client, until: "Until") -> Iterator[Make]:
    """A function that makes a dataset of these columns, labels and balance."""
    assert api.jobs is not None
    jobs = api.jobs

    def make(
        columns: dict[str, ColumnKind],
        *,
        labels: tuple[str, ...] = (),
        balance: dict[str, dict[str, int]] | None = None,
    ) -> str:
        async def deliver(worker: Conversation) -> int:
            manifest = DatasetManifest(
                columns=tuple(Column(name=n, kind=k) for n, k in columns.items()),
                labels=labels,
                rows={"train": 8, "validation": 1, "test": 1},
                profile={"rows": 10, "duplicates_removed": 0}
                | ({"balance": balance} if balance is not None else {}),
                digest="0" * 64,
            )
            worker.write("preview.json", b"{}")
            worker.write(DATASET_MANIFEST_NAME, msgspec.json.encode(manifest))
            worker.say(DatasetBuilt(manifest=manifest))
            return 0

        jobs.then(deliver)
        file = http.post("/v1/files", files={"file": b"a,b\n1,2\n"}, data={"purpose": "user_data"})
        made: str = http.post("/v1/datasets", json={"file_ids": [file.json()["id"]]}).json()["id"]
        until(f"/v1/datasets/{made}", "ready")
        return made

    yield make
    api.jobs.script = scripted_jobs.succeed


TABLE: dict[str, ColumnKind] = {"age": "number", "city": "category", "label": "label"}
LABELS = ("a", "b", "c")
BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no score": ("regression", {"columns": TABLE, "labels": LABELS}, "no score column"),
    "no label": ("classification", {"columns": {"age": "number", "y": "score"}}, "no label column"),
    "nothing to look at": ("classification", {"columns": {"label": "label"}}, "no column of kind"),
    "images alone": (
        "image-text-to-text",
        {"columns": {"photo": "image", "asked": "text"}},
        "no transcript column, and no conversation",
    ),
    "answers alone": (
        "image-text-to-text",
        {"columns": {"asked": "text", "answered": "transcript"}},
        "no column of kind image",
    ),
    "one class": (
        "classification",
        {"columns": TABLE, "labels": ("a",)},
        "every row has the label 'a'",
    ),
    "an empty class": (
        "classification",
        {
            "columns": TABLE,
            "labels": LABELS,
            "balance": {"train": {"a": 5, "c": 3}, "validation": {"b": 1}, "test": {"a": 1}},
        },
        "label 'b' has no row in the training split",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_it_is_refused_by_what_is_missing(
    http: httpx2.Client, dataset: Make, refused: "Refusal", name: str
) -> None:
    task, made, said = BAD[name]
    recipe = {"task": task, "dataset": dataset(**made)}
    answer = http.post("/v1/training/jobs", json={"recipe": recipe})
    assert said in refused(answer, 400, "invalid_value", "recipe.dataset")


@pytest.mark.parametrize(
    ("task", "made"),
    [
        ("classification", {"columns": TABLE, "labels": LABELS}),
        (
            "classification",
            {
                "columns": TABLE,
                "labels": ("a", "b"),
                "balance": {"train": {"a": 5, "b": 3}, "validation": {"a": 1}, "test": {"b": 1}},
            },
        ),
        ("regression", {"columns": {"age": "number", "photo": "image", "price": "score"}}),
    ],
)
def test_what_can_be_learned_from_is_taken(
    http: httpx2.Client, dataset: Make, until: "Until", task: str, made: dict[str, Any]
) -> None:
    answer = http.post(
        "/v1/training/jobs", json={"recipe": {"task": task, "dataset": dataset(**made)}}
    )
    assert answer.status_code == 200, answer.text
    job = answer.json()
    recipe = job["recipe"]
    assert (recipe["model"]["architecture"], recipe["task"]) == ("fusion", task)
    until(f"/v1/training/jobs/{job['id']}", "succeeded")  # it takes no script of the next test
