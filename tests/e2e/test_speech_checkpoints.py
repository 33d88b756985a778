"""Folders of speech networks over HTTP: one is served as it is, the other is tuned and served."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import BadRequestError

from tests.numerics.speech_folders import tones, tones_archive, wav, write_ctc, write_whisper

Command = Callable[..., str]


@pytest.mark.train
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own, about its method
def test_folders_of_speech_networks_are_served_and_tuned(
    purvey: Command, live_server: Any, tmp_path: Path
) -> None:
    models = live_server.data_dir.parent / "models"
    write_whisper(models / "tiny-whisper", init_std=0.4)
    write_ctc(models / "tiny-wav2vec2")
    headers = {"authorization": f"Bearer {live_server.admin_key}"}
    with httpx2.Client(base_url=live_server.base_url, headers=headers) as http:
        for name in ("tiny-whisper", "tiny-wav2vec2"):
            answer = http.post("/v1/models", json={"id": name, "source": str(models / name)})
            assert answer.json()["task"] == "speech-recognition", answer.text
    data = wav(tones("a b c"))
    with live_server.openai() as client:
        ask = client.audio.transcriptions.create
        whole = ask(model="tiny-whisper", file=("a.wav", data), response_format="verbose_json")
        assert whole.language in ("de", "en")
        assert whole.duration == pytest.approx(1.28, abs=0.01)
        assert all(0 <= s.start <= s.end <= 1.29 for s in whole.segments or [])
        streamed = list(ask(model="tiny-whisper", file=("a.wav", data), stream=True))
        assert streamed[-1].to_dict()["text"] == whole.text
        english = client.audio.translations.create(model="tiny-whisper", file=("a.wav", data))
        assert isinstance(english.text, str)
        with pytest.raises(BadRequestError, match="knows de, en"):
            ask(model="tiny-whisper", file=("a.wav", data), language="fr")
        tones_archive(tmp_path / "tones.zip", num_rows=30)
        settings = ("--set", "model.base=tiny-wav2vec2", "--set", "train.max_steps=2")
        job = json.loads(
            purvey("train", "tones.zip", "--name", "tuned-wav2vec2", *settings, "--json")
        )
        assert job["report"]["wer"]["num_rows"] == 3
        timed = ask(
            model="tuned-wav2vec2",
            file=("a.wav", data),
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
        assert isinstance(timed.words, list)
