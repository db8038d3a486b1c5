"""The inbox of a study directory, `requests/`: how people's wishes reach the driver that runs the study, and how its answers come back.

One request is one file `<id>.json`, put there whole. The driver claims it (renames it to `<id>.taken`), carries it out, puts
`<id>.answer` there and removes what it claimed; the asker reads the answer and takes it away, or withdraws a request that nobody
claimed. `driver.json` says which process on which machine looks in. It works on any storage that both see. Who may ask is a matter
of the folder's permissions. It does not know what requests mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune.adapters.study_dir import is_running, write_json
from tune.core.errors import Problem, UserError

_LOOK_EVERY_S = 0.1
_CLAIMED_WAIT_S = 10.0  # the driver has it in hand: it will answer
_OLD_ANSWER_S = 600.0
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_DRIVER = "driver.json"


@dataclass(frozen=True)
class Reply:
    """What the driver made of a request: words for people, or what is wrong with it."""

    said: str = ""
    problems: tuple[Problem, ...] = ()


class Inbox:
    """The driver's side. Made as soon as the driver holds the journal: what is there then was left for an earlier one.

    `open` once it knows what that one did, `close` at the end; `take` and `answer` in between.
    """

    def __init__(self, study_dir: Path):
        self._folder = study_dir / "requests"
        self._me, self._named = _this_process(), False
        self._left = [path for path in (*self._folder.glob("*.json"), *self._folder.glob("*.taken")) if path.name != _DRIVER]

    def open(self, is_done: Callable[[str], bool]) -> None:
        """Answer what an earlier session left: it was carried out if `is_done(id)`, else it is to be asked again."""
        with contextlib.suppress(OSError):  # without a folder that can be written nobody can ask, and the study goes on
            self._folder.mkdir(exist_ok=True)
            write_json(self._folder / _DRIVER, self._me)
            self._named = True
            for left in (path for path in self._left if path.exists()):
                done = is_done(left.stem)
                again = Problem("the request", "it came while no driver was there to carry it out", "ask again")
                self._put_answer(left.stem, Reply("it is done") if done else Reply(problems=(again,)))
                left.unlink(missing_ok=True)
            for answer in self._folder.glob("*.answer"):
                if time.time() - answer.stat().st_mtime > _OLD_ANSWER_S:  # nobody waits for it any more
                    answer.unlink(missing_ok=True)

    def take(self) -> Iterator[tuple[str, Any]]:
        """(id, what it says) of each request that is there, oldest first; None for what is no JSON."""
        try:
            here = sorted((p for p in self._folder.glob("*.json") if p.name != _DRIVER), key=lambda p: (p.stat().st_mtime_ns, p.name))
        except OSError:  # one was withdrawn just now, or the storage is away: at the next look
            return
        for path in here if here and self._is_ours() else ():
            claimed = path.with_suffix(".taken")
            try:
                path.rename(claimed)
            except OSError:  # withdrawn just now
                continue
            try:
                said = json.loads(claimed.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                said = None
            yield path.stem, said

    def answer(self, request: str, reply: Reply) -> None:
        """An answer that cannot be written is not worth the study."""
        with contextlib.suppress(OSError):
            self._put_answer(request, reply)
            (self._folder / f"{request}.taken").unlink(missing_ok=True)

    def close(self) -> None:
        """No driver looks in any more. What is still there is answered. Where another driver went on meanwhile it is that one's."""
        left = Reply(
            problems=(Problem("the study", "it has just ended", "look at `phasetune status`; `phasetune resume` goes on with it"),)
        )
        for request, _ in self.take():
            self.answer(request, left)
        if self._is_ours():
            with contextlib.suppress(OSError):
                (self._folder / _DRIVER).unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        """Whether no other driver has put its name over ours."""
        try:
            return not self._named or json.loads((self._folder / _DRIVER).read_text(encoding="utf-8")) == self._me
        except FileNotFoundError:
            return True
        except (OSError, ValueError, RecursionError):
            return False

    def _put_answer(self, request: str, reply: Reply) -> None:
        problems = [[problem.where, problem.got, problem.fix] for problem in reply.problems]
        tmp = self._folder / f"{request}.tmp"
        tmp.write_text(json.dumps({"said": reply.said, "problems": problems}), encoding="utf-8")
        os.replace(tmp, self._folder / f"{request}.answer")


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}


def ask(study_dir: Path, request: str, what: Mapping[str, Any], wait_s: float) -> str:
    """Put a request to the driver of a study and wait for its words. `request`: an id of its own, letters, digits and -.

    Raises UserError with what the driver says is wrong, if no driver is there, or if none answers within `wait_s` seconds.
    """
    assert _ID.fullmatch(request), "ids are ours"
    driver = _driver_of(study_dir)
    folder = study_dir / "requests"
    try:
        folder.mkdir(exist_ok=True)
        write_json(folder / f"{request}.json", what)
    except OSError as error:
        raise UserError(Problem(str(folder), f"it cannot be written: {error.strerror or error}", "mend the permissions")) from None
    try:
        reply = _answer(folder, request, wait_s, lambda: _is_gone(study_dir, driver))
    finally:
        withdrawn = _removed(folder / f"{request}.json")
    if reply is None and not withdrawn:  # it was claimed at the last moment
        reply = _answer(folder, request, _CLAIMED_WAIT_S, lambda: _is_gone(study_dir, driver))
    if reply is not None:
        if reply.problems:
            raise UserError(reply.problems)
        return reply.said
    if _is_gone(study_dir, driver):
        raise _no_driver(study_dir)
    where = "here" if driver is None else f"on {driver}"
    if withdrawn:
        got = f"its driver {where} did not look in within {wait_s:g} s; the request is withdrawn"
        fix = "ask again with a longer --wait: a study in the foreground hears at the reports of its trial only"
    else:
        got, fix = f"its driver {where} took the request up, and has not answered", "look at `phasetune status` before you ask again"
    raise UserError(Problem(str(study_dir), got, fix))


def _driver_of(study_dir: Path) -> str | None:
    """The machine of the driver, or None if its lock can be seen from here. Raises UserError if there is none."""
    if is_running(study_dir):
        return None
    try:
        host = str(json.loads((study_dir / "requests" / _DRIVER).read_text(encoding="utf-8"))["host"])
    except (OSError, ValueError, KeyError, TypeError):
        raise _no_driver(study_dir) from None
    if host == socket.gethostname():  # it was killed
        raise _no_driver(study_dir)
    return host


def _is_gone(study_dir: Path, driver: str | None) -> bool:
    """Whether the driver is known to have left. Of one on another machine only its own goodbye is."""
    return not is_running(study_dir) if driver is None else not (study_dir / "requests" / _DRIVER).exists()


def _no_driver(study_dir: Path) -> UserError:
    fix = f"start it with `phasetune resume {study_dir}`, then ask again"
    return UserError(Problem(str(study_dir), "no process is running this study, so nobody can hear the request", fix))


def _answer(folder: Path, request: str, wait_s: float, is_gone: Callable[[], bool]) -> Reply | None:
    path = folder / f"{request}.answer"
    deadline = time.monotonic() + wait_s
    while True:
        gone = is_gone()  # before the look: it answers before it goes
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if gone or time.monotonic() >= deadline:
                return None
            time.sleep(_LOOK_EVERY_S)
            continue
        _removed(path)
        return Reply(str(raw["said"]), tuple(Problem(*map(str, problem)) for problem in raw["problems"]))


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
