"""Tiny folders of the Wav2Vec2 and Whisper families, as their library writes them, and tones.

Shape letters, this file only:
    N = samples
"""

import io
import json
import wave
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

RATE_HZ = 16_000
LETTERS = "abcdefgh"
"""Each is a tone of its own."""
WINDOW_S, STEP_S = 2, 0.02
_TONE_S, _GAP_S = 0.16, 0.08
_HEARS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "conv_dim": (16, 16),
    "conv_kernel": (40, 16),
    "conv_stride": (20, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "layerdrop": 0.0,
}
VOCABULARY = ("A", "B", "<pad>", "C", "D", "|", "E", "F", "<unk>", "G", "H")
"""Of `write_ctc`; the blank is not the first."""
_MARKS = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>"),
    *("<|transcribe|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)


def write_ctc(folder: Path, *, has_head: bool = True, seed: int = 4, **more: Any) -> Any:
    """Write a folder that hears; with a head it writes upper case. Return the network."""
    torch.manual_seed(seed)
    blank = VOCABULARY.index("<pad>")
    config = Wav2Vec2Config(**_HEARS, vocab_size=len(VOCABULARY), pad_token_id=blank, **more)
    network = (Wav2Vec2ForCTC if has_head else Wav2Vec2Model)(config).eval()
    if has_head:
        with torch.no_grad():
            network.lm_head.weight.normal_(0.0, 1.0)
            network.lm_head.bias[VOCABULARY.index("<unk>")] = -100.0
    network.save_pretrained(folder)
    is_normalised = more.get("feat_extract_norm") != "group"
    Wav2Vec2FeatureExtractor(do_normalize=is_normalised).save_pretrained(folder)
    if has_head:
        numbers = {token: number for number, token in enumerate(VOCABULARY)}
        (folder / "vocab.json").write_text(json.dumps(numbers))
        Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    return network


def write_whisper(
    folder: Path,
    *,
    seed: int = 4,
    is_multilingual: bool = True,
    alignment: Sequence[tuple[int, int]] = (),
    **more: Any,
) -> Any:
    """Write a folder of Whisper over bytes with windows of two seconds. Return the network.

    `alignment` are the layers and heads of its decoder that are said to follow the recording.
    """
    torch.manual_seed(seed)
    num_steps = round(WINDOW_S / STEP_S)
    vocabulary = sorted(ByteLevel.alphabet())
    marks = [*_MARKS, *(f"<|{step * STEP_S:.2f}|>" for step in range(num_steps + 1))]
    ids = {token: len(vocabulary) + number for number, token in enumerate(marks)}
    sizes: dict[str, Any] = {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "num_mel_bins": 16,
        "max_source_positions": num_steps,
        "max_target_positions": 40,
    }
    config = WhisperConfig(
        vocab_size=len(vocabulary) + len(marks),
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        begin_suppress_tokens=None,
        **(sizes | more),
    )
    network = WhisperForConditionalGeneration(config).eval()
    network.save_pretrained(folder)
    WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, chunk_length=WINDOW_S
    ).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(_byte_tokenizer(vocabulary, ids)))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "WhisperTokenizer"})
    )
    generation: dict[str, Any] = {
        "eos_token_id": ids["<|endoftext|>"],
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "is_multilingual": is_multilingual,
        "max_initial_timestamp_index": 50,
        "suppress_tokens": [ids[mark] for mark in _MARKS[1:8]],
    }
    if alignment:
        generation["alignment_heads"] = alignment
    if is_multilingual:
        generation["lang_to_id"] = {mark: ids[mark] for mark in ("<|en|>", "<|de|>")}
        generation["task_to_id"] = {
            task: ids[f"<|{task}|>"] for task in ("translate", "transcribe")
        }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return network


def _byte_tokenizer(vocabulary: Sequence[str], ids: dict[str, int]) -> dict[str, Any]:
    added = [
        {
            "id": number,
            "content": token,
            "special": token in _MARKS,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for token, number in ids.items()
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": None,
        "decoder": {**level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(vocabulary)},
            "merges": [],
        },
    }


def tones(text: str, *, seed: int = 0) -> NDArray[np.float32]:
    """Return `samples_N` in which every letter is a tone, a space a pause, over a little noise."""
    chance = np.random.default_rng(seed)
    times = np.arange(round(_TONE_S * RATE_HZ)) / RATE_HZ
    gap = np.zeros(round(_GAP_S * RATE_HZ))
    parts = [gap]
    for letter in text:
        pitch_hz = 300.0 * 1.25 ** LETTERS.index(letter) if letter != " " else 0.0
        parts += [0.4 * np.sin(2 * np.pi * pitch_hz * times), gap]
    samples = np.concatenate(parts)
    noisy: NDArray[np.float32] = (samples + chance.normal(0.0, 0.01, len(samples))).astype("f4")
    return noisy


def wav(samples_N: NDArray[np.float32]) -> bytes:
    """Encode as WAV."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((samples_N * 32_767).clip(-32_768, 32_767).astype("<i2").tobytes())
    return written.getvalue()


def tones_archive(file: Path, *, num_rows: int, letters: int = 3, seed: int = 0) -> Path:
    """Write a zip of recordings of drawn letters, apart from one another, with what they are."""
    chance = np.random.default_rng(seed)
    with zipfile.ZipFile(file, "w") as archive:
        lines = []
        for row in range(num_rows):
            count = int(chance.integers(1, letters + 1))
            said = " ".join(chance.choice(list(LETTERS), count))
            archive.writestr(f"{row}.wav", wav(tones(said, seed=row)))
            lines.append(json.dumps({"file_name": f"{row}.wav", "transcript": said}))
        archive.writestr("metadata.jsonl", "\n".join(lines))
    return file
