"""API keys: made once, shown once, found by a keyed hash of the whole secret."""

import hashlib
import hmac
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import get_args

from sqlalchemy import Connection

from purvey.contracts.clock import Clock
from purvey.contracts.ids import DEFAULT_PROJECT, new_id
from purvey.contracts.records import KeyRecord, Scope
from purvey.errors import CapacityError, InvalidKeyError, InvalidValueError, SettingError
from purvey.store import keys, projects
from purvey.store.database import Database
from purvey.store.rows import Order, Page

logger = logging.getLogger(__name__)

PREFIX = "sk-purvey-"
SCOPES: tuple[Scope, ...] = get_args(Scope)
SECRET_BYTES = 32
MIN_SECRET_CHARS = 32
"""Shortest bootstrap key that an operator may choose."""
MAX_SECRET_CHARS = 512
CACHED_KEYS = 4_096
TOUCH_INTERVAL_S = 60.0
"""`last_used_at` is written at most this often for each key."""

_PROJECT_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}")
_PRINTABLE = re.compile(r"[!-~]+")


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Whom a request acts for."""

    key_id: str
    project_id: str
    scopes: frozenset[Scope]

    def allows(self, scope: Scope) -> bool:
        """Tell whether the key may do this; `admin` may do everything."""
        return scope in self.scopes or "admin" in self.scopes


class KeyRing:
    """All API keys of a server. One ring per database: revoking takes effect through it.

    Args:
        database: Where the hashes are.
        pepper: Key of the hash; see `access.pepper`.
        clock: For creation, use and revocation times.
    """

    def __init__(self, database: Database, *, pepper: bytes, clock: Clock) -> None:
        self._database = database
        self._pepper = pepper
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._num_revocations = 0

    async def authenticate(self, secret: str | None) -> Principal:
        """Find whom a secret acts for.

        Raises:
            InvalidKeyError: Missing, malformed, unknown or revoked: one answer for all.
        """
        if secret is None or len(secret) > MAX_SECRET_CHARS or not _PRINTABLE.fullmatch(secret):
            raise _refused()
        secret_hash = self._hash(secret)
        known = self._known.get(secret_hash)
        if known is None:
            known = await self._look_up(secret_hash)
        else:
            self._known.move_to_end(secret_hash)
        await self._touch(secret_hash, known)
        return known.principal

    async def create(
        self,
        project_id: str,
        name: str,
        scopes: Iterable[Scope] = SCOPES,
        *,
        beside: Callable[[Connection, KeyRecord], None] | None = None,
    ) -> tuple[KeyRecord, str]:
        """Make a key, and its project if that is new.

        Args:
            project_id: For whom it acts.
            name: What its owner calls it.
            scopes: What it may do.
            beside: Writes that belong to the key, made in its transaction after it.

        Returns:
            The record, and the secret that is never seen again.

        Raises:
            InvalidValueError: The name, a scope or the project's id is not usable.
        """
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        record = self._record(project_id, name, scopes, secret)

        def work(conn: Connection) -> None:
            self._insert(conn, record, secret)
            if beside is not None:
                beside(conn, record)

        await self._database.write(work)
        return record, secret

    async def page(
        self, project_id: str, *, after: str | None, limit: int, order: Order = "desc"
    ) -> Page[KeyRecord]:
        """List the project's keys."""
        return await self._database.read(
            lambda conn: keys.page(conn, project_id, after=after, limit=limit, order=order)
        )

    async def revoke(self, project_id: str, key_id: str) -> KeyRecord:
        """End a key; when this returns, it opens nothing any more.

        Raises:
            NotFoundError: No such key, or another project's.
        """
        now = self._clock.now()
        record = await self._database.write(
            lambda conn: keys.revoke(conn, project_id, key_id, now=now)
        )
        self._num_revocations += 1  # a look-up that began before must not be cached
        stale = [h for h, known in self._known.items() if known.principal.key_id == key_id]
        for secret_hash in stale:
            del self._known[secret_hash]
        return record

    async def bootstrap(self, secret: str | None = None) -> str | None:
        """Make the default project and, if there is no key at all, the first admin key.

        Args:
            secret: The key that the operator chose, or None to make one up.

        Returns:
            The secret, to be shown once; None when keys exist already.

        A short chosen key is accepted with a warning.

        Raises:
            SettingError: The chosen key is empty, too long or not printable ASCII.
        """
        chosen = PREFIX + secrets.token_urlsafe(SECRET_BYTES) if secret is None else secret
        if len(chosen) > MAX_SECRET_CHARS or not _PRINTABLE.fullmatch(chosen):
            raise SettingError(
                "bootstrap_key is not usable.",
                param="bootstrap_key",
                hint="Take printable ASCII characters without spaces, the longer the better.",
            )
        if len(chosen) < MIN_SECRET_CHARS:
            logger.warning("key.bootstrap_is_short")
        record = self._record(DEFAULT_PROJECT, "admin", SCOPES, chosen)
        is_first = await self._database.write(lambda conn: self._insert_first(conn, record, chosen))
        return chosen if is_first else None

    def _insert_first(self, conn: Connection, record: KeyRecord, secret: str) -> bool:
        projects.ensure(conn, DEFAULT_PROJECT, name="default", now=record.created_at)
        if keys.count(conn) > 0:
            return False
        self._insert(conn, record, secret)
        return True

    def _insert(self, conn: Connection, record: KeyRecord, secret: str) -> None:
        projects.ensure(conn, record.project_id, name=record.project_id, now=record.created_at)
        keys.insert(conn, record, secret_hash=self._hash(secret))

    def _record(
        self, project_id: str, name: str, scopes: Iterable[Scope], secret: str
    ) -> KeyRecord:
        chosen = frozenset(scopes)
        if unknown := sorted(chosen - set(SCOPES)):
            raise InvalidValueError(f"there is no scope {unknown[0]!r}.", param="scopes")
        if not chosen:
            raise InvalidValueError("a key needs at least one scope.", param="scopes")
        if not 1 <= len(name) <= 128:
            raise InvalidValueError("a key's name has 1 to 128 characters.", param="name")
        if not _PROJECT_ID.fullmatch(project_id):
            raise InvalidValueError(
                "a project's id has 1 to 64 letters, digits, '_' or '-'.", param="project"
            )
        return KeyRecord(
            id=new_id("key_"),
            project_id=project_id,
            name=name,
            scopes=tuple(scope for scope in SCOPES if scope in chosen),
            hint=secret[-4:],
            created_at=self._clock.now(),
        )

    def _hash(self, secret: str) -> bytes:
        return hmac.digest(self._pepper, secret.encode(), hashlib.sha256)

    async def _look_up(self, secret_hash: bytes) -> "_Known":
        before = self._num_revocations
        stored = await self._database.read(lambda conn: keys.find(conn, secret_hash))
        if stored is None or not hmac.compare_digest(stored.secret_hash, secret_hash):
            raise _refused()
        record = stored.record
        if record.revoked_at is not None:
            raise _refused()
        known = _Known(
            principal=Principal(
                key_id=record.id, project_id=record.project_id, scopes=frozenset(record.scopes)
            ),
            last_used_at=record.last_used_at or 0.0,
        )
        if before == self._num_revocations:
            self._remember(secret_hash, known)
        return known

    def _remember(self, secret_hash: bytes, known: "_Known") -> None:
        self._known[secret_hash] = known
        if len(self._known) > CACHED_KEYS:
            self._known.popitem(last=False)

    async def _touch(self, secret_hash: bytes, known: "_Known") -> None:
        now = self._clock.now()
        if abs(now - known.last_used_at) < TOUCH_INTERVAL_S:  # the clock may be set back
            return
        if secret_hash in self._known:
            self._known[secret_hash] = replace(known, last_used_at=now)
        try:
            await self._database.write(
                lambda conn: keys.touch(conn, known.principal.key_id, now=now)
            )
        except CapacityError as error:  # a full disk must not lock readers out
            logger.warning("key.touch_failed", extra={"code": error.code})


@dataclass(frozen=True, kw_only=True)
class _Known:
    principal: Principal
    last_used_at: float


def _refused() -> InvalidKeyError:
    return InvalidKeyError(
        "the API key is missing or not valid.", hint="Send 'Authorization: Bearer <key>'."
    )
