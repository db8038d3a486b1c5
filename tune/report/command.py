"""The commands `report` and `compare`: reads study directories, writes pages. A composition root: it brings the parts together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.catalog import CATALOG, metrics_of
from tune.adapters.journal_file import read_entries
from tune.adapters.study_dir import is_running
from tune.core.errors import Problem, UserError
from tune.core.metrics import MetricSet
from tune.core.trial_view import TrialView
from tune.report.compare import Comparison, compare
from tune.report.compare_page import comparison_page
from tune.report.document import Document
from tune.report.facts import Facts
from tune.report.markdown import markdown
from tune.report.published import read_published

MOST_FILE_BYTES = 20_000_000


@dataclass(frozen=True)
class Written:
    """`markdown`, `html`: the files."""

    markdown: Path
    html: Path


def read_facts(study_dir: Path) -> Facts:
    """Raises UserError if there is no study there, or one that cannot be read."""
    entries = list(read_entries(study_dir))

    def read_file(trial: TrialView, path: str) -> str | None:
        folder = (study_dir / "trials" / trial.trial).resolve()
        file = (folder / path).resolve()
        if not file.is_relative_to(folder):  # a journal from elsewhere opens no other file of this machine
            return None
        try:
            return file.read_text(encoding="utf-8") if file.stat().st_size <= MOST_FILE_BYTES else None
        except (OSError, UnicodeDecodeError):
            return None

    return Facts.of(str(study_dir), entries, _metrics_of, read_file, is_running(study_dir))


def write_report(study_dir: Path) -> tuple[Written, Document]:
    """`report/report.md` and `report/report.html` in the study's directory."""
    from tune.adapters.optuna_importance import importances
    from tune.report.sections import report

    facts = read_facts(study_dir)
    document = report(facts, lambda space, measured: importances(space, measured, facts.seed))
    return write(document, study_dir / "report", "report"), document


def compare_studies(study_dirs: Sequence[Path], metric: str | None, published: Path | None) -> tuple[Comparison, Document]:
    """Raises UserError with every directory that holds no study."""
    problems: list[Problem] = []
    found: list[Facts] = []
    places = Counter(study_dir.resolve() for study_dir in study_dirs)
    problems += [Problem(str(place), f"named {n} times", "name each study once") for place, n in places.items() if n > 1]
    for study_dir in study_dirs:
        try:
            found.append(read_facts(study_dir))
        except UserError as error:
            problems += error.problems
    paper = None
    if published is not None:
        try:
            paper = read_published(published)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    comparison = compare(found, metric, paper)
    return comparison, comparison_page(comparison)


def write(document: Document, folder: Path, name: str) -> Written:
    """`<name>.md` and `<name>.html` in `folder`. Raises UserError if it cannot be written."""
    from tune.report.page import page

    written = Written(folder / f"{name}.md", folder / f"{name}.html")
    texts = ((written.markdown, markdown(document, written.html.name)), (written.html, page(document)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts:
            unfinished = path.with_name(path.name + ".part")
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
    except OSError as error:
        got = f"it cannot be written: {error.strerror or error}"
        raise UserError(Problem(str(folder), got, "mend the permissions or name another folder")) from None
    return written


def _metrics_of(kind: str) -> MetricSet | None:
    return metrics_of(kind) if kind in CATALOG else None
