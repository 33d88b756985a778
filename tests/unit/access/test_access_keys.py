"""Keys: shown once, never stored, and refused all alike."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Connection

from purvey.access.keys import PREFIX, SCOPES, TOUCH_INTERVAL_S, KeyRing, Principal
from purvey.contracts.ids import DEFAULT_PROJECT
from purvey.contracts.records import Scope
from purvey.errors import InvalidKeyError, InvalidValueError, NotFoundError, SettingError
from purvey.store.database import Database
from purvey.store.tables import KEYS
from purvey.testing.clock import FakeClock

PEPPER = b"p" * 32
CHOSEN = "an-operators-own-key-0123456789abcdef"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ring(database: Database, clock: FakeClock) -> KeyRing:
    return KeyRing(database, pepper=PEPPER, clock=clock)


def stored(database: Database) -> str:
    return str(database.read_now(lambda c: c.execute(KEYS.select()).all()))


async def test_a_new_key_opens_its_project_with_its_scopes(ring: KeyRing) -> None:
    record, secret = await ring.create("proj_a", "laptop", ["inference", "files:read"])
    principal = await ring.authenticate(secret)
    assert principal == Principal(
        key_id=record.id,
        project_id="proj_a",
        scopes=frozenset({"inference", "files:read"}),
    )
    assert principal.allows("inference")
    assert not principal.allows("files:write")
    assert not principal.allows("admin")


def test_admin_implies_every_scope() -> None:
    admin = Principal(key_id="k", project_id="p", scopes=frozenset[Scope]({"admin"}))
    assert all(admin.allows(scope) for scope in SCOPES)


async def test_a_secret_has_256_random_bits_and_shows_its_end(ring: KeyRing) -> None:
    record, secret = await ring.create("proj_a", "one")
    _, other = await ring.create("proj_a", "two")
    assert secret.startswith(PREFIX)
    assert len(secret.removeprefix(PREFIX)) == 43, "32 bytes in URL-safe base 64"
    assert secret != other
    assert record.hint == secret[-4:]


async def test_the_secret_is_stored_nowhere(ring: KeyRing, database: Database, file: Path) -> None:
    _, secret = await ring.create("proj_a", "one")
    await ring.bootstrap(CHOSEN)
    body = secret.removeprefix(PREFIX)
    on_disk = b"".join(map(Path.read_bytes, (file, Path(f"{file}-wal"))))
    assert secret not in stored(database)
    assert body.encode() not in on_disk
    assert body[:20].encode() not in on_disk


async def test_another_pepper_knows_no_key(database: Database, clock: FakeClock) -> None:
    _, secret = await KeyRing(database, pepper=PEPPER, clock=clock).create("proj_a", "one")
    stolen = KeyRing(database, pepper=b"q" * 32, clock=clock)
    with pytest.raises(InvalidKeyError):
        await stolen.authenticate(secret)


async def test_every_refusal_is_the_same(ring: KeyRing) -> None:
    record, secret = await ring.create("proj_a", "one")
    _, revoked = await ring.create("proj_a", "two")
    await ring.revoke("proj_a", (await ring.authenticate(revoked)).key_id)
    refused = [
        None,
        "",
        " ",
        secret[:-1],
        secret + "x",
        secret + "\n",
        secret.upper(),
        record.id,
        revoked,
        "é",
        "x" * 10_000,
        "\x00",
    ]
    answers = set()
    for wrong in refused:
        with pytest.raises(InvalidKeyError) as caught:
            await ring.authenticate(wrong)
        answers.add((caught.value.text, caught.value.param))
    assert len(answers) == 1


async def test_a_revoked_key_is_refused_at_once(ring: KeyRing) -> None:
    record, secret = await ring.create("proj_a", "one")
    await ring.authenticate(secret)
    await ring.revoke("proj_a", record.id)
    with pytest.raises(InvalidKeyError):
        await ring.authenticate(secret)


async def test_revoking_beats_a_look_up_under_way(ring: KeyRing) -> None:
    record, secret = await ring.create("proj_a", "one")
    looking = asyncio.create_task(ring.authenticate(secret))
    await asyncio.sleep(0)
    await ring.revoke("proj_a", record.id)
    await asyncio.gather(looking, return_exceptions=True)
    with pytest.raises(InvalidKeyError):
        await ring.authenticate(secret)


async def test_a_foreign_key_cannot_be_revoked(ring: KeyRing) -> None:
    record, secret = await ring.create("proj_a", "one")
    with pytest.raises(NotFoundError):
        await ring.revoke("proj_b", record.id)
    assert (await ring.authenticate(secret)).key_id == record.id


async def test_known_keys_are_not_read_again(
    ring: KeyRing, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = await ring.create("proj_a", "one")
    await ring.authenticate(secret)

    async def forbidden(_: object) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(database, "read", forbidden)
    monkeypatch.setattr(database, "write", forbidden)
    await ring.authenticate(secret)


async def test_use_is_noted_once_a_minute(
    ring: KeyRing, database: Database, clock: FakeClock
) -> None:
    def last_used() -> float | None:
        used: float | None = database.read_now(
            lambda c: c.execute(KEYS.select()).one().last_used_at
        )
        return used

    _, secret = await ring.create("proj_a", "one")
    assert last_used() is None
    await ring.authenticate(secret)
    first = clock.now()
    assert last_used() == first
    clock.advance(TOUCH_INTERVAL_S - 1)
    await ring.authenticate(secret)
    assert last_used() == first
    clock.advance(1)
    await ring.authenticate(secret)
    assert last_used() == first + TOUCH_INTERVAL_S
    clock.step(-3_600)
    await ring.authenticate(secret)
    assert last_used() == clock.now(), "a clock that was set back does not stop the noting"


async def test_a_full_disk_locks_nobody_out(ring: KeyRing, database: Database) -> None:
    _, secret = await ring.create("proj_a", "one")

    def no_more_pages(conn: Connection) -> None:
        conn.exec_driver_sql("PRAGMA query_only=ON").close()

    database.write_now(no_more_pages)
    assert (await ring.authenticate(secret)).project_id == "proj_a"


@pytest.mark.parametrize(
    ("project", "name", "scopes", "param"),
    [
        ("proj_a", "", ["inference"], "name"),
        ("proj_a", "x" * 129, ["inference"], "name"),
        ("proj_a", "one", [], "scopes"),
        ("proj_a", "one", ["inference", "everything"], "scopes"),
        ("", "one", ["inference"], "project"),
        ("a/../b", "one", ["inference"], "project"),
        ("a\n", "one", ["inference"], "project"),
    ],
)
async def test_an_unusable_request_names_its_field(
    ring: KeyRing, project: str, name: str, scopes: list[Scope], param: str
) -> None:
    with pytest.raises(InvalidValueError) as caught:
        await ring.create(project, name, scopes)
    assert caught.value.param == param


async def test_the_first_start_makes_one_admin_key(ring: KeyRing) -> None:
    secret = await ring.bootstrap(None)
    assert secret is not None
    principal = await ring.authenticate(secret)
    assert principal.project_id == DEFAULT_PROJECT
    assert principal.allows("admin")
    assert await ring.bootstrap(None) is None
    assert await ring.bootstrap(CHOSEN) is None
    with pytest.raises(InvalidKeyError):
        await ring.authenticate(CHOSEN)


async def test_the_operator_may_choose_the_first_key(ring: KeyRing) -> None:
    assert await ring.bootstrap(CHOSEN) == CHOSEN
    assert (await ring.authenticate(CHOSEN)).allows("admin")


@pytest.mark.parametrize("weak", ["", "x" * 513, "x" * 20 + " " + "y" * 20])
async def test_an_unusable_first_key_is_refused_without_being_quoted(
    ring: KeyRing, database: Database, weak: str
) -> None:
    with pytest.raises(SettingError) as caught:
        await ring.bootstrap(weak)
    assert caught.value.param == "bootstrap_key"
    assert len(weak) < 6 or weak not in caught.value.text
    assert stored(database) == "[]"


async def test_keys_are_listed_without_secrets(ring: KeyRing) -> None:
    made = [(await ring.create("proj_a", f"k{i}"))[0] for i in range(3)]
    await ring.create("proj_b", "theirs")
    page = await ring.page("proj_a", after=None, limit=2)
    assert ([key.id for key in page.items], page.has_more) == ([made[2].id, made[1].id], True)
    rest = await ring.page("proj_a", after=made[1].id, limit=2)
    assert ([key.id for key in rest.items], rest.has_more) == ([made[0].id], False)


async def test_a_short_first_key_is_taken_with_a_warning(
    ring: KeyRing, caplog: pytest.LogCaptureFixture
) -> None:
    assert await ring.bootstrap("short") == "short"
    assert [record.message for record in caplog.records] == ["key.bootstrap_is_short"]
    assert (await ring.authenticate("short")).allows("admin")
