"""What each request does to a search, and what it says when it cannot be done. In memory, with fakes at the ports."""

from __future__ import annotations

import pytest

from tests.search.fakes import METRIC, SPACE, FakeClock, MemoryStore, goal, make_search, rules_of
from tests.steer.driving import LastSteps, Script, run
from tune.core.errors import UserError
from tune.core.fold import StudyFold
from tune.core.journal import ASKED, Entry, Promoted, Reported, StopAsked, StudyStarted, Suggested, decode, decode_all, encode
from tune.core.promotion import RungLadder
from tune.core.rules import Assignment, Rules, trial_seed
from tune.core.search import Search
from tune.core.steer import Steering
from tune.core.steer_events import Held, LimitsSet, Pinned, Wanted, words
from tune.core.steer_requests import Add, Clone, Hold, Pin, Request, SetLimits, Stop, What
from tune.core.steer_requests import decode as decode_request

RULES = rules_of(seed=7, slots=1, trials=6, most_slots=3)
POINT = {"lr": 1e-3, "depth": 3, "peft.method": "ia3"}


class Study:
    """A search that a test drives by hand."""

    def __init__(self, rules: Rules = RULES, scheduler: RungLadder | bool = False, may_change: tuple[str, ...] = ("lr",)):
        self.store = MemoryStore()
        self.search: Search = make_search(self.store, rules, sampler="random", asha=scheduler)
        self.search.begin(StudyStarted("fake", "digest", {"metric": {"name": METRIC, "mode": "max"}}, {}), "fake")
        self.steering = Steering(self.search, SPACE, LastSteps(self.search), may_change)
        self.n_asked = 0

    def ask(self, what: What, request: str | None = None) -> str:
        self.n_asked += 1
        return self.steering.carry_out(Request(request or f"r{self.n_asked}", "ann@here", what))

    def refused(self, what: What) -> str:
        before = list(self.store.kept)
        with pytest.raises(UserError) as caught:
            self.ask(what)
        assert self.store.kept == before, "what is refused changes nothing"
        return str(caught.value)

    def start(self) -> Assignment:
        found = self.search.next()
        assert isinstance(found, Assignment)
        self.search.started(found.trial, 0)
        return found

    def report(self, trial: str, step: int, value: float = 0.5) -> str:
        return self.search.report(trial, step, {METRIC: value})

    def complete(self, trial: str, value: float = 0.5) -> None:
        self.search.finish(trial, {METRIC: value}, {})

    @property
    def fold(self) -> StudyFold:
        return self.search.fold


def test_a_stopped_trial_ends_at_its_next_report_as_stopped_by_the_user() -> None:
    study = Study()
    study.start()
    assert study.report("t0000", 0) == "continue"
    assert "ends at its next report" in study.ask(Stop("t0000"))
    assert study.report("t0000", 1) == "stop"
    study.search.finish("t0000", {}, {})
    view = study.fold.trials["t0000"]
    assert (view.state, view.reason, view.detail, view.values) == ("pruned", ASKED, "stopped by the user", (0.5,))


def test_a_trial_that_waits_is_stopped_at_once() -> None:
    study = Study()
    study.start()
    study.ask(Hold(True))
    study.report("t0000", 0)
    study.search.finish("t0000", {}, {})
    assert "was not running and is stopped" in study.ask(Stop("t0000"))
    assert study.fold.trials["t0000"].detail == "stopped by the user"


def test_only_trials_that_go_on_can_be_stopped_or_pinned() -> None:
    study = Study()
    study.start()
    study.complete("t0000")
    study.start()
    for what in (Stop("t0000"), Pin("t0000")):
        assert "t0000 is complete" in study.refused(what) and "going on: t0001" in study.refused(what)
        assert "there is no trial 't0002' (did you mean" in study.refused(type(what)("t0002"))


