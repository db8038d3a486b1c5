"""The commands `export` and `predict`: parse, wire, print. A composition root, imported by the program; light until one is called."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tune.core.errors import Problem, UserError


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--trial", default="best", show_default=True, metavar="ID", help="best, refit, or a trial such as t0003.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Where to write; default: DIR/exports/TRIAL.")
@click.option("--merge", is_flag=True, help="Put the adapter into the base model's weights, so that transformers alone loads it.")
@click.option("--mlflow", "to_mlflow", is_flag=True, help="Make it an MLflow model as well, and log it under the trial's run.")
@click.option("--tracking-uri", metavar="URI", help="With --mlflow: another server than the study's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of the output.")
def export(directory: Path, trial: str, out: Path | None, merge: bool, to_mlflow: bool, tracking_uri: str | None, as_json: bool) -> None:
    """Write the model of a trial of the study in DIR to a folder of its own, which needs the study no more.

    The folder is in the layout of the library that loads it (timm, peft, transformers), with a model card and what `phasetune predict`
    reads. It appears whole or not at all. Exit codes: 0 written; 1 written, but MLflow did not take it; 2 nothing was written.

    \b
    phasetune export studies/quickstart-1
    phasetune export studies/quickstart-1 --trial refit --out models/clipart --mlflow
    """
    from tune.adapters.journal_file import read_entries
    from tune.core.fold import StudyFold
    from tune.exporting.export import chosen, export_trial

    if tracking_uri is not None and not to_mlflow:
        raise UserError(Problem("--tracking-uri", "it has no effect without --mlflow", "add --mlflow, or leave it out"))
    entries = list(read_entries(directory))
    fold = StudyFold.of(entries)
    started = fold.begun(str(directory / "journal.jsonl"))
    started_in = Path.cwd()
    directory, out = directory.resolve(), None if out is None else out.resolve()
    with contextlib.suppress(OSError, KeyError, TypeError):
        os.chdir(started.environment["folder"])  # relative paths in a study mean what they meant when it began
    if to_mlflow:
        from tune.adapters.mlflow_model import TrialRun, make_loadable

        uri = tracking_uri or _tracking_uri_of(started.environment, directory)
        run = TrialRun(uri, entries[0], started.study, chosen(fold, directory, trial).trial)
        written = export_trial(fold, directory, trial, out, merge, make_loadable)
        click.echo(f"logged as {run.log(written.folder, started.study)}", err=as_json)
    else:
        written = export_trial(fold, directory, trial, out, merge)
    if written.note:
        click.echo(f"note: {written.note}", err=True)
    if written.exported.random_weights:
        click.echo("note: training began from random weights; the model card says so", err=True)
    inside = written.folder.is_relative_to(started_in)
    shown = shlex.quote(str(written.folder.relative_to(started_in) if inside else written.folder))
    click.echo(f"{written.trial} is in {shown}\nask it: phasetune predict {shown} PICTURES", err=as_json)
    if as_json:
        click.echo(json.dumps({"trial": written.trial, "folder": str(written.folder), "task": written.exported.task}))


@click.command()
@click.argument("folder", metavar="EXPORT", type=click.Path(path_type=Path))
@click.argument("pictures", metavar="PICTURES...", nargs=-1, required=True)
@click.option("--text", metavar="TEXT", help="Words beside each picture: a question, a title. For models that take them.")
@click.option("--top", type=click.IntRange(1), metavar="K", help="The K likeliest labels of each picture; default: 3.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a picture instead of a table.")
def predict(folder: Path, pictures: tuple[str, ...], text: str | None, top: int | None, as_json: bool) -> None:
    """Answer about PICTURES with the model in EXPORT, a folder that `phasetune export` wrote.

    PICTURES are files, folders (all pictures below them) or patterns in quotes. One that cannot be read is named, the others are
    answered. Exit codes: 0 all answered; 1 some could not be; 2 a mistake, nothing was asked.

    \b
    phasetune predict studies/quickstart-1/exports/t0003 cat.png
    phasetune predict models/clipart photos/ "more/**/*.jpg" --top 1 --json
    phasetune predict models/vqa drawing.png --text "What colour is the circle?"
    """
    from tune.exporting.predict import SHOWN_LABELS, Export, answer_all, check_question, find_pictures

    opened = Export(folder)
    found, problems = find_pictures(pictures)
    problems += check_question(opened.manifest, text, top)
    if problems:
        raise UserError(problems)
    n_shown = SHOWN_LABELS if top is None else top
    width = min(60, max(len(str(path)) for path in found))
    n_failed = 0
    for line in answer_all(opened.answer, found, text, opened.manifest.max_pixels, _decode):
        n_failed += line.answer is None
        click.echo(json.dumps(line.to_json(n_shown), ensure_ascii=False) if as_json else line.to_text(n_shown, width))
    if n_failed:
        click.echo(f"{n_failed} of {len(found)} pictures could not be answered", err=True)
        raise click.exceptions.Exit(1)


def _tracking_uri_of(environment: Mapping[str, Any], directory: Path) -> str:
    """The server that `run` told of the study."""
    from tune.adapters.mlflow_log import default_tracking_uri

    options = environment.get("options")
    kept = options.get("tracking_uri") if isinstance(options, Mapping) else None
    return kept or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(directory.resolve().parent)


def _decode(path: Path, max_pixels: int) -> Any:
    """As pictures were decoded in training."""
    from trainables.data.decode import BadImage, decode_rgb, quiet
    from trainables.data.rows import read_file
    from tune.exporting.predict import Unreadable

    try:
        with quiet():
            return decode_rgb(read_file(path), max_pixels)
    except BadImage as error:
        raise Unreadable(str(error)) from None
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from None


COMMANDS = (export, predict)
