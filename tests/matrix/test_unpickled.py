"""FIL-13, FIL-17: what would run code when it is loaded, brought in through every door.

The server and all its workers take notes of every name that a pickle asks for; each file would
make a folder, the canary, if anything did as it says.
"""

import io
import json
import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from safetensors.torch import save

from purvey.testing.model_folder import write_plausible_folder
from tests.matrix import audited
from tests.matrix.hostile_models import family, pickled, polyglots
from tests.matrix.hostile_tables import nested_types, one_long_list, pickled_type
from tests.matrix.hostile_zips import UNSAFE, nested
from tests.matrix.invariants import check_store
from tests.matrix.kills import World
from tests.matrix.served import Served, serving
from tests.matrix.waiting import wait_until

SETTINGS = {"MAX_RUNNING_JOBS": "2", "LOG_LEVEL": "warning"}


@dataclass(kw_only=True)
class Audited:
    """A server under audit, with a base model that it goes on serving."""

    served: Served
    http: httpx2.Client
    root: Path
    canary: Path
    base: str
    notes: Path
    folders: list[Path] = field(default_factory=list)

    def folder(self) -> Path:
        """Make a model folder that would be accepted."""
        made = write_plausible_folder(self.root / "models" / f"m{len(self.folders)}")
        self.folders.append(made)
        return made

    def register(self, folder: Path) -> httpx2.Response:
        """Ask for a folder to be registered."""
        return self.http.post("/v1/models", json={"id": folder.name, "source": str(folder)})

    def refuses(self, folder: Path) -> str:
        """Assert that a folder is refused, and return why."""
        answer = self.register(folder)
        assert answer.status_code == 400, (answer.text, sorted(folder.iterdir()))
        assert answer.json()["error"]["code"] == "invalid_checkpoint"
        return str(answer.json()["error"]["message"])

    def upload(self, name: str, data: bytes) -> str:
        """Store a file."""
        answer = self.http.post(
            "/v1/files", files={"file": (name, data)}, data={"purpose": "user_data"}
        )
        return str(answer.raise_for_status().json()["id"])

    def ends(self, files: dict[str, bytes]) -> dict[str, str]:
        """Build a dataset of each file; return the code of each one's error, or its status."""
        made = {}
        for name, data in files.items():
            asked = {"file_ids": [self.upload(name, data)]}
            made[name] = self.http.post("/v1/datasets", json=asked).raise_for_status().json()["id"]
        for dataset in made.values():
            url = f"/v1/datasets/{dataset}"
            wait_until(lambda: self.http.get(url).json()["status"] != "processing")  # noqa: B023 (waited for here)
        shown = {n: self.http.get(f"/v1/datasets/{i}").json() for n, i in made.items()}
        return {
            name: (one["error"] or {"code": one["status"]})["code"] for name, one in shown.items()
        }

    def check_base(self) -> None:
        """Assert that the base answers."""
        body = {"model": self.base, "prompt": "the day", "max_tokens": 2}
        assert self.http.post("/v1/completions", json=body).status_code == 200


