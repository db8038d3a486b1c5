"""An export as an MLflow model: the files that make it one, and its place under the trial's run on a tracking server.

`make_loadable` adds MLmodel, requirements.txt and a copy of our code to an export, so that `mlflow.pyfunc.load_model(EXPORT)` and
`mlflow models serve -m EXPORT` work where Phasetune is not installed; weights stay in their own format and nothing is pickled. `TrialRun`
finds the run first, before anything is written, and takes the finished folder afterwards.
"""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

from tune.adapters.mlflow_fold import STUDY_TAG, TRIAL_TAG, MlflowFold
from tune.adapters.mlflow_log import _open
from tune.adapters.mlflow_runs import set_up_mlflow
from tune.core.errors import Problem, StopStudy, UserError
from tune.core.exports import Exported
from tune.core.journal import Entry
from tune.core.secrets import masked

_CODE = "code"
_PACKAGES = ("tune", "trainables")
_OURS_NEED = ("mlflow", "pydantic", "numpy", "click", "filelock", "torchvision")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.parquet", "*.pyc")


def make_loadable(folder: Path, exported: Exported) -> None:
    """Add to the folder what makes it a model of MLflow."""
    set_up_mlflow()
    from mlflow import pyfunc
    from mlflow.models import Model

    root = Path(__file__).resolve().parents[2]
    for package in _PACKAGES:
        shutil.copytree(root / package, folder / _CODE / package, ignore=_LEFT_OUT)
    names = sorted({*_OURS_NEED, *exported.packages})
    pins = [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in names]
    (folder / "requirements.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    model = Model()
    pyfunc.add_to_model(model, loader_module="tune.exporting.pyfunc", code=_CODE)
    model.save(str(folder / "MLmodel"))


class TrialRun:
    """The run of one trial on a tracking server. Raises UserError if the server or the run is not there."""

    def __init__(self, tracking_uri: str, first: Entry, study: str, trial: str):
        self._uri = tracking_uri
        fold = MlflowFold()
        fold.apply(first)
        where = f"--mlflow: {masked(tracking_uri)}"
        try:
            self._client: Any = _open(tracking_uri)
            experiment = self._client.get_experiment_by_name(study)
            wanted = f"tags.`{STUDY_TAG}` = '{fold.study_id}' and tags.`{TRIAL_TAG}` = '{trial}'"
            runs = [] if experiment is None else self._client.search_runs([experiment.experiment_id], wanted)
        except Exception as error:
            got = f"it does not answer: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise UserError(Problem(where, got, "start the server, or name another with --tracking-uri; or leave --mlflow out")) from error
        if not runs:
            fix = "resume the study, which sends MLflow what it lacks, or name the server of the study with --tracking-uri"
            raise UserError(Problem(where, f"it has no run of {trial} of this study", fix))
        self._run, self._trial = runs[0], trial

    def log(self, folder: Path, study: str) -> str:
        """Upload a finished export as a model of the run. Its URI. Raises StopStudy if the server does not take it."""
        from mlflow.entities import LoggedModelOutput

        experiment, run_id = self._run.info.experiment_id, self._run.info.run_id
        try:
            model = self._client.create_logged_model(experiment, name=f"{study}-{self._trial}".replace("/", "-"), source_run_id=run_id)
            self._client.log_model_artifacts(model.model_id, str(folder))
            self._client.finalize_logged_model(model.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        except Exception as error:
            detail = f"{masked(self._uri)}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            fix = f"the export itself is whole, in {folder}; export it again to another folder to try once more"
            raise StopStudy("mlflow_refused", detail, fix) from error
        return f"models:/{model.model_id}"
