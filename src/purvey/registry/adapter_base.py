"""Which registered model an adapter's folder belongs to."""

import msgspec
from sqlalchemy import Connection

from purvey.contracts.model import ModelManifest
from purvey.contracts.records import ModelRecord
from purvey.errors import InvalidCheckpointError, InvalidValueError, ModelNotFoundError
from purvey.registry.folder_check import CheckedFolder
from purvey.store import models

_GENERATES = ("decoder", "text-generation")


def find_base(
    conn: Connection, project_id: str, checked: CheckedFolder, asked: str | None
) -> ModelRecord | None:
    """Return the base of a folder; None where it is no adapter's.

    It is the model that was asked for; else the one whose digest the folder's manifest names;
    else the one that has the name in `base_model_name_or_path`.

    Raises:
        ModelNotFoundError: The model that was asked for is none, or another project's.
        InvalidValueError: A base for what is no adapter, none for what is one, or one that
            takes no adapters.
        InvalidCheckpointError: The manifest names another base.
    """
    if checked.adapter is None:
        if asked is not None:
            raise InvalidValueError("the folder holds no adapter and has no base.", param="base")
        return None
    base = _named(conn, project_id, checked, asked)
    manifest = msgspec.convert(base.manifest, ModelManifest)
    if (base.family, base.task) != _GENERATES or manifest.base is not None:
        is_adapter = manifest.base is not None
        what = "itself an adapter" if is_adapter else f"of family {base.family}, for {base.task}"
        raise InvalidValueError(
            f"the model {base.name!r} takes no adapters: it is {what}.",
            param="base",
            hint="Name a language model that our own decoder computes.",
        )
    if checked.manifest.base not in (None, base.digest):
        raise InvalidCheckpointError(
            f"the adapter was made for another base than {base.name!r}.",
            param="base",
            hint=f"Its manifest names the base with the digest {checked.manifest.base}.",
        )
    return base


def _named(
    conn: Connection, project_id: str, checked: CheckedFolder, asked: str | None
) -> ModelRecord:
    if asked is not None:
        try:
            return models.get(conn, project_id, asked)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(error.message, param="base") from None
    needed = checked.manifest.base
    found = models.with_digest(conn, project_id, needed) if needed is not None else None
    called = checked.adapter.base if checked.adapter is not None else ""
    if found is None:
        try:
            return models.get(conn, project_id, called)
        except ModelNotFoundError:
            raise InvalidValueError(
                f"the folder holds an adapter of {called[:200]!r}, which is no registered model.",
                param="base",
                hint="Register its base first, and name it as `base`.",
            ) from None
    return found