@pytest.fixture(scope="module")
def under_audit(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    """One server; at the end nothing has been unpickled, and nothing lies where it should not."""
    root = tmp_path_factory.mktemp("audited")
    world.copy_to(root)
    notes = root / "notes"
    command = (sys.executable, "-P", str(audited.__file__), str(notes), "serve")
    with serving(root, settings=SETTINGS, command=command) as served:
        with served.witness.client(timeout=120) as http:
            outside = {path.name for path in root.iterdir()}
            audit = Audited(
                served=served,
                http=http,
                root=root,
                canary=root / "canary",
                base=world.models["language"],
                notes=notes,
            )
            audit.check_base()
            yield audit
            audit.check_base()
        assert served.stop() == 0
    lines = notes.read_text("utf-8").splitlines()
    assert {line for line in lines if not line.endswith(" began")} == set()
    assert {"serve began", "engine began"} <= set(lines)
    assert {path.name for path in root.iterdir()} - outside == {"notes"} - outside
    assert not audit.canary.exists()
    check_store(root / "data")


@pytest.mark.row("FIL-13")
def test_the_notes_tell_of_a_pickle(tmp_path: Path) -> None:
    canary, notes = tmp_path / "canary", tmp_path / "notes"
    (tmp_path / "weights.pkl").write_bytes(pickled(canary))
    program = (
        "import pickle, sys; from tests.matrix.audited import take_notes;"
        "take_notes(sys.argv[1], 'probe'); pickle.load(open(sys.argv[2], 'rb'))"
    )
    subprocess.run(
        [sys.executable, "-c", program, notes, tmp_path / "weights.pkl"],
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert canary.is_dir()
    assert notes.read_text("utf-8").splitlines() == ["probe began", "probe posix.mkdir"]


@pytest.mark.row("FIL-13")
def test_a_folder_that_holds_one_is_refused(under_audit: Audited) -> None:
    for name, data in family(under_audit.canary).items():
        beside, inner, alone = (under_audit.folder() for _ in range(3))
        (beside / name).write_bytes(data)
        assert name in under_audit.refuses(beside)
        (inner / "original").mkdir()
        (inner / "original" / name.upper()).write_bytes(data)
        assert name.upper() in under_audit.refuses(inner)
        (alone / "model.safetensors").rename(alone / name)
        (alone / name).write_bytes(data)
        under_audit.refuses(alone)


@pytest.mark.row("FIL-13")
def test_another_name_helps_none_of_them(under_audit: Audited) -> None:
    for name, data in family(under_audit.canary).items():
        renamed = under_audit.folder()
        (renamed / "model.safetensors").write_bytes(data)
        assert "model.safetensors" in under_audit.refuses(renamed)
        if not name.endswith((".pickle", ".onnx")):  # these begin as any text or message may
            harmless = under_audit.folder()
            (harmless / "vocabulary.model").write_bytes(data)
            assert "vocabulary.model" in under_audit.refuses(harmless), name


@pytest.mark.row("FIL-13")
def test_a_polyglot_is_safetensors_or_nothing(under_audit: Audited) -> None:
    for what, data in polyglots(under_audit.canary).items():
        folder = under_audit.folder()
        (folder / "model.safetensors").write_bytes(data)
        if what != "a zip that is a tensor":
            under_audit.refuses(folder)
            continue
        assert under_audit.register(folder).status_code == 200
        body = {"model": folder.name, "prompt": "a"}
        answer = under_audit.http.post("/v1/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_checkpoint")


@pytest.mark.row("FIL-13", "FIL-21")
def test_an_upload_is_bytes_and_stays_so(under_audit: Audited) -> None:
    for name, data in family(under_audit.canary).items():
        file_id = under_audit.upload(name, data)
        answer = under_audit.http.get(f"/v1/files/{file_id}/content")
        assert answer.content == data
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment;")


def _hostile_files(canary: Path) -> dict[str, tuple[bytes, str]]:
    models = family(canary)
    return {
        "pickle.parquet": (models["weights.pkl"], "invalid_file"),
        "torch.zip": (models["weights.pt"], "invalid_file"),
        "link.zip": (UNSAFE["a link, then a file through it"][0], "unsafe_archive"),
        "type.parquet": (pickled_type(canary), "invalid_file"),
    }


def _all_hostile_files(canary: Path) -> dict[str, tuple[bytes, str]]:
    return {
        **_hostile_files(canary),
        **{
            # These two are text to whoever reads them as text, and nothing else reads them.
            f"{name}{end}": (
                data,
                "ready" if name.endswith((".pickle", ".onnx")) else "invalid_file",
            )
            for name, data in family(canary).items()
            for end in ("", ".csv")
        },
        **{f"{i}.zip": (data, "unsafe_archive") for i, (data, _) in enumerate(UNSAFE.values())},
        "42.zip": (nested(), "invalid_file"),
        "deep.parquet": (nested_types(10**6), "invalid_file"),
        "long.parquet": (one_long_list(200_000_000), "invalid_file"),
    }


@pytest.mark.row("FIL-05", "FIL-11", "FIL-13")
@pytest.mark.parametrize(
    "hostile",
    [_hostile_files, pytest.param(_all_hostile_files, marks=pytest.mark.faults)],
    ids=["some", "all"],
)
def test_no_dataset_is_made_of_them_that_is_more_than_text(
    under_audit: Audited, hostile: Callable[[Path], dict[str, tuple[bytes, str]]]
) -> None:
    files = hostile(under_audit.canary)
    found = under_audit.ends({name: data for name, (data, _) in files.items()})
    assert found == {name: code for name, (_, code) in files.items()}
    assert under_audit.notes.read_text("utf-8").splitlines().count("job began") >= len(files)


def _adapter(**changes: Any) -> dict[str, bytes]:
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
    }
    prefix = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    weights = {f"{prefix}A.weight": torch.ones(2, 16), f"{prefix}B.weight": torch.ones(16, 2)}
    return {
        "adapter_config.json": json.dumps(config | changes).encode(),
        "adapter_model.safetensors": save(weights),
    }


def _spoilt(value: float, rows: int = 16) -> dict[str, bytes]:
    prefix = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    a, b = torch.full((2, 16), value), torch.ones(rows, 2)
    weights = save({f"{prefix}A.weight": a, f"{prefix}B.weight": b})
    return _adapter() | {"adapter_model.safetensors": weights}


def _pickled_adapter() -> dict[str, bytes]:
    out = io.BytesIO()
    pickle.dump({"a": 1}, out)
    return {**_adapter(), "adapter_model.bin": out.getvalue()}


TAKEN = {
    "whole": _adapter(),
    "of another base, but registered on this one": _adapter(base_model_name_or_path="other/base"),
    "for modules by a pattern": _adapter(target_modules="(a+)+$"),
}
LATE = {
    "with weights that are no numbers": _spoilt(math.nan),
    "with weights without end": _spoilt(math.inf),
}  # fmt: skip
"""Registered, since numbers are not read for that, and refused when they are loaded."""
REFUSED = {
    "of rank 10^6": (_adapter(r=10**6), "no r from 1"),
    "of another shape": (_spoilt(1.0, rows=15), "q_proj.lora_B.weight"),
    "that names code": (_adapter(auto_map={"AutoModel": "evil.Model"}), "names code"),
    "without weights": (
        {"adapter_config.json": _adapter()["adapter_config.json"]}, "without adapter_model",
    ),
    "with pickled weights": (_pickled_adapter(), "could carry code"),
}  # fmt: skip


def _lone(under_audit: Audited, files: dict[str, bytes]) -> Path:
    folder = under_audit.folder()
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _adapted(under_audit: Audited, files: dict[str, bytes], **more: str) -> httpx2.Response:
    folder = _lone(under_audit, files)
    body = {"id": folder.name, "source": str(folder)} | more
    return under_audit.http.post("/v1/models", json=body)


@pytest.mark.row("FIL-17")
def test_an_adapter_is_taken_where_it_fits_and_the_base_answers_on(under_audit: Audited) -> None:
    base = under_audit.base
    answer = _adapted(under_audit, _adapter(base_model_name_or_path="other/base"))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "base")
    for what, (files, told) in REFUSED.items():
        answer = _adapted(under_audit, files, base=base)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "invalid_checkpoint"), what
        assert told in error["message"], what
    for what, files in (TAKEN | LATE).items():
        made = _adapted(under_audit, files, base=base)
        assert made.status_code == 200, (what, made.text)
        asked = {"model": made.json()["id"], "prompt": "the day", "max_tokens": 2}
        answer = under_audit.http.post("/v1/completions", json=asked)
        if what in TAKEN:
            assert answer.status_code == 200, (what, answer.text)
        else:
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "invalid_checkpoint"), what
        under_audit.check_base()
