"""What growing did to a model: what its events and its lineage say."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Growth:
    """What was made of a model.

    Args:
        width_factor: Times as wide.
        depth_factor: Times as many layers.
        parameters_before: Weights of the small one, tied ones counted once.
        parameters: Of the large one.
        kept: Tensors of the small one that stay as they are in a layer.
        repeated: That are there several times, side by side.
        divided: That are divided among copies of what they read.
        new_layers: Layers that add nothing yet, by number, from 0.
        largest_difference: Of any output of the two on random inputs: of logits, or of cosines.
    """

    width_factor: int
    depth_factor: int
    parameters_before: int
    parameters: int
    kept: int
    repeated: int
    divided: int
    new_layers: tuple[int, ...]
    largest_difference: float

    def record(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"new_layers": list(self.new_layers)}