def test_while_paused_nothing_starts_and_what_runs_leaves_only_with_a_checkpoint() -> None:
    study = Study(rules_of(seed=7, slots=2, trials=6))
    study.start(), study.start()
    study.search.is_kept = lambda trial, step: trial == "t0000"
    study.ask(Hold(True))
    assert study.report("t0000", 0) == "stop" and study.report("t0001", 0) == "continue"
    study.search.finish("t0000", {}, {})
    assert study.search.next() == "wait"
    study.complete("t0001")
    assert study.search.next() == "wait" and study.fold.trials["t0000"].state == "running"
    assert "already" in study.ask(Hold(True))
    assert study.ask(Hold(False)) == "the study goes on"
    again = study.start()
    assert (again.trial, again.attempt) == ("t0000", 2)


@pytest.mark.parametrize(("what", "then"), [(Hold(True), "wait"), (Stop(), "over")])
def test_a_wish_between_points_that_break_a_limit_ends_nothing_that_waits(what: What, then: str) -> None:
    ladder = RungLadder(goal(), 7, form="promote", grace=2, factor=4, max_steps=9)
    broken: list[bool] = []
    study = Study(rules_of(seed=7, slots=1, trials=6, finalists=(1, 1), infeasible=lambda point: {"size": 1.0} if broken else {}), ladder)
    study.start()
    study.report("t0000", 2, 0.1)
    study.search.finish("t0000", {}, {})
    broken.append(True)
    study.search.between = lambda: study.ask(what) and None
    assert study.search.next() == then
    assert study.fold.trials["t0000"].state == "paused", "it was not judged"


def test_the_time_of_a_pause_counts_for_no_budget() -> None:
    study = Study()
    clock = study.search.journal._clock
    assert isinstance(clock, FakeClock)
    study.start()
    study.ask(Hold(True))
    study.report("t0000", 0)
    study.search.finish("t0000", {}, {})
    before = study.fold.active_seconds
    clock.time += 1e6
    assert study.search.next() == "wait"
    study.ask(Hold(False))
    assert study.fold.active_seconds - before < 10


def test_raised_trials_go_on_and_lowered_ones_end_the_study_with_what_runs() -> None:
    study = Study(rules_of(seed=7, slots=1, trials=1))
    study.start()
    assert study.ask(SetLimits({"trials": 2})) == "trials: 1 -> 2"
    study.complete("t0000")
    study.start()
    assert study.ask(SetLimits({"trials": 1})) == "trials: 2 -> 1 (2 have begun: no further one will; those go on to their ends)"
    assert study.report("t0001", 0) == "continue"
    study.complete("t0001")
    assert study.search.next() == "over"


def test_a_limit_of_time_that_was_reached_can_be_raised_before_the_study_ends() -> None:
    study = Study()
    study.start()
    study.ask(SetLimits({"wall_hours": 1e-9}))
    assert study.search.next() == "wait"
    assert study.report("t0000", 0) == "stop"
    study.ask(SetLimits({"wall_hours": 10}))
    study.search.finish("t0000", {}, {})
    assert isinstance(study.search.next(), Assignment)


def test_concurrency_goes_up_to_the_room_there_is_and_down_as_trials_end() -> None:
    study = Study()
    study.start()
    assert study.search.next() == "wait"
    assert "use at most 3" in study.refused(SetLimits({"concurrency": 4}))
    assert study.ask(SetLimits({"concurrency": 2})) == "concurrency: 1 -> 2"
    study.start()
    assert study.search.next() == "wait"
    assert study.ask(SetLimits({"concurrency": 1})) == "concurrency: 2 -> 1 (2 run; slots close as trials end)"
    study.complete("t0000")
    assert study.search.next() == "wait"
    study.complete("t0001")
    assert isinstance(study.search.next(), Assignment)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, "give one of --trials, --hours, --gpu-hours, --usd, --concurrency"),
        ({"trials": 0}, "use a number above 0"),
        ({"usd": float("inf")}, "use a number above 0"),
        ({"trials": 1.5}, "use a whole number"),
        ({"trails": 3}, "did you mean 'trials'?"),
        ({"usd": "many"}, "use a number above 0"),
    ],
)
def test_a_limit_that_is_none_is_refused(limits: dict[str, float], said: str) -> None:
    assert said in Study().refused(SetLimits(limits))


