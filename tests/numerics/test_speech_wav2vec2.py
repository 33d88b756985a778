"""Wav2Vec2 with a CTC head: heard as its library hears, fine-tuned, resumed, and given back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCTC, AutoProcessor

from purvey.contracts.jobs import InputDataset
from purvey.contracts.model import ModelSource
from purvey.errors import InvalidCheckpointError, InvalidValueError
from purvey.models.folder.manifest import read_manifest
from purvey.models.loading import open_model
from purvey.models.pretrained.folders import start_pretrained
from purvey.models.speech.decoding import best_path
from purvey.models.speech.recogniser import SpeechModel, recogniser_of
from purvey.models.speech.wav2vec2.folders import start_ctc
from purvey.models.speech.windows import Window
from purvey.registry.folder_check import check_folder
from tests.numerics.recordings import dataset_of
from tests.numerics.speech_folders import (
    RATE_HZ,
    VOCABULARY,
    tones,
    tones_archive,
    write_ctc,
)
from tests.numerics.test_train_resume import Jobs, Link, sha256

TOLERANCE = 1e-4
"""Of log-probabilities: float32 sums of a few hundred products of size one."""
RECIPE: dict[str, Any] = {
    "task": "speech-recognition",
    "model": {"base": "base"},
    "augment": {"audio": {"time_masks": 1, "time_mask_fraction": 0.05}},
    "optimizer": {"name": "adamw", "learning_rate": 1e-3},
    "train": {"epochs": 1, "batch_size": 4, "evals_per_epoch": 1},
    "test": {"bootstrap_samples": 100},
}


def opened(folder: Path) -> SpeechModel:
    model = open_model(ModelSource(name="m", folder=str(folder), digest="0" * 64))
    assert isinstance(model, SpeechModel)
    return model


def base_of(folder: Path) -> ModelSource:
    return ModelSource(name="base", folder=str(folder), digest="0" * 64)


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> InputDataset:
    root = tmp_path_factory.mktemp("tones")
    (root / "dataset").mkdir()
    return dataset_of(tones_archive(root / "tones.zip", num_rows=20), root / "dataset")


def _their_logp(network: Any, folder: Path, samples_N: torch.Tensor) -> torch.Tensor:
    prepare = AutoProcessor.from_pretrained(folder)
    given = prepare(samples_N.numpy(), sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.no_grad():
        logp_TV: torch.Tensor = network(given.input_values).logits[0].log_softmax(dim=-1)
    return logp_TV


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_it_hears_as_transformers_does(tmp_path: Path, norm: str) -> None:
    folder = tmp_path / "ctc"
    theirs = write_ctc(folder, feat_extract_norm=norm)
    checked = check_folder(folder, model_roots=[tmp_path])
    assert (checked.manifest.family, checked.manifest.task) == ("wav2vec2", "speech-recognition")
    model = opened(folder)
    assert model.manifest.vocabulary == tuple("ABCD EFGH")
    samples_N = torch.from_numpy(tones("a b c", seed=1))
    wanted_TV = _their_logp(theirs, folder, samples_N)
    blank = VOCABULARY.index("<pad>")
    written = [n for n in range(len(VOCABULARY)) if VOCABULARY[n] not in ("<pad>", "<unk>")]
    found_TV = model.log_probabilities(Window(samples=samples_N, first_step=0, end_step=None))
    torch.testing.assert_close(
        torch.from_numpy(found_TV), wanted_TV[:, [blank, *written]], atol=TOLERANCE, rtol=0
    )
    text = model.vocabulary.decode([emission.number for emission in best_path(found_TV)])
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    assert " ".join(text.split()) == " ".join(tokenizer.decode(wanted_TV.argmax(dim=1)).split())
    assert len(text) > 5


def test_a_long_recording_is_heard_in_windows(tmp_path: Path) -> None:
    write_ctc(tmp_path)
    model = opened(tmp_path)
    generator = torch.Generator().manual_seed(3)
    samples_N = torch.randn(45 * RATE_HZ, generator=generator) * 0.1

    def read(start_s: float, max_s: float) -> torch.Tensor:
        start = round(start_s * RATE_HZ)
        return samples_N[start : start + round(max_s * RATE_HZ)]

    num_steps = [len(model.log_probabilities(window)) for window in model.windows(read)]
    assert len(num_steps) == 2
    assert sum(num_steps) == model.module.steps_of(len(samples_N))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "several languages": ("vocab.json", {"eng": {"a": 1}}, "several languages"),
    "a token of two characters": ("vocab.json", {"AB": 6, "E": None}, "one character"),
    "an output too many": ("vocab.json", {"Z": 99}, "does not number 11 outputs"),
    "another blank": ("config.json", {"pad_token_id": 0}, "pad_token_id 0"),
    "an adapter": ("config.json", {"add_adapter": True}, "add_adapter"),
    "code": ("config.json", {"auto_map": {"AutoModel": "m.M"}}, "names code"),
    "another rate": ("preprocessor_config.json", {"sampling_rate": 0}, "describes no input"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(tmp_path: Path, what: str) -> None:
    write_ctc(tmp_path)
    file, changes, told = REFUSED[what]
    values = json.loads((tmp_path / file).read_text()) | changes
    kept = {name: value for name, value in values.items() if value is not None}
    (tmp_path / file).write_text(json.dumps(kept))
    with pytest.raises(InvalidCheckpointError, match=told):
        opened(tmp_path)


def test_a_resumed_run_is_bit_equal_and_opens_in_transformers(
    jobs: Jobs, few: InputDataset
) -> None:
    """The base writes upper case and no tone is: its vocabulary is made anew from its rows."""
    folder = jobs.folder()
    write_ctc(folder)
    base, link = base_of(folder), Link()
    made = jobs.run(RECIPE, few, link=link, work=jobs.folder(), base=base)
    resumed = jobs.interrupted(RECIPE, few, stops=[1], base=base)
    assert sha256(resumed) == sha256(made)
    manifest = read_manifest(made)
    size = len(manifest.vocabulary)
    assert set(manifest.vocabulary) <= set(" abcdefgh")
    assert manifest.lineage["vocabulary"] == {"size": size, "is_of_base": False, "kept": size}
    assert manifest.lineage["initialised"]["fresh"] == [
        "network.lm_head.weight",
        "network.lm_head.bias",
    ]
    assert manifest.report["wer"]["num_rows"] == few.manifest.rows["test"]
    told = f"{size} characters of the transcripts instead, {size} of which"
    assert any(told in event for event in link.events)
    theirs, model = AutoModelForCTC.from_pretrained(made).eval(), opened(made)
    samples_N = torch.from_numpy(tones("d e", seed=9))
    wanted_TV = _their_logp(theirs, made, samples_N)
    found_TV = model.log_probabilities(Window(samples=samples_N, first_step=0, end_step=None))
    torch.testing.assert_close(
        torch.from_numpy(found_TV), wanted_TV[:, : found_TV.shape[1]], atol=TOLERANCE, rtol=0
    )
    assert start_ctc(made, manifest, ["".join(manifest.vocabulary)]).kept is None


def test_rows_of_the_head_are_kept_by_character(tmp_path: Path) -> None:
    theirs = write_ctc(tmp_path)
    started = start_ctc(tmp_path, read_manifest(tmp_path), ["a x", "B"])
    assert started.kept == 3
    assert started.network.tokens.characters == (" ", "B", "a", "x")
    head, old = started.network.network.lm_head, theirs.lm_head
    for new_row, token in enumerate(("<pad>", "|", "B", "A")):
        assert torch.equal(head.weight[new_row], old.weight[VOCABULARY.index(token)])
    assert not torch.isin(head.weight[4], old.weight).any()


def test_a_network_without_a_head_gets_one(tmp_path: Path) -> None:
    write_ctc(tmp_path, has_head=False)
    started = start_ctc(tmp_path, read_manifest(tmp_path), ["ab ba"])
    assert started.kept == 0
    assert started.initialised.fresh == ("network.lm_head.weight", "network.lm_head.bias")
    model = recogniser_of(started.network, read_manifest(tmp_path))
    assert (model.manifest.task, model.manifest.vocabulary) == (
        "speech-recognition",
        (" ", "a", "b"),
    )


def test_what_writes_may_start_what_classifies(tmp_path: Path) -> None:
    write_ctc(tmp_path)
    started = start_pretrained(tmp_path, labels=["low", "high"])
    assert started.manifest.task == "audio-classification"
    assert "network.classifier.weight" in started.initialised.fresh
    assert set(started.initialised.unused) == {"lm_head.weight", "lm_head.bias"}


CHANGED: dict[str, tuple[dict[str, Any], str]] = {
    "a language": ({"model": {"base": "base", "language": "en"}}, "model.language"),
    "a factor": ({"model": {"base": "base", "depth_factor": 2}}, "computed by transformers"),
    "bands": ({"augment": {"audio": {"frequency_masks": 1}}}, "no bands"),
    "a rate of its own": ({"preprocess": {"audio": {"sample_rate_hz": 8_000}}}, "its own inputs"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_the_base_decides_is_refused(jobs: Jobs, few: InputDataset, what: str) -> None:
    folder = jobs.folder()
    write_ctc(folder)
    changes, told = CHANGED[what]
    with pytest.raises(InvalidValueError, match=told):
        jobs.run(RECIPE | changes, few, link=Link(), work=jobs.folder(), base=base_of(folder))
