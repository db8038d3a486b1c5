"""A study that begins with what earlier ones found: what is taken, what is refused, and that a resume needs their folders no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.search.fakes import METRIC, SPACE, FakeClock, MemoryStore, curve, drive, essence, goal, rules_of
from tests.search.fakes import run as run_fake
from tune.adapters.past_studies import read_warm_start
from tune.adapters.samplers import make_sampler_of
from tune.adapters.schedulers import NoScheduler
from tune.core.errors import UserError
from tune.core.fold import JournalWriter, StudyFold
from tune.core.goal import Goal, Limit, Objective
from tune.core.journal import Ended, Entry, Reported, StudyStarted, Suggested, WarmStarted, decode_all
from tune.core.ports import PastTrial
from tune.core.search import Assignment, Search
from tune.core.space import Choice, Choose, Float, Int, Space
from tune.core.study import StudySpec
from tune.core.warm_start import Learner, Lesson, lesson_of
from tune.load import load_resolved

N_PAST = 24


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished study with complete and pruned trials."""
    store = MemoryStore()
    run_fake(store, rules_of(seed=1, slots=1, trials=N_PAST))
    return written(tmp_path_factory.mktemp("past") / "old-1", store)


def written(folder: Path, store: MemoryStore) -> Path:
    folder.mkdir()
    (folder / "journal.jsonl").write_text("".join(f"{line}\n" for line in store.lines()))
    return folder


def spec_of(*warm_start: object, **changes: Any) -> StudySpec:
    resolved = {
        "study": {"name": "new", "seed": 3},
        "metric": {"name": METRIC, "mode": "max"},
        "budget": {"trials": 12},
        "sampler": {"kind": "tpe", "warm_start": [str(path) for path in warm_start]},
        "trainable": {"kind": "table"},
        "space": SPACE.to_json(),
    }
    return load_resolved(resolved | changes).spec


def search_of(spec: StudySpec, store: MemoryStore) -> Search:
    sampler = make_sampler_of(spec.sampler, spec.goal, spec.space, study="new", seed=3)
    return Search(rules_of(seed=3, slots=1, trials=12), sampler, NoScheduler(), JournalWriter(store, FakeClock(), StudyFold()))


def start(spec: StudySpec, store: MemoryStore) -> Search:
    search = search_of(spec, store)
    search.begin(StudyStarted("new", "digest", spec.to_json(), {}), "fake", read_warm_start(spec))
    drive(search)
    return search


def problem_of(spec: StudySpec) -> str:
    with pytest.raises(UserError) as caught:
        read_warm_start(spec)
    return str(caught.value)


# -- what it is good for ------------------------------------------------------------------------------------------------------------


def test_tpe_begins_where_the_earlier_study_ended(past: Path) -> None:
    """It has its start-up trials behind it: the first points are about as good as the last ones of the old study."""

    def first_values(*warm_start: Path) -> list[float]:
        fold = start(spec_of(*warm_start), MemoryStore()).fold
        return sorted(trial.value or 0.0 for trial in fold.of_role("search"))

    warm, cold = first_values(past), first_values()
    assert sum(warm) > sum(cold)


def test_the_journal_says_what_was_taken_and_from_where(past: Path) -> None:
    store = MemoryStore()
    start(spec_of(past), store)
    event = next(e.event for e in decode_all(store.lines()) if isinstance(e.event, WarmStarted))
    assert event.source == f"{past}: {N_PAST} of {N_PAST} trials" and len(event.trials) == N_PAST
    assert {trial["state"] for trial in event.trials} == {"complete", "pruned"}


