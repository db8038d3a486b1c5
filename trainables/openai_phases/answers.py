"""What was sent and what came back in one evaluation: JSONL in the trial's folder, each line on disk before what it announces happens.

Promises: an answer is never asked for again; of every question that was sent it is known whether its answer came, even after a crash
between any two lines. A last line that a crash cut announced nothing that has happened. One process writes, from several threads.
What an unheard sending came to, only the service can say: that is `chat`'s business.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.openai_phases.wire import Usage


@dataclass(frozen=True)
class Said:
    """An answer. `id`: the service's, if it gave one; `seconds`: of its request, None where nobody waited for it."""

    text: str
    usage: Usage = Usage()
    seconds: float | None = None
    id: str = ""


class AnswerLog:
    """`with AnswerLog(path) as log:`; reading needs no `with`.

    said: row -> its first answer. doubles: id -> usage of further answers, which are billed as well. unheard: row -> times of sendings
    of which nothing was heard. n_unknown: sendings of which nothing will be heard either; None until that is settled.
    """

    def __init__(self, path: Path):
        self._path, self._lock = path, threading.Lock()
        self.said: dict[int, Said] = {}
        self.doubles: dict[str, Usage] = {}
        self.unheard: dict[int, list[float]] = {}
        self.n_unknown: int | None = None
        self.last_sent_t = 0.0
        self._whole = 0
        if path.exists():
            data = path.read_bytes()
            self._whole = data.rfind(b"\n") + 1
            for line in data[: self._whole].splitlines():
                self._apply(json.loads(line))

    def __enter__(self) -> AnswerLog:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._path, "ab", buffering=0)
        self._file.truncate(self._whole)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def ids(self) -> set[str]:
        """Of all answers that are known."""
        return {said.id for said in self.said.values() if said.id} | set(self.doubles)

    @property
    def n_unheard(self) -> int:
        return sum(map(len, self.unheard.values()))

    @property
    def usage(self) -> Usage:
        """Of all answers that are known."""
        return sum([said.usage for said in self.said.values()] + list(self.doubles.values()), Usage())

    def sending(self, row: int, t: float) -> None:
        """The question of `row` is about to be sent."""
        self._write({"row": row, "sent": t})

    def void(self, row: int) -> None:
        """Its last sending did nothing."""
        self._write({"row": row, "void": True})

    def answer(self, row: int, said: Said) -> None:
        """It came, or was found at the service. A further one for the same row is a double."""
        usage = [said.usage.input_tokens, said.usage.cached_tokens, said.usage.output_tokens]
        seconds = None if said.seconds is None else round(said.seconds, 6)
        self._write({"row": row, "text": said.text, "usage": usage, "seconds": seconds, "id": said.id})

    def settle(self, n_unknown: int) -> None:
        """All that can be known is known."""
        self._write({"unknown": n_unknown})

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            while line:
                line = line[self._file.write(line) or 0 :]
            self._apply(record)
        os.fsync(self._file.fileno())

    def _apply(self, record: Mapping[str, Any]) -> None:
        if "unknown" in record:
            self.n_unknown = record["unknown"]
            self.unheard.clear()
            return
        row = record["row"]
        if "sent" in record:
            self.unheard.setdefault(row, []).append(record["sent"])
            self.last_sent_t = max(self.last_sent_t, record["sent"])
            return
        sent = self.unheard.get(row, [])
        del sent[-1:]  # of a batch's answer there is none
        if not sent:
            self.unheard.pop(row, None)
        if "void" in record:
            return
        said = Said(record["text"], Usage(*record["usage"]), record["seconds"], record["id"])
        if row in self.said:
            self.doubles[said.id] = said.usage
        else:
            self.said[row] = said
