"""The adapters of a served language model: loaded, taken by requests, dropped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from purvey.contracts.adapter import AdapterDropped, AdapterLoaded, DropAdapter, LoadAdapter
from purvey.engine.adapters.bank import AdapterBank
from purvey.engine.adapters.roster import Adapter, Roster
from purvey.engine.door import Door
from purvey.engine.output.voice import Voice
from purvey.errors import InvalidCheckpointError, MethodUnsupportedError
from purvey.models.chat import ChatTemplate
from purvey.models.config import DecoderConfig
from purvey.models.folder.manifest import read_manifest
from purvey.models.lora import ADAPTER_CONFIG_NAME, read_adapter
from purvey.models.tokenizer import Tokenizer
from purvey.models.weights import refuse_unsafe_files


class ServedAdapters:
    """Adapters beside one base.

    `load` and `drop` are called by one thread, the rest by any.

    Invariant: `_voices` has the voice of every adapter that is loaded or leaving.

    Args:
        bank: Where their numbers are.
        config: The base's.
        base_digest: What adapters that were trained here say of their base.
        tokenizer: The base's.
    """

    def __init__(
        self,
        bank: AdapterBank,
        config: DecoderConfig,
        *,
        base_digest: str,
        tokenizer: Tokenizer,
    ) -> None:
        self._bank, self._config = bank, config
        self._base_digest, self._tokenizer = base_digest, tokenizer
        self._voices: dict[Adapter, Voice] = {}
        self._has_template: dict[Adapter, bool] = {}
        self.roster = Roster(self._free)

    def load(self, request: LoadAdapter, door: Door) -> AdapterLoaded:
        """Read an adapter and let requests name it; one that is loaded stays as it is.

        Raises:
            InvalidCheckpointError: The folder is no adapter of this base.
            CapacityError: It does not fit beside the others.
        """
        adapter = self.roster.find(request.adapter) or self._load(request, door)
        return AdapterLoaded(
            request_id=request.request_id,
            adapter=adapter.digest,
            rank=adapter.rank,
            num_bytes=adapter.num_bytes,
            has_chat_template=self._has_template[adapter],
        )

    def drop(self, request: DropAdapter, send: Callable[[AdapterDropped], None]) -> None:
        """Let no new request name an adapter, and say so when nothing computes with it."""
        dropped = AdapterDropped(request_id=request.request_id, adapter=request.adapter)
        self.roster.drop(request.adapter, lambda: send(dropped))

    @contextmanager
    def taken(self, digest: str) -> Iterator[Voice]:
        """Hold an adapter while a request is accepted, or answered.

        Raises:
            AdapterNotLoadedError: It is not loaded, or was dropped.
        """
        adapter = self.roster.take(digest)
        try:
            yield self._voices[adapter]
        finally:
            self.roster.release(adapter)

    def _load(self, request: LoadAdapter, door: Door) -> Adapter:
        folder = Path(request.folder)
        refuse_unsafe_files(folder)
        self._check_base(folder)
        weights = read_adapter(folder, self._config)
        template = ChatTemplate.from_folder(folder, self._tokenizer)
        voice = door.voice_of(template)
        adapter = self._bank.load(request.adapter, weights)
        self._voices[adapter] = replace(voice, adapter=adapter)
        self._has_template[adapter] = template is not None
        self.roster.put(adapter)
        return adapter

    def _check_base(self, folder: Path) -> None:
        if not (folder / ADAPTER_CONFIG_NAME).is_file():
            message = f"the folder has no {ADAPTER_CONFIG_NAME}; it is no adapter."
            raise InvalidCheckpointError(message, param="model")
        base = read_manifest(folder).base
        if base is not None and base != self._base_digest:
            message = f"the adapter was trained on another base ({base[:12]}), not on this one."
            raise InvalidCheckpointError(
                message, param="model", hint="Load it beside the base that it was trained on."
            )

    def _free(self, adapter: Adapter) -> None:
        self._bank.free(adapter)
        del self._voices[adapter], self._has_template[adapter]


def no_adapters(path: str) -> MethodUnsupportedError:
    """Return why a model that is computed in some other way takes no adapters."""
    return MethodUnsupportedError(
        f"this model is computed {path}, where adapters are not computed.",
        param="model",
        hint="Serve the base on the processor (device = cpu) with an architecture that is "
        "computed here, or merge the adapter into its base.",
    )
