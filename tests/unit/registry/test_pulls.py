"""Models from the hub: fetched from a double of it that behaves, and from one that does not."""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from purvey import failpoints
from purvey.contracts.limits import LIMITS
from purvey.contracts.model import ImageSpec
from purvey.errors import (
    CapacityError,
    InsufficientStorageError,
    InvalidCheckpointError,
    InvalidValueError,
    PurveyError,
    RequestTooLargeError,
    StorageUnavailableError,
    UpstreamNotAllowedError,
    UrlNotAllowedError,
)
from purvey.network.outbound import Outbound
from purvey.registry.fetching import TRIES
from purvey.registry.folder_check import check_folder
from purvey.registry.hub import pulls as module
from purvey.registry.hub.pulls import UNFINISHED, Pulls
from purvey.registry.hub.snapshot import is_hub_id, is_wanted
from purvey.testing.certificate import Certificate, make_certificate
from purvey.testing.https_double import HttpsDouble, answer_of
from purvey.testing.hub_double import COMMIT, HUB, SOURCE, STORAGE, HubDouble
from purvey.testing.model_folder import (
    LLAMA,
    TENSOR,
    safetensors_bytes,
    write_plausible_adapter,
)
from tests.unit.network.conftest import OPEN, Names

TOKEN = "hf_canary0123456789"
WEIGHTS = safetensors_bytes(
    {"embed.weight": TENSOR | {"shape": [300_000], "data_offsets": [0, 1_200_000]}},
    num_bytes=1_200_000,
)
FILES = {
    "config.json": json.dumps(LLAMA).encode(),
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"\x80\x04 a pickle",
    "modeling_stories.py": b"import os",
    "README.md": b"# Stories",
    "onnx/model.onnx": b"x",
}


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return make_certificate(HUB, STORAGE)


@pytest.fixture
def hub(certificate: Certificate) -> Iterator[HubDouble]:
    hub = HubDouble(dict(FILES))
    with HttpsDouble(certificate, hub) as double:
        hub.heads, hub.port = double.heads, double.port  # type: ignore[attr-defined]
        yield hub


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def pulls_of(
    hub: HubDouble,
    certificate: Certificate,
    root: Path | None,
    *,
    hosts: tuple[str, ...] = (HUB, STORAGE),
    token: str | None = None,
) -> Pulls:
    names = Names()
    for host in (HUB, STORAGE):
        names.put(host, str(OPEN), port=hub.port)  # type: ignore[attr-defined]
    outbound = Outbound(
        hosts,
        resolver=names,
        may_connect=lambda address: address == OPEN,
        tls=certificate.client_context(),
    )
    return Pulls(outbound, host=HUB, token=token, root=root)


@pytest.fixture
def pulls(hub: HubDouble, certificate: Certificate, root: Path) -> Pulls:
    return pulls_of(hub, certificate, root)


def part_of(root: Path, name: str = "model.safetensors") -> Path:
    return root / UNFINISHED / SOURCE.replace("/", "--") / COMMIT / f"{name}.part"


async def test_a_branch_becomes_a_folder_of_its_commit(
    pulls: Pulls, hub: HubDouble, root: Path
) -> None:
    folder = await pulls.folder(SOURCE, "main")
    assert folder == root / SOURCE / COMMIT
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {
        name: FILES[name] for name in ("config.json", "tokenizer.json", "model.safetensors")
    }
    assert check_folder(folder, model_roots=[root]).manifest.task == "text-generation"
    assert not part_of(root).parent.exists()
    num_asked = len(hub.heads)
    assert await pulls.folder(SOURCE, COMMIT) == folder
    assert len(hub.heads) == num_asked  # a commit cannot have changed
    assert await pulls.folder(SOURCE, "main") == folder
    assert len(hub.heads) == num_asked + 1
    assert pulls.running() == []


