"""Money is held before it is spent and turns are given once: no two trials pass a limit together, and a resume remembers."""

from __future__ import annotations

from dataclasses import replace

from tests.search.fakes import METRIC, MemoryStore, entries, make_search, rules_of
from tune.core.cost import Budget
from tune.core.journal import GroupNoted
from tune.core.permits import Permit, Wait
from tune.core.ports import Await, Reserve, ReserveAll, Return, Spend, Tell, Use
from tune.core.rules import Assignment
from tune.core.search import Search

BUDGET = rules_of(seed=1, slots=2, trials=5, budget=Budget(trials=5, usd=10.0), permits={"jobs": Permit(at_once=1)})


def two_running(store: MemoryStore) -> tuple[Search, str, str]:
    search = make_search(store, BUDGET, asha=False)
    search.begin(None, "fake")
    names = []
    for slot in range(2):
        found = search.next()
        assert isinstance(found, Assignment)
        search.started(found.trial, slot)
        names.append(found.trial)
    return search, names[0], names[1]


def resumed(store: MemoryStore) -> Search:
    again = make_search(store, BUDGET, asha=False)
    again.replay(entries(store))
    again.begin(None, "fake")
    return again


def test_two_trials_cannot_hold_more_than_the_budget_together() -> None:
    search, a, b = two_running(MemoryStore())
    assert search.ask(a, Reserve("phase 1", 6.0)) is True
    assert search.ask(b, Reserve("phase 1", 6.0)) is False
    assert search.ask(b, Reserve("phase 1", 4.0)) is True


def test_a_bill_lets_go_what_was_held_for_it_and_counts_itself() -> None:
    search, a, b = two_running(MemoryStore())
    search.ask(a, Reserve("phase 1", 6.0))
    search.ask(a, Spend("phase 1", 5.0))
    assert (search.fold.usd, search.fold.reserved_usd) == (5.0, 0.0)
    assert search.ask(b, Reserve("phase 1", 5.0)) is True
    assert search.ask(b, Reserve("phase 1", 5.5)) is False, "asking again replaces what was held, it does not free it"


def test_an_ended_trial_holds_nothing() -> None:
    search, a, b = two_running(MemoryStore())
    search.ask(a, Reserve("phase 1", 9.0))
    search.ask(a, Use("jobs"))
    search.finish(a, {METRIC: 0.5}, {})
    assert search.fold.reserved_usd == 0.0
    assert search.ask(b, Reserve("phase 1", 9.0)) is True
    assert search.ask(b, Use("jobs")) is None


def test_a_resume_remembers_what_is_held_and_by_whom() -> None:
    store = MemoryStore()
    search, a, b = two_running(store)
    search.ask(a, Reserve("phase 1", 8.0))
    search.ask(a, Use("jobs"))
    again = resumed(store)
    assert again.ask(b, Reserve("phase 1", 3.0)) is False
    assert isinstance(again.ask(b, Use("jobs")), Wait)
    assert again.ask(a, Use("jobs")) is None
    again.ask(a, Return("jobs"))
    assert again.ask(b, Use("jobs")) is None


def test_who_waits_and_for_what_is_told_once_and_forgotten_when_it_is_over() -> None:
    store = MemoryStore()
    search, a, b = two_running(store)
    search.ask(a, Use("jobs"))
    for _ in range(5):
        search.ask(b, Use("jobs"))
    assert search.fold.trials[b].waiting == f"for jobs: {a} holds jobs (1 at once)"
    assert sum(type(e.event).__name__ == "Waiting" for e in entries(store)) == 1
    search.ask(a, Return("jobs"))
    search.ask(b, Use("jobs"))
    assert search.fold.trials[b].waiting == ""


def test_money_spent_ends_the_study_when_the_budget_is_used_up() -> None:
    search, a, b = two_running(MemoryStore())
    search.ask(a, Spend("phase 1", 10.0))
    assert search.report(b, 0, {METRIC: 0.1}) == "stop"
    search.finish(b, {}, {})
    assert search.fold.trials[b].reason == "budget" and "budget.usd: $10.00 of $10.00" in search.fold.trials[b].detail


