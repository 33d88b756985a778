"""The ledger: each attempt once, nothing ever changed, totals that are the sum of the rows."""

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest
from sqlalchemy.exc import IntegrityError

from purvey.contracts.records import UsageTotal
from purvey.store import ledger
from purvey.store.database import Database
from purvey.store.tables import LEDGER

if TYPE_CHECKING:
    from tests.contract.store.conftest import Records

OURS, DAY = "proj_ours", 86_400.0


def test_an_attempt_of_a_request_counts_once(database: Database, make: "Records") -> None:
    first, other = make.usage(), make.usage(output_tokens=1_000)
    assert database.write_now(lambda c: ledger.append(c, first))
    assert not database.write_now(lambda c: ledger.append(c, other))
    assert database.write_now(lambda c: ledger.append(c, make.usage(attempt=2)))
    (total,) = database.read_now(lambda c: ledger.totals(c, OURS, by="model"))
    assert (total.requests, total.output_tokens) == (2, 10)


@pytest.mark.parametrize(
    "statement",
    [
        LEDGER.update().values(output_tokens=0),
        LEDGER.update().where(LEDGER.c.request_id == "req_1").values(project_id="proj_theirs"),
        LEDGER.delete(),
    ],
)
def test_a_row_is_never_changed_or_deleted(
    database: Database, make: "Records", statement: object
) -> None:
    database.write_now(lambda c: ledger.append(c, make.usage()))
    before = database.read_now(lambda c: c.execute(LEDGER.select()).all())
    with pytest.raises(IntegrityError, match="append-only"):
        database.write_now(lambda c: c.execute(statement))  # type: ignore[call-overload]  # any statement
    assert database.read_now(lambda c: c.execute(LEDGER.select()).all()) == before


def test_a_row_may_not_be_replaced(database: Database, make: "Records") -> None:
    database.write_now(lambda c: ledger.append(c, make.usage()))
    row = msgspec.to_builtins(make.usage()) | {"day": 1}
    with pytest.raises(IntegrityError):
        database.write_now(lambda c: c.execute(LEDGER.insert().prefix_with("OR REPLACE"), row))
    assert len(database.read_now(lambda c: c.execute(LEDGER.select()).all())) == 1


def test_totals_sum_every_unit(database: Database, make: "Records") -> None:
    database.write_now(lambda c: ledger.append(c, make.usage("req_1")))
    database.write_now(lambda c: ledger.append(c, make.usage("req_2", kind="classify")))
    database.write_now(lambda c: ledger.append(c, make.usage("req_3", model="other")))
    database.write_now(lambda c: ledger.append(c, make.usage("req_4", project_id="proj_theirs")))
    by_model = database.read_now(lambda c: ledger.totals(c, OURS, by="model"))
    assert by_model == [
        UsageTotal(
            group="other",
            requests=1,
            input_tokens=3,
            output_tokens=5,
            images=1,
            rows=2,
            compute_s=0.25,
        ),
        UsageTotal(
            group="spam",
            requests=2,
            input_tokens=6,
            output_tokens=10,
            images=2,
            rows=4,
            compute_s=0.5,
        ),
    ]
    by_kind = database.read_now(lambda c: ledger.totals(c, OURS, by="kind"))
    assert [(t.group, t.requests) for t in by_kind] == [("chat", 2), ("classify", 1)]


def test_days_are_utc_and_the_end_is_open(database: Database, make: "Records") -> None:
    for i, moment in enumerate((0.0, DAY - 0.001, DAY, 2 * DAY)):
        record = make.usage(f"req_{i}", created_at=moment)
        database.write_now(partial(ledger.append, record=record))
    days = database.read_now(lambda c: ledger.totals(c, OURS, by="day"))
    assert [(t.group, t.requests) for t in days] == [
        ("1970-01-01", 2),
        ("1970-01-02", 1),
        ("1970-01-03", 1),
    ]
    some = database.read_now(lambda c: ledger.totals(c, OURS, since=DAY, until=2 * DAY, by="day"))
    assert [t.group for t in some] == ["1970-01-02"]


def test_nothing_used_is_nothing_listed(database: Database) -> None:
    assert database.read_now(lambda c: ledger.totals(c, OURS, by="model")) == []
