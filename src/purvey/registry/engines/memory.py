"""How much memory an engine takes: counted before it loads, corrected by what it says after.

need = weights x bytes of the precision + embedding as stored + key/value cache + workspace

The workspace is a process with its libraries, and what one step holds at once: for each of its
tokens two rows of logits and about forty of the hidden size.
"""

import json
from collections import OrderedDict
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path

from purvey.contracts.deployment import EngineOptions, Precision
from purvey.contracts.engine import ModelLoaded
from purvey.contracts.hugging_face import PRETRAINED, manifest_of
from purvey.contracts.model import GENERATING, ModelSource, Task
from purvey.registry.safetensors_header import TensorEntry
from purvey.registry.weight_headers import read_tensors

PROCESS_BYTES = 288 * 2**20
"""An engine process without a model: interpreter and tensor library; measured are 270 to 345 MiB,
with the pages that several of them share."""
FOREIGN_BYTES = 192 * 2**20
"""What `transformers` adds to that: its own modules, and one step of a sequence by itself."""
BYTES_PER_WEIGHT: dict[Precision, float] = {
    "auto": 1.0, "fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.625,
}  # fmt: skip
"""With the scales of 4-bit groups. `auto` takes 8 bits where the processor can: where it cannot,
the engine says so, and that counts."""
SMALL_WEIGHTS = 50_000_000
"""What has fewer weights is computed in float32 when the precision is `auto`."""
_BYTES_PER_FLOAT = 4
_HIDDEN_ROWS, _LOGITS_ROWS = 40, 2
_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_LEARNT = 1_024
_UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@dataclass(frozen=True, kw_only=True)
class Need:
    """The parts of one engine's memory, in bytes, and how they are explained."""

    num_weights: int
    bytes_per_weight: float
    embedding_bytes: int
    cache_bytes: int
    workspace_bytes: int

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights as they are computed with."""
        return ceil(self.num_weights * self.bytes_per_weight) + self.embedding_bytes

    @property
    def num_bytes(self) -> int:
        """The whole."""
        return self.weights_bytes + self.cache_bytes + self.workspace_bytes

    @property
    def text(self) -> str:
        """The arithmetic, for people."""
        how = f"{self.num_weights} x {self.bytes_per_weight:g} bytes"
        if self.embedding_bytes:
            how += f" + {size(self.embedding_bytes)} of embedding"
        return (
            f"weights {size(self.weights_bytes)} ({how}) + KV cache {size(self.cache_bytes)} + "
            f"workspace {size(self.workspace_bytes)} = {size(self.num_bytes)}"
        )


class Needs:
    """What engines will take; an engine that was loaded once is known exactly.

    Args:
        kv_cache_bytes: Key/value cache of one engine.
        max_batch_tokens: Tokens of one step.
    """

    def __init__(self, *, kv_cache_bytes: int, max_batch_tokens: int) -> None:
        self._kv_cache_bytes, self._max_batch_tokens = kv_cache_bytes, max_batch_tokens
        self._learnt: OrderedDict[tuple[str, EngineOptions], int] = OrderedDict()

    def count(self, source: ModelSource, task: Task, options: EngineOptions) -> Need:
        """Count from the headers of the files. Blocking.

        An adapter is merged into its base, so its base is what is counted. Only language models
        are computed in another precision than float32, and of these only those of our decoder.

        Raises:
            InvalidCheckpointError: A file of weights is not one.
            OSError: A file cannot be read.
        """
        tensors = read_tensors(Path(source.base_folder or source.folder))
        num_weights = sum(prod(entry.shape) for entry in tensors.values())
        is_foreign = _is_foreign(Path(source.folder))
        if task not in GENERATING:
            return Need(
                num_weights=num_weights,
                bytes_per_weight=_BYTES_PER_FLOAT,
                embedding_bytes=0,
                cache_bytes=0,
                workspace_bytes=PROCESS_BYTES + (FOREIGN_BYTES if is_foreign else 0),
            )
        if is_foreign:
            return Need(
                num_weights=num_weights,
                bytes_per_weight=_BYTES_PER_FLOAT,
                embedding_bytes=0,
                cache_bytes=self._kv_cache_bytes,
                workspace_bytes=PROCESS_BYTES + FOREIGN_BYTES,
            )
        is_small = options.precision == "auto" and num_weights < SMALL_WEIGHTS
        embedding = next((e for n, e in tensors.items() if n.endswith(_EMBEDDING)), None)
        has_head = any(name.endswith(_HEAD) for name in tensors)
        beside = prod(embedding.shape) if embedding and has_head else 0
        return Need(
            num_weights=num_weights - beside,
            bytes_per_weight=BYTES_PER_WEIGHT["fp32" if is_small else options.precision],
            embedding_bytes=embedding.end - embedding.start if embedding else 0,
            cache_bytes=self._kv_cache_bytes,
            workspace_bytes=PROCESS_BYTES + self._step_bytes(embedding),
        )

    def known(self, digest: str, options: EngineOptions) -> int | None:
        """Return what the engine took when it was loaded before, in bytes."""
        return self._learnt.get((digest, options))

    def learn(self, digest: str, options: EngineOptions, model: ModelLoaded) -> int:
        """Note what a loaded engine says it holds; return what it takes as a whole."""
        taken = PROCESS_BYTES + model.resident_bytes + model.workspace_bytes
        self._learnt[digest, options] = taken
        self._learnt.move_to_end((digest, options))
        if len(self._learnt) > _LEARNT:
            self._learnt.popitem(last=False)
        return taken

    def _step_bytes(self, embedding: TensorEntry | None) -> int:
        if embedding is None or len(embedding.shape) != 2:
            return 0
        vocabulary_size, hidden_size = embedding.shape
        row = _LOGITS_ROWS * vocabulary_size + _HIDDEN_ROWS * hidden_size
        return _BYTES_PER_FLOAT * self._max_batch_tokens * row


def size(num_bytes: int) -> str:
    """Return bytes as a person reads them."""
    for unit, name in _UNITS:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.4g} {name}"
    return f"{num_bytes} bytes"


def _is_foreign(folder: Path) -> bool:
    """Tell whether `transformers` computes a folder's model."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):  # what loads the folder says what is wrong with it
        return False
    return manifest_of(config, has_modules=False).family in (*PRETRAINED, "transformers", "whisper")
