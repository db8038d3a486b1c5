"""What MLflow should hold, as folded from a journal. No mlflow here."""

from __future__ import annotations

import math
from pathlib import Path

from tests.mlflow_log.made_study import BEGAN_AT_S, LONG_KEY, METRIC, entries, made_study, started, write_study
from tune.adapters.mlflow_fold import PARENT, MlflowFold, RunSheet, flatten, mlflow_key, param_text
from tune.adapters.mlflow_log import JournalTail, MlflowProjection, default_tracking_uri, ui_command
from tune.core.journal import Ended, Entry, Event, Noted, Reported, SessionStarted, Started, StudyEnded, Suggested


def folded(*events: Event) -> dict[str, RunSheet]:
    fold = MlflowFold()
    for entry in entries(events):
        fold.apply(entry)
    return {sheet.trial: sheet for sheet in fold.pending()}


def one_trial(*events: Event, mode: str = "max") -> dict[str, RunSheet]:
    return folded(started(mode=mode), SessionStarted(1, 1, "here"), Suggested("t0000", 0, "search", {"optim.lr": 0.001}), *events)


def curve(sheet: RunSheet, key: str) -> list[tuple[int, float]]:
    return [(sample.step, sample.value) for sample in sheet.samples if sample.key == key]


def test_allowed_keys_stay_as_they_are() -> None:
    for key in ("optim.lr", "val/f1/class 1", "peft.lora.r", "a:b", "x" * 250):
        assert mlflow_key(key) == key


def test_strange_keys_get_allowed_names_that_do_not_collide() -> None:
    strange = ["", "/", "a//b", "a/b/", "..", "../x", "..x", "a=b", "a,b", "a b\n", "x" * 251, "x" * 300 + "y", "x" * 300 + "z"]
    names = [mlflow_key(key) for key in strange]
    assert len(set(names)) == len(strange)
    assert all(0 < len(name) <= 250 and not name.startswith((".", "/")) and "=" not in name for name in names)


def test_a_parameter_is_spelt_as_in_yaml() -> None:
    assert [param_text(v) for v in (True, None, 1e-4, "mixup", [1, 2])] == ["true", "null", "0.0001", "mixup", "[1, 2]"]
    assert flatten({"a": {"b.c": {"d": 1}, "e": {}}, "f": [1]}) == {"a.b.c.d": 1, "a.e": {}, "f": [1]}


def test_what_is_cut_stands_whole_in_an_artifact() -> None:
    sheet = folded(started(), Suggested("t0000", 0, "search", {LONG_KEY: "y" * 9000}))["t0000"]
    ((key, value),) = sheet.params.items()
    assert len(key) == 250 and len(value) == 6000
    assert [a.path for a in sheet.artifacts] == ["parameters.json"] and "y" * 9000 in (sheet.artifacts[0].text or "")


def test_a_trial_carries_its_tags_from_birth_and_its_name_tells_the_point() -> None:
    sheet = folded(started(), Noted("data", {"digest": "feed"}), Suggested("t0007", 7, "search", {"optim.lr": 3e-4, "batch": 32}))["t0007"]
    assert sheet.name == "t0007 lr=0.0003 batch=32"
    assert sheet.head["phasetune.trial"] == "t0007" and sheet.head["phasetune.role"] == "search"
    assert sheet.head["phasetune.commit"] == "0123abc" and sheet.head["phasetune.data_digest"] == "feed"
    assert sheet.head["phasetune.seed"].isdigit() and sheet.start_ms == round((BEGAN_AT_S + 0.5) * 1000)


def test_a_value_that_is_no_finite_number_is_left_out_and_named() -> None:
    fold = MlflowFold()
    reported = Reported("t0000", 3, {METRIC: math.nan, "val/loss": 0.5})
    for entry in entries([started(), Suggested("t0000", 0, "search", {}), Started("t0000", 1, 0), reported]):
        fold.apply(entry)
    (child, _) = fold.pending()
    assert [s.key for s in child.samples] == ["val/loss"]
    assert fold.problems == [f"t0000: {METRIC} = nan at step 3 is not a finite number; left out"]


def test_a_final_metric_does_not_bend_the_curve_of_the_same_name() -> None:
    final = {METRIC: 0.7, "val/loss": 0.5, "test/accuracy": 0.6}
    sheet = one_trial(Reported("t0000", 4, {METRIC: 0.6, "val/loss": 0.5}), Ended("t0000", "complete", (0.7,), final))["t0000"]
    assert curve(sheet, METRIC) == [(4, 0.6)] and curve(sheet, f"final/{METRIC}") == [(4, 0.7)]
    assert curve(sheet, "val/loss") == [(4, 0.5)] and curve(sheet, "final/val/loss") == []
    assert curve(sheet, "test/accuracy") == [(4, 0.6)] and curve(sheet, "objective") == [(4, 0.7)]


def test_status_state_and_reason_follow_the_end_of_a_trial() -> None:
    for state, status in (("complete", "FINISHED"), ("pruned", "FINISHED"), ("failed", "FAILED")):
        sheet = one_trial(Ended("t0000", state, (), reason="because", detail="of this"))["t0000"]  # type: ignore[arg-type]
        assert (sheet.status, sheet.tags["phasetune.state"]) == (status, state)
        assert sheet.tags["phasetune.reason"] == "because" and sheet.tags["phasetune.detail"] == "of this"


