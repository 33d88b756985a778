"""Upstreams as the settings name them, with the keys that their files hold."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from purvey.errors import SettingError
from purvey.network.upstream import UpstreamConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from purvey.settings import UpstreamSettings

_MAX_CHARS = 8_192
PARAM = "upstreams"


def configs_of(upstreams: "Sequence[UpstreamSettings]") -> list[UpstreamConfig]:
    """Read every key; no message holds one.

    Raises:
        SettingError: A file cannot be read or holds no key, or a name is there twice.
    """
    ((name, count),) = Counter(one.name for one in upstreams).most_common(1) or [("", 0)]
    if count > 1:
        raise SettingError(f"there are {count} upstreams {name!r}.", param=PARAM)
    return [
        UpstreamConfig(
            name=one.name,
            url=one.url,
            key=None
            if one.key_file is None
            else read_key(one.key_file, whose=f"the upstream {one.name!r}", param=PARAM),
            silence_s=one.silence_s,
            max_connections=one.max_connections,
        )
        for one in upstreams
    ]


def read_key(path: Path, *, whose: str, param: str) -> str:
    """Return what a key file holds.

    Args:
        path: The file.
        whose: What messages call its owner.
        param: The setting, for errors.

    Raises:
        SettingError: It cannot be read, or holds no key.
    """
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        raise SettingError(
            f"the key_file of {whose} cannot be read as text.", param=param
        ) from None
    if not key or len(key) > _MAX_CHARS or not key.isprintable() or " " in key:
        raise SettingError(
            f"the key_file of {whose} holds no key: one line without blanks.", param=param
        )
    return key
