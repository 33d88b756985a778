"""The tensors of an encoder's folder by our names, and what of them a new head does without.

Every tensor's name and shape is compared with the configuration from the headers alone, before any
is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from purvey.errors import InvalidCheckpointError
from purvey.models.encoder.config import EncoderConfig
from purvey.models.encoder.names import Shape, expected_shapes, our_name
from purvey.models.folder.safetensors_file import read_header, read_tensors
from purvey.models.weights import weight_files

_HEAD = "head."


@dataclass(frozen=True, kw_only=True)
class EncoderWeights:
    """An encoder's shape and its tensors by our names, float32 on the CPU.

    Args:
        config: Its shape.
        tensors: All that the shape asks for, a new head's perhaps left out.
        unused: Names of tensors of the files that are not among them, as the files have them.
    """

    config: EncoderConfig
    tensors: Mapping[str, Tensor]
    unused: tuple[str, ...] = ()


def read_encoder(
    folder: Path, config: EncoderConfig, *, is_new_head: bool = False
) -> EncoderWeights:
    """Read an encoder's weights.

    Args:
        folder: Where they lie.
        config: What they have to fit.
        is_new_head: Whether the head may be missing or of another shape; it is left out then.

    Raises:
        InvalidCheckpointError: Names the tensor that is missing, unknown, misshapen or not finite.
    """
    found, unused = _found(folder, config)
    _check_depth(found, config)  # before as many layers are listed as a file may announce
    expected = expected_shapes(config)
    if is_new_head:
        misfits = {
            name
            for name, shape in expected.items()
            if name.startswith(_HEAD) and found.get(name, (name, ()))[1] != shape
        }
        unused += [found.pop(name)[0] for name in sorted(misfits) if name in found]
        expected = {name: shape for name, shape in expected.items() if name not in misfits}
    _check_shapes({name: shape for name, (_, shape) in found.items()}, expected)
    wanted = {theirs: ours for ours, (theirs, _) in found.items()}
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        for theirs, tensor in read_tensors(file).items():
            if theirs in wanted:
                tensors[wanted[theirs]] = tensor
    return EncoderWeights(config=config, tensors=tensors, unused=tuple(sorted(unused)))


def _found(folder: Path, config: EncoderConfig) -> tuple[dict[str, tuple[str, Shape]], list[str]]:
    """Return the files' tensors by our names, with their own names, and those without a use."""
    found: dict[str, tuple[str, Shape]] = {}
    unused: list[str] = []
    for file in weight_files(folder):
        for theirs, header in read_header(file).items():
            ours = our_name(theirs, config)
            if ours is None:
                unused.append(theirs)
            elif ours in found:
                raise InvalidCheckpointError(f"tensor {theirs!r} occurs twice.", param="model")
            else:
                found[ours] = theirs, header.shape
    return found, unused


def _check_depth(found: Mapping[str, object], config: EncoderConfig) -> None:
    last = config.num_layers - 1
    if f"layers.{last}.query.weight" not in found:
        raise InvalidCheckpointError(f"the weights of layer {last} are missing.", param="model")


def _check_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> None:
    for name in sorted(expected.keys() - found.keys()):
        raise InvalidCheckpointError(f"the tensor for {name!r} is missing.", param="model")
    for name in sorted(found.keys() - expected.keys()):
        message = f"tensor {name[:200]!r} is not part of this architecture."
        raise InvalidCheckpointError(message, param="model")
    for name, shape in expected.items():
        if found[name] != shape:
            message = f"the tensor for {name!r} is {list(found[name])}, not {list(shape)}."
            raise InvalidCheckpointError(message, param="model")
