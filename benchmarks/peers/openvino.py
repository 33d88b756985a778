"""OpenVINO GenAI; the model is converted by optimum-intel, weights compressed by nncf."""

from pathlib import Path

from benchmarks.peers.cache import CHILDREN, Environment, child_environment, once, run
from benchmarks.peers.child import JsonChild
from benchmarks.peers.model import model_folder

ENVIRONMENT = Environment(
    name="openvino",
    requirements=(
        "openvino==2026.4.1",
        "openvino-genai==2026.4.1.0",
        "openvino-tokenizers==2026.4.1.0",
        "optimum-intel==2.2.0",
        "nncf==3.4.0",
        "transformers==5.5.4",
        "torch==2.13.0",
    ),
    without=("torchvision",),  # a build for another torch, and nothing here needs it
)


def setup() -> None:
    """Make the environment and convert the model."""
    weights("int8")


def weights(kind: str) -> Path:
    """Return the model as OpenVINO's IR, its weights in `kind`: fp16, int8 or int4."""
    folder = ENVIRONMENT.folder / "models" / kind
    if once(folder):
        unfinished = folder.with_suffix(".unfinished")
        tool = str(ENVIRONMENT.python().parent / "optimum-cli")
        what = ("--task", "text-generation-with-past", "--weight-format", kind)
        command = [tool, "export", "openvino", "--model", str(model_folder()), *what]
        run([*command, str(unfinished)], env=child_environment(2))
        unfinished.rename(folder)
    return folder


def engine(kind: str, *, threads: int) -> JsonChild:
    """Start a pipeline on the model in `kind`; it answers `prompts` and `max_tokens`."""
    command = [
        str(ENVIRONMENT.python()),
        str(CHILDREN / "openvino_child.py"),
        str(weights(kind)),
        str(threads),
    ]
    return JsonChild(f"openvino-{kind}", command, child_environment(threads))
