"""The first section of a report: the best beside what it is measured against, its point, and how sure it is. Pure."""

from __future__ import annotations

from collections import Counter

from tune.core.space import Choice, Leaf
from tune.core.trial_view import TrialView
from tune.report.document import Section, Table
from tune.report.facts import Facts
from tune.report.wording import count, number, p_value, setting, titled
from tune.summary import all_metrics

SHOWN_TESTS = ("accuracy", "f1_weighted", "f1_macro", "precision_weighted", "loss")


def result(facts: Facts) -> Section:
    """The best beside the baseline, the point, how sure it is."""
    text: list[str] = []
    warnings: list[str] = []
    winner = facts.winner
    if winner is None:
        reasons = Counter(t.reason or t.state for t in facts.searched if t.ended)
        running = sum(not t.ended for t in facts.searched)
        text.append("There is no finished trial to report on." if not facts.measured else "Every finished trial breaks a limit.")
        if reasons:
            text.append("Trials that ended: " + ", ".join(f"{n} x {reason}" for reason, n in reasons.most_common()) + ".")
        if running:
            text.append(f"{count(running, 'trial')} not over; make the report again later.")
        if not facts.searched:
            text.append("The study has not started a trial.")
        return Section("result", "Result", tuple(text))
    if facts.finalists_test is not None:
        runner_up, test = facts.finalists_test
        word = "better than" if test.significant else "not significantly better than"
        text.append(
            f"{winner.trial} is {word} the runner-up {runner_up.trial} by {number(abs(test.difference), facts.unit(facts.goal.metric))} "
            f"({test.how}, {p_value(test.p)})."
        )
    elif not facts.repeats:
        warnings.append(
            "One training a point: the best value is optimistic, and seeds alone may reorder the top. A finalist stage repeats it."
        )
    for baseline in facts.fold.of_role("baseline"):
        text += _against(facts, winner, baseline)
        if baseline.state == "failed":
            warnings.append(f"The baseline failed: {baseline.reason}: {baseline.detail}")
    warnings += [f"The refit failed: {t.reason}: {t.detail}" for t in facts.fold.of_role("refit") if t.state == "failed"]
    tables = [_results(facts, winner), _point(facts, winner)]
    if facts.repeats:
        tables.append(_finalists(facts))
    return Section("result", "Result", tuple(text), tuple(warnings), tables=tuple(tables))


def _against(facts: Facts, winner: TrialView, baseline: TrialView) -> list[str]:
    ours, theirs = facts.estimate(winner, "test/accuracy")[0], facts.metric_of(baseline, "test/accuracy")
    error = baseline.metrics.get("test/accuracy_standard_error")
    if ours is None or theirs is None or error is None:
        return []
    word = "within one standard error of" if abs(ours - theirs) <= error else "above" if ours > theirs else "below"
    return [f"Test accuracy {ours:.4f} is {word} the baseline's {theirs:.4f} (standard error {error:.4f})."]


def _results(facts: Facts, winner: TrialView) -> Table:
    rows: list[tuple[str, TrialView]] = [("winner" if facts.repeats else "knee" if facts.goal.several else "best", winner)]
    rows += [(role, t) for role in ("refit", "baseline") for t in facts.fold.of_role(role) if t.state == "complete" and all_metrics(t)]
    wanted = (
        [o.name for o in facts.goal.objectives] + [limit.name for limit in facts.goal.limits] + [f"test/{name}" for name in SHOWN_TESTS]
    )
    shown = [name for name in dict.fromkeys(wanted) if any(facts.metric_of(t, name) is not None for _, t in rows)]
    head = ("", "trial", *(titled(name, facts.unit(name)) for name in shown))
    cells = tuple((role, t.trial, *(number(facts.estimate(t, name)[0], facts.unit(name)) for name in shown)) for role, t in rows)
    return Table("The best, and what it is measured against", head, cells, frozenset(range(2, len(head))))


def _point(facts: Facts, winner: TrialView) -> Table:
    params = {place.key: place.param for place in facts.space.places()}
    rows = tuple((key, setting(value), _searched(params.get(key))) for key, value in winner.point.items())
    return Table(f"The point of {winner.trial}", ("parameter", "value", "searched in"), rows, frozenset({1}))


def _searched(param: Leaf | None) -> str:
    if param is None:
        return ""
    if isinstance(param, Choice):
        return ", ".join(setting(option) for option in param.options[:12]) + (" ..." if len(param.options) > 12 else "")
    return f"{setting(param.low)} to {setting(param.high)}" + (", log" if param.log else "")


def _finalists(facts: Facts) -> Table:
    metric, unit = facts.goal.metric, facts.unit(facts.goal.metric)
    rows = []
    for trial in facts.repeats:
        value, interval = facts.estimate(facts.fold.trials[trial], metric)
        repeated = facts.repeated_values(trial, metric)
        span = f"{number(interval.low, unit)} to {number(interval.high, unit)}" if interval else "-"
        once = number(facts.metric_of(facts.fold.trials[trial], metric), unit)
        rows.append((trial, str(len(repeated)), number(value, unit), span, once))
    rows.sort(key=lambda row: row[2], reverse=facts.goal.mode == "max")
    head = ("trial", "seeds", f"mean {metric}", "95 % interval", "value in the search")
    return Table("Finalists: the best trials repeated over seeds", head, tuple(rows), frozenset({1, 2, 3, 4}))
