"""What all engines of one server may take, as the settings say."""

from typing import TYPE_CHECKING

from purvey.app.data_folder import DataFolder
from purvey.ipc.confinement import memory_of_machine
from purvey.registry.engines.place import EngineLimits

if TYPE_CHECKING:
    from purvey.settings import Settings


def engine_limits_of(settings: "Settings", folder: DataFolder) -> EngineLimits:
    """Return the limits of the pool, and what each engine of it is started with."""
    return EngineLimits(
        num_threads=settings.engine_threads,
        kv_cache_bytes=settings.kv_cache_bytes,
        max_batch_tokens=settings.max_batch_tokens,
        prefix_cache=settings.prefix_cache,
        adapter_bytes=settings.adapter_bytes,
        kept_folder=str(folder.cache / "prepacked"),
        kept_bytes=settings.prepacked_bytes,
        device=settings.device,
        memory_bytes=settings.model_memory_bytes or memory_of_machine() * 3 // 4,
        max_loaded=settings.max_loaded_models,
        room_wait_s=settings.room_wait_s,
        failpoints=settings.failpoints,
    )
