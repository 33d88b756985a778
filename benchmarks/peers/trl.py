"""TRL: supervised fine-tuning by its `SFTTrainer`, and `transformers.Trainer` beside it."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from benchmarks.peers.cache import CHILDREN, Environment

Kind = Literal["transformers", "trl", "trl-padding-free"]
ENVIRONMENT = Environment(
    name="trl",
    requirements=(
        "trl==1.16.0",
        "peft==0.21.2",
        "transformers==5.23.0",
        "accelerate==1.15.0",
        "datasets==5.2.0",
        "torch==2.13.0",
    ),
)


def setup() -> None:
    """Make the environment."""
    ENVIRONMENT.python()


def command(kind: Kind, options: Mapping[str, Any]) -> list[str]:
    """Return what fine-tunes by one of its trainers; `trainer_child.py` says what it is told."""
    script = str(CHILDREN / "trainer_child.py")
    return [str(ENVIRONMENT.python()), script, kind, json.dumps(dict(options))]