async def test_an_adapter_needs_no_config_and_no_tokenizer(
    pulls: Pulls, hub: HubDouble, root: Path, tmp_path: Path
) -> None:
    written = write_plausible_adapter(tmp_path / "written")
    hub.files = {file.name: file.read_bytes() for file in written.iterdir()}
    taken = set(hub.files)
    hub.files |= {"training_args.bin": b"\x80\x04 a pickle", "README.md": b"# Adapter"}
    folder = await pulls.folder(SOURCE, "main")
    assert {file.name for file in folder.iterdir()} == taken
    assert check_folder(folder, model_roots=[root]).adapter is not None


async def test_what_sees_comes_with_how_images_are_prepared_and_needs_no_tokenizer(
    pulls: Pulls, hub: HubDouble
) -> None:
    del hub.files["tokenizer.json"]
    prepared = json.dumps({"image_mean": [0.25] * 3, "image_std": [0.5] * 3}).encode()
    config = {"model_type": "vit", "architectures": ["ViTModel"], "image_size": 8}
    hub.files |= {
        "config.json": json.dumps(config).encode(),
        "preprocessor_config.json": prepared,
    }
    folder = await pulls.folder(SOURCE, "main")
    spec = check_folder(folder, model_roots=[folder]).manifest.inputs["input"]
    assert isinstance(spec, ImageSpec)
    assert spec.mean == (0.25, 0.25, 0.25)


async def test_what_was_cut_goes_on_where_it_was(pulls: Pulls, hub: HubDouble) -> None:
    hub.cuts = [len(FILES["config.json"]), len(FILES["tokenizer.json"]), 400_000, 0, 300_000]
    folder = await pulls.folder(SOURCE, "v1.0")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [line for head in hub.heads for line in head.split("\r\n") if "range" in line.lower()]
    assert "range: bytes=400000-" in ranges
    assert "range: bytes=700000-" in ranges


async def test_a_hub_that_always_breaks_off_is_given_up_and_resumed_later(
    pulls: Pulls, hub: HubDouble, root: Path
) -> None:
    small = [len(FILES["config.json"]), len(FILES["tokenizer.json"])]
    hub.cuts = [*small, 1_100_000, *[0] * TRIES]
    with pytest.raises(UpstreamNotAllowedError, match="broke off") as caught:
        await pulls.folder(SOURCE, "main")
    assert caught.value.param == "source"
    assert part_of(root).stat().st_size == 1_100_000
    assert not (root / SOURCE).exists()
    hub.cuts, num_asked = [], len(hub.heads)
    folder = await pulls.folder(SOURCE, "main")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert "range: bytes=1100000-" in hub.heads[-1]
    assert len(hub.heads) == num_asked + 3  # listing, redirect, the rest: small files were there


async def test_a_hub_that_ignores_ranges_begins_again(pulls: Pulls, hub: HubDouble) -> None:
    hub.cuts, hub.ignores_ranges = [10**6, 10**6, 500_000], True
    folder = await pulls.folder(SOURCE, "main")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


async def test_a_hub_that_sends_nothing_is_given_up(pulls: Pulls, hub: HubDouble) -> None:
    hub.refusals["/stored"] = b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n"
    with pytest.raises(UpstreamNotAllowedError, match="sends nothing of"):
        await pulls.folder(SOURCE, "main")
    assert sum("/stored/" in head for head in hub.heads) == TRIES


@pytest.mark.parametrize(
    ("name", "sent", "complaint"),
    [
        ("model.safetensors", WEIGHTS[:-1] + b"x", "'model.safetensors' has another SHA-256"),
        ("config.json", FILES["config.json"].replace(b"8", b"9"), "another git hash"),
        ("model.safetensors", WEIGHTS + b"x", "more of 'model.safetensors' than it has announced"),
    ],
)
async def test_other_bytes_than_announced_are_never_published(
    pulls: Pulls, hub: HubDouble, root: Path, name: str, sent: bytes, complaint: str
) -> None:
    hub.tampered[name] = sent
    with pytest.raises(UpstreamNotAllowedError, match=complaint):
        await pulls.folder(SOURCE, "main")
    assert not (root / SOURCE).exists()
    hub.tampered.clear()
    folder = await pulls.folder(SOURCE, "main")
    assert (folder / name).read_bytes() == FILES[name]


