"""Requests reach the driver whole and once, answers come back, and nobody waits for a driver that is not there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tune.adapters.inbox import Inbox, Reply, ask
from tune.core.errors import Problem, UserError


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Path]:
    """A study directory whose journal a driver on this machine holds."""
    with FileLock(str(tmp_path / ".journal.lock")):
        yield tmp_path


def never(request: str) -> bool:
    return False


def asked(study_dir: Path, request: str, what: dict[str, Any], wait_s: float = 20.0) -> tuple[threading.Thread, list[object]]:
    """Ask from another thread; what came of it is in the list."""
    came: list[object] = []

    def work() -> None:
        try:
            came.append(ask(study_dir, request, what, wait_s))
        except UserError as error:
            came.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, came


def taken(inbox: Inbox) -> tuple[str, Any]:
    """The next request, once it is there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for found in inbox.take():
            return found
    raise AssertionError("no request came")


def test_a_request_is_taken_once_and_its_answer_reaches_the_asker_and_leaves_nothing(driven: Path) -> None:
    inbox = Inbox(driven)
    inbox.open(never)
    thread, came = asked(driven, "r-1", {"do": "stop"})
    assert taken(inbox) == ("r-1", {"do": "stop"})
    assert list(inbox.take()) == []
    inbox.answer("r-1", Reply("done so"))
    thread.join()
    assert came == ["done so"]
    inbox.close()
    assert list((driven / "requests").iterdir()) == []


def test_what_the_driver_finds_wrong_is_raised_at_the_asker_with_all_three_parts(driven: Path) -> None:
    inbox = Inbox(driven)
    inbox.open(never)
    thread, came = asked(driven, "r-1", {"do": "pin"})
    taken(inbox)
    inbox.answer("r-1", Reply(problems=(Problem("--trial t9", "none", "name one"), Problem("b", "c", "d"))))
    thread.join()
    assert isinstance(came[0], UserError) and came[0].problems == (Problem("--trial t9", "none", "name one"), Problem("b", "c", "d"))


def test_without_a_driver_nothing_is_left_behind_and_the_text_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no process is running this study[\s\S]*phasetune resume"):
        ask(tmp_path, "r-1", {}, 5.0)
    assert not (tmp_path / "requests").exists()


def test_a_driver_that_was_killed_here_is_known_to_be_gone(tmp_path: Path) -> None:
    Inbox(tmp_path).open(never)  # and no lock is held
    with pytest.raises(UserError, match="no process is running"):
        ask(tmp_path, "r-1", {}, 5.0)


def test_a_driver_on_another_machine_is_asked_although_its_lock_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.adapters.inbox._this_process", lambda: {"host": "elsewhere", "pid": 1})
    inbox = Inbox(tmp_path)
    inbox.open(never)
    thread, came = asked(tmp_path, "r-1", {"do": "stop"})
    taken(inbox)
    inbox.answer("r-1", Reply("heard"))
    thread.join()
    assert came == ["heard"]


def test_a_request_that_nobody_took_up_is_withdrawn(driven: Path) -> None:
    Inbox(driven).open(never)
    with pytest.raises(UserError, match=r"did not look in within 0.2 s; the request is withdrawn[\s\S]*--wait"):
        ask(driven, "r-1", {}, 0.2)
    assert list(Inbox(driven).take()) == []


def test_a_driver_that_ends_answers_what_is_there(driven: Path) -> None:
    inbox = Inbox(driven)
    inbox.open(never)
    thread, came = asked(driven, "r-1", {})
    while not (driven / "requests" / "r-1.json").exists():
        pass
    inbox.close()
    thread.join()
    assert "it has just ended" in str(came[0])


def test_a_driver_in_whose_place_another_went_on_leaves_that_ones_requests_alone(driven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Inbox(driven)
    lost.open(never)
    with monkeypatch.context() as patched:
        patched.setattr("tune.adapters.inbox._this_process", lambda: {"host": "elsewhere", "pid": 1})
        inbox = Inbox(driven)
        inbox.open(never)
    (driven / "requests" / "r-1.json").write_text('{"do": "stop"}')
    assert list(lost.take()) == []
    lost.close()
    assert json.loads((driven / "requests" / "driver.json").read_text())["host"] == "elsewhere"
    assert (driven / "requests" / "r-1.json").exists() and not (driven / "requests" / "r-1.answer").exists()


def test_what_a_killed_driver_left_is_answered_by_the_next_as_done_or_to_be_asked_again(driven: Path) -> None:
    inbox = Inbox(driven)
    inbox.open(never)
    first, came_first = asked(driven, "r-1", {})
    assert taken(inbox)[0] == "r-1"  # and here it dies, with r-1 in the journal
    second, came_second = asked(driven, "r-2", {})
    while not (driven / "requests" / "r-2.json").exists():
        pass
    Inbox(driven).open(lambda request: request == "r-1")
    first.join()
    second.join()
    assert came_first == ["it is done"] and "ask again" in str(came_second[0])
    assert list(Inbox(driven).take()) == []


@pytest.mark.parametrize("text", ["", "{", "[" * 5000, '"\ud800"'])
def test_what_is_no_json_is_handed_on_as_nothing(driven: Path, text: str) -> None:
    inbox = Inbox(driven)
    inbox.open(never)
    (driven / "requests" / "bad.json").write_text(text, errors="surrogatepass")
    assert list(inbox.take()) in ([("bad", None)], [("bad", "\ud800")])