def test_a_bill_told_again_charges_only_what_it_came_to_since_and_after_a_resume_too() -> None:
    store = MemoryStore()
    search, a, b = two_running(store)
    search.ask(a, Spend("phase 1", 2.0, "job-1"))
    search.ask(a, Spend("phase 1", 2.0, "job-1"))
    again = resumed(store)
    again.ask(a, Spend("phase 1", 2.5, "job-1"))
    again.ask(b, Spend("phase 1", 1.0, "job-1"))  # another trial's bill of that name is another bill
    assert again.fold.usd == 3.5 and again.fold.trials[a].usd == 2.5


def test_several_things_are_held_together_or_not_at_all() -> None:
    search, a, b = two_running(MemoryStore())
    assert search.ask(a, ReserveAll({"training": 5.0, "val": 1.0})) is True
    answer = search.ask(b, ReserveAll({"training": 4.0, "val": 1.0}))
    assert isinstance(answer, Wait) and answer.why == f"$5.00 wanted, $4.00 free; {a} may give some back"
    assert search.fold.trials[b].reserved == {} and search.fold.trials[b].waiting == f"for budget.usd: {answer.why}"
    search.ask(a, Spend("training", 3.0))
    assert search.ask(b, ReserveAll({"training": 4.0, "val": 1.0})) is True
    assert search.fold.trials[b].reserved == {"training": 4.0, "val": 1.0} and search.fold.trials[b].waiting == ""


def test_what_no_other_trial_can_give_back_is_refused_at_once() -> None:
    search, a, b = two_running(MemoryStore())
    search.ask(a, Spend("training", 6.0))
    assert search.ask(b, ReserveAll({"training": 4.5})) is False
    assert search.ask(b, ReserveAll({"training": 4.0})) is True


def test_a_wait_elsewhere_and_its_end_stand_in_the_journal_once_each() -> None:
    store = MemoryStore()
    search, a, _ = two_running(store)
    for _ in range(3):
        search.ask(a, Await("local: queued", 99.0, "ftjob-1"))
    assert (search.fold.trials[a].waiting, search.fold.trials[a].waiting_until) == ("for local: queued: ftjob-1", 99.0)
    for _ in range(3):
        search.ask(a, Await(""))
    assert search.fold.trials[a].waiting == ""
    assert sum(type(e.event).__name__ == "Waiting" for e in entries(store)) == 2


def test_what_a_trial_tells_of_itself_adds_up_and_survives_a_resume() -> None:
    store = MemoryStore()
    search, a, b = two_running(store)
    for _ in range(2):
        search.ask(a, Tell({"job": "ftjob-1"}))
    search.ask(a, Tell({"model": "ft:x"}))
    assert resumed(store).fold.trials[a].told == {"job": "ftjob-1", "model": "ft:x"}
    assert search.fold.trials[b].told == {}
    assert sum(type(e.event).__name__ == "Noted" for e in entries(store)) == 2


def test_a_trial_that_the_budget_ended_keeps_what_it_has_and_no_other_begins() -> None:
    search, a, b = two_running(MemoryStore())
    search.report(a, 0, {METRIC: 0.4})
    search.finish(a, {METRIC: 0.5}, {}, "budget", "phase 2 may cost $4.00")
    view = search.fold.trials[a]
    assert (view.state, view.reason, view.value, view.in_the_running) == ("complete", "budget", 0.5, True)
    assert search.next() == "wait"
    search.finish(b, {}, {}, "budget", "phase 0 may cost $1.00")
    assert (search.fold.trials[b].state, search.fold.trials[b].in_the_running) == ("pruned", False)
    assert search.next() == "over" and search.fold.best is search.fold.trials[a]
    assert search.end().why == f"budget.usd does not cover more: {a}: phase 2 may cost $4.00"


