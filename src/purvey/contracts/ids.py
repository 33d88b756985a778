"""Identifiers: 128 random bits behind a prefix that says what they name."""

import secrets
from typing import Literal, NewType

ProjectId = NewType("ProjectId", str)
KeyId = NewType("KeyId", str)
FileId = NewType("FileId", str)
DatasetId = NewType("DatasetId", str)
JobId = NewType("JobId", str)
ModelName = NewType("ModelName", str)
ExplanationId = NewType("ExplanationId", str)
RequestId = NewType("RequestId", str)
CheckpointId = NewType("CheckpointId", str)

Prefix = Literal[
    "proj_",
    "key_",
    "file-",
    "ds_",
    "dsv_",
    "ftjob-",
    "job_",
    "sweep_",
    "ftevent-",
    "ftckpt_",
    "expl_",
    "req_",
    "chatcmpl-",
    "cmpl-",
    "call_",
    "lease_",
    "rerank-",
    "score-",
    "fb_",
]

DEFAULT_PROJECT = ProjectId("proj_default")


def new_id(prefix: Prefix) -> str:
    """Return `prefix` followed by 32 hexadecimal digits from the system's CSPRNG."""
    return prefix + secrets.token_hex(16)