async def test_a_model_that_has_only_pickles_is_refused(pulls: Pulls, hub: HubDouble) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(InvalidCheckpointError, match=r"no safetensors, only 'pytorch_model.bin'"):
        await pulls.folder(SOURCE, "main")
    assert len(hub.heads) == 1


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
async def test_a_model_that_lacks_a_file_is_refused_before_its_weights_are_fetched(
    pulls: Pulls, hub: HubDouble, missing: str
) -> None:
    del hub.files[missing]
    with pytest.raises(InvalidCheckpointError, match=missing):
        await pulls.folder(SOURCE, "main")
    assert len(hub.heads) == 1


@pytest.mark.parametrize(
    ("hosts", "kind"),
    [((), UrlNotAllowedError), ((STORAGE,), UrlNotAllowedError), ((HUB,), UpstreamNotAllowedError)],
)
async def test_the_hub_and_its_storage_must_both_be_allowed(
    hub: HubDouble,
    certificate: Certificate,
    root: Path,
    hosts: tuple[str, ...],
    kind: type[PurveyError],
) -> None:
    pulls = pulls_of(hub, certificate, root, hosts=hosts)
    with pytest.raises(kind, match="fetch") as caught:
        await pulls.folder(SOURCE, "main")
    assert "outbound_hosts" in caught.value.text
    assert not (root / SOURCE).exists()


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (401, InvalidValueError, "gated or private"),
        (403, InvalidValueError, "PURVEY_HUB_TOKEN"),
        (404, InvalidValueError, "the hub has no 'acme/stories@main'"),
        (429, CapacityError, "wait 17 s"),
        (500, UpstreamNotAllowedError, "answers 500"),
    ],
)
@pytest.mark.parametrize("beginning", ["/api", f"/{SOURCE}/resolve", "/stored"])
async def test_a_refusal_of_the_hub_says_what_to_do(
    pulls: Pulls,
    hub: HubDouble,
    status: int,
    kind: type[PurveyError],
    told: str,
    beginning: str,
) -> None:
    hub.refusals[beginning] = answer_of(status, b"no", retry_after="17")
    with pytest.raises(kind) as caught:
        await pulls.folder(SOURCE, "main")
    expected = told if beginning == "/api" else told.replace(" 'acme/stories@main'", "")
    assert expected in caught.value.text
    assert caught.value.param == "source"


async def test_a_full_disk_is_found_out_before_anything_is_fetched(
    pulls: Pulls, hub: HubDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda _: 1_000_000)
    with pytest.raises(InsufficientStorageError, match="1000000 left"):
        await pulls.folder(SOURCE, "main")
    assert len(hub.heads) == 1


