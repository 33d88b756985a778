"""Another project's object looks exactly like one that never was."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection

from purvey.contracts.records import KeyRecord
from purvey.errors import InvalidValueError, ModelNotFoundError, NotFoundError
from purvey.store import datasets, explanations, files, jobs, keys, models
from purvey.store.database import Database

if TYPE_CHECKING:
    from tests.contract.store.conftest import Records

OURS, THEIRS = "proj_ours", "proj_theirs"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of object with what can be done to one by its id."""

    fill: "Callable[[Connection, Records, str], None]"
    touch: dict[str, Callable[[Connection, str, str], Any]]  # results are not looked at
    page: Callable[..., Any]  # each repository's own record type


def _key(conn: Connection, _make: "Records", name: str) -> None:
    record = KeyRecord(
        id=name, project_id=OURS, name=name, scopes=("admin",), hint="abcd", created_at=1.0
    )
    keys.insert(conn, record, secret_hash=name.encode())


KINDS = {
    "key": Kind(
        fill=_key,
        touch={
            "get": keys.get,
            "revoke": lambda c, p, i: keys.revoke(c, p, i, now=5.0),
        },
        page=keys.page,
    ),
    "file": Kind(
        fill=lambda c, make, i: files.insert(c, make.file(i)),
        touch={"get": files.get, "delete": files.delete},
        page=files.page,
    ),
    "dataset": Kind(
        fill=lambda c, make, i: datasets.insert(c, make.dataset(i)),
        touch={"get": datasets.get, "delete": datasets.delete},
        page=datasets.page,
    ),
    "job": Kind(
        fill=lambda c, make, i: jobs.insert(c, make.job(i)),
        touch={"get": jobs.get, "want": lambda c, p, i: jobs.want(c, p, i, "cancel")},
        page=jobs.page,
    ),
    "model": Kind(
        fill=lambda c, make, i: models.insert(c, make.model(i)),
        touch={"get": models.get, "delete": models.delete},
        page=models.page,
    ),
    "explanation": Kind(
        fill=lambda c, make, i: explanations.insert(c, make.explanation(i)),
        touch={
            "get": explanations.get,
            "delete": explanations.delete,
            "finish": lambda c, p, i: explanations.finish(c, p, i, status="failed", body={}),
        },
        page=explanations.page,
    ),
}
CUBE = [(kind, verb) for kind, what in KINDS.items() for verb in what.touch]


@pytest.mark.parametrize(("kind", "verb"), CUBE)
def test_foreign_equals_missing_and_changes_nothing(
    database: Database, make: "Records", kind: str, verb: str
) -> None:
    what = KINDS[kind]
    database.write_now(lambda c: what.fill(c, make, "one"))
    before = database.read_now(lambda c: what.touch["get"](c, OURS, "one"))
    with pytest.raises(NotFoundError) as foreign:
        database.write_now(lambda c: what.touch[verb](c, THEIRS, "one"))
    with pytest.raises(NotFoundError) as missing:
        database.write_now(lambda c: what.touch[verb](c, THEIRS, "two"))
    assert type(foreign.value) is type(missing.value)
    assert foreign.value.text.replace("one", "two") == missing.value.text
    assert foreign.value.param == missing.value.param
    assert database.read_now(lambda c: what.touch["get"](c, OURS, "one")) == before


def test_a_missing_model_has_its_own_code(database: Database) -> None:
    with pytest.raises(ModelNotFoundError):
        database.read_now(lambda c: models.get(c, OURS, "absent"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_listing_holds_ones_own_only(database: Database, make: "Records", kind: str) -> None:
    what = KINDS[kind]
    database.write_now(lambda c: what.fill(c, make, "one"))
    theirs = database.read_now(lambda c: what.page(c, THEIRS, after=None, limit=10))
    assert (theirs.items, theirs.has_more) == ([], False)


@pytest.mark.parametrize("kind", KINDS)
def test_pages_join_up_in_both_orders(database: Database, make: "Records", kind: str) -> None:
    what = KINDS[kind]
    names = [f"n{i}" for i in range(7)]
    for name in names:
        database.write_now(partial(_fill, what, make, name))
    for order, expected in (("asc", names), ("desc", names[::-1])):
        seen: list[str] = []
        has_more = True
        while has_more:
            after = seen[-1] if seen else None
            page = database.read_now(
                partial(what.page, project_id=OURS, after=after, limit=3, order=order)
            )
            seen += [item.name if kind == "model" else item.id for item in page.items]
            has_more = page.has_more
        assert seen == expected


def _fill(what: Kind, make: "Records", name: str, conn: Connection) -> None:
    what.fill(conn, make, name)


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_after_a_foreign_item_is_refused(
    database: Database, make: "Records", kind: str
) -> None:
    what = KINDS[kind]
    database.write_now(lambda c: what.fill(c, make, "one"))
    with pytest.raises(InvalidValueError) as foreign:
        database.read_now(lambda c: what.page(c, THEIRS, after="one", limit=3))
    with pytest.raises(InvalidValueError) as missing:
        database.read_now(lambda c: what.page(c, THEIRS, after="two", limit=3))
    assert foreign.value.param == "after"
    assert foreign.value.text.replace("one", "two") == missing.value.text
