"""Reads the earlier studies that a study starts from. Once, before it starts: what is taken goes into its own journal."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from tune.adapters.journal_file import NAME, read_entries
from tune.core.errors import Problem, UserError
from tune.core.fold import StudyFold
from tune.core.goal import Goal
from tune.core.journal import WarmStarted
from tune.core.sampler_spec import learns_from_pruned, takes_partial_points, warm_start_of
from tune.core.study import StudySpec
from tune.core.warm_start import Learner, Lesson, lesson_of

_WHERE = "sampler.warm_start"


def read_warm_start(spec: StudySpec) -> WarmStarted | None:
    """What the study's sampler learns before its first suggestion; None if it names no earlier study. Raises UserError.

    Relative directories are relative to the current folder. A resume does not call this.
    """
    directories = warm_start_of(spec.sampler)
    if not directories:
        return None
    learner = Learner(spec.space, spec.goal, takes_partial_points(spec.sampler), learns_from_pruned(spec.sampler))
    problems: list[Problem] = []
    lessons: dict[str, Lesson] = {}
    seen: set[Path] = set()
    for directory in directories:
        path = Path(directory).expanduser()
        if path.resolve() in seen:
            problems.append(Problem(f"{_WHERE}: {directory}", "a directory that is named twice", "name each study once"))
            continue
        seen.add(path.resolve())
        try:
            lessons[directory] = _read(path, directory, learner)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    words = "; ".join(f"{directory}: {lesson}" for directory, lesson in lessons.items())
    return WarmStarted(words, [asdict(trial) for lesson in lessons.values() for trial in lesson.trials])


def _read(path: Path, directory: str, learner: Learner) -> Lesson:
    where = f"{_WHERE}: {directory}"
    fix = "name a study directory, such as studies/quickstart-1"
    if not path.is_dir():
        raise UserError(Problem(where, "no such directory", fix))
    if not (path / NAME).is_file():
        raise UserError(Problem(where, f"no study in it: it has no {NAME}", fix))
    past = StudyFold.of(read_entries(path))
    if past.started is None or past.goal is None:
        raise UserError(Problem(where, "a study that never began", fix))
    if past.goal.objectives != learner.goal.objectives:
        raise UserError(
            Problem(where, f"a study of {_objectives(past.goal)}", f"name studies of {_objectives(learner.goal)}, as this one is")
        )
    lesson = lesson_of(past, learner)
    if not lesson.trials:
        raise UserError(
            Problem(where, f"nothing to learn from: {lesson}", "leave it out, or give the space the keys and ranges of that study")
        )
    return lesson


def _objectives(goal: Goal) -> str:
    return ", ".join(f"{objective.name} ({objective.mode})" for objective in goal.objectives)
