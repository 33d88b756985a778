"""The append-only usage ledger: one row for each answered request, job and explanation.

The database refuses to change or delete a row; totals are derived from the rows.
"""

import datetime
from typing import Literal

from sqlalchemy import Connection, RowMapping, func, select
from sqlalchemy.dialects import sqlite

from purvey.contracts.records import UsageRecord, UsageTotal
from purvey.store.rows import to_row
from purvey.store.tables import LEDGER

DAY_S = 86_400
By = Literal["model", "kind", "day"]
UNITS = ("input_tokens", "output_tokens", "images", "audio_s", "rows", "compute_s")

_EPOCH = datetime.date(1970, 1, 1)

# Built once: the statement is on the path of every request. PostgreSQL's dialect has the
# same construct, and both databases have the same SQL for it.
_APPEND = sqlite.insert(LEDGER).on_conflict_do_nothing(index_elements=["request_id", "attempt"])


def append(conn: Connection, record: UsageRecord) -> bool:
    """Add a row, unless this attempt of this request has one already.

    Returns:
        Whether a row was added. One that is there stays as it is.
    """
    values = to_row(record) | {"day": int(record.created_at // DAY_S)}
    return conn.execute(_APPEND, values).rowcount == 1


def totals(
    conn: Connection,
    project_id: str,
    *,
    since: float | None = None,
    until: float | None = None,
    by: By,
) -> list[UsageTotal]:
    """Sum the project's rows with `since` <= time < `until`, per model, kind or UTC day."""
    group = LEDGER.c[by]
    sums = select(
        group.label("group"),
        func.count().label("requests"),
        func.sum(LEDGER.c.is_estimated).label("estimated_requests"),
        *(func.sum(LEDGER.c[unit]).label(unit) for unit in UNITS),
    ).where(LEDGER.c.project_id == project_id)
    if since is not None:
        sums = sums.where(LEDGER.c.created_at >= since)
    if until is not None:
        sums = sums.where(LEDGER.c.created_at < until)
    found = conn.execute(sums.group_by(group).order_by(group))
    return [_total(row._mapping) for row in found]


def _total(sums: RowMapping) -> UsageTotal:
    group = sums["group"]
    if isinstance(group, int):  # a day; models and kinds are text
        group = (_EPOCH + datetime.timedelta(days=group)).isoformat()
    return UsageTotal(
        group=group,
        requests=sums["requests"],
        estimated_requests=sums["estimated_requests"],
        **{unit: sums[unit] for unit in UNITS},
    )
