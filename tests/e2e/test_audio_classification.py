"""Recordings from a zip to a model that answers, by the command line, with real processes."""

import base64
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.unit.parse.recordings import encoded, flac_header, silence
from tests.unit.worker.sounds import CLASSES, sound

Command = Callable[..., str]
MANIFEST = "file_name,label,length\n"


def sounds_with_a_manifest(path: Path, *, per_class: int) -> None:
    rows = [MANIFEST]
    with zipfile.ZipFile(path, "w") as archive:
        for label in CLASSES:
            for seed in range(per_class):
                archive.writestr(f"clips/{label}-{seed}.wav", sound(label, seed=seed))
                rows.append(f"clips/{label}-{seed}.wav,{label},{seed / 7:.2f}\n")
        archive.writestr("metadata.csv", "".join(rows))


@pytest.mark.train
def test_recordings_become_a_model_that_tells_what_it_hears(
    purvey: Command, live_server: Any, tmp_path: Path
) -> None:
    sounds_with_a_manifest(tmp_path / "sounds.zip", per_class=40)
    kinds = "audio=audio,label=label"
    settings = ("--set=preprocess.audio.sample_rate_hz=8000", "--set=preprocess.audio.num_mels=32")
    job = json.loads(
        purvey(
            *("train", "sounds.zip", "--name", "sounds-cli", "--epochs", "8", "--columns", kinds),
            *(*settings, "--json"),
        )
    )
    assert job["recipe"]["task"] == "audio-classification"
    assert job["recipe"]["model"]["architecture"] == "audio-convnet"
    assert job["report"]["accuracy"]["num_rows"] == 16
    assert job["report"]["accuracy"]["value"] >= 0.9
    data = sound("rising", seed=10_001)
    (tmp_path / "one.wav").write_bytes(data)
    assert purvey("run", "sounds-cli", "--audio", "one.wav").startswith("rising ")
    url = f"data:audio/wav;base64,{base64.b64encode(data).decode()}"
    with live_server.openai() as official:
        assert label_of(official, {"audio": url}) == "rising"
        stored = official.files.create(file=("one.wav", io.BytesIO(data)), purpose="user_data")
        assert label_of(official, {"audio": stored.id}) == "rising"
    for content, said in (
        (flac_header(seconds=36_000), "lasts longer than 7200 s"),
        (b"no sound", "broken or none of"),
        (encoded(silence(seconds=0.0)), "is empty"),
    ):
        (tmp_path / "bad.wav").write_bytes(content)
        assert said in purvey("run", "sounds-cli", "--audio", "bad.wav", status=2)
    assert "no file" in purvey("run", "sounds-cli", "--audio", "missing.wav", status=2)
    told = purvey("explain", "sounds-cli", "a word", status=2)
    assert "a text or an image" in told


def label_of(official: OpenAI, given: dict[str, str]) -> str:
    body = {"model": "sounds-cli", "input": given}
    answer: Any = official.post("/classify", body=body, cast_to=object)
    return str(answer["results"][0]["label"])
