"""How a model is served: deployments, their profiles, and what an engine is made with."""

from typing import Literal

import msgspec

Precision = Literal["auto", "fp32", "bf16", "int8", "int4"]
"""What weights are computed in; `auto` leaves it to the engine."""
Device = Literal["auto", "cpu", "cuda"]
"""Where language models are computed; `auto` takes a CUDA device where there is one."""
PROFILE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What a profile may be called: no colon, since what follows a name's last one is a profile."""
DEFAULT_PROFILE = "default"
"""The profile that answers to the deployment's name alone."""


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What makes one engine of a model another than the next.

    Args:
        precision: What the weights are computed in.
        batch_window_s: How long a one-pass model waits for more inputs, in seconds.
    """

    precision: Precision = "auto"
    batch_window_s: float = 0.002


class GenerationDefaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a generation gets where its request is silent; None leaves it to the server."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One named way to serve a model; None leaves it to the server's settings.

    Args:
        precision: What the weights are computed in.
        batch_window_ms: How long a one-pass model waits for more inputs, in milliseconds.
        adapter: Name of an adapter of the deployment's model, which is served in its place.
        generation: Defaults of generations.
        keep_alive_s: Idle seconds before the engine leaves memory; 0 at once, negative never.
        is_pinned: Whether the engine is loaded at the start and never evicted.
    """

    precision: Precision | None = None
    batch_window_ms: float | None = None
    adapter: str | None = None
    generation: GenerationDefaults = GenerationDefaults()
    keep_alive_s: float | None = None
    is_pinned: bool = False


class DeploymentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A name that requests use, the model behind it, and its profiles by name."""

    name: str
    project_id: str
    model: str
    profiles: dict[str, Profile]
    created_at: float
    updated_at: float
