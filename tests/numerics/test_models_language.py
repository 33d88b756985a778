"""A language model made here: its folder answers alike in `transformers` and after reloading."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from purvey.contracts.engine import ChatMessage
from purvey.contracts.model import ModelManifest, ModelSource
from purvey.contracts.recipe_parts.adapting import LoraConfig
from purvey.errors import InvalidCheckpointError
from purvey.models.chat import ChatTemplate
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.language import (
    LanguageModel,
    load_language_model,
    save_adapter_model,
    save_language_model,
)
from purvey.models.loading import open_model
from purvey.models.lora import adapters, inject
from purvey.models.tokenizer import Tokenizer

MANIFEST = ModelManifest(family="decoder", task="text-generation", lineage={"recipe": "abc"})
SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}


@pytest.fixture
def model() -> LanguageModel:
    tokenizer = Tokenizer.train(["to be or not to be", "你好"], vocabulary_size=300)
    config = DecoderConfig.from_hyperparameters(
        {**SHAPE, "context_tokens": 64},
        vocabulary_size=tokenizer.vocabulary_size,
        bos_id=tokenizer.bos_id,
        eos_ids=tokenizer.eos_ids,
    )
    torch.manual_seed(0)
    template = ChatTemplate.default(tokenizer)
    return LanguageModel(
        decoder=Decoder(config), tokenizer=tokenizer, template=template, manifest=MANIFEST
    )


def logits_of(decoder: Decoder, ids: list[int]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = decoder(torch.tensor([ids]))
    return logits


def test_a_saved_model_is_the_same_when_loaded(model: LanguageModel, tmp_path: Path) -> None:
    save_language_model(tmp_path, model)
    again = load_language_model(tmp_path)
    ids = model.tokenizer.encode("to be 你好")
    assert torch.equal(logits_of(again.decoder, ids), logits_of(model.decoder, ids))
    assert again.tokenizer.encode("to be 你好 🙂") == model.tokenizer.encode("to be 你好 🙂")
    assert again.stop_ids == model.stop_ids == {0, 2}
    assert again.manifest == MANIFEST
    assert again.context_tokens == 64
    assert again.template is not None
    assert not again.decoder.training


def test_a_saved_model_is_the_same_in_transformers(model: LanguageModel, tmp_path: Path) -> None:
    save_language_model(tmp_path, model)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "to be?"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    assert model.template is not None
    message = ChatMessage(role="user", content="to be?")
    assert ids == model.template.encode([message], model.tokenizer)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits
    assert (logits_of(model.decoder, ids) - expected).abs().max() < 1e-4  # float32, other order
    assert theirs.generation_config.eos_token_id == [0, 2]


def test_an_adapter_folder_opens_merged_on_its_base(model: LanguageModel, tmp_path: Path) -> None:
    save_language_model(tmp_path / "base", model)
    config = LoraConfig(rank=2)
    inject(model.decoder, config, generator=torch.Generator().manual_seed(0))
    for _, layer in adapters(model.decoder):
        torch.nn.init.normal_(layer.lora_B.weight, std=0.2)
    adapter = tmp_path / "adapter"
    manifest = ModelManifest(family="decoder", task="text-generation", base="0" * 64)
    adapted = dataclasses.replace(model, manifest=manifest)
    save_adapter_model(adapter, adapted, config, base_name="base")
    source = ModelSource(name="ft:x", folder=str(adapter), digest="0")
    with pytest.raises(InvalidCheckpointError, match="base"):
        open_model(source)
    based = ModelSource(
        name="ft:x", folder=str(adapter), digest="0", base_folder=str(tmp_path / "base")
    )
    opened = open_model(based)
    assert isinstance(opened, LanguageModel)
    ids = model.tokenizer.encode("to be")
    difference = logits_of(opened.decoder, ids) - logits_of(model.decoder, ids)
    assert difference.abs().max() < 1e-4  # merged weights round once more
    assert opened.manifest == manifest
    assert opened.template is not None


def test_a_tokenizer_larger_than_the_model_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    save_language_model(tmp_path, model)
    Tokenizer.train(["abcabc" * 5, "to be or not to be"], vocabulary_size=400).save(tmp_path)
    with pytest.raises(InvalidCheckpointError, match="tokenizer"):
        load_language_model(tmp_path)
