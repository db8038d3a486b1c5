"""Evaluations by chat: whatever is lost between the service's answer and our disk, the books hold what was billed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.openai.killing import Bomb, BombAfter, Killed
from tests.openai.making import KEY_ENV, question
from tests.openai_phases.trials import Books, Stage
from tests.openai_server.server import LocalServer
from tests.openai_server.settings import Settings
from trainables.adapters.openai_client import OpenAIWire
from trainables.openai_phases.answers import AnswerLog, Said
from trainables.openai_phases.spec import OpenaiPhasesSpec
from trainables.openai_phases.wire import Usage
from tune.core.errors import FailTrial
from tune.core.fold import StudyFold
from tune.summary import as_text

N_ROWS = 12  # of val, which each phase is judged on; phase 0 asks the base model, phase 1 a tuned one
CHAT = "POST /v1/chat"
slow = pytest.mark.slow


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv(KEY_ENV, "sk-local-0123456789abcdef")
    with LocalServer(tmp_path / "server.db", Settings(speed=0, rows_a_pass=15)) as server:
        yield Stage(server, tmp_path)


def spec_of(stage: Stage, keeps: bool = True, **profile: Any) -> OpenaiPhasesSpec:
    phases = {"count": 1, "per_class": 5, "zero_shot": True, "pick": "best"}
    evaluation = {"splits": ["val"], "concurrent_requests": 2}
    return stage.spec(profile={"keeps_answers": keeps, "timeout_s": 1} | profile, phases=phases, evaluation=evaluation)


def play(stage: Stage, spec: OpenaiPhasesSpec, *bombs: Bomb) -> Books:
    """A trial that dies of these bombs, one a life, and then goes to its end."""
    books = stage.books(spec)
    for bomb in bombs:
        with pytest.raises(Killed):
            stage.play(spec, stage.reporter(books, bomb=bomb), bomb)
    stage.play(spec, stage.reporter(books))
    return books


def chats(stage: Stage) -> int:
    return sum(charge["what"] == "chat" for charge in stage.server.control("bill")["charges"])


def billed(stage: Stage) -> float:
    return float(stage.server.control("bill")["total_usd"])


@slow
@pytest.mark.parametrize(
    ("nth", "server"), [(0, {}), (5, {"ignore_metadata_filter": True}), (N_ROWS - 1, {"show_answers_s": 60}), (N_ROWS, {})], ids=str
)
def test_an_answer_that_a_crash_lost_is_found_and_neither_asked_for_nor_paid_again(stage: Stage, nth: int, server: dict[str, Any]) -> None:
    stage.server.control("settings", server)
    spec = spec_of(stage)
    stranger = OpenAIWire(spec.profile.wire)
    stranger.chat("gpt-4o-2024-08-06", question(1), {}, {"phasetune_attempt": "a stranger's", "phasetune_row": "3"})
    others = billed(stage)
    books = play(stage, spec, BombAfter("chat", nth))
    assert chats(stage) == 1 + 2 * N_ROWS
    assert books.fold.usd == pytest.approx(billed(stage) - others, abs=1e-9) and books.fold.usd_at_most == 0


@slow
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop_after"},
        {"kind": "error_after", "status": 502},
        {"preset": "timeout_after_accept"},
        {"kind": "drop"},
        {"kind": "error", "status": 500},
        {"preset": "rate_limit"},
        {"kind": "late", "after_s": 30},
    ],
    ids=str,
)
def test_an_answer_that_did_not_come_is_in_the_books_if_it_was_billed(stage: Stage, fault: dict[str, Any]) -> None:
    stage.server.control("faults", [{"match": CHAT, "times": 2, "skip": 3} | fault])
    books = play(stage, spec_of(stage))
    assert books.fold.usd == pytest.approx(billed(stage), abs=1e-9) and books.fold.usd_at_most == 0
    twice = {"late": 2}.get(str(fault.get("kind")), 0)  # which took effect after it was sent again
    assert chats(stage) == 2 * N_ROWS + twice


@slow
def test_where_no_answers_are_kept_an_upper_bound_of_the_lost_ones_is_booked_and_said(stage: Stage) -> None:
    spec = spec_of(stage, keeps=False)
    books = play(stage, spec, BombAfter("chat", 4))
    lost = chats(stage) - 2 * N_ROWS
    assert lost >= 1 and books.fold.usd >= billed(stage)
    assert books.fold.usd - billed(stage) < books.fold.usd_at_most < 0.02
    assert 0 < books.fold.trials["t0000"].bills["phase-0/val/unheard"] == books.fold.usd_at_most
    assert f"of which ${books.fold.usd_at_most:.4f} is an upper bound, since the service does not say what it billed" in as_text(
        books.fold, "here"
    )
    (zero, _) = json.loads((stage.folder / "trial" / "work" / "phases.json").read_text())
    assert "; at most " in zero["bill"] and zero["metrics"]["usd"] == pytest.approx(
        sum(usd for bill, usd in books.fold.trials["t0000"].bills.items() if bill.startswith("phase-0"))
    )


@slow
@pytest.mark.parametrize("server", [{"keeps_answers": False}, {"drops_metadata": True}], ids=str)
def test_a_list_that_does_not_show_what_was_heard_is_not_believed(stage: Stage, server: dict[str, Any]) -> None:
    """A service may be said to keep answers and keep none: one that must not, or none to pictures, as Foundry was seen to do."""
    spec = spec_of(stage)
    stage.server.control("settings", server)
    books = play(stage, spec, BombAfter("chat", 4))
    assert chats(stage) > 2 * N_ROWS and books.fold.usd_at_most > 0
    assert books.fold.usd >= billed(stage) - 1e-12


@slow
def test_nothing_is_kept_unless_the_profile_says_so(stage: Stage) -> None:
    spec = spec_of(stage, keeps=False)
    play(stage, spec)
    assert list(OpenAIWire(spec.profile.wire).answers({})) == []


@slow
def test_an_evaluation_that_fails_for_good_has_its_lost_answers_in_the_books(stage: Stage) -> None:
    spec = spec_of(stage)
    lost = {"match": CHAT, "kind": "late", "after_s": 60, "skip": 2}
    refused = {"match": CHAT, "kind": "error", "status": 400, "code": "bad", "skip": 7}
    stage.server.control("faults", [lost, refused])
    books = stage.books(spec)
    with pytest.raises(FailTrial, match="bad"):
        stage.play(spec, stage.reporter(books))
    assert books.fold.usd == pytest.approx(billed(stage), abs=1e-9) and chats(stage) >= 7


def test_a_log_cut_anywhere_tells_of_each_sending_whether_its_answer_came(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with AnswerLog(whole) as log:
        log.sending(3, 10.0)
        log.sending(4, 11.0)
        log.void(4)
        log.sending(4, 12.0)
        log.answer(4, Said("yes", Usage(5, 0, 1), 0.5, "a4"))
        log.answer(3, Said("no", Usage(6, 0, 1), None, "a3"))
        log.answer(3, Said("no", Usage(7, 0, 1), None, "b3"))
    data, path = whole.read_bytes(), tmp_path / "cut"
    known = [([], {}), ([], {3: [10]}), ([], {3: [10], 4: [11]}), ([], {3: [10]}), ([], {3: [10], 4: [12]}), (["a4"], {3: [10]})]
    known += [(["a3", "a4"], {}), (["a3", "a4", "b3"], {})]
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        log = AnswerLog(path)
        assert (sorted(log.ids), log.unheard) == known[data.count(b"\n", 0, cut)]
    assert log.usage.input_tokens == 18 and log.said[3].id == "a3"
    with AnswerLog(tmp_path / "cut") as log:
        log.sending(5, 13.0)
        log.settle(1)
    again = AnswerLog(tmp_path / "cut")
    assert (again.unheard, again.n_unknown, again.last_sent_t) == ({}, 1, 13.0)


def test_a_journal_without_upper_bounds_says_nothing_of_them() -> None:
    assert "upper bound" not in as_text(StudyFold(), "here")
