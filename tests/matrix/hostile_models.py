"""Files that call a program when they are unpickled, under every name and in every wrapping."""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from purvey.testing.model_folder import safetensors_bytes


class Calling:
    """Makes a file as soon as it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        import posix

        return posix.mkdir, (str(self._canary),)


def pickled(canary: Path, protocol: int = 4) -> bytes:
    """Return the bare pickle."""
    return pickle.dumps({"weight": Calling(canary)}, protocol=protocol)


def family(canary: Path) -> dict[str, bytes]:
    """Return the files, by the name that each is known under."""
    plain = pickled(canary)
    return {
        "weights.pkl": plain,
        "weights.pickle": pickled(canary, 0),
        "weights.joblib": pickled(canary, 3),
        "weights.dill": pickled(canary, 5),
        "pytorch_model.bin": _torch(canary, is_zip=True),
        "weights.pt": _torch(canary, is_zip=True),
        "weights.pth": _torch(canary, is_zip=False),
        "weights.ckpt": _torch(canary, is_zip=False),
        "weights.npy": _array(canary),
        "weights.npz": zipped({"weight.npy": _array(canary)}),
        "weights.keras": zipped({"config.json": _lambda_layer(), "model.weights.h5": plain}),
        "weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(88) + plain,
        "weights.nemo": tarred({"model_config.yaml": b"target: os.system", "w.ckpt": plain}),
        "weights.mar": zipped({"MAR-INF/MANIFEST.json": b"{}", "handler.py": b"import os"}),
        "weights.onnx": b"\x08\x09\x3a\x20\x6a\x1elocation\x12\x11../../etc/passwd",
        "weights.onnx_data": plain,
    }  # fmt: skip


def polyglots(canary: Path) -> dict[str, bytes]:
    """Return safetensors files that are something else too, by what they are."""
    inner = _torch(canary, is_zip=True)
    tensor = {"dtype": "U8", "shape": [len(inner)], "data_offsets": [0, len(inner)]}
    whole = safetensors_bytes({"weight": tensor}, num_bytes=0) + inner
    return {
        "a zip behind the tensors": safetensors_bytes({}, num_bytes=0) + inner,
        "a zip before the header": inner + safetensors_bytes({}, num_bytes=0),
        "a tar of a pickle": tarred({"data.pkl": pickled(canary)}),
        "a pickle": pickled(canary),
        "a pickle of protocol 0": pickled(canary, 0),
        "a zip that is a tensor": whole,
    }


def zipped(files: dict[str, bytes]) -> bytes:
    """Return a zip of files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    """Return a tar of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _torch(canary: Path, *, is_zip: bool) -> bytes:
    out = io.BytesIO()
    torch.save({"w": Calling(canary)}, out, _use_new_zipfile_serialization=is_zip)
    return out.getvalue()


def _array(canary: Path) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Calling(canary)], dtype=object), allow_pickle=True)
    return out.getvalue()


def _lambda_layer() -> bytes:
    layer = {"class_name": "Lambda", "config": {"function": {"class_name": "__lambda__"}}}
    return json.dumps({"class_name": "Sequential", "config": {"layers": [layer]}}).encode()
