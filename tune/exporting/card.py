"""The model card of an export, `README.md`: what the model is, how it was measured and made, what its weights may be used for. Pure.

Figures are those of the journal and nothing else. Of the machine only versions are named, neither host nor user.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainables.catalog import metrics_of
from tune.core.exports import Exported
from tune.core.fold import StudyFold
from tune.core.intervals import mean_interval
from tune.core.trial_view import TrialView
from tune.summary import all_metrics

CARD = "README.md"
_SPLITS = ("test", "val")


def card(fold: StudyFold, trial: TrialView, spec: Mapping[str, Any], seed: int, exported: Exported) -> str:
    """Markdown with the header that model hubs read. `spec`: the trial's, complete."""
    assert fold.started is not None
    study, kind = fold.started.study, str(spec["kind"])
    parts = [_header(exported), f"# {study} / {trial.trial}", ""]
    if exported.random_weights:
        parts += [
            "> **Random weights.** Nothing was pretrained: this model shows that the machinery works, not what the network can do.",
            "",
        ]
    parts += [f"A `{kind}` model, trial {trial.trial} ({trial.role}) of the study `{study}`, exported by Phasetune.", ""]
    parts += [*_table(("", ""), exported.facts.items()), ""]
    parts += ["## Use", "", "```python", exported.loading, "```", "", _predict(exported), ""]
    parts += ["## Results", "", *_results(fold, trial, kind), ""]
    parts += ["## Data", "", *_data(fold, spec), ""]
    parts += ["## Settings", "", *_settings(fold, trial, spec, seed), ""]
    parts += ["## Made with", "", *_versions(fold), ""]
    parts += ["## Licence of the weights", "", f"Training began from: {exported.starting_weights}.", f"Their licence: {exported.licence}."]
    parts += ["What the training data allow is not known to Phasetune."]
    if exported.notes:
        parts += ["", "## Notes", "", *(f"- {note}" for note in exported.notes)]
    return "\n".join(parts) + "\n"


def _header(exported: Exported) -> str:
    lines = ["---", f"library_name: {exported.packages[0]}", "tags:", *(f"- {tag}" for tag in (*exported.tags, "phasetune"))]
    return "\n".join([*lines, "---", ""])


def _predict(exported: Exported) -> str:
    words = {"none": "", "optional": " [--text WORDS]", "required": " --text WORDS"}[exported.text]
    return f"Or, with Phasetune: `phasetune predict EXPORT picture.jpg{words}`. It needs {', '.join(exported.packages)}."


def _results(fold: StudyFold, trial: TrialView, kind: str) -> list[str]:
    metrics, promised = all_metrics(trial), metrics_of(kind)
    by_class = tuple(family.name for family in promised.prefixes)
    baselines = [all_metrics(view) for view in fold.of_role("baseline") if view.state == "complete"]
    rows = []
    for split in _SPLITS:
        for name, value in metrics.items():
            if name.startswith(f"{split}/") and not name.startswith(by_class):
                declared = promised.find(name)
                beside = [f"{other[name]:.4f}" if name in other else "" for other in baselines[:1]]
                rows.append((name, f"{value:.4f}", declared.unit if declared is not None else "", *beside))
    titles = ("metric", "value", "unit", *(["the study's baseline"] if baselines else []))
    counts = _rows_of(fold)
    n = {split: f" ({counts[split]} rows)" if split in counts else "" for split in _SPLITS}
    lines = _table(titles, rows) if rows else ["The trial reported neither `val/` nor `test/` metrics."]
    lines += [
        "",
        f"`val/` values{n['val']} chose the epoch, the settings and the trial, and flatter it. "
        f"`test/` values{n['test']} were measured at the trial's end on the kept weights and chose nothing.",
    ]
    error = metrics.get("test/accuracy_standard_error")
    if error is not None:
        lines += [f"One standard error of the test accuracy is {error:.4f}: of the number of test rows, not of repeated training."]
    repeats = fold.repeats(trial.trial)
    if len(repeats) > 1 and fold.goal is not None:
        mean, low, high = mean_interval([view.values[0] for view in repeats])
        lines += [f"Over {len(repeats)} further seeds {fold.goal.metric} was {mean:.4f} ({low:.4f} to {high:.4f}, 95 % interval)."]
    searched = fold.n_ended
    if searched > 1:
        lines += [f"It is one of {searched} trials of the search."]
    return lines


def _data(fold: StudyFold, spec: Mapping[str, Any]) -> list[str]:
    facts = fold.notes.get("data", {})
    data = spec.get("data")
    rows = [("source", str(data["source"]))] if isinstance(data, Mapping) and "source" in data else []
    if facts.get("digest"):
        rows.append(("digest (of names, labels, contents, split)", str(facts["digest"])))
    counts = _rows_of(fold)
    if counts:
        rows.append(("rows", ", ".join(f"{name} {n}" for name, n in counts.items())))
    lines = _table(("", ""), rows) if rows else ["The study noted nothing about its data."]
    warnings = facts.get("warnings")
    if isinstance(warnings, Sequence) and not isinstance(warnings, str) and warnings:
        lines += ["", *(f"- {warning}" for warning in warnings)]
    return lines


def _rows_of(fold: StudyFold) -> Mapping[str, Any]:
    rows = fold.notes.get("data", {}).get("rows")
    return rows if isinstance(rows, Mapping) else {}


def _settings(fold: StudyFold, trial: TrialView, spec: Mapping[str, Any], seed: int) -> list[str]:
    assert fold.started is not None
    study = fold.started.resolved.get("study")
    study_seed = study.get("seed") if isinstance(study, Mapping) else None
    rows = [(f"`{key}`", json.dumps(value)) for key, value in trial.point.items()]
    rows += [("seed of the study", str(study_seed)), ("seed of the trial", str(seed))]
    whole = json.dumps(spec, indent=1, ensure_ascii=False)
    return [
        *_table(("what was searched", "value"), rows),
        "",
        "<details><summary>every setting</summary>",
        "",
        "```json",
        whole,
        "```",
        "",
        "</details>",
    ]


def _versions(fold: StudyFold) -> list[str]:
    assert fold.started is not None
    environment = fold.started.environment
    versions = environment.get("versions")
    rows = [("python", str(environment.get("python", "unknown")))]
    rows += [(str(name), str(version)) for name, version in versions.items()] if isinstance(versions, Mapping) else []
    commit = environment.get("git_commit")
    if commit:
        rows.append(("git commit", f"{commit}{' (with uncommitted changes)' if environment.get('git_dirty') else ''}"))
    return _table(("", "version"), rows)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    return [line(titles), "|" + " --- |" * len(titles), *(line(row) for row in rows)]
