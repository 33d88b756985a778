"""The command line against a real server whose engines and workers follow scripts."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from purvey.cli.connection import connect
from purvey.cli.main import run
from purvey.contracts.jobs import JobFailed, ModelTrained
from purvey.contracts.model import MANIFEST_NAME, ModelManifest, TextSpec
from purvey.testing.model_folder import write_plausible_seer
from purvey.testing.scripted_answers import tiny_png
from purvey.testing.scripted_jobs import ESTIMATED, Conversation, deliver_dataset, fail
from tests.unit.test_server_tensorboard import read

Run = Callable[..., Any]
CSV = "text,label\nhello,ham\nWIN,spam\n"


@pytest.fixture
def purvey(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command in a folder of its own; return its output, as JSON with `as_json`."""
    monkeypatch.setenv("PURVEY_BASE_URL", server.base_url)
    monkeypatch.setenv("PURVEY_API_KEY", server.admin_key)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mail.csv").write_text(CSV)

    def command(*words: str, status: int = 0, as_json: bool = False) -> Any:
        with pytest.raises(SystemExit) as ended:
            run([*words, "--json"] if as_json else words)
        told = capsys.readouterr()
        assert ended.value.code == status, told.err
        if status:
            return told.err
        return json.loads(told.out) if as_json else told.out

    return command


async def train_text_classifier(worker: Conversation) -> int:
    """Deliver a model that says of itself which input it takes."""
    if worker.spec.kind == "dataset":
        deliver_dataset(worker)
        return 0
    manifest = ModelManifest(
        family="text-ngrams",
        task="text-classification",
        labels=("ham", "spam"),
        inputs={"input": TextSpec()},
    )
    worker.write(MANIFEST_NAME, msgspec.json.encode(manifest))
    worker.say(ModelTrained(trained_rows=2, compute_s=0.1))
    return 0


@pytest.fixture
def spam(purvey: Run, server: Any) -> str:
    """A trained classifier's name."""
    server.jobs.script = train_text_classifier
    purvey("train", "mail.csv", "--task", "text-classification", "--name", "spam")
    return "spam"


def test_a_bare_csv_becomes_a_served_model(purvey: Run, server: Any) -> None:
    job = purvey("train", "mail.csv", "--name", "spam", "--set", "train.epochs=2", as_json=True)
    assert (job["status"], job["model"]) == ("succeeded", "spam")
    spec = server.jobs.launched[-1]
    assert spec.recipe["task"] == "text-classification"  # read from the columns
    assert spec.recipe["train"]["epochs"] == 2
    assert [m["id"] for m in purvey("list", as_json=True)] == ["spam"]
    assert "ham, spam" in purvey("show", "spam")
    assert "accuracy" in purvey("show", job["id"])
    assert "text (text), label (label)" in purvey("show", job["dataset"])


def test_datasets_and_files_are_listed_and_removed(purvey: Run) -> None:
    job = purvey(
        "train", "mail.csv", "--task", "text-classification", "--name", "spam", as_json=True
    )
    [dataset] = purvey("list", "datasets", as_json=True)
    [file] = purvey("list", "files", as_json=True)
    assert dataset["id"] == job["dataset"]
    assert dataset["id"] in purvey("list", "datasets")
    assert "mail.csv" in purvey("list", "files")
    for name in ("spam", dataset["id"], file["id"]):
        assert purvey("rm", name) == f"{name}: deleted\n"
    for kind in ("models", "datasets", "files"):
        assert purvey("list", kind, as_json=True) == []
    assert "spam" in purvey("rm", "spam", status=2)
    assert "'datasets'" in purvey("list", "pictures", status=2)


def test_files_are_cleaned_and_divided_as_flags_say(purvey: Run) -> None:
    purvey(
        *("train", "mail.csv", "--name", "spam", "--deduplicate", "near", "--split-seed", "7"),
        *("--test", "0.2", "--validation", "0.05", "--group", "sender", "--no-stratify"),
    )
    [dataset] = purvey("list", "datasets", as_json=True)
    config = dataset["config"]
    assert (config["deduplicate"], config["seed"]) == ("near", 7)
    splits = {"validation": 0.05, "test": 0.2, "stratify": False, "group": "sender", "time": None}
    assert config["splits"] == splits
    told = purvey("train", "mail.csv", "--time", "day", "--group", "sender", status=2)
    assert "not by both" in told
    assert len(purvey("list", "files", as_json=True)) == 1, "nothing more was uploaded"


