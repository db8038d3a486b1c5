"""Which trial of a study is meant, and its model as a folder that needs neither the study nor Phasetune's search.

`export_trial` asks the trial's kind to write the model, writes the card and the manifest beside it, and puts the folder in place
whole. It reads the study's fold and the trial's folder, and changes neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trainables.catalog import CATALOG, load
from tune import __version__
from tune.core.errors import Problem, UserError, did_you_mean
from tune.core.exports import Exported, ExportOrder
from tune.core.fold import StudyFold
from tune.core.rules import trial_seed
from tune.core.trial_view import TrialView
from tune.exporting import manifest
from tune.exporting.card import CARD, card
from tune.exporting.place import appearing, check_free
from tune.load import load_resolved

BEST, REFIT = "best", "refit"


@dataclass(frozen=True)
class Written:
    """`note`: what a person who exports this trial may want to know, or empty."""

    trial: str
    folder: Path
    exported: Exported
    note: str = ""


def export_trial(
    fold: StudyFold,
    study_dir: Path,
    wanted: str,
    out: Path | None,
    merge: bool = False,
    add: Callable[[Path, Exported], None] = lambda folder, exported: None,
) -> Written:
    """Write the model of `wanted` (a trial's id, best, refit) to `out`, by default `exports/<trial>` in the study's directory.

    add: writes more files into the folder before it counts as whole.
    Raises UserError: no such trial, no model kept of it, a kind without export, a folder that exists.
    """
    assert fold.started is not None, "a study that has begun"
    spec = load_resolved(dict(fold.started.resolved)).spec
    export = CATALOG[spec.kind].export if spec.kind in CATALOG else None
    if export is None:
        able = ", ".join(kind for kind, entry in CATALOG.items() if entry.export is not None)
        raise UserError(Problem(str(study_dir), f"kind {spec.kind}, which has no model to export", f"export a study of {able}"))
    trial = chosen(fold, study_dir, wanted)
    folder = out if out is not None else study_dir / "exports" / (trial.trial + ("-merged" if merge else ""))
    check_free(folder)  # said before a large model is read
    trial_spec, seed = spec.spec_at(trial.point), trial_seed(spec.study.seed, trial.trial)
    with appearing(folder) as unfinished:
        order = ExportOrder(trial.trial, trial_spec, seed, study_dir / "trials" / trial.trial, unfinished, merge)
        exported: Exported = load(export)(order)
        complete = trial_spec.model_dump(mode="json")
        (unfinished / CARD).write_text(card(fold, trial, complete, seed, exported), encoding="utf-8")
        add(unfinished, exported)
        manifest.write(
            manifest.Manifest(
                kind=spec.kind,
                task=exported.task,
                text=exported.text,
                max_pixels=exported.max_pixels,
                study=fold.started.study,
                trial=trial.trial,
                spec=complete,
                about=exported.about,
                phasetune=__version__,
                files=manifest.files_of(unfinished),
            ),
            unfinished,
        )
    return Written(trial.trial, folder, exported, _note(fold, trial, wanted))


def chosen(fold: StudyFold, study_dir: Path, wanted: str) -> TrialView:
    """The trial that is meant, if it is over and its model is there. Raises UserError, listing those that can be exported."""
    where = f"{study_dir}: --trial {wanted}"
    can = [trial.trial for trial in _able(fold.trials.values(), study_dir)]
    fix = f"choose one that can be exported: {', '.join(can)}" if can else "no trial of this study kept a model: run it (again) to its end"
    if wanted == BEST:
        trial = fold.winner
        if trial is None:
            raise UserError(Problem(where, "no trial has won: none is complete, within its limits", fix))
    elif wanted == REFIT:
        refits = [view for view in fold.of_role("refit") if view.state == "complete"]
        if not refits:
            raise UserError(Problem(where, "this study has no refit that is complete", fix))
        trial = refits[-1]
    else:
        known = fold.trials.get(wanted)
        if known is None:
            hint = did_you_mean(wanted, [*fold.trials, BEST, REFIT])
            raise UserError(Problem(where, f"no such trial{hint}; there are {_short(list(fold.trials))}", fix))
        trial = known
    if trial.state != "complete":
        why = f" ({trial.reason})" if trial.reason else ""
        raise UserError(Problem(where, f"{trial.trial} is {trial.state}{why}: only a complete trial has a model", fix))
    if not _has_model(trial, study_dir):
        got = f"{trial.trial} keeps no weights: only the best few trials and the refit do"
        raise UserError(Problem(where, "the baseline, which keeps no model" if trial.role == "baseline" else got, fix))
    return trial


def _able(trials: Iterable[TrialView], study_dir: Path) -> list[TrialView]:
    return [trial for trial in trials if trial.state == "complete" and _has_model(trial, study_dir)]


def _has_model(trial: TrialView, study_dir: Path) -> bool:
    """Every kind keeps a trial's weights as safetensors in its folder: housekeeping goes by that too."""
    return any((study_dir / "trials" / trial.trial).glob("**/*.safetensors"))


def _note(fold: StudyFold, trial: TrialView, wanted: str) -> str:
    if wanted == BEST and any(view.state == "complete" for view in fold.of_role("refit")):
        return f"the study trained {trial.trial}'s settings again as its refit: --trial refit exports that"
    if fold.ended is None:
        return "the study is not over: a better trial may come"
    return ""


def _short(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:3])} ... {names[-1]}"
