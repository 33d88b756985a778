"""A decoder's folder: `config.json` and safetensors, whole or in shards, in and out.

Every tensor's name and shape is compared with the configuration from the headers alone, before
the network is built; so a wrong folder is refused by name and costs nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

from torch import Tensor, nn

from purvey.errors import InvalidCheckpointError
from purvey.models.config import DecoderConfig
from purvey.models.decoder import Decoder
from purvey.models.families import from_hf, to_hf
from purvey.models.folder.json_file import read_object, write_object
from purvey.models.folder.safetensors_file import read_header, read_tensors, write_tensors
from purvey.models.skeleton import skeleton

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
UNSAFE_ENDINGS = (
    *(".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"),
    *(".h5", ".keras", ".nemo", ".mar", ".msgpack", ".onnx", ".pdparams"),
)
_HEAD = "lm_head.weight"
_PREFIX = "model."


def load_folder(
    folder: Path, *, has_head: bool = True, is_widened: bool = True, has_matrices: bool = True
) -> Decoder:
    """Load a folder of a known family as a float32 decoder on the CPU, in evaluation mode.

    Args:
        folder: The model's folder.
        has_head: Whether logits are wanted; else a head of its own is neither needed nor kept.
        is_widened: Whether weights come as float32; else as views of the files, in their dtypes.
        has_matrices: Whether linear layers have their weights; else they stay on the meta device.

    Raises:
        InvalidCheckpointError: Names what is missing, unexpected, unsafe or misshapen.
    """
    refuse_unsafe_files(folder)
    config = read_config(folder)
    config = config if has_head else replace(config, is_tied=True)
    files = weight_files(folder)
    found = _found_shapes(files)
    _check_depth(found, config)  # before as many layers are built as a file may announce
    decoder = skeleton(config)
    expected = {name: tuple(t.shape) for name, t in decoder.state_dict().items()}
    _check_shapes(found, expected, config)
    left_out = frozenset[str]() if has_matrices else _linear_parameters(decoder)
    state: dict[str, Tensor] = {}
    for file in files:
        tensors = read_tensors(
            file, is_widened=is_widened, is_wanted=lambda name: our_name(name) not in left_out
        )
        state |= {our_name(name): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in state.items() if name in expected}
    decoder.load_state_dict(kept, assign=True, strict=has_matrices)
    return decoder.eval().requires_grad_(requires_grad=True)


def read_config(folder: Path) -> DecoderConfig:
    """Read a folder's `config.json`.

    Raises:
        InvalidCheckpointError: It is missing, or names what we do not compute.
    """
    return from_hf(read_object(folder / CONFIG_NAME))


def stored_bytes(folder: Path, name: str) -> int:
    """Return the bytes of one number of the tensor that the decoder calls `name`.

    Raises:
        InvalidCheckpointError: A file is not usable, or there is no such tensor.
    """
    for file in weight_files(folder):
        for theirs, header in read_header(file).items():
            if our_name(theirs) == name:
                return (header.end - header.start) // max(1, prod(header.shape))
    raise InvalidCheckpointError(f"tensor {their_name(name)!r} is missing.", param="model")


def save_folder(decoder: Decoder, folder: Path, *, config: DecoderConfig | None = None) -> None:
    """Write `config.json` and `model.safetensors`, loadable by `transformers` and by us.

    Args:
        decoder: What is written, in its parameters' dtype.
        folder: Made where missing.
        config: Written instead of the decoder's own, when begin or end tokens were set since.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = decoder.state_dict()
    write_tensors({their_name(name): t for name, t in state.items()}, folder / WEIGHTS_NAME)
    write_object(folder / CONFIG_NAME, to_hf(config or decoder.config))


def refuse_unsafe_files(folder: Path) -> None:
    """Refuse a folder that holds any file of a format that can carry code.

    Raises:
        InvalidCheckpointError: Names the file.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in UNSAFE_ENDINGS:
            message = f"the model folder holds {path.name!r}, a format that can carry code."
            raise InvalidCheckpointError(message, param="model")


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a folder, by its index where it has one.

    Raises:
        InvalidCheckpointError: There are none, or a shard of the index is missing.
    """
    if (folder / INDEX_NAME).is_file():
        shards = read_object(folder / INDEX_NAME).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise InvalidCheckpointError(f"{INDEX_NAME} has no weight_map.", param="model")
        return [_shard(folder, name) for name in sorted(set(map(str, shards.values())))]
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    raise InvalidCheckpointError(f"the model folder has no {WEIGHTS_NAME}.", param="model")


def our_name(theirs: str) -> str:
    """Translate a checkpoint's tensor name into the decoder's."""
    return theirs.removeprefix(_PREFIX)


def their_name(ours: str) -> str:
    """Translate the decoder's parameter name into the checkpoint's."""
    return ours if ours == _HEAD else _PREFIX + ours


def _linear_parameters(decoder: Decoder) -> frozenset[str]:
    linears = [(name, m) for name, m in decoder.named_modules() if isinstance(m, nn.Linear)]
    return frozenset(f"{name}.{part}" for name, m in linears for part, _ in m.named_parameters())


def _shard(folder: Path, name: str) -> Path:
    if name != Path(name).name or not name.endswith(".safetensors"):
        raise InvalidCheckpointError(f"{INDEX_NAME} names {name!r}, no shard.", param="model")
    if not (folder / name).is_file():
        raise InvalidCheckpointError(f"the shard {name!r} is missing.", param="model")
    return folder / name


def _found_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        for name, header in read_header(file).items():
            if our_name(name) in found:
                raise InvalidCheckpointError(f"tensor {name!r} occurs twice.", param="model")
            found[our_name(name)] = header.shape
    return found


def _check_depth(found: Mapping[str, tuple[int, ...]], config: DecoderConfig) -> None:
    last = f"layers.{config.num_layers - 1}.input_layernorm.weight"
    if last not in found:
        raise InvalidCheckpointError(f"tensor {their_name(last)!r} is missing.", param="model")


def _check_shapes(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    config: DecoderConfig,
) -> None:
    missing = sorted(expected.keys() - found.keys())
    if missing:
        name = their_name(missing[0])
        raise InvalidCheckpointError(f"tensor {name!r} is missing.", param="model")
    for name in sorted(found.keys() - expected.keys()):
        if not _is_redundant(name, config):
            message = f"tensor {their_name(name)!r} is not part of this architecture."
            raise InvalidCheckpointError(message, param="model")
    for name, shape in expected.items():
        if found[name] != shape:
            message = f"tensor {their_name(name)!r} is {list(found[name])}, not {list(shape)}."
            raise InvalidCheckpointError(message, param="model")


def _is_redundant(name: str, config: DecoderConfig) -> bool:
    """Tell whether a known extra may be ignored: a tied head's copy, a table we recompute."""
    return (name == _HEAD and config.is_tied) or name.endswith("rotary_emb.inv_freq")
