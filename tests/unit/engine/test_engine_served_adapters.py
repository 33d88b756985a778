"""Which folders an engine takes as adapters of its base, and what it says of the others."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from purvey.contracts.adapter import AdapterDropped, LoadAdapter
from purvey.contracts.adapter import DropAdapter as Drop
from purvey.contracts.model import ModelManifest
from purvey.contracts.recipe_parts.adapting import LoraConfig
from purvey.engine.adapters.bank import AdapterBank
from purvey.engine.adapters.served import ServedAdapters
from purvey.engine.door import Door
from purvey.errors import AdapterNotLoadedError, InvalidCheckpointError
from purvey.models.chat import ChatTemplate
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.language import LanguageModel, save_adapter_model
from purvey.models.lora import ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, inject
from purvey.models.tokenizer import Tokenizer

BASE = "b" * 64
CONFIG = DecoderConfig(
    vocabulary_size=300,
    hidden_size=16,
    mlp_size=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_size=8,
    context_tokens=64,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A tokenizer of the base."""
    return Tokenizer.train(["the cat sat on the mat"], vocabulary_size=280)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """An adapter as training saves it, with a chat template of its own."""
    decoder = Decoder(CONFIG)
    decoder.reset_parameters(torch.Generator().manual_seed(1))
    lora = LoraConfig(rank=3, alpha=6.0)
    inject(decoder, lora, generator=torch.Generator().manual_seed(2))
    model = LanguageModel(
        decoder=decoder,
        tokenizer=tokenizer,
        template=ChatTemplate.default(tokenizer),
        manifest=ModelManifest(family="decoder", task="text-generation", base=BASE),
    )
    save_adapter_model(tmp_path / "adapter", model, lora, base_name="base")
    return tmp_path / "adapter"


@pytest.fixture
def load(tokenizer: Tokenizer) -> Callable[[Path], ServedAdapters]:
    """Load a folder beside a base without a template."""

    def loaded(folder: Path) -> ServedAdapters:
        bank = AdapterBank(CONFIG, dtype=torch.float32, adapter_bytes=2**22)
        adapters = ServedAdapters(bank, CONFIG, base_digest=BASE, tokenizer=tokenizer)
        door = Door(
            tokenizer,
            None,
            stop_ids=frozenset(),
            vocabulary_size=300,
            context_tokens=64,
            cache_tokens=64,
        )
        request = LoadAdapter(request_id="r", adapter="a", folder=str(folder))
        try:
            answer = adapters.load(request, door)
        except InvalidCheckpointError:
            assert not adapters.roster.digests
            bank.check()
            raise
        assert answer == adapters.load(request, door), "the second time changed something"
        assert (answer.rank, answer.has_chat_template) == (3, True)
        assert answer.num_bytes == bank.used_bytes
        return adapters

    return loaded


def test_an_adapter_speaks_by_its_own_template_until_it_is_dropped(
    load: Callable[[Path], ServedAdapters], folder: Path
) -> None:
    adapters = load(folder)
    told: list[object] = []
    with adapters.taken("a") as voice:
        assert voice.template is not None
        assert voice.adapter is adapters.roster.find("a")
        adapters.drop(Drop(request_id="d", adapter="a"), told.append)
        assert not told
        with pytest.raises(AdapterNotLoadedError), adapters.taken("a"):
            pass
    assert told == [AdapterDropped(request_id="d", adapter="a")]


def _wrong_base(folder: Path) -> None:
    manifest = json.loads((folder / "purvey.json").read_text())
    (folder / "purvey.json").write_text(json.dumps(manifest | {"base": "c" * 64}))


def _no_adapter(folder: Path) -> None:
    (folder / ADAPTER_CONFIG_NAME).unlink()


def _rank(folder: Path) -> None:
    _change_config(folder, r=100_000)


def _dora(folder: Path) -> None:
    _change_config(folder, use_dora=True)


def _change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / ADAPTER_CONFIG_NAME).read_text())
    (folder / ADAPTER_CONFIG_NAME).write_text(json.dumps(config | changes))


def _tensors(folder: Path, change: Callable[[dict[str, torch.Tensor], str], None]) -> None:
    tensors = load_file(folder / ADAPTER_WEIGHTS_NAME)
    change(tensors, "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight")
    save_file(tensors, folder / ADAPTER_WEIGHTS_NAME)


def _nan(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor], name: str) -> None:
        tensors[name][2, 1] = float("nan")

    _tensors(folder, change)


def _shape(folder: Path) -> None:
    _tensors(folder, lambda tensors, name: tensors.update({name: torch.zeros(25, 3)}))


def _layer(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor], name: str) -> None:
        for part in ("lora_A", "lora_B"):
            old = name.replace("lora_B", part)
            tensors[old.replace("layers.1.", "layers.7.")] = tensors.pop(old)

    _tensors(folder, change)


def _pickle(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_wrong_base, "trained on another base"),
        (_no_adapter, "it is no adapter"),
        (_rank, "r must be at most 1024"),
        (_dora, "use_dora"),
        (_nan, "up_proj.lora_B"),
        (_shape, "does not fit the base at 'layers.1.mlp.up_proj'"),
        (_layer, "'layers.7.mlp.up_proj', which the base does not have"),
        (_pickle, "adapter_model.bin"),
    ],
)
def test_what_is_no_adapter_of_this_base_is_refused_by_name(
    load: Callable[[Path], ServedAdapters],
    folder: Path,
    spoil: Callable[[Path], None],
    says: str,
) -> None:
    spoil(folder)
    with pytest.raises(InvalidCheckpointError) as raised:
        load(folder)
    assert says in raised.value.text
