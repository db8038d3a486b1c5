"""Tells an MLflow server (or database) what `mlflow_fold` says it should hold, at most once each, and survives its refusals.

Finds the runs of a study by their tags before it makes one, so that a second telling finds the first. A call that may or may not
have arrived is looked up before it is repeated. A value that the server refuses is found by halving the batch and left out, by
name. Raises Unreachable (try later) or Gone (the server lost what it had: tell all again), never anything else for a server's
fault. One thread at a time; mlflow is imported at the first `connect`, because that takes seconds.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune.adapters.mlflow_fold import PARENT, SEQ_TAG, STUDY_TAG, TRIAL_TAG, Artifact, RunSheet

REQUEST_TIMEOUT_S = 10
MAX_ITEMS, MAX_PARAMS, MAX_TAGS = 1000, 100, 100  # of one log_batch call; metrics fill what params and tags leave
PAGE_RUNS = 500
STRIKES = 5  # failures of one call, with the server answering otherwise, until the call counts as refused
PROBE_TAG = "phasetune.probe"
_FILES = "files"  # the strikes of the place where files go, which may be another than the server
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "INVALID_STATE", "RESOURCE_CONFLICT"}


class Unreachable(Exception):
    """The server is down, slow, or not willing now. The same call may work later."""


class Gone(Exception):
    """A run or experiment that was there is not: everything must be looked up and told again."""


class _Refused(Exception):
    """The server read the call and said no; repeating it would repeat the answer."""


@dataclass
class _Known:
    run_id: str
    seq: int  # the last journal entry that the server is known to hold, or -1
    status: str
    deleted: bool


class RunWriter:
    """See the module. `artifact_uri`: where a new experiment keeps its files; None leaves it to the server."""

    def __init__(
        self,
        open_client: Callable[[], Any],
        experiment: str,
        study_dir: Path,
        artifact_uri: str | None,
        max_artifact_bytes: int,
        note: Callable[[str], None],
    ):
        self._open_client, self._experiment, self._study_dir = open_client, experiment, study_dir
        self._artifact_uri, self._max_artifact_bytes, self._note = artifact_uri, max_artifact_bytes, note
        self._client: Any = None
        self._experiment_id = ""
        self._study_id = ""
        self._runs: dict[str, _Known] = {}
        self._suspects: set[str] = set()  # trials whose creation may have arrived though the answer did not
        self._strikes: dict[str, int] = {}

    def connect(self, study_id: str) -> None:
        """Open the server, find or make the experiment, and learn which runs of this study it has."""
        if self._client is None:
            self._client = self._call(self._open_client)
        found = self._call(self._client.get_experiment_by_name, self._experiment)
        if found is None:
            tags = {"mlflow.experimentKind": "custom_model_development"}  # opens the runs table, not the page for traces
            self._experiment_id = self._call(self._client.create_experiment, self._experiment, self._artifact_uri, tags)
        elif found.lifecycle_stage != "active":
            raise Unreachable(f"experiment '{self._experiment}' is deleted there; restore it, or choose another name")
        else:
            self._experiment_id = found.experiment_id
        self._study_id = study_id
        self._runs = {}
        for run in self._search(f"tags.`{STUDY_TAG}` = '{study_id}'"):
            self._adopt(run)

    def settle(self) -> None:
        """Look for second runs that a call which seemed lost has made after all, and remove them."""
        for trial in sorted(self._suspects):
            self._find(trial)
            self._suspects.discard(trial)

    def write(self, sheet: RunSheet, parent: RunSheet) -> None:
        """Tell all that `sheet` holds. What the server acknowledged is taken off the sheet, so that a second call goes on."""
        parent_id = "" if sheet is parent else self._ensure(parent, "").run_id
        run = self._ensure(sheet, parent_id)
        if run.deleted or run.seq > sheet.seq:  # a replay has not come to what the run holds already
            return
        if run.seq < sheet.seq:
            sheet.samples = [sample for sample in sheet.samples if sample.seq > run.seq]
            while sheet.artifacts:
                self._upload(run.run_id, sheet.trial, sheet.artifacts[0])
                sheet.artifacts.pop(0)
            self._log(run, sheet)
            run.seq = sheet.seq
        if run.status != sheet.status and not run.deleted:
            self._set_status(run, sheet)

    # -- runs -----------------------------------------------------------------------------------------------------------------

    def _ensure(self, sheet: RunSheet, parent_id: str) -> _Known:
        if sheet.trial in self._suspects:
            self._find(sheet.trial)
        known = self._runs.get(sheet.trial)
        if known is not None:
            return known
        tags = {**sheet.head, **({"mlflow.parentRunId": parent_id} if parent_id else {})}
        try:
            run = self._call(self._client.create_run, self._experiment_id, sheet.start_ms, tags, sheet.name)
        except _Refused as error:
            raise Unreachable(f"no run can be made in experiment '{self._experiment}': {error}") from None
        except Unreachable:
            self._suspects.add(sheet.trial)
            raise
        self._adopt(run)
        return self._runs[sheet.trial]

    def _adopt(self, run: Any) -> None:
        """Note a run that exists. Of two for one trial the live one with more in it stays."""
        tags = run.data.tags
        seq = tags.get(SEQ_TAG, "")
        new = _Known(run.info.run_id, int(seq) if seq.isdigit() else -1, run.info.status, run.info.lifecycle_stage != "active")
        trial = tags.get(TRIAL_TAG, PARENT)
        old = self._runs.setdefault(trial, new)
        if old.run_id == new.run_id:
            return
        keep, drop = sorted((old, new), key=lambda known: (known.deleted, -known.seq, known.run_id))
        self._runs[trial] = keep
        if not drop.deleted:
            self._call(self._client.delete_run, drop.run_id)

    def _find(self, trial: str) -> None:
        """Look one trial's runs up afresh."""
        if trial == PARENT:
            where = "tags.`phasetune.role` = 'study'"
        else:
            where = f"tags.`{TRIAL_TAG}` = '{trial}'"
        for run in self._search(f"tags.`{STUDY_TAG}` = '{self._study_id}' and {where}"):
            self._adopt(run)

    def _search(self, where: str) -> Iterator[Any]:
        token: str | None = None
        while True:
            page = self._call(self._client.search_runs, [self._experiment_id], where, _ALL_STAGES, PAGE_RUNS, None, token)
            yield from page
            token = page.token
            if not token:
                return

    def _set_status(self, run: _Known, sheet: RunSheet) -> None:
        try:
            if sheet.end_ms is None:
                self._call(self._client.update_run, run.run_id, sheet.status)
            else:
                self._call(self._client.set_terminated, run.run_id, sheet.status, sheet.end_ms)
        except _Refused as error:
            self._note(f"{sheet.trial or 'study'}: status {sheet.status} was refused: {error}")
        run.status = sheet.status

    # -- what a run holds -----------------------------------------------------------------------------------------------------

    def _log(self, run: _Known, sheet: RunSheet) -> None:
        """Parameters, tags and samples in as few calls as the limits allow; the cursor goes last, after all it vouches for."""
        from mlflow.entities import Metric, Param, RunTag

        params = [Param(key, value) for key, value in sheet.params.items()]
        tags = [RunTag(key, value) for key, value in sheet.tags.items()] + [RunTag(SEQ_TAG, str(sheet.seq))]
        metrics = [Metric(s.key, s.value, s.t_ms, s.step) for s in sheet.samples]
        while params or metrics or tags:
            some_params, params = params[:MAX_PARAMS], params[MAX_PARAMS:]
            room = MAX_ITEMS - len(some_params)
            last = not params and len(metrics) <= room - MAX_TAGS and len(tags) <= MAX_TAGS
            some_tags = tags if last else []
            some_metrics, metrics = metrics[: room - len(some_tags)], metrics[room - len(some_tags) :]
            self._send(run, sheet.trial, [*some_params, *some_metrics, *some_tags])
            for param in some_params:
                del sheet.params[param.key]
            sheet.samples = sheet.samples[len(some_metrics) :]
            if last:
                return

    def _send(self, run: _Known, trial: str, items: Sequence[Any], halving: bool = False) -> None:
        from mlflow.entities import Metric, Param, RunTag

        if run.deleted:
            return
        parts: dict[type, list[Any]] = {Metric: [], Param: [], RunTag: []}
        for item in items:
            parts[type(item)].append(item)
        try:
            self._call(self._client.log_batch, run.run_id, parts[Metric], parts[Param], parts[RunTag])
        except Unreachable as error:
            self._probe(run)
            strikes = self._strikes[run.run_id] = self._strikes.get(run.run_id, 0) + 1
            if strikes < STRIKES and not halving:
                raise
            self._halve(run, trial, items, error)
        except _Refused as error:
            if self._call(self._client.get_run, run.run_id).info.lifecycle_stage != "active":
                run.deleted = True
                self._note(f"{trial or 'study'}: its run was deleted in MLflow and is left alone")
                return
            self._halve(run, trial, items, error)
        if not halving:
            self._strikes.pop(run.run_id, None)

    def _halve(self, run: _Known, trial: str, items: Sequence[Any], error: Exception) -> None:
        if len(items) == 1:
            item = items[0]
            value = f"{item.value} at step {item.step}" if hasattr(item, "step") else str(item.value)[:80]
            self._note(f"{trial or 'study'}: {item.key} = {value} was refused and left out: {str(error)[:200]}")
            return
        middle = len(items) // 2
        self._send(run, trial, items[:middle], halving=True)
        self._send(run, trial, items[middle:], halving=True)

    def _probe(self, run: _Known) -> None:
        """Raises Unreachable unless the server takes another write to this run: then a failure before was that call's own."""
        self._call(self._client.set_tag, run.run_id, PROBE_TAG, "1")
        self._call(self._client.delete_tag, run.run_id, PROBE_TAG)

    def _upload(self, run_id: str, trial: str, artifact: Artifact) -> None:
        try:
            if artifact.text is not None:
                self._call(self._client.log_text, run_id, artifact.text, artifact.path)
            elif (local := self._local(trial, artifact)) is not None:
                folder = str(Path(artifact.path).parent.as_posix())
                send = self._client.log_artifacts if local.is_dir() else self._client.log_artifact
                self._call(send, run_id, str(local), artifact.path if local.is_dir() else None if folder == "." else folder)
            self._strikes.pop(_FILES, None)
        except (_Refused, Unreachable) as error:
            if isinstance(error, Unreachable):
                self._call(self._client.get_experiment, self._experiment_id)  # if this fails too, it is not about files
                self._strikes[_FILES] = self._strikes.get(_FILES, 0) + 1
                if self._strikes[_FILES] < STRIKES:
                    raise
            self._note(f"{trial or 'study'}: the file {artifact.path} was not taken: {str(error)[:200]}")

    def _local(self, trial: str, artifact: Artifact) -> Path | None:
        """The file to send, or None if it is absent, too large (its path stands in a tag), or outside the trial's folder."""
        assert artifact.source is not None
        home = (self._study_dir / "trials" / trial).resolve()
        path = (self._study_dir / artifact.source).resolve()
        if not path.is_relative_to(home) or path == home:
            self._note(f"{trial}: the file {artifact.path} is outside the trial's folder; left out")
        elif not path.exists():
            self._note(f"{trial}: the file {artifact.path} is not there; left out")
        elif _size_bytes(path) <= self._max_artifact_bytes:
            return path
        return None

    @staticmethod
    def _call(function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)` with a server's many errors sorted into the three that matter."""
        try:
            return function(*args)
        except Exception as error:  # MLflow lets errors of requests, sqlalchemy and the operating system through
            code = getattr(error, "error_code", None)
            if code == "RESOURCE_DOES_NOT_EXIST":
                raise Gone(str(error)) from error
            if code in _REFUSALS:
                raise _Refused(str(error)) from error
            raise Unreachable(f"{type(error).__name__}: {error}") from error


_ALL_STAGES = 3  # mlflow.entities.ViewType.ALL: a run that a person deleted is not made anew


def mlflow_client(tracking_uri: str) -> Any:
    """A silent MlflowClient with bounded waits. It makes a missing SQLite database at once (see `mlflow_database`)."""
    from mlflow import MlflowClient

    set_up_mlflow()
    return MlflowClient(tracking_uri=tracking_uri)


def set_up_mlflow() -> None:
    """Silence and bounded waits for this process. The environment variables of MLflow win over the bounds set here."""
    import mlflow.environment_variables as settings

    # Defaults of this process only: setting environment variables would reach every trial.
    settings.MLFLOW_HTTP_REQUEST_TIMEOUT.default = REQUEST_TIMEOUT_S
    settings.MLFLOW_HTTP_REQUEST_MAX_RETRIES.default = 0  # a blind repeat of a lost `create` makes a second run
    settings.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.default = True
    settings.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.default = False
    if not os.environ.get("MLFLOW_LOGGING_LEVEL"):
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints the traceback of what it raises as well


def _size_bytes(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
