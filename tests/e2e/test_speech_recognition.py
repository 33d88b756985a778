"""Recordings and transcripts from a zip to text, with real processes and the official client."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import APIStatusError

from examples import morse

Command = Callable[..., str]


SETTINGS = (
    "preprocess.audio.sample_rate_hz=4000",
    "preprocess.audio.num_mels=16",
    "model.hyperparameters={width = 32, depth = 2, kernel = 9, dropout = 0.0}",
    "optimizer.learning_rate=0.01",
    "train.batch_size=8",
)


def test_recordings_become_a_model_that_writes_down_what_it_hears(
    purvey: Command, live_server: Any, tmp_path: Path
) -> None:
    drawn: dict[str, Any] = {"num_words": 1, "noise": 0.05, "words": ("et", "ta", "in", "me")}
    morse.archive(tmp_path / "morse.zip", num_rows=200, seed=0, **drawn)
    settings = [word for one in SETTINGS for word in ("--set", one)]
    told = purvey(
        *("train", "morse.zip", "--name", "morse-cli", "--epochs", "12", *settings, "--json")
    )
    job = json.loads(told)
    assert job["recipe"]["task"] == "speech-recognition"
    assert job["report"]["wer"]["num_rows"] == 20
    assert job["report"]["cer"]["value"] <= 0.7  # 1 is what saying nothing has
    _, samples = morse.drawn(np.random.default_rng(9), **drawn)
    data = morse.wav(samples)
    with live_server.openai() as client:
        ask = client.audio.transcriptions.create
        verbose = ask(
            model="morse-cli",
            file=("one.wav", data),
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
        assert verbose.duration == pytest.approx(len(samples) / morse.SAMPLE_RATE_HZ, abs=0.001)
        assert ask(model="morse-cli", file=("one.wav", data)).text == verbose.text
        (tmp_path / "one.wav").write_bytes(data)
        assert purvey("run", "morse-cli", "--audio", "one.wav").strip() == verbose.text
        long = morse.wav(np.tile(samples, 40))
        events = list(ask(model="morse-cli", file=("long.wav", long), stream=True))
        assert events[-1].type == "transcript.text.done"
        for broken in (b"RIFF", data[:20], b"no recording"):
            with pytest.raises(APIStatusError) as raised:
                ask(model="morse-cli", file=("broken.wav", broken))
            assert (raised.value.status_code, raised.value.param) == (400, "file")
