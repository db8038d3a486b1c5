"""The server's memory: objects and contents in SQLite, committed before an answer leaves, so that a restart forgets nothing.

Objects are kept in memory as well, in the order of their making; one thread uses a store.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

Doc = dict[str, Any]


class Store:
    def __init__(self, path: Path | None):
        """`path` of the database, or None to forget everything at the end."""
        self._db = sqlite3.connect(path or ":memory:", check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS object (n INTEGER PRIMARY KEY, kind TEXT, id TEXT, doc TEXT, UNIQUE(kind, id))")
        self._db.execute("CREATE TABLE IF NOT EXISTS content (id TEXT PRIMARY KEY, bytes BLOB)")
        self._docs: dict[str, dict[str, Doc]] = {}
        for kind, key, doc in self._db.execute("SELECT kind, id, doc FROM object ORDER BY n"):
            self._docs.setdefault(kind, {})[key] = json.loads(doc)

    def put(self, kind: str, key: str, doc: Doc) -> None:
        self._docs.setdefault(kind, {})[key] = doc
        self._db.execute(
            "INSERT INTO object(kind, id, doc) VALUES(?, ?, ?) ON CONFLICT(kind, id) DO UPDATE SET doc = excluded.doc",
            (kind, key, json.dumps(doc)),
        )

    def get(self, kind: str, key: str) -> Doc | None:
        return self._docs.get(kind, {}).get(key)

    def all(self, kind: str) -> list[Doc]:
        """In the order of their making."""
        return list(self._docs.get(kind, {}).values())

    def items(self, kind: str) -> dict[str, Doc]:
        return dict(self._docs.get(kind, {}))

    def delete(self, kind: str, key: str) -> None:
        self._docs.get(kind, {}).pop(key, None)
        self._db.execute("DELETE FROM object WHERE kind = ? AND id = ?", (kind, key))

    def put_content(self, key: str, content: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO content VALUES(?, ?)", (key, content))

    def content(self, key: str) -> bytes:
        row = self._db.execute("SELECT bytes FROM content WHERE id = ?", (key,)).fetchone()
        return b"" if row is None else bytes(row[0])

    def delete_content(self, key: str) -> None:
        self._db.execute("DELETE FROM content WHERE id = ?", (key,))

    def count(self, name: str) -> int:
        """1, 2, 3 ... for a name, over restarts."""
        n = int((self.get("counter", name) or {"n": 0})["n"]) + 1
        self.put("counter", name, {"n": n})
        return n

    def forget(self) -> None:
        """All but what the server was told of itself."""
        self._docs = {"server": self._docs.get("server", {})}
        self._db.execute("DELETE FROM object WHERE kind != 'server'")
        self._db.execute("DELETE FROM content")

    def commit(self) -> None:
        self._db.commit()

    def close(self) -> None:
        self._db.commit()
        self._db.close()


def share(*parts: object) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big") / 2**56


def hexed(*parts: object, length: int = 24) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:length]
