"""PEFT: adapters of one base in a mixed batch, through `transformers.generate`."""

from pathlib import Path

from benchmarks.peers.cache import CHILDREN, Environment, child_environment, once, run
from benchmarks.peers.child import JsonChild
from benchmarks.peers.model import model_folder

RANK = 16
ENVIRONMENT = Environment(
    name="peft",
    requirements=(
        "peft==0.21.2",
        "transformers==5.23.0",
        "accelerate==1.15.0",
        "torch==2.13.0",
    ),
)


def setup() -> None:
    """Make the environment and the adapters."""
    adapters(8)


def adapters(count: int) -> list[Path]:
    """Return folders of adapters of rank 16 on every linear layer, as PEFT itself writes them."""
    folders = [ENVIRONMENT.folder / "adapters" / f"adapter-{i}" for i in range(count)]
    for number, folder in enumerate(folders):
        if once(folder):
            script = str(CHILDREN / "peft_write.py")
            arguments = [str(model_folder()), str(folder), str(RANK), str(number)]
            run([str(ENVIRONMENT.python()), script, *arguments], env=child_environment(1))
    return folders


def engine(dtype: str, *, threads: int, count: int) -> JsonChild:
    """Start the base with its adapters; it answers `prompts`, `max_tokens` and `adapters`.

    `adapters` has an adapter's number for each prompt, or -1 for the base alone.
    """
    script = str(CHILDREN / "peft_child.py")
    folders = [str(folder) for folder in adapters(count)]
    command = [str(ENVIRONMENT.python()), script, str(model_folder()), str(threads), dtype]
    return JsonChild(f"peft-{dtype}", [*command, *folders], child_environment(threads))
