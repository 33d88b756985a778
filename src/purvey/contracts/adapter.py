"""Adapters of a loaded language model: loaded and dropped while it serves."""

import msgspec


class LoadAdapter(msgspec.Struct, frozen=True, kw_only=True, tag="load_adapter"):
    """Make an adapter ready beside its base. Answered by `AdapterLoaded`.

    Refused with `invalid_checkpoint` when the folder is no adapter of this base, with
    `server_is_overloaded` when adapters would take more than `LoadModel.adapter_bytes`, and with
    `method_unsupported` by an engine that computes without adapters. One that is loaded already
    is answered at once, and nothing changes.

    Args:
        request_id: Unique among the requests of the engine.
        adapter: The digest of the adapter's folder: what requests name it by.
        folder: Where it lies, in PEFT's format.
    """

    request_id: str
    adapter: str
    folder: str


class AdapterLoaded(msgspec.Struct, frozen=True, kw_only=True, tag="adapter_loaded"):
    """Requests may name the adapter from now on.

    Args:
        request_id: Of `LoadAdapter`.
        adapter: Its digest.
        rank: Widest update among its layers.
        num_bytes: Memory that it takes of `LoadModel.adapter_bytes`.
        has_chat_template: Whether its folder brings a chat template of its own.
    """

    request_id: str
    adapter: str
    rank: int
    num_bytes: int
    has_chat_template: bool


class DropAdapter(msgspec.Struct, frozen=True, kw_only=True, tag="drop_adapter"):
    """Forget an adapter. Answered by `AdapterDropped` when nothing computes with it any more.

    Requests that were accepted before go on to their end; new ones that name it are refused.
    One that is not loaded is answered at once.
    """

    request_id: str
    adapter: str


class AdapterDropped(msgspec.Struct, frozen=True, kw_only=True, tag="adapter_dropped"):
    """The adapter's memory is free."""

    request_id: str
    adapter: str