async def test_a_disk_that_fills_up_keeps_what_it_has(
    pulls: Pulls, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failpoints.arm("disk.fsync=enospc#3")
    with pytest.raises(InsufficientStorageError):
        await pulls.folder(SOURCE, "main")
    failpoints.arm("")
    assert part_of(root).stat().st_size == len(WEIGHTS)
    assert (await pulls.folder(SOURCE, "main") / "model.safetensors").read_bytes() == WEIGHTS


async def test_a_root_that_cannot_be_written_is_said(
    hub: HubDouble, certificate: Certificate, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    pulls = pulls_of(hub, certificate, tmp_path / "file")
    with pytest.raises(StorageUnavailableError):
        await pulls.folder(SOURCE, "main")


async def test_only_the_hub_sees_the_token_and_no_log_does(
    hub: HubDouble, certificate: Certificate, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pulls = pulls_of(hub, certificate, root, token=TOKEN)
    with caplog.at_level(logging.DEBUG):
        await pulls.folder(SOURCE, "main")
    shown = {
        host: [f"Bearer {TOKEN}" in head for head in hub.heads if f"host: {host}" in head.lower()]
        for host in (HUB, STORAGE)
    }
    assert shown[HUB]
    assert all(shown[HUB])
    assert shown[STORAGE] == [False]
    assert TOKEN not in caplog.text
    assert not any(TOKEN in str(vars(record)) for record in caplog.records)


async def test_too_many_bytes_are_refused_before_they_are_fetched(
    pulls: Pulls, hub: HubDouble
) -> None:
    hub.announced["model.safetensors"] = LIMITS.pulled_bytes
    with pytest.raises(RequestTooLargeError, match=str(LIMITS.pulled_bytes)):
        await pulls.folder(SOURCE, "main")
    del hub.announced["model.safetensors"]
    hub.announced["tokenizer.json"] = 2**30
    with pytest.raises(RequestTooLargeError, match="tokenizer"):
        await pulls.folder(SOURCE, "main")
    assert len(hub.heads) == 2


@pytest.mark.parametrize(
    "listing",
    [b"[]", b"{", b'{"sha": "main", "siblings": []}', b'{"sha": 1, "siblings": [{}]}', b"\xff"],
)
async def test_a_listing_that_is_none_is_refused(
    pulls: Pulls, hub: HubDouble, listing: bytes
) -> None:
    hub.refusals["/api"] = answer_of(200, listing)
    with pytest.raises(UpstreamNotAllowedError):
        await pulls.folder(SOURCE, "main")


async def test_another_commit_than_the_one_asked_for_is_refused(pulls: Pulls) -> None:
    with pytest.raises(UpstreamNotAllowedError, match="another commit"):
        await pulls.folder(SOURCE, "f" * 40)


@pytest.mark.parametrize("revision", ["", "../main", "a b", "-x", "x" * 201, "ä"])
async def test_a_revision_that_is_none_is_refused(
    pulls: Pulls, hub: HubDouble, revision: str
) -> None:
    with pytest.raises(InvalidValueError, match="revision"):
        await pulls.folder(SOURCE, revision)
    assert not hub.heads


async def test_without_a_model_root_nothing_is_pulled(
    hub: HubDouble, certificate: Certificate
) -> None:
    pulls = pulls_of(hub, certificate, None)
    with pytest.raises(InvalidValueError, match="no model root"):
        await pulls.folder(SOURCE, "main")


async def test_all_who_wait_share_one_pull_and_the_last_who_leaves_ends_it(
    pulls: Pulls, hub: HubDouble, root: Path
) -> None:
    first, second = (asyncio.create_task(pulls.folder(SOURCE, "main")) for _ in range(2))
    assert set(await asyncio.gather(first, second)) == {root / SOURCE / COMMIT}
    assert sum("/api/" in head for head in hub.heads) == 1
    leaving = [asyncio.create_task(pulls.folder(SOURCE, "dev")) for _ in range(2)]
    await asyncio.sleep(0)
    assert [(p.source, p.revision) for p in pulls.running()] == [(SOURCE, "dev")]
    for task in leaving:
        task.cancel()
    assert all(
        isinstance(e, asyncio.CancelledError)
        for e in await asyncio.gather(*leaving, return_exceptions=True)
    )
    assert pulls.running() == []


async def test_no_more_pulls_run_than_may(pulls: Pulls) -> None:
    tasks = [
        asyncio.create_task(pulls.folder(SOURCE, f"b{i}")) for i in range(LIMITS.running_pulls)
    ]
    await asyncio.sleep(0)
    with pytest.raises(CapacityError, match="are being pulled"):
        await pulls.folder(SOURCE, "one-more")
    assert len(set(await asyncio.gather(*tasks))) == 1


def test_what_is_a_hub_id_and_what_is_taken() -> None:
    assert all(map(is_hub_id, ("acme/stories", "a/b", "Qwen/Qwen2.5-0.5B")))
    bad = ("stories", "/srv/models", "a/b/c", "../a", "a/..", "./a", "a/b ", "a/", "/a", "a/.b")
    assert not any(map(is_hub_id, bad))
    taken = ("model-00001-of-00002.safetensors", "1_Pooling/config.json", "chat_template.jinja")
    assert all(map(is_wanted, taken))
    left = (
        *("pytorch_model.bin", "modeling_x.py", "../config.json", "a/model.safetensors"),
        *("model.safetensors.py", "consolidated.safetensors", "training_args.bin", 3, None),
    )
    assert not any(map(is_wanted, left))
