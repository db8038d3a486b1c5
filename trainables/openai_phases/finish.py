"""What a trial of hosted phases leaves: the picked phase's scores, counts and answers, tests at other widths, its ids and dollars.

Validation picks the phase; the test rows were asked about before and decide nothing. Nothing is asked again that is on disk.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

from trainables.data.sources import ImageTable
from trainables.metrics import majority_accuracy, per_class, standard_error
from trainables.openai_phases.cost import for_ledger
from trainables.openai_phases.course import Course, HostedPhase, write_phases
from trainables.openai_phases.evaluate import Judged
from trainables.openai_phases.spec import EvalSplit, OpenaiPhasesSpec
from trainables.phases.results import FILE as PHASES_FILE
from tune.core.ports import Outcome, Reporter, Tell

HOSTED, PREDICTIONS, CONFUSION, STRESS = "hosted.json", "predictions.csv", "confusion_matrix.json", "stress.json"
NO_LABEL = "(no label of the list)"
_STRESSED = ("accuracy", "precision_weighted", "recall_weighted", "f1_weighted")


def finish(
    spec: OpenaiPhasesSpec,
    table: ImageTable,
    course: Course,
    again: Callable[[HostedPhase, EvalSplit], Judged],
    reporter: Reporter,
    stress: Callable[[HostedPhase, int], Judged | None] | None = None,
    unpaid: tuple[int, str] | None = None,
) -> Outcome:
    """The outcome of the phases that are done, of which there is one at least.

    stress: asks at another width; None for a trial that did not get to its end. unpaid: the phase that the study's dollars did not
    cover, and what it might have cost.
    """
    best, workdir = course.picked(spec), reporter.workdir
    metrics = {name: value for name, value in best.result.metrics.items() if name.startswith(("val/", "test/"))}
    metrics["phase_picked"] = float(best.result.phase)
    for name in ("usd", "trained_tokens", "skipped_images", "waited_seconds"):  # of the whole trial
        metrics[name] = sum(phase.result.metrics[name] for phase in course.done)
    metrics["seconds"] = sum(phase.result.seconds for phase in course.done)
    write_phases(course.done, workdir)
    files = {"phases": PHASES_FILE, "hosted objects": HOSTED}
    if "test" in spec.evaluation.splits:
        tested = again(best, "test")
        by_class = per_class(tested.confusion_CC, (*table.classes, NO_LABEL))
        metrics |= {f"test/{name}": value for name, value in by_class.items() if not name.endswith(NO_LABEL)}
        metrics["test/accuracy_standard_error"] = standard_error(metrics["test/accuracy"], len(tested.rows))
        metrics["majority/accuracy"] = majority_accuracy(table.labels_N[table.split["train"]], table.labels_N[table.split["test"]])
        _write_answers(table, tested, workdir)
        files |= {"confusion matrix": CONFUSION, "predictions": PREDICTIONS}
    rows = []
    for width_px in spec.stress:
        judged = None if stress is None else stress(best, width_px)
        if judged is None:
            continue
        metrics |= {f"stress/{width_px}/{name}": judged.scores[name] for name in _STRESSED}
        scores = {f"test/{name}": judged.scores[name] for name in _STRESSED}
        rows.append({"phase": best.result.phase, "trained_at": best.result.resolution, "tested_at": width_px, "metrics": scores})
        metrics["usd"] += for_ledger(judged.bills.usd)
    if rows:
        (workdir / STRESS).write_text(json.dumps(rows, indent=1))
        files["stress tests"] = STRESS
    _write_ids(spec, course, best, unpaid, workdir)
    reporter.ask(Tell({"hosted.model": best.model, "hosted.phase": str(best.result.phase)}))
    return Outcome(metrics=metrics, files=files)


def _write_answers(table: ImageTable, tested: Judged, workdir: Path) -> None:
    """Counts with a class more for answers without a label, if there are any; and what was said of each row."""
    classes, counts = list(table.classes), tested.confusion_CC
    if counts[:, -1].any():
        classes.append(NO_LABEL)
    else:
        counts = counts[:-1, :-1]
    (workdir / CONFUSION).write_text(json.dumps({"classes": classes, "true_by_predicted": counts.tolist()}))
    with (workdir / PREDICTIONS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("item", "label", "predicted"))
        for row, answer in sorted(zip(tested.rows, tested.answers, strict=True)):
            predicted = NO_LABEL if answer.label_i is None else table.classes[answer.label_i]
            writer.writerow((table.ids[row], table.classes[int(table.labels_N[row])], predicted))


def _write_ids(spec: OpenaiPhasesSpec, course: Course, best: HostedPhase, unpaid: tuple[int, str] | None, workdir: Path) -> None:
    record = {
        "profile": spec.profile.name,
        "model": best.model,
        "phase": best.result.phase,
        "phases": {str(phase.result.phase): {"model": phase.model, **phase.ids} for phase in course.done},
        "stopped_by_budget": None if unpaid is None else {"phase": unpaid[0], "may_cost": unpaid[1]},
    }
    (workdir / HOSTED).write_text(json.dumps(record, indent=1))