def test_a_pinned_trial_passes_its_rungs_and_counts_there_for_the_others() -> None:
    ladder = RungLadder(goal(), 7, form="stop", grace=2, factor=2, max_steps=9)
    study = Study(rules_of(seed=7, slots=3, trials=6), ladder)
    for _ in range(3):
        study.start()
    study.report("t0000", 2, 0.9)
    assert "can neither stop nor pause" in study.ask(Pin("t0001"))
    assert study.report("t0001", 2, 0.1) == "continue"
    assert ladder.rungs()[0][0][1]["t0001"] == (0.1,)
    assert study.report("t0002", 2, 0.05) == "stop"
    assert study.ask(Pin("t0001", False)) == "t0001 is judged by the scheduler again"
    assert study.report("t0001", 4, 0.1) == "continue" and study.report("t0000", 4, 0.9) == "continue"


def test_a_paused_trial_that_is_pinned_goes_on_before_others() -> None:
    ladder = RungLadder(goal(), 7, form="promote", grace=2, factor=2, max_steps=9)
    study = Study(rules_of(seed=7, slots=1, trials=6), ladder)
    study.start()
    assert study.report("t0000", 2, 0.1) == "stop"
    study.search.finish("t0000", {}, {})
    study.ask(Pin("t0000"))
    assert study.start().trial == "t0000"
    assert any(isinstance(e.event, Promoted) for e in decode_all(study.store.lines()))
    assert study.report("t0000", 4, 0.1) == "continue"


def test_an_added_point_is_tried_before_the_samplers_own_and_its_gaps_are_drawn() -> None:
    study = Study()
    study.start()
    study.complete("t0000")
    assert study.ask(Add(POINT)) == "tried next: lr=0.001, depth=3, peft.method=ia3"
    assert "the rest drawn by the sampler" in study.ask(Add({"depth": 7}))
    assert study.start().point == POINT
    study.complete("t0001")
    second = study.start()
    assert second.point["depth"] == 7 and not SPACE.faults(second.point) and SPACE.is_whole(second.point)
    study.complete("t0002")
    assert study.fold.untried == {} and study.fold.count("complete") == 3


def test_a_point_outside_the_space_is_refused_with_all_that_is_wrong() -> None:
    said = Study().refused(Add({"depht": 3, "lr": 5.0, "peft.lora.r": 8}))
    assert "did you mean 'depth'?" in said and "use a number from 1e-05 to 0.1" in said and "add peft.method: lora" in said
    assert "give some of lr, depth" in Study().refused(Add({}))


def test_a_point_needs_a_trial_left_in_the_budget() -> None:
    study = Study(rules_of(seed=7, slots=1, trials=2))
    study.start()
    study.ask(Add(POINT))
    assert "1 of 2 trials have begun, and 1 point(s) wait already" in study.refused(Add({"depth": 2}))
    assert "set DIR --trials 3" in study.refused(Clone("t0000", {"depth": 2}))


def test_a_clone_goes_on_from_the_checkpoint_beside_the_search() -> None:
    study = Study(rules_of(seed=7, slots=2, trials=6))
    first = study.start()
    study.report("t0000", 3)
    assert "t0000-c1 goes on from t0000's checkpoint after step 3" in study.ask(Clone("t0000", {"lr": 1e-4}))
    clone = study.start()
    assert (clone.trial, clone.role, clone.point) == ("t0000-c1", "clone", {**first.point, "lr": 1e-4})
    assert clone.seed == first.seed == trial_seed(7, "t0000")
    study.report("t0000-c1", 3, 9.0)
    assert "t0000-c2" in study.ask(Clone("t0000", {"lr": 1e-3}))
    study.complete("t0000-c1", 9.0)
    assert study.fold.trials["t0000-c1"].state == "complete" and study.fold.n_search == 1
    assert study.fold.best is None, "a clone had a head start: it is not the search's best"
    assert "t0000-c1-c1" in study.ask(Clone("t0000-c1", {"lr": 1e-2}))


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Clone("t0000", {"lr": 1e-4}, cold=True), "as you say, so it starts from the beginning"),
        (Clone("t0000", {"lr": 1e-4, "depth": 8}), "a checkpoint does not fit another depth"),
    ],
)
def test_a_clone_without_the_checkpoint_is_a_trial_of_the_search(wish: Clone, said: str) -> None:
    study = Study()
    point = study.start().point
    study.report("t0000", 3)
    assert said in study.ask(wish)
    study.complete("t0000")
    second = study.start()
    assert (second.trial, second.role) == ("t0001", "search") and second.point == {**point, **wish.changes}
    assert study.fold.trials["t0001"].of == "t0000"


