"""What is measured and written at a trial's end: test scores of the kept epoch, their counts, picture and predictions.

The test split decides nothing: which epoch is kept is settled by validation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from trainables.metrics import majority_accuracy, per_class, standard_error
from trainables.pieces import barrier
from trainables.timm_cnn.pictures import draw_confusion
from trainables.vlm_classifier.evaluate import Evaluation
from trainables.vlm_classifier.task import PREDICTIONS, Task
from tune.core.ports import Outcome, Reporter


def finish(task: Task, tested: Evaluation, metrics: Mapping[str, float], files: Mapping[str, str], reporter: Reporter) -> Outcome:
    """The outcome of a trial whose model was `tested`; `metrics` and `files` are what there is besides."""
    test = tested.metrics("test") | {f"test/{name}": value for name, value in per_class(tested.confusion_CC, task.classes).items()}
    test["test/accuracy_standard_error"] = standard_error(test["test/accuracy"], len(task.split["test"]))
    test["majority/accuracy"] = majority_accuracy(task.labels_N[task.split["train"]], task.labels_N[task.split["test"]])
    written = {"confusion matrix": "confusion_matrix.json", "confusion picture": "confusion_matrix.png", "predictions": PREDICTIONS}
    barrier(reporter)
    if reporter.rank == 0:
        record = {"classes": list(task.classes), "true_by_predicted": tested.confusion_CC.tolist()}
        (reporter.workdir / written["confusion matrix"]).write_text(json.dumps(record))
        task.write_predictions(tested.predicted_N, reporter.workdir / PREDICTIONS)
        draw_confusion(tested.confusion_CC, task.classes, reporter.workdir / written["confusion picture"])
    return Outcome(metrics={**metrics, **test}, files={**files, **written})
