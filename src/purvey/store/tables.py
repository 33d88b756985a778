"""The tables, in portable SQL: what a new database has, and `migrations` bring older ones to.

Every table that lists things has `position`, which grows with each insert and is what pages
are ordered by: two rows of one instant still have an order. Times are epoch seconds, UTC.
"""

from sqlalchemy import (
    DDL,
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    event,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _position() -> Column[int]:
    return Column("position", Integer, primary_key=True, autoincrement=True)


def _project() -> Column[str]:
    return Column("project_id", String, ForeignKey("projects.id"), nullable=False)


def _json(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, JSON(none_as_null=True), nullable=nullable)


def _text(name: str, *, nullable: bool = False, unique: bool = False) -> Column[str]:
    return Column(name, String, nullable=nullable, unique=unique)


def _number(name: str, *, nullable: bool = False) -> Column[float]:
    return Column(name, Float, nullable=nullable)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


PROJECTS = Table(
    "projects",
    METADATA,
    _position(),
    _text("id", unique=True),
    _text("name"),
    _number("created_at"),
    sqlite_autoincrement=True,
)

KEYS = Table(
    "keys",
    METADATA,
    _position(),
    _text("id", unique=True),
    _project(),
    _text("name"),
    _json("scopes"),
    _text("hint"),
    Column("secret_hash", LargeBinary, nullable=False, unique=True),
    _number("created_at"),
    _number("last_used_at", nullable=True),
    _number("revoked_at", nullable=True),
    Index(None, "project_id", "position"),
    sqlite_autoincrement=True,
)

FILES = Table(
    "files",
    METADATA,
    _position(),
    _text("id", unique=True),
    _project(),
    _text("name"),
    _text("purpose"),
    _count("num_bytes"),
    _text("sha256"),
    _number("created_at"),
    Index(None, "project_id", "position"),
    Index(None, "sha256"),
    sqlite_autoincrement=True,
)

DATASETS = Table(
    "datasets",
    METADATA,
    _position(),
    _text("id", unique=True),
    _project(),
    _text("name"),
    _text("status"),
    _json("config"),
    _json("file_ids"),
    _text("job_id"),
    _number("created_at"),
    _text("artifact", nullable=True),
    _json("manifest", nullable=True),
    _json("error", nullable=True),
    _text("parent", nullable=True),
    _text("family", nullable=True),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Index(None, "project_id", "position"),
    Index(None, "job_id"),
    Index(None, "project_id", "family"),
    sqlite_autoincrement=True,
)

FEEDBACK = Table(
    "feedback",
    METADATA,
    _position(),
    _text("id", unique=True),
    _project(),
    _text("model"),
    _text("request_id", nullable=True),
    _text("input", nullable=True),
    _text("output", nullable=True),
    _text("rating", nullable=True),
    _text("correction", nullable=True),
    _json("metadata"),
    _number("created_at"),
    Index(None, "project_id", "position"),
    Index(None, "project_id", "model"),
    sqlite_autoincrement=True,
)

JOBS = Table(
    "jobs",
    METADATA,
    _position(),
    _text("id", unique=True),
    _project(),
    _text("key_id"),
    _text("api"),
    _text("kind"),
    _text("status"),
    _number("created_at"),
    _json("recipe"),
    _text("recipe_digest"),
    _count("seed"),
    _text("suffix", nullable=True),
    _text("base_model", nullable=True),
    _text("training_file", nullable=True),
    _text("validation_file", nullable=True),
    _text("dataset_id", nullable=True),
    _json("metadata"),
    _json("request"),
    _number("started_at", nullable=True),
    _number("finished_at", nullable=True),
    _count("attempt"),
    _count("fence"),
    _text("lease", nullable=True),
    _number("lease_expires_at", nullable=True),
    _text("wanted"),
    _text("fine_tuned_model", nullable=True),
    _number("compute_s"),
    _json("error", nullable=True),
    _json("result", nullable=True),
    Index(None, "project_id", "api", "position"),
    Index(None, "status", "position"),
    sqlite_autoincrement=True,
)

EVENTS = Table(
    "job_events",
    METADATA,
    _position(),
    _text("id", unique=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False),
    _count("seq"),
    _text("type"),
    _text("level"),
    _text("message"),
    _json("data"),
    _number("created_at"),
    UniqueConstraint("job_id", "seq"),
    sqlite_autoincrement=True,
)

TRIALS = Table(
    "trials",
    METADATA,
    _position(),
    Column("sweep_id", String, ForeignKey("jobs.id"), nullable=False),
    _count("number"),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False, unique=True),
    _json("parameters"),
    _text("stopped", nullable=True),
    _text("artifact", nullable=True),
    UniqueConstraint("sweep_id", "number"),
    sqlite_autoincrement=True,
)

