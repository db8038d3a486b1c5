"""What to say of a model folder that is not there; above all of a trial of another study, which that study has yet to make.

Reads the names of folders, no weights.
"""

from __future__ import annotations

import re
from pathlib import Path

from tune.core.errors import Problem

_TRIAL = re.compile(r"(?P<study>(?:.*/)?(?P<name>[^/]+)-\d+)/trials/(?P<trial>[^/]+)(/model)?")
_MODEL_FACTS = "*/model/vlm_peft.json"
_SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "studies"


def absent(name: str, where: str) -> Problem:
    """name: as the study has it, of a folder that does not exist or holds no model."""
    path = Path(name).expanduser()
    trial = _TRIAL.fullmatch(path.as_posix())
    if trial is None:
        if path.is_dir():
            return Problem(where, f"{name}, which has no config.json", "name a folder in the layout of save_pretrained")
        known = " (for a model of the hub write hf:owner/name)" if name.count("/") == 1 else ""
        return Problem(where, f"there is no folder {name}{known}", "name a folder with config.json, or hf:owner/name")
    study = Path(trial["study"])
    if study.is_dir():
        got = f"{name}, a trial that has left no model yet"
        fix = f"let its study end: phasetune resume {study}"
    else:
        got = f"{name}, a trial of the study {trial['name']}, which has not been run in {_place(study)}"
        fix = f"run that study first: phasetune run {_file_of(trial['name'])}"
    others = sorted(_others(study, trial["name"]), key=lambda folder: folder.stat().st_mtime)
    hint = others[-1] if others else "FOLDER"
    return Problem(where, got, f"{fix}; or start from {'this' if others else 'another'} finished trial: --set {where}={hint}")


def _others(study: Path, name: str) -> list[Path]:
    """Folders of finished trials of runs of the same study beside `study`."""
    runs = (run for run in study.parent.glob(f"{name}-*") if re.fullmatch(rf"{re.escape(name)}-\d+", run.name))
    return [facts.parent.parent for run in runs for facts in (run / "trials").glob(_MODEL_FACTS)]


def _place(study: Path) -> str:
    return str(study.parent if study.is_absolute() else Path.cwd())


def _file_of(name: str) -> str:
    """The shipped file of a study of this name, as short as can be typed here; or its place in words."""
    file = _SHIPPED / f"{name}.yaml"
    if not file.exists():
        return f"FILE-OF-{name}.yaml"
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