def test_a_resume_never_reads_the_old_folder(past: Path, tmp_path: Path) -> None:
    copy = tmp_path / "gone"
    copy.mkdir()
    (copy / "journal.jsonl").write_text((past / "journal.jsonl").read_text())
    spec, whole = spec_of(copy), MemoryStore()
    start(spec, whole)
    (copy / "journal.jsonl").unlink()
    for cut in (4, len(whole.kept) // 2, len(whole.kept) - 3):
        store = MemoryStore(whole.kept[:cut])
        search = search_of(spec, store)
        search.replay(decode_all(store.lines()))
        search.begin(None, "fake")
        drive(search)
        assert essence(store) == essence(whole)


def test_the_digest_of_a_study_is_of_the_names_of_earlier_ones_and_not_of_their_places(past: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = spec_of("studies/a-1").digest
    monkeypatch.chdir(past)
    assert spec_of("studies/a-1").digest == before != spec_of().digest


# -- what is taken -------------------------------------------------------------------------------------------------------------------


def test_points_are_mapped_to_the_keys_and_ranges_that_both_spaces_have() -> None:
    space = Space((("lr", Float(1e-4, 1e-1, log=True)), ("batch", Choice((8, 16))), ("peft", SPACE.params[2][1])))
    rows = [{"lr": 1e-3, "depth": 3, "peft.method": "lora", "peft.lora.r": 9}, {"lr": 1e-5, "depth": 3, "peft.method": "ia3"}]
    fold = StudyFold.of(told(rows))
    partial = lesson_of(fold, Learner(space, goal(), partial=True, pruned=True))
    assert [trial.point for trial in partial.trials] == [{"lr": 1e-3, "peft.method": "lora", "peft.lora.r": 9}]
    assert str(partial) == "1 of 2 trials (left out: 1 outside the space)"
    whole = lesson_of(fold, Learner(space, goal(), partial=False, pruned=True))
    assert dict(whole.left_out) == {"without some key of the space, which this sampler needs": 1, "outside the space": 1}


def test_a_branch_that_is_no_more_leaves_the_trial_out() -> None:
    space = Space((("peft", Choose("method", (("lora", (("r", Int(1, 256)),)), ("dora", ())))),))
    fold = StudyFold.of(
        told([{"lr": 1e-3, "depth": 1, "peft.method": "ia3"}, {"lr": 1e-3, "depth": 1, "peft.method": "lora", "peft.lora.r": 4}])
    )
    lesson = lesson_of(fold, Learner(space, goal(), partial=False, pruned=True))
    assert [trial.point for trial in lesson.trials] == [{"peft.method": "lora", "peft.lora.r": 4}]


def test_ends_are_judged_by_the_new_study() -> None:
    rows = [{"lr": 1e-3, "depth": depth, "peft.method": "ia3"} for depth in range(1, 7)]
    ends = [
        Ended("t0", "complete", (0.5,), {METRIC: 0.5, "seconds": 3.0}),
        Ended("t1", "pruned", (0.1,)),
        Ended("t2", "failed", reason="diverged"),
        Ended("t3", "failed", reason="out_of_memory", violations={"memory": 1.0}),
        Ended("t4", "pruned", reason="infeasible", violations={"usd": 0.5}),
    ]
    limited = Goal((Objective(METRIC, "max"),), (Limit("seconds", max=2.0),))
    lesson = lesson_of(StudyFold.of(told(rows, ends)), Learner(SPACE, limited, partial=False, pruned=True))
    assert [(t.state, t.values, t.violation) for t in lesson.trials] == [
        ("complete", (0.5,), 0.5),
        ("pruned", (0.2,), 0.0),
        ("failed", (), 1.0),
        ("pruned", (0.2,), 0.0),  # never ended: what it reported counts
    ]
    assert dict(lesson.left_out) == {"failed": 1, "without a value": 1}
    complete_only = lesson_of(StudyFold.of(told(rows, ends)), Learner(SPACE, limited, partial=False, pruned=False))
    assert [t.state for t in complete_only.trials] == ["complete", "failed"]


def told(rows: list[dict[str, Any]], ends: list[Ended] | None = None) -> list[Entry]:
    """A journal of trials with these points and two reports each."""
    events: list[Any] = [StudyStarted("old", "digest", {"metric": {"name": METRIC, "mode": "max"}}, {})]
    for i, point in enumerate(rows):
        events.append(Suggested(f"t{i}", i, "search", point))
        if ends is None or i >= len(ends) or ends[i].reason != "infeasible":
            events += [Reported(f"t{i}", 0, {METRIC: 0.1}), Reported(f"t{i}", 1, {METRIC: 0.2})]
    events += ends if ends is not None else [Ended(f"t{i}", "complete", (0.5,), {METRIC: 0.5}) for i in range(len(rows))]
    return [Entry(i, float(i), event) for i, event in enumerate(events)]


@pytest.mark.parametrize("kind", ["cmaes", "nsga2"])
def test_a_sampler_that_needs_whole_points_goes_on_from_them(past: Path, kind: str) -> None:
    spec = spec_of(past, sampler={"kind": kind, "warm_start": [str(past)]})
    search = search_of(spec, MemoryStore())
    warm = read_warm_start(spec)
    search.begin(StudyStarted("new", "digest", spec.to_json(), {}), "fake", warm)
    assert warm is not None and "cut short, of which this sampler learns nothing" in warm.source
    assert isinstance(search.next(), Assignment)


def test_cmaes_takes_one_good_point_as_its_beginning(past: Path) -> None:
    sampler = make_sampler_of(spec_of(past, sampler={"kind": "cmaes"}).sampler, goal(), SPACE, study="s", seed=1)
    sampler.learn([PastTrial({"lr": 1e-2, "depth": 5, "peft.method": "ia3"}, "complete", (0.9,))])
    points = []
    for i in range(40):
        point = sampler.ask(f"t{i}")
        assert point is not None
        sampler.tell(f"t{i}", "complete", (curve(point, 9),))
        points.append(point)
    near = [point for point in points[1:9] if 1e-3 < point["lr"] < 1e-1 and 3 <= point["depth"] <= 7]
    assert len(near) >= 6


# -- what is refused -----------------------------------------------------------------------------------------------------------------


def test_every_directory_that_is_no_study_is_named_at_once(past: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "journal.jsonl").write_text('{"v":')
    text = problem_of(spec_of(tmp_path / "none", tmp_path / "empty", tmp_path / "torn", past, past))
    for got in (
        "none",
        "no such directory",
        "no study in it: it has no journal.jsonl",
        "a study that never began",
        "a directory that is named twice",
    ):
        assert got in text
    assert "name a study directory, such as studies/quickstart-1" in text


@pytest.mark.parametrize("metric", [{"name": "val/loss", "mode": "max"}, {"name": METRIC, "mode": "min"}])
def test_a_study_of_another_objective_is_refused(past: Path, metric: dict[str, str]) -> None:
    text = problem_of(spec_of(past, metric=metric))
    assert f"a study of {METRIC} (max)" in text and f"name studies of {metric['name']} ({metric['mode']}), as this one is" in text


@pytest.mark.parametrize("space", [{"wd": {"float": [0.0, 1.0]}}, {"lr": {"float": [0.5, 1.0]}}])
def test_a_study_of_a_space_without_overlap_is_refused_with_the_reason(past: Path, space: dict[str, Any]) -> None:
    text = problem_of(spec_of(past, space=space))
    assert f"nothing to learn from: 0 of {N_PAST} trials (left out: {N_PAST} " in text


def test_a_study_without_an_ended_trial_is_refused(tmp_path: Path) -> None:
    store = MemoryStore()
    run_fake(store, rules_of(seed=1, slots=1, trials=2))
    begun = MemoryStore(store.kept[:2])
    assert "nothing to learn from: 0 of 0 trials" in problem_of(spec_of(written(tmp_path / "begun", begun)))


def test_a_study_that_names_none_reads_nothing() -> None:
    assert read_warm_start(spec_of()) is None and str(Lesson((), {})) == "0 of 0 trials"
    assert json.loads(json.dumps(spec_of().to_json()))["sampler"]["warm_start"] == []
