"""The writer against a server whose faults are chosen: lost answers, late arrivals, one value that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune.adapters.mlflow_fold import STUDY_TAG, TRIAL_TAG, RunSheet, Sample
from tune.adapters.mlflow_runs import RunWriter, Unreachable

pytestmark = pytest.mark.slow  # the writer imports mlflow for its record types


class BadServer:
    """Runs in memory. `fault(name, args)` may raise before a call takes effect; `lose` names calls whose answer is lost."""

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}
        self.fault: Callable[[str, tuple[Any, ...]], None] = lambda name, args: None
        self.lose: list[str] = []
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(type(self), f"do_{name}")

        def call(*args: Any) -> Any:
            self.calls.append(name)
            self.fault(name, args)
            result = method(self, *args)
            if name in self.lose:
                self.lose.remove(name)
                raise ConnectionError("the answer was lost")
            return result

        return call

    def do_get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1", lifecycle_stage="active")

    def do_get_experiment(self, experiment_id: str) -> None: ...

    def do_create_run(self, experiment_id: str, start_ms: int, tags: dict[str, str], name: str) -> Any:
        run_id = f"r{len(self.runs)}"
        info = SimpleNamespace(run_id=run_id, status="RUNNING", lifecycle_stage="active")
        self.runs[run_id] = SimpleNamespace(info=info, data=SimpleNamespace(tags=dict(tags)), values=[])
        return self.runs[run_id]

    def do_search_runs(self, ids: list[str], where: str, *_: Any) -> Any:
        found = [run for run in self.runs.values() if TRIAL_TAG not in where or f"'{run.data.tags.get(TRIAL_TAG)}'" in where]
        page = type("Page", (list,), {"token": None})
        return page(found)

    def do_get_run(self, run_id: str) -> Any:
        return self.runs[run_id]

    def do_delete_run(self, run_id: str) -> None:
        self.runs[run_id].info.lifecycle_stage = "deleted"

    def do_log_batch(self, run_id: str, metrics: list[Any], params: list[Any], tags: list[Any]) -> None:
        run = self.runs[run_id]
        run.values += [m.value for m in metrics]
        run.data.tags |= {tag.key: tag.value for tag in tags}

    def do_set_tag(self, run_id: str, key: str, value: str) -> None:
        self.runs[run_id].data.tags[key] = value

    def do_delete_tag(self, run_id: str, key: str) -> None:
        del self.runs[run_id].data.tags[key]

    def do_set_terminated(self, run_id: str, status: str, end_ms: int) -> None:
        self.runs[run_id].info.status = status

    @property
    def live(self) -> list[Any]:
        return [run for run in self.runs.values() if run.info.lifecycle_stage == "active"]


def writer_of(server: BadServer, notes: list[str]) -> RunWriter:
    return RunWriter(lambda: server, "x", Path("nowhere"), None, 0, notes.append)


def sheets(n_samples: int) -> tuple[RunSheet, RunSheet]:
    parent = RunSheet("", "study", 0, {STUDY_TAG: "s"}, seq=1)
    child = RunSheet("t0000", "t0000", 0, {STUDY_TAG: "s", TRIAL_TAG: "t0000"}, seq=9, status="FINISHED", end_ms=5, ended=True)
    child.samples = [Sample(2, "loss", float(i), i, i) for i in range(n_samples)]
    return parent, child


def persist(tell: Callable[[], None], tries: int = 8) -> int:
    """Tell until it succeeds; how often it failed."""
    for failures in range(tries):
        try:
            tell()
            return failures
        except Unreachable:
            pass
    raise AssertionError(f"not told in {tries} tries")


def test_a_creation_whose_answer_was_lost_is_found_and_not_repeated() -> None:
    server, notes = BadServer(), list[str]()
    writer, (parent, child) = writer_of(server, notes), sheets(3)
    writer.connect("s")
    server.lose = ["create_run", "create_run"]
    assert persist(lambda: writer.write(child, parent)) == 2
    assert len(server.runs) == 2 and server.runs["r1"].values == [0.0, 1.0, 2.0] and server.runs["r1"].info.status == "FINISHED"


def test_a_creation_that_arrives_late_is_removed_at_the_end() -> None:
    server, notes = BadServer(), list[str]()
    writer, (parent, child) = writer_of(server, notes), sheets(3)
    writer.connect("s")
    writer.write(parent, parent)
    late: list[tuple[Any, ...]] = []

    def hang_once(name: str, args: tuple[Any, ...]) -> None:
        if name == "create_run" and not late:
            late.append(args)
            raise TimeoutError("no answer")

    server.fault = hang_once
    assert persist(lambda: writer.write(child, parent)) == 1
    server.do_create_run(*late[0])  # the server wakes up and works off what it was sent
    assert len(server.live) == 3
    writer.connect("s")
    assert len(server.live) == 2 and server.runs["r1"] in server.live, "the run that holds the values stays"


def test_values_beyond_one_call_all_arrive_and_the_cursor_comes_last() -> None:
    server, notes = BadServer(), list[str]()
    writer, (parent, child) = writer_of(server, notes), sheets(2345)
    child.params = {f"p{i}": "1" for i in range(250)}
    child.tags = {f"t{i}": "1" for i in range(30)}
    writer.connect("s")
    sizes: list[int] = []

    def measure(name: str, args: tuple[Any, ...]) -> None:
        if name == "log_batch" and args[0] == "r1":
            sizes.append(sum(len(part) for part in args[1:]))
            assert len(args[2]) <= 100 and len(args[3]) <= 100
            assert "phasetune.seq" not in server.runs["r1"].data.tags

    server.fault = measure
    writer.write(child, parent)
    assert sorted(server.runs["r1"].values) == [float(i) for i in range(2345)]
    assert max(sizes) <= 1000 and sum(sizes) == 2345 + 250 + 31


def test_a_value_that_breaks_the_server_costs_itself_alone() -> None:
    server, notes = BadServer(), list[str]()
    writer, (parent, child) = writer_of(server, notes), sheets(40)
    writer.connect("s")

    def choke(name: str, args: tuple[Any, ...]) -> None:
        if name == "log_batch" and any(metric.value == 13.0 for metric in args[1]):
            raise RuntimeError("500 Internal Server Error")

    server.fault = choke
    assert persist(lambda: writer.write(child, parent)) > 0, "it may be the server's bad hour, so it is tried again first"
    assert sorted(server.runs["r1"].values) == [float(i) for i in range(40) if i != 13]
    assert len(notes) == 1 and "loss = 13.0 at step 13 was refused" in notes[0]


def test_a_server_that_is_down_costs_no_value() -> None:
    server, notes = BadServer(), list[str]()
    writer, (parent, child) = writer_of(server, notes), sheets(40)
    writer.connect("s")
    left = [20]

    def down(name: str, args: tuple[Any, ...]) -> None:
        left[0] -= 1
        if left[0] > 0:
            raise ConnectionError("refused")

    server.fault = down
    assert persist(lambda: writer.write(child, parent), tries=50) > 5
    assert sorted(server.runs["r1"].values) == [float(i) for i in range(40)] and notes == []


def test_a_server_that_answers_but_cannot_write_costs_no_value() -> None:
    server, notes = BadServer(), list[str]()
    writer, (parent, child) = writer_of(server, notes), sheets(40)
    writer.connect("s")
    writer.write(parent, parent)
    left = [30]

    def full_disk(name: str, args: tuple[Any, ...]) -> None:
        left[0] -= name in ("log_batch", "set_tag")
        if left[0] > 0 and name in ("log_batch", "set_tag"):
            raise RuntimeError("database or disk is full")

    server.fault = full_disk
    assert persist(lambda: writer.write(child, parent), tries=50) > 5
    assert sorted(server.runs["r1"].values) == [float(i) for i in range(40)] and notes == []


def test_what_the_server_has_is_not_sent_again() -> None:
    server, notes = BadServer(), list[str]()
    writer, (parent, child) = writer_of(server, notes), sheets(3)
    writer.connect("s")
    writer.write(child, parent)
    writer = writer_of(server, notes)
    writer.connect("s")
    server.calls.clear()
    parent, child = sheets(3)
    writer.write(child, parent)
    assert server.calls == []