def test_a_clone_in_another_branch_leaves_the_old_branchs_keys_behind() -> None:
    study = Study()
    study.ask(Add({"lr": 1e-3, "depth": 3, "peft.method": "lora", "peft.lora.r": 8}))
    study.start()
    study.ask(Clone("t0000", {"peft.method": "ia3"}))
    study.complete("t0000")
    assert study.start().point == POINT


def test_clones_of_what_is_no_search_trial_or_without_change_are_refused() -> None:
    study = Study(rules_of(seed=7, slots=2, trials=6, baseline=True))
    study.start(), study.start()
    assert "is the baseline" in study.refused(Clone("baseline", {"lr": 1e-4}))
    assert "change a value" in study.refused(Clone("t0000", {}))
    assert "did you mean 'depth'?" in study.refused(Clone("t0000", {"dept": 1}))


def test_the_same_request_asked_again_does_nothing() -> None:
    study = Study()
    study.ask(Add(POINT), "same")
    n = len(study.store.kept)
    assert study.ask(Add(POINT), "same") == "it is done already" and len(study.store.kept) == n


@pytest.mark.parametrize("raw", [None, [], {"do": "stop"}, {"who": "a", "do": "explode"}, {"who": "a", "do": "stop", "also": 1}, "stop"])
def test_what_is_no_request_is_refused(raw: object) -> None:
    with pytest.raises(UserError, match="ask with the same Phasetune"):
        decode_request("r1", raw)


@pytest.mark.parametrize(
    "what", [Stop("t0000"), Stop(), Hold(False), Pin("t0000"), SetLimits({"usd": 2}), Add(POINT), Clone("t0", {"lr": 1})]
)
def test_a_request_survives_its_way(what: What) -> None:
    request = Request("r1", "ann@here", what)
    assert decode_request("r1", request.to_json()) == request


@pytest.mark.parametrize(
    ("event", "version", "said"),
    [
        (Held(True, "ann", "r1"), 3, "ann paused the study"),
        (LimitsSet({"trials": 8.0, "usd": 2.5}, "ann"), 3, "ann set trials to 8, usd to 2.5"),
        (Pinned("t0003", True, "ann"), 3, "ann pinned t0003"),
        (
            Wanted({"lr": 0.1}, "ann", "r2", "t0003", "t0003-c1", 4),
            3,
            "ann cloned t0003 as t0003-c1, from its checkpoint after step 4: lr=0.1",
        ),
        (Suggested("t0001", 1, "search", {"lr": 0.1}, request="r2"), 3, ""),
        (Suggested("t0001", 1, "search", {"lr": 0.1}), 2, ""),
        (StopAsked("t0001", "ann", "r3"), 2, ""),
        (Reported("t0001", 0, {"m": 1.0}), 2, ""),
    ],
)
def test_events_come_back_from_their_lines_in_the_oldest_version_that_knows_them(event: object, version: int, said: str) -> None:
    line = encode(Entry(0, 1.0, event))  # type: ignore[arg-type]
    assert decode(line).event == event and f'"v":{version},' in line
    assert not said or words(event).startswith(said)  # type: ignore[arg-type]


def test_an_unsteered_study_is_written_as_before_and_a_steered_one_is_known_by_its_version() -> None:
    store = MemoryStore()
    run(store, RULES, Script([]))
    assert all('"v":2,' in line for line in store.kept)
    run(steered := MemoryStore(), RULES, Script([(5, Add(POINT))]))
    assert {'"v":3,' in line for line in steered.kept} == {True, False}