def test_feedback_is_told_listed_learned_from_and_removed(purvey: Run, server: Any) -> None:
    purvey("train", "mail.csv", "--name", "spam")
    [dataset] = purvey("list", "datasets", as_json=True)
    words = ("feedback", "add", "spam", "--input", "WIN now", "--output", "ham")
    kept = purvey(*words, "--rating", "bad", "--correction", "spam", as_json=True)
    purvey("feedback", "add", "other", "--input", "hi " * 40, "--rating", "good")
    shown = purvey("feedback", "list", "--model", "spam")
    assert kept["id"] in shown
    assert "WIN now" in shown
    assert "other" not in shown
    assert len(purvey("feedback", "list", as_json=True)) == 2
    made = purvey("feedback", "version", dataset["id"], "--model", "spam", as_json=True)
    assert (made["version"], made["parent"]) == (2, dataset["id"])
    assert server.jobs.launched[-1].files[-1].name == "feedback.jsonl"
    more = purvey("feedback", "version", dataset["id"], "--file", "mail.csv", as_json=True)
    assert len(more["file_ids"]) == 2
    assert "nothing to add" in purvey("feedback", "version", dataset["id"], status=2)
    assert purvey("rm", kept["id"]) == f"{kept['id']}: deleted\n"
    assert purvey("feedback", "list", "--model", "spam") == (
        "No feedback yet: `purvey feedback add` tells some.\n"
    )


def test_train_shows_the_report_and_what_to_do_next(purvey: Run) -> None:
    shown = purvey("train", "mail.csv", "--task", "text-classification", "--name", "spam")
    assert "1 (0.7 to 1, 10 rows)" in shown
    assert "purvey run spam" in shown


def test_a_failed_run_exits_1_with_its_reason(purvey: Run, server: Any) -> None:
    server.jobs.then(server.jobs.script, fail(JobFailed(code="diverged", message="not finite")))
    told = purvey("train", "mail.csv", "--task", "text-classification", status=1)
    assert told.splitlines()[-1].startswith("error: ")
    assert "not finite" in told.splitlines()[-1]


def test_a_bad_recipe_is_refused_before_anything_starts(purvey: Run) -> None:
    told = purvey("train", "mail.csv", "--set", "optimiser.learning_rate=1", status=2)
    assert "optimizer" in told.splitlines()[-1]
    assert purvey("jobs", "list", as_json=True) == []


def test_jobs_are_listed_shown_and_steered(purvey: Run) -> None:
    job = purvey("train", "mail.csv", "--name", "s", as_json=True)
    assert job["id"] in purvey("jobs", "list")
    assert purvey("jobs", "show", job["id"], as_json=True)["id"] == job["id"]
    followed = purvey("jobs", "events", job["id"], "--follow")
    assert followed == purvey("jobs", "events", job["id"])
    assert "Step 3/3" in followed
    told = purvey("jobs", "cancel", job["id"], status=2)
    assert "succeeded" in told


def test_a_detached_job_can_be_followed_later(purvey: Run) -> None:
    job = purvey("train", "mail.csv", "--name", "s", "--detach", as_json=True)
    purvey("jobs", "events", job["id"], "--follow")
    assert purvey("show", job["id"], as_json=True)["status"] == "succeeded"


def test_a_classifier_answers_in_the_terminal(purvey: Run, spam: str) -> None:
    shown = purvey("run", spam, "--prompt", "WIN a prize")
    assert "ham 0." in shown
    assert "spam 0." in shown


def test_an_explanation_prints_its_table(purvey: Run, spam: str) -> None:
    shown = purvey("explain", spam, "WIN a prize")
    assert "verdict:" in shown
    assert "WIN" in shown
    found = purvey("explain", spam, "WIN a prize", as_json=True)
    assert found["status"] == "completed"
    assert purvey("show", found["id"]).splitlines()[0] == shown.splitlines()[0]


@pytest.mark.parametrize("words", [["x", "--image", "mail.csv"], [], ["--image", "gone.png"]])
def test_explain_wants_one_input(purvey: Run, spam: str, words: list[str]) -> None:
    assert purvey("explain", spam, *words, status=2).startswith("error: ")


