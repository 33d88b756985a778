"""Writing an encoder's folder: as `transformers` and `sentence-transformers` read it, and we do."""

import json
from pathlib import Path

from purvey.contracts.hugging_face import MODULES_NAME
from purvey.contracts.model import ModelManifest
from purvey.models.encoder.building import TokenizerFiles
from purvey.models.encoder.config import to_hf
from purvey.models.encoder.module import EncoderModule
from purvey.models.encoder.modules import EmbeddingSetup
from purvey.models.encoder.names import their_name
from purvey.models.encoder.pooling import Pooling
from purvey.models.folder.json_file import read_object, write_object
from purvey.models.folder.manifest import write_manifest
from purvey.models.folder.safetensors_file import write_tensors
from purvey.models.tokenizer import CONFIG_NAME as TOKENIZER_CONFIG_NAME
from purvey.models.tokenizer import TOKENIZER_NAME
from purvey.models.weights import CONFIG_NAME, WEIGHTS_NAME

_POOLING_FOLDER = "1_Pooling"
_STEPS = {"Transformer": "", "Pooling": _POOLING_FOLDER, "Normalize": "2_Normalize"}
_MODES: dict[str, Pooling | None] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": None,
    "pooling_mode_mean_sqrt_len_tokens": None,
    "pooling_mode_weightedmean_tokens": None,
}


def save_encoder(
    folder: Path, module: EncoderModule, tokenizer: TokenizerFiles, manifest: ModelManifest
) -> None:
    """Write weights, shape, tokenizer and manifest; `transformers` opens it by its Auto classes."""
    folder.mkdir(parents=True, exist_ok=True)
    config = module.config
    tensors = {their_name(name, config): tensor for name, tensor in module.state_dict().items()}
    write_tensors(tensors, folder / WEIGHTS_NAME)
    labels = manifest.labels if config.has_head else ()
    write_object(folder / CONFIG_NAME, to_hf(config, labels=labels))
    write_object(folder / TOKENIZER_NAME, tokenizer.definition)
    write_object(folder / TOKENIZER_CONFIG_NAME, tokenizer.config)
    write_manifest(folder, manifest)


def save_setup(folder: Path, setup: EmbeddingSetup, *, width: int, max_tokens: int) -> None:
    """Write how states become a vector, in the files of `sentence-transformers`.

    Lengths that vectors may be cut to are written to `config.json`.

    Args:
        folder: Where `save_encoder` wrote.
        setup: Pooling, prompt and lengths.
        width: Numbers of a vector.
        max_tokens: Longest text.
    """
    if setup.sizes is not None:
        lengths = {"is_matryoshka": True, "matryoshka_dimensions": list(setup.sizes)}
        write_object(folder / CONFIG_NAME, read_object(folder / CONFIG_NAME) | lengths)
    steps = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(_STEPS.items())
    ]
    (folder / MODULES_NAME).write_text(json.dumps(steps, indent=2) + "\n", encoding="utf-8")
    (folder / _POOLING_FOLDER).mkdir(exist_ok=True)
    modes = {name: mode == setup.pooling for name, mode in _MODES.items()}
    pooling = {"word_embedding_dimension": width, **modes, "include_prompt": True}
    write_object(folder / _POOLING_FOLDER / "config.json", pooling)
    sizes = {"max_seq_length": max_tokens, "do_lower_case": False}
    write_object(folder / "sentence_bert_config.json", sizes)
    prompts = {"prompts": {"default": setup.prompt}, "default_prompt_name": "default"}
    write_object(
        folder / "config_sentence_transformers.json",
        {**(prompts if setup.prompt else {}), "similarity_fn_name": "cosine"},
    )
