"""What the server shows a store, from the file that AWS's own tools keep it in.

The file is read for each pull, so that a session that was renewed needs no restart.
"""

import configparser
import re
from pathlib import Path

from purvey.errors import InvalidValueError
from purvey.registry.s3.signing import Credentials

_MAX_BYTES = 2**16
_PLAIN = re.compile(r"[!-~]{1,8192}")
_NAMES = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def read_credentials(path: Path, profile: str) -> Credentials:
    """Read one profile; no message repeats what is in the file.

    Raises:
        InvalidValueError: The file cannot be read, or its profile has no key and secret.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES).decode("utf-8")
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(text)
        section = parser[profile]
        key_id, secret = (_plain(section[name]) for name in _NAMES[:2])
        token = _plain(section[_NAMES[2]]) if _NAMES[2] in section else None
    except (OSError, ValueError, LookupError, configparser.Error):
        raise InvalidValueError(
            f"this server cannot read the credentials of its profile {profile!r} for the store.",
            param="source",
            hint="The operator's setting 's3.credentials_file' names a file in the form of "
            f"~/.aws/credentials: [{profile}] with {_NAMES[0]} and {_NAMES[1]}.",
        ) from None
    return Credentials(key_id=key_id, secret=secret, token=token)


def _plain(value: str) -> str:
    if not _PLAIN.fullmatch(value):
        raise ValueError("not one word")
    return value
