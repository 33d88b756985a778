"""Models, keys, usage and the state of the server."""

import builtins
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from purvey.client.exporting import exported
from purvey.client.paging import items
from purvey.client.perplexity import Perplexity, measure
from purvey.client.transport import Json, Transport
from purvey.client.values import (
    Key,
    Model,
    ModelFile,
    Page,
    Pull,
    Pulls,
    ServerState,
    Unloaded,
    UsageTotal,
)


class Models:
    """Registered models."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Model]:
        """Yield every model."""
        return items(self._transport, "/v1/models", Page[Model])

    def get(self, name: str) -> Model:
        """Return a model."""
        return self._transport.get(f"/v1/models/{quote(name, safe='')}", Model)

    def register(self, name: str, folder: str, *, base: str | None = None) -> Model:
        """Register a folder that lies under one of the server's model roots (administrator).

        Of an adapter in PEFT's format, `base` names the registered model that it belongs to, where
        the folder does not name one.
        """
        body: Json = {"id": name, "source": folder} | ({} if base is None else {"base": base})
        return self._transport.create("/v1/models", Model, body=body)

    def pull(self, name: str, source: str, revision: str, *, base: str | None = None) -> Model:
        """Have the server fetch a model from the hub and register it (administrator).

        Waits until it is there; `pulls` says how far it is. `base` as for `register`.
        """
        body: Json = {"id": name, "source": source, "revision": revision}
        body |= {} if base is None else {"base": base}
        return self._transport.create("/v1/models", Model, body=body)

    def pulls(self) -> Sequence[Pull]:
        """Return the models and datasets that are being fetched (administrator)."""
        return self._transport.get("/v1/pulls", Pulls).data

    def perplexity(self, name: str, text: str) -> Perplexity:
        """Return how well a language model, loaded if need be, foresees a text."""
        return measure(self._transport, name, text)

    def export(self, name: str, folder: Path) -> builtins.list[ModelFile]:
        """Write the files of a model that the server made into a new folder, and check them.

        Of a LoRA fine-tune that is an adapter in PEFT's format.

        Raises:
            InvalidFileError: The folder is there already.
            IntegrityError: A file arrived otherwise than the server had it; nothing is left.
        """
        return exported(self._transport, name, folder)

    def unload(self, name: str) -> Unloaded:
        """Let a model leave memory, as soon as what it runs has ended."""
        return self._transport.post(f"/v1/models/{quote(name, safe='')}/unload", Unloaded)

    def delete(self, name: str) -> None:
        """Delete a model."""
        self._transport.delete(f"/v1/models/{quote(name, safe='')}")


class Keys:
    """API keys (administrator)."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, name: str, *, scopes: Sequence[str] | None = None, project: str | None = None
    ) -> Key:
        """Create a key; its secret is in `key`, this once."""
        body: Json = {"name": name}
        if scopes:
            body["scopes"] = list(scopes)
        if project is not None:
            body["project"] = project
        return self._transport.create("/v1/keys", Key, body=body)

    def list(self) -> Iterator[Key]:
        """Yield every key, without secrets."""
        return items(self._transport, "/v1/keys", Page[Key])

    def revoke(self, key_id: str) -> None:
        """Revoke a key at once."""
        self._transport.delete(f"/v1/keys/{quote(key_id, safe='')}")


class Server:
    """The server itself."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def usage(
        self, *, by: str = "model", since: float | None = None, until: float | None = None
    ) -> list[UsageTotal]:
        """Return what was used, by model, kind or day."""
        query = {"by": by, "since": since, "until": until}
        return self._transport.get("/v1/usage", Page[UsageTotal], query=query).data

    def state(self) -> ServerState:
        """Return version, loaded models and running jobs."""
        return self._transport.get("/v1/server", ServerState)

    def is_ready(self) -> bool:
        """Tell whether the server takes new work.

        Raises:
            CapacityError: No server answers, or it drains.
        """
        self._transport.fetch("/readyz")
        return True
