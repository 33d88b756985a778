"""First story: handwritten digits become a tested, served and explained classifier."""

from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

from purvey.cli.showcase.digits import digit_png, digits_zip
from purvey.cli.showcase.narration import Narrator
from purvey.cli.showcase.sources import recipe
from purvey.client.jobs import succeeded
from purvey.errors import JobFailedError

if TYPE_CHECKING:
    from openai import OpenAI

    from purvey.cli.showcase.home import Home
    from purvey.client.values import Explanation

MODEL = "digits"
EXPLAINED = 1_700
"""Which digit is asked about and explained, by its place in the collection."""


def tell_vision(home: "Home", official: "OpenAI", narrator: Narrator) -> None:
    """Collect, train, test, serve, explain.

    Raises:
        PurveyError: A step failed.
    """
    narrator.heading("1. Handwritten digits: a user's own nn.Module, from data to explanation")
    dataset = _collect(home, narrator)
    _train(home, narrator, dataset)
    label, png = digit_png(EXPLAINED)
    image = home.folder / "digit.png"
    image.write_bytes(png)
    _ask(official, narrator, png, label)
    _explain(home, narrator, image)


def _collect(home: "Home", narrator: Narrator) -> str:
    archive = home.folder / "digits.zip"
    archive.write_bytes(digits_zip())
    client = home.client
    uploaded = client.files.upload(archive, purpose="user_data")
    dataset = client.datasets.wait(client.datasets.create([uploaded.id], name=MODEL).id)
    splits = ", ".join(f"{name} {rows:,}" for name, rows in dataset.splits.items())
    narrator.say(f"dataset {dataset.id}: {splits}; {len(dataset.labels)} labels, stratified")
    narrator.record(digits_rows=dataset.splits)
    return dataset.id


def _train(home: "Home", narrator: Narrator, dataset: str) -> None:
    jobs = home.client.training_jobs
    job = jobs.create(recipe("digits-lenet.toml") | {"dataset": dataset})
    narrator.watch("training digits", jobs.follow(job.id))
    report = succeeded(jobs.get(job.id)).report or {}
    accuracy = report.get("accuracy")
    if not isinstance(accuracy, dict):
        raise JobFailedError("the digits' report has no accuracy.")
    narrator.say(
        f"test accuracy {accuracy['value']:.4f} (95 % interval {accuracy['low']:.4f} to "
        f"{accuracy['high']:.4f}) on {accuracy['num_rows']} digits that training never saw"
    )
    narrator.record(digits_test_accuracy=accuracy)


def _ask(official: "OpenAI", narrator: Narrator, png: bytes, label: str) -> None:
    url = f"data:image/png;base64,{b64encode(png).decode()}"
    decision = official.decisions.create(
        model=MODEL,
        input=[{"role": "user", "content": [{"type": "input_image", "image_url": url}]}],
        questions=[
            {
                "type": "choice",
                "instructions": "Which digit is it?",
                "choices": [{"value": str(digit)} for digit in range(10)],
            }
        ],
    )
    answer = decision.answers[0]
    if answer.type != "choice":
        raise JobFailedError("the classifier did not answer with a choice.")
    narrator.say(
        f"decisions API: a {label} is read as {answer.choice}, p = {answer.confidence:.3f}"
    )
    narrator.record(digit={"is": label, "read_as": answer.choice, "p": answer.confidence})


def _explain(home: "Home", narrator: Narrator, image: Path) -> None:
    from purvey.client.answers import image_input

    explanations = home.client.explanations
    found = explanations.wait(explanations.create(MODEL, image_input(image)))
    picture = home.folder / "heatmap.png"
    picture.write_bytes(explanations.picture(found) or b"")
    narrator.say(f"why: {picture} (blue supports, orange opposes)")
    narrator.say(_verdict(found))
    narrator.record(heatmap=str(picture), faithfulness=_facts(found))


def _verdict(found: "Explanation") -> str:
    truth = found.faithfulness
    if truth is None:
        return "the explanation has no faithfulness."
    return (
        f"faithfulness {truth.score:.3f} (0.5 is chance), p = {truth.p_value:.3f} against "
        f"{truth.random_gap.n} random orders: {truth.verdict}"
    )


def _facts(found: "Explanation") -> dict[str, object]:
    truth = found.faithfulness
    if truth is None:
        return {}
    return {"score": truth.score, "p_value": truth.p_value, "verdict": truth.verdict}
