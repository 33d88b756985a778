"""An estimate by a worker process of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from purvey.client.purvey import Purvey

if TYPE_CHECKING:
    from tests.conftest import RunningServer


@pytest.fixture(scope="module")
def client(live_server: "RunningServer") -> Iterator[Purvey]:
    with Purvey(base_url=live_server.base_url, api_key=live_server.admin_key) as made:
        yield made


@pytest.fixture(scope="module")
def recipe(client: Purvey, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("mail") / "mail.csv"
    lines = [f"{word} number {n},{word}" for n in range(60) for word in ("ham", "spam")]
    path.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    made = client.datasets.create([client.files.upload(path).id], name="mail")
    dataset = client.datasets.wait(made.id)
    small = {"architecture": "text-ngrams", "hyperparameters": {"buckets": 4_096, "width": 16}}
    return {
        "task": "text-classification",
        "dataset": dataset.id,
        "model": small,
        "train": {"epochs": 1},
    }


def test_a_worker_says_what_a_run_takes_and_leaves_nothing(
    client: Purvey, recipe: dict[str, Any], live_server: "RunningServer"
) -> None:
    found: Any = client.training_jobs.validate(recipe)["estimates"]
    assert found["parameters"] == 4_096 * 16 + 2 * 17
    parts = found["memory"]["parts"]
    assert parts["gradients"] == 4 * found["parameters"]
    assert parts["optimizer"] == 8 * found["parameters"]
    assert parts["activations"] > 0
    assert found["memory"]["fits"]
    assert found["time"]["is_measured"]
    assert 0 < found["time"]["low_s"] <= found["time"]["high_s"]
    left = Path(live_server.data_dir, "cache", "estimates")
    assert list(left.iterdir()) == []
