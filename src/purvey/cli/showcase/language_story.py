"""Second story: reference text becomes a language model, then one that answers questions."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from purvey.cli.showcase import reference_text
from purvey.cli.showcase.narration import Narrator
from purvey.cli.showcase.sources import recipe
from purvey.client.jobs import succeeded
from purvey.client.values import Job

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob

    from purvey.cli.showcase.home import Home

BASE = "reference-small"
QUESTION = "What does shutil.rmtree do?"
TUNING = {
    "train": {"method": "full", "epochs": 5, "batch_size": 8, "max_minutes": 1.25},
    "optimizer": {"learning_rate": 2e-3},
}


def tell_language(home: "Home", official: "OpenAI", narrator: Narrator) -> str:
    """Train a tokenizer and a base from scratch, fine-tune it, chat; return the model's name.

    Raises:
        PurveyError: A step failed.
    """
    narrator.heading("2. English reference text: a language model from scratch, then fine-tuned")
    _pretrain(home, narrator)
    tuned = _tune(home, official, narrator)
    narrator.say(f"chat with {tuned}, streamed:")
    narrator.say(f"> {QUESTION}")
    answer = narrator.stream(_chat(official, tuned))
    narrator.say(
        "What it cannot do: half a million weights and minutes of training know the sound of "
        "reference prose and some docstrings, no facts and no reasoning. Beyond that expect "
        "nonsense."
    )
    narrator.record(model=tuned, question=QUESTION, answer=answer)
    return tuned


def _pretrain(home: "Home", narrator: Narrator) -> None:
    client = home.client
    text = _write(home.folder / "reference.jsonl", reference_text.documents_jsonl())
    dataset = client.datasets.create([client.files.upload(text).id], name="reference")
    splits = client.datasets.wait(dataset.id).splits
    narrator.say(
        f"{sum(splits.values()):,} documents, {text.stat().st_size / 1e6:.1f} MB of English"
    )
    job = client.training_jobs.create(recipe("reference-lm.toml") | {"dataset": dataset.id})
    narrator.watch("training the base", client.training_jobs.follow(job.id))
    _tell_loss(narrator, succeeded(client.training_jobs.get(job.id)))


def _tell_loss(narrator: Narrator, job: Job) -> None:
    loss = (job.report or {}).get("loss")
    if isinstance(loss, dict):
        narrator.say(
            f"test loss {loss['value']:.3f} nats per token "
            f"({loss['low']:.3f} to {loss['high']:.3f}) on unseen documents"
        )
        narrator.record(base_test_loss=loss)


def _tune(home: "Home", official: "OpenAI", narrator: Narrator) -> str:
    pairs = reference_text.questions()
    rows = _write(home.folder / "questions.jsonl", reference_text.questions_jsonl(pairs))
    with rows.open("rb") as content:
        uploaded = official.files.create(file=content, purpose="fine-tune")
    narrator.say(f"{len(pairs):,} questions and answers made from docstrings")
    job: FineTuningJob = official.fine_tuning.jobs.create(
        model=BASE,
        training_file=uploaded.id,
        suffix="docs",
        seed=0,
        extra_body={"recipe": TUNING},
    )
    narrator.watch("fine-tuning", home.client.training_jobs.follow(job.id))
    return succeeded(home.client.training_jobs.get(job.id)).fine_tuned_model or ""


def _chat(official: "OpenAI", model: str) -> Iterator[str]:
    stream = official.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_completion_tokens=64,
        stream=True,
    )
    for chunk in stream:
        for choice in chunk.choices:
            yield choice.delta.content or ""


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