def test_a_trial_of_a_smaller_group_is_charged_for_the_workers_that_it_has() -> None:
    store = MemoryStore()
    search = make_search(store, rules_of(seed=1, slots=2, trials=5, budget=Budget(trials=5, gpu_hours=1.0), cpus=4.0, gpus=4.0), asha=False)
    search.begin(None, "fake")
    for slot, share in enumerate((1.0, 0.5)):
        found = search.next()
        assert isinstance(found, Assignment)
        search.started(found.trial, slot)
        search.note(GroupNoted(slot, "started", "", 1.0, share))
    whole, half = search.fold.trials
    for trial in (half, whole):
        search.finish(trial, {METRIC: 0.5}, {})
    views = [search.fold.trials[trial] for trial in (whole, half)]
    assert views[0].gpu_seconds == round(views[0].ran_s * 4, 3) > 0
    assert views[1].gpu_seconds == views[1].cpu_seconds == round(views[1].ran_s * 2, 3) > 0


def test_what_a_cut_off_attempt_of_a_smaller_group_held_is_charged_by_its_share_after_a_resume() -> None:
    store = MemoryStore()
    rules = rules_of(seed=1, slots=1, trials=5, cpus=4.0, gpus=4.0)
    search = make_search(store, rules, asha=False)
    search.begin(None, "fake")
    found = search.next()
    assert isinstance(found, Assignment)
    search.started(found.trial, 0)
    search.note(GroupNoted(0, "started", "", 1.0, 0.5))
    search.report(found.trial, 0, {METRIC: 0.5})
    again = make_search(store, rules, asha=False)
    again.replay(entries(store))
    again.begin(None, "fake")
    view = again.fold.trials[found.trial]
    assert view.gpu_seconds == round(view.ran_s * 2, 3) > 0


def restarted() -> tuple[Search, str]:
    """A trial whose workers were lost, and that waits for others."""
    search = make_search(MemoryStore(), rules_of(seed=1, slots=1, trials=5, cpus=1.0), asha=False)
    search.begin(None, "fake")
    found = search.next()
    assert isinstance(found, Assignment)
    search.started(found.trial, 0)
    search.note(GroupNoted(0, "started", "", 1.0))
    search.note(GroupNoted(0, "lost", "worker_lost"))
    search.retry(found.trial, "worker_lost", "its node died")
    assert search.next() == replace(found, attempt=2)
    search.started(found.trial, 0)
    for _ in range(100):  # each look at the clock is a second
        search.journal.now()
    return search, found.trial


def test_a_trial_that_waits_for_workers_to_have_room_again_is_charged_from_their_start() -> None:
    search, trial = restarted()
    before = search.fold.cpu_seconds
    search.note(GroupNoted(0, "started", "", 2.0))
    search.finish(trial, {METRIC: 0.5}, {})
    assert 2.0 <= search.fold.cpu_seconds - before < 10.0


def test_it_is_charged_for_nothing_where_they_never_came_and_from_its_report_where_nobody_told() -> None:
    search, trial = restarted()
    before = search.fold.cpu_seconds
    search.retry(trial, "group_lost", "")
    assert search.fold.cpu_seconds == before
    search, trial = restarted()
    before = search.fold.cpu_seconds
    search.report(trial, 0, {METRIC: 0.5})
    search.finish(trial, {METRIC: 0.5}, {})
    assert 0.0 < search.fold.cpu_seconds - before < 10.0


def test_that_workers_are_up_is_no_charge_of_a_trial_that_had_their_slot_before() -> None:
    search = make_search(MemoryStore(), rules_of(seed=1, slots=1, trials=5, cpus=1.0), asha=False)
    search.begin(None, "fake")
    found = search.next()
    assert isinstance(found, Assignment)
    search.started(found.trial, 0)
    search.report(found.trial, 0, {METRIC: 0.5})
    search.ask_stop(None, "somebody")
    search.finish(found.trial, {}, {})  # told to stop: it stays open
    assert search.fold.trials[found.trial].attempt_at is None
    search.note(GroupNoted(0, "started", "", 2.0))
    assert search.fold.trials[found.trial].attempt_at is None