def test_a_pruned_trial_is_never_the_best() -> None:
    other = [Suggested("t0001", 1, "search", {}), Ended("t0001", "complete", (0.4,))]
    parent = one_trial(Ended("t0000", "pruned", (0.9,)), *other)[PARENT]
    assert parent.tags["phasetune.best_trial"] == "t0001" and curve(parent, f"best/{METRIC}") == [(1, 0.4)]


def test_best_so_far_never_gets_worse_in_either_mode() -> None:
    values = [0.5, 0.7, 0.3, 0.9, 0.1]
    for mode, expected in (("max", [0.5, 0.7, 0.7, 0.9, 0.9]), ("min", [0.5, 0.5, 0.3, 0.3, 0.1])):
        ends: list[Event] = []
        for i, value in enumerate(values):
            ends += [Suggested(f"t{i:04d}", i, "search", {}), Ended(f"t{i:04d}", "complete", (value,))]
        assert curve(folded(started(mode=mode), *ends)[PARENT], f"best/{METRIC}") == list(enumerate(expected))


def test_an_interrupted_study_leaves_its_open_trials_killed_until_it_is_resumed() -> None:
    stopped = [Started("t0000", 1, 0), StudyEnded("interrupted", "asked to stop")]
    sheets = one_trial(*stopped)
    assert (sheets["t0000"].status, sheets[PARENT].status) == ("KILLED", "KILLED")
    resumed = one_trial(*stopped, SessionStarted(2, 1, "here"), Started("t0000", 2, 0))
    assert (resumed["t0000"].status, resumed[PARENT].status, resumed["t0000"].end_ms) == ("RUNNING", "RUNNING", None)


def test_two_folds_of_one_journal_hold_the_same() -> None:
    journal = list(made_study(3, 8, 6))
    assert folded(*journal) == folded(*journal)


def test_the_same_study_started_twice_is_two_studies() -> None:
    ids = set()
    for began_at_s in (1.0, 2.0):
        fold = MlflowFold()
        fold.apply(Entry(0, began_at_s, started()))
        ids.add(fold.study_id)
    assert len(ids) == 2


def test_the_tail_reads_neither_half_a_line_nor_past_what_is_durable(tmp_path: Path) -> None:
    write_study(tmp_path, entries([started(), SessionStarted(1, 1, "here"), StudyEnded("done", "all")]))
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    tail = JournalTail(path)
    assert [e.seq for e in tail.read(1, 100)] == [0]
    assert [e.seq for e in tail.read(9, 100)] == [1]
    path.write_bytes(whole)
    assert [e.seq for e in tail.read(9, 100)] == [2]
    tail.rewind()
    assert [e.seq for e in tail.read(9, 2)] == [0, 1]


def test_offers_and_a_close_without_a_start_do_no_harm(tmp_path: Path) -> None:
    projection = MlflowProjection(tmp_path / "absent", "http://127.0.0.1:9", "x")
    for entry in entries([started(), SessionStarted(1, 1, "here")]):
        projection.offer(entry)
    assert projection.close(timeout_s=0).behind == 2


def test_the_command_for_the_ui_stays_on_this_machine_and_quotes_the_path(tmp_path: Path) -> None:
    uri = default_tracking_uri(tmp_path / "my studies")
    assert uri == f"sqlite:///{tmp_path}/my studies/mlflow.db"
    assert "--host 127.0.0.1" in ui_command(uri) and f"'{uri}'" in ui_command(uri)
    assert "http://10.0.0.1:5000" in ui_command("http://10.0.0.1:5000")


def test_ids_that_a_trial_told_are_tags_at_once_and_parameters_when_it_has_ended() -> None:
    fold = MlflowFold()
    events = (
        started(),
        Suggested("t0000", 0, "search", {"optim.lr": 0.001}),
        Started("t0000", 1, 0),
        Noted("trial t0000", {"hosted.phase_1.job": "ftjob-1"}),
        Noted("trial t0000", {"hosted.phase_1.job": "ftjob-1", "hosted.model": "ft:m"}),
    )
    told = list(entries((*events, Ended("t0000", "complete", (0.5,), {METRIC: 0.5}, reason="budget", detail="phase 2 may cost $4"))))
    for entry in told[:4]:
        fold.apply(entry)
    sheets = {sheet.trial: sheet for sheet in fold.pending()}
    assert sheets["t0000"].tags["hosted.phase_1.job"] == "ftjob-1" and "hosted.phase_1.job" not in sheets["t0000"].params
    assert not any("ftjob-1" in (artifact.text or "") for artifact in sheets[PARENT].artifacts)
    for entry in told[4:]:
        fold.apply(entry)
    assert sheets["t0000"].params["hosted.phase_1.job"] == "ftjob-1" and sheets["t0000"].params["hosted.model"] == "ft:m"
    assert (sheets["t0000"].tags["phasetune.reason"], sheets["t0000"].status) == ("budget", "FINISHED")
