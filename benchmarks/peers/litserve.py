"""LitServe: a scripted stream of tokens, what bar 8 compares our server with."""

from benchmarks.peers.cache import CHILDREN, Environment, child_environment
from benchmarks.peers.server import HttpPeer, free_port

ENVIRONMENT = Environment(name="litserve", requirements=("litserve==0.2.19",))


def setup() -> None:
    """Make the environment."""
    ENVIRONMENT.python()


def server(*, tokens: int, interval_s: float) -> HttpPeer:
    """Start an OpenAI-shaped server; each chat is answered by so many words, one an interval."""
    port = free_port()
    script = str(CHILDREN / "litserve_server.py")
    command = [str(ENVIRONMENT.python()), script, str(port), str(tokens), str(interval_s)]
    return HttpPeer(
        "litserve",
        command,
        child_environment(1),
        base_url=f"http://127.0.0.1:{port}",
        health="/health",
        model="lit",
    )
