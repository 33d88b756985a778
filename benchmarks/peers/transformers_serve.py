"""`transformers serve` with continuous batching."""

from benchmarks.peers.cache import Environment, child_environment
from benchmarks.peers.model import model_folder
from benchmarks.peers.server import HttpPeer, free_port

ENVIRONMENT = Environment(
    name="transformers_serve",
    requirements=("transformers[serving]==5.23.0", "torch==2.13.0", "accelerate==1.15.0"),
)


def setup() -> None:
    """Make the environment."""
    ENVIRONMENT.python()


def server(dtype: str, *, threads: int, is_batched: bool) -> HttpPeer:
    """Start `transformers serve` in `dtype`, with continuous batching or one by one."""
    port = free_port()
    folder = str(model_folder())
    command = [
        *(str(ENVIRONMENT.python().parent / "transformers"), "serve", folder),
        *("--port", str(port), "--host", "127.0.0.1", "--dtype", dtype, "--device", "cpu"),
        *(("--continuous-batching",) if is_batched else ()),
    ]
    return HttpPeer(
        f"transformers-serve-{dtype}",
        command,
        child_environment(threads),
        base_url=f"http://127.0.0.1:{port}",
        health="/health",
        model=folder,
        ready_s=300,
    )