CHECKPOINTS = Table(
    "checkpoints",
    METADATA,
    _position(),
    _text("id", unique=True),
    Column("job_id", String, ForeignKey("jobs.id"), nullable=False),
    _count("step"),
    _text("folder"),
    _text("digest"),
    _json("metrics"),
    _number("created_at"),
    Index(None, "job_id", "position"),
    sqlite_autoincrement=True,
)

MODELS = Table(
    "models",
    METADATA,
    _position(),
    _text("name"),
    _project(),
    _text("family"),
    _text("task"),
    _text("digest"),
    _text("folder"),
    _number("created_at"),
    _text("artifact", nullable=True),
    _text("base_model", nullable=True),
    _text("job_id", nullable=True),
    _json("manifest"),
    UniqueConstraint("project_id", "name"),
    sqlite_autoincrement=True,
)

DEPLOYMENTS = Table(
    "deployments",
    METADATA,
    _position(),
    _text("name"),
    _project(),
    _text("model"),
    _json("profiles"),
    _number("created_at"),
    _number("updated_at"),
    UniqueConstraint("project_id", "name"),
    Index(None, "project_id", "model"),
    sqlite_autoincrement=True,
)

EXPLANATIONS = Table(
    "explanations",
    METADATA,
    _position(),
    _text("id", unique=True),
    _project(),
    _text("model"),
    _text("status"),
    _number("created_at"),
    _json("body"),
    _text("picture_file", nullable=True),
    Index(None, "project_id", "position"),
    sqlite_autoincrement=True,
)

KEPT_ANSWERS = Table(
    "kept_answers",
    METADATA,
    _position(),
    _project(),
    _text("route"),
    _text("key"),
    _text("fingerprint"),
    _text("subject"),
    _count("status"),
    Column("body", LargeBinary, nullable=True),
    _number("created_at"),
    UniqueConstraint("project_id", "route", "key"),
    Index(None, "project_id", "subject"),
    Index(None, "created_at"),
    sqlite_autoincrement=True,
)

LEDGER = Table(
    "usage_ledger",
    METADATA,
    _position(),
    _text("request_id"),
    _count("attempt"),
    _project(),
    _text("key_id"),
    _text("kind"),
    _text("model"),
    _text("status"),
    _count("input_tokens"),
    _count("output_tokens"),
    _count("images"),
    _count("rows"),
    _number("compute_s"),
    _number("created_at"),
    _count("day"),
    Column("is_estimated", BigInteger, nullable=False, server_default="0"),
    Column("audio_s", Float, nullable=False, server_default="0"),
    UniqueConstraint("request_id", "attempt"),
    Index(None, "project_id", "created_at"),
    sqlite_autoincrement=True,
)
_REFUSE = """
CREATE TRIGGER usage_ledger_no_{verb} BEFORE {verb} ON usage_ledger
BEGIN SELECT RAISE(ABORT, 'the usage ledger is append-only'); END
"""
for _verb in ("UPDATE", "DELETE"):
    event.listen(LEDGER, "after_create", DDL(_REFUSE.format(verb=_verb)))  # type: ignore[no-untyped-call]  # SQLAlchemy's own
