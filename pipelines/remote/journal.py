"""What was submitted, in SQLite: so that no crash, restart or lost answer pays twice.

An entry is written before its request is sent and again when its id is known. States:

    submitting ─► submitted ─► completed ─► done        the result is in the cache
         │            ├─► cancelling                    cancelled, as far as the service said
         │            └─► failed                        refused or failed, and not paid
         └─► unknown                                    no answer: never repeated unasked

At most one entry of a fingerprint is alive (anything but done, failed and abandoned), across processes.
Neither keys nor pictures nor prompts are stored.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from .credentials import make_private_folder

FILE = "journal.sqlite"

ALIVE = ("submitting", "submitted", "completed", "cancelling", "unknown")
SPENT = ("submitting", "submitted", "completed", "done", "cancelling", "unknown", "abandoned")
"""States of what is, or may be, paid for."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL,
    server TEXT NOT NULL,
    app TEXT NOT NULL,
    credential TEXT NOT NULL,
    label TEXT NOT NULL,
    owner TEXT NOT NULL,
    created REAL NOT NULL,
    updated REAL NOT NULL,
    megapixels REAL NOT NULL,
    cost REAL NOT NULL,
    request_id TEXT NOT NULL DEFAULT '',
    url TEXT NOT NULL DEFAULT '',
    result_url TEXT NOT NULL DEFAULT '',
    seed TEXT NOT NULL DEFAULT '',
    billed TEXT NOT NULL DEFAULT '',
    error TEXT NOT NULL DEFAULT '',
    collect INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS one_alive ON requests (fingerprint)
    WHERE state IN ('submitting', 'submitted', 'completed', 'cancelling', 'unknown');
CREATE INDEX IF NOT EXISTS by_request ON requests (request_id);
CREATE INDEX IF NOT EXISTS by_time ON requests (created);
PRAGMA user_version = 1;
"""


@dataclass(frozen=True)
class Entry:
    """One request."""

    id: int
    fingerprint: str
    state: str
    server: str
    app: str
    credential: str
    label: str
    owner: str
    created: float
    updated: float
    megapixels: float
    cost: float
    request_id: str
    url: str
    result_url: str
    """Where the result was to be had, without what follows a `?`; empty for one that was sent inline."""
    seed: str
    billed: str
    error: str
    collect: int
    """1 for a request that was submitted to be collected later and was not yet."""

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return time.time() - self.created

    @property
    def has_living_owner(self) -> bool:
        """Whether the process that wrote it still runs."""
        pid, _, started = self.owner.partition("@")
        try:
            return f"{psutil.Process(int(pid)).create_time():.2f}" == started
        except (psutil.Error, ValueError):
            return False


class Journal:
    """The journal in the private folder; each call is a transaction, safe between threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.path = make_private_folder(folder) / FILE
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
        with self._connect() as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                connection.executescript(_SCHEMA)

    def claim(self, fingerprint: str, *, force: bool = False, **values: Any) -> tuple[Entry, bool]:
        """The entry that has, or may get, the result; True if it is new and the caller is to submit it.

        That is the one alive, else the last one done (unless `force`), else a new one, submitting.
        """
        with self._connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            found = self._find(connection, fingerprint, force)
            if found is not None:
                return found, False
            now = time.time()
            row: dict[str, Any] = {"fingerprint": fingerprint, "state": "submitting", "owner": _own_process()}
            row |= {"created": now, "updated": now, **values}
            names, marks = ", ".join(row), ", ".join("?" for _ in row)
            cursor = connection.execute(
                f"INSERT INTO requests ({names}) VALUES ({marks})", tuple(row.values())
            )
            return self._get(connection, cursor.lastrowid), True

    def find(self, fingerprint: str, *, force: bool = False) -> Entry | None:
        """What `claim` would find, without making anything."""
        with self._connect() as connection:
            return self._find(connection, fingerprint, force)

    def update(self, entry: Entry, **values: Any) -> Entry:
        """Change an entry; returns it as it is now.

        One that was closed stays so while another of its fingerprint is alive.
        """
        values["updated"] = time.time()
        with self._connect() as connection:
            try:
                self._set(connection, entry.id, values)
            except sqlite3.IntegrityError:
                self._set(connection, entry.id, {n: v for n, v in values.items() if n != "state"})
            return self._get(connection, entry.id)

    def get(self, entry: Entry) -> Entry:
        """An entry as it is now."""
        with self._connect() as connection:
            return self._get(connection, entry.id)

    def by_request(self, request_id: str) -> Entry | None:
        """The entry of a request, if it was submitted from here."""
        with self._connect() as connection:
            rows = connection.execute(
                f"SELECT {_NAMES} FROM requests WHERE request_id = ? ORDER BY id DESC", (request_id,)
            )
            return _entry(rows.fetchone())

    def entries(self, *, to_collect: bool = False, limit: int = 100) -> list[Entry]:
        """The latest first, or, oldest first, those that were submitted to be collected and were not yet."""
        where = "WHERE collect = 1 AND state IN ('submitted', 'completed', 'done')" if to_collect else ""
        order = "ASC" if to_collect else "DESC"
        with self._connect() as connection:
            rows = connection.execute(
                f"SELECT {_NAMES} FROM requests {where} ORDER BY id {order} LIMIT ?", (limit,)
            )
            return [Entry(*row) for row in rows]

    def spent_since(self, moment: float) -> tuple[float, float]:
        """Megapixels and cost (as estimated) of what was submitted since then."""
        marks = ", ".join("?" for _ in SPENT)
        with self._connect() as connection:
            row = connection.execute(
                "SELECT COALESCE(SUM(megapixels), 0), COALESCE(SUM(cost), 0) FROM requests "
                f"WHERE created >= ? AND state IN ({marks})",
                (moment, *SPENT),
            ).fetchone()
            return float(row[0]), float(row[1])

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        # Durable (synchronous) before the request leaves: a power cut must not forget what was paid.
        connection = sqlite3.connect(self.path, timeout=20, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            yield connection
            if connection.in_transaction:
                connection.commit()
        finally:
            connection.close()

    @staticmethod
    def _find(connection: sqlite3.Connection, fingerprint: str, force: bool) -> Entry | None:
        marks = ", ".join("?" for _ in ALIVE)
        row = connection.execute(
            f"SELECT {_NAMES} FROM requests WHERE fingerprint = ? AND state IN ({marks})",
            (fingerprint, *ALIVE),
        ).fetchone()
        if row is None and not force:
            row = connection.execute(
                f"SELECT {_NAMES} FROM requests WHERE fingerprint = ? AND state = 'done' ORDER BY id DESC",
                (fingerprint,),
            ).fetchone()
        return _entry(row)

    @staticmethod
    def _set(connection: sqlite3.Connection, id: int, values: dict[str, Any]) -> None:
        assignments = ", ".join(f"{name} = ?" for name in values)
        connection.execute(f"UPDATE requests SET {assignments} WHERE id = ?", (*values.values(), id))

    @staticmethod
    def _get(connection: sqlite3.Connection, id: int | None) -> Entry:
        row = connection.execute(f"SELECT {_NAMES} FROM requests WHERE id = ?", (id,)).fetchone()
        return Entry(*row)


_NAMES = ", ".join(field.name for field in fields(Entry))


def _entry(row: tuple[Any, ...] | None) -> Entry | None:
    return Entry(*row) if row is not None else None


def _own_process() -> str:
    return f"{os.getpid()}@{psutil.Process().create_time():.2f}"