def test_a_language_model_chats_and_reads_pipes(
    purvey: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    purvey("train", "mail.csv", "--task", "text-generation", "--name", "echo")
    assert purvey("chat", "echo", "--prompt", "say this") == "say this\n"
    answer = purvey("run", "echo", "--prompt", "say this", "--max-tokens", "3", as_json=True)
    assert answer == {"model": "echo", "text": "say"}
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    assert purvey("run", "echo") == "from a pipe\n"


def test_several_images_are_asked_about_where_that_was_learned(
    purvey: Run, spam: str, model_root: Path, tmp_path: Path
) -> None:
    folder = write_plausible_seer(model_root / "pair", num_images=2)
    with connect() as client:
        client.models.register("pair", str(folder))
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(tiny_png())
    images = ("--image", "a.png", "--image", "b.png")
    assert purvey("run", "pair", *images, "--prompt", "which?") == "which?\n"
    assert "2 images" in purvey("run", "pair", *images, "--image", "a.png", status=2)
    assert "'spam' is asked about one image" in purvey("run", spam, *images, status=2)
    assert "no file at 'c.png'" in purvey("run", "pair", "--image", "c.png", status=2)


def test_keys_are_made_shown_once_and_revoked(
    purvey: Run, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = purvey("keys", "create", "reader", "--scope", "usage:read", as_json=True)
    assert made["key"].startswith("sk-")
    listed = purvey("keys", "list")
    assert made["id"] in listed
    assert made["key"] not in listed
    monkeypatch.setenv("PURVEY_API_KEY", made["key"])
    purvey("usage")
    assert "error: " in purvey("keys", "list", status=77)
    monkeypatch.setenv("PURVEY_API_KEY", server.admin_key)
    purvey("keys", "revoke", made["id"])
    monkeypatch.setenv("PURVEY_API_KEY", made["key"])
    purvey("usage", status=77)


def test_usage_adds_up_what_was_done(purvey: Run, spam: str) -> None:
    purvey("run", spam, "--prompt", "WIN")
    totals = {line["group"]: line for line in purvey("usage", "--by", "kind", as_json=True)}
    assert totals["classify"]["requests"] == 1
    assert totals["training"]["requests"] == 1


def test_doctor_finds_the_server(purvey: Run) -> None:
    checks = {check["name"]: check for check in purvey("doctor", as_json=True)}
    assert checks["server"]["is_well"]


@pytest.mark.parametrize(
    ("words", "status"), [(["show", "nothing"], 2), (["jobs", "show", "job_0"], 2)]
)
def test_what_is_not_there_is_one_line(purvey: Run, words: list[str], status: int) -> None:
    assert purvey(*words, status=status).count("\n") == 1


def test_a_sweep_shows_its_trials_and_serves_the_best(purvey: Run) -> None:
    words = ("sweep", "mail.csv", "--name", "best", "--space", "seed=1,2,3", "--trials", "3")
    told = purvey(*words)
    assert told.splitlines()[0].split() == ["TRIAL", "STATE", "MACRO_F1", "seed", "COMPUTE"]
    assert told.count("complete") == 3
    assert "best" in told
    made = purvey(*words[:3], "other", *words[4:], "--detach", as_json=True)
    assert (made["max_trials"], made["trials"]) == (3, [])
    shown = purvey("jobs", "events", made["id"], "--follow")
    assert "Trial 2 is complete: macro_f1 1." in shown
    assert "space.train.epoch" in purvey(*words[:4], "--space", "train.epoch=1,2", status=2)


def test_estimates_are_shown_and_nothing_is_started(purvey: Run, server: Any) -> None:
    told = purvey("train", "mail.csv", "--name", "spam", "--estimate")
    assert "process 300.0 MiB + data 1.0 MiB" in told
    assert "64.0 GiB free: fits" in told
    assert "3 steps" in told
    assert purvey("jobs", "list", as_json=True) == []

    async def too_large(worker: Conversation) -> int:
        little = msgspec.structs.replace(ESTIMATED.disk, free_bytes=0)
        worker.say(msgspec.structs.replace(ESTIMATED, disk=little))
        return 0

    recipe = tmp_recipe(purvey)
    server.jobs.estimating = too_large
    assert purvey("train", recipe, "--estimate", status=1) == ""
    Path("bare.toml").write_text('task = "text-classification"\n', encoding="utf-8")
    assert "Name data files" in purvey("train", "bare.toml", "--estimate", status=2)


def tmp_recipe(purvey: Run) -> str:
    """Write a recipe that names a dataset which is there."""
    [dataset] = purvey("list", "datasets", as_json=True)
    text = f'task = "text-classification"\ndataset = "{dataset["id"]}"\n'
    Path("recipe.toml").write_text(text, encoding="utf-8")
    return "recipe.toml"


def test_a_job_is_watched_to_its_end_and_its_numbers_fetched(purvey: Run, server: Any) -> None:
    job = purvey("train", "mail.csv", "--name", "spam", "--detach", as_json=True)["id"]
    told = purvey("jobs", "watch", job)
    assert "succeeded" in told
    assert "test accuracy" in told
    assert purvey("jobs", "watch", job, as_json=True)["status"] == "succeeded"
    file = purvey("jobs", "tensorboard", job).strip()
    assert Path(file).parts[:2] == ("runs", job)
    assert [step for _, step, _ in read(Path(file).read_bytes())] == [1, 2, 3]
    server.jobs.script = fail(JobFailed(code="diverged", message="the loss is nan at step 3."))
    lost = purvey("train", tmp_recipe(purvey), "--detach", as_json=True)["id"]
    assert "the loss is nan" in purvey("jobs", "watch", lost, status=1)
