"""What MLflow should hold of a study, folded from its journal: one parent run a study, one child run a trial. Pure.

`MlflowFold.apply` takes journal entries in order; `pending` names the runs that have news, as `RunSheet`s: parameters, metric
samples, tags, artifacts, status. The writer (`mlflow_runs`) tells a server and then calls `told`. What a sheet holds depends on
the journal alone, timestamps included, so that telling it twice changes nothing. Names and values are brought into MLflow's
limits here; what had to be cut stands whole in an artifact. This file knows neither mlflow nor a disk.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tune.core.goal import Goal
from tune.core.journal import (
    Charged,
    Ended,
    Entry,
    Noted,
    Promoted,
    Reported,
    Retried,
    SessionStarted,
    Started,
    StudyEnded,
    StudyStarted,
    Suggested,
    told_by,
)
from tune.core.metrics import better
from tune.core.patch import flatten
from tune.core.rules import trial_seed

MAX_KEY_CHARS = 250
MAX_PARAM_CHARS = 6000
MAX_TAG_CHARS = 5000
MAX_NAME_CHARS = 80
STUDY_TAG, TRIAL_TAG, SEQ_TAG = "phasetune.study", "phasetune.trial", "phasetune.seq"
PARENT = ""  # the key of the study's own run among the trials' (no trial has an empty id)

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
_TRIAL_STATUS: dict[str, RunStatus] = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}
_STUDY_STATUS: dict[str, RunStatus] = {"done": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class Sample(NamedTuple):
    """One value of a metric. `seq` is the journal entry it comes from, so that a cursor can tell old from new."""

    seq: int
    key: str
    value: float
    t_ms: int
    step: int


@dataclass(frozen=True)
class Artifact:
    """A file of a run: `text` itself, or `source`, a path relative to the study directory. `path` is its name in the run."""

    path: str
    text: str | None = None
    source: str | None = None


@dataclass
class RunSheet:
    """What one run is and what the server has not been told yet. `head`: tags that it must be born with."""

    trial: str
    name: str
    start_ms: int
    head: dict[str, str]
    seq: int
    status: RunStatus = "RUNNING"
    end_ms: int | None = None
    ended: bool = False
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)


@dataclass
class _Running:
    """What later events of an open trial need of its earlier ones."""

    role: str
    point: Mapping[str, Any]
    last: dict[str, float] = field(default_factory=dict)
    last_step: int = 0
    charges: int = 0
    cost: tuple[float, float, float] = (0.0, 0.0, 0.0)
    told: dict[str, str] = field(default_factory=dict)  # ids of what it holds elsewhere: parameters once it has ended


class MlflowFold:
    """See the module. `problems` collects what could not be carried over, in words."""

    def __init__(self) -> None:
        self.next_seq = 0
        self.study_id: str | None = None
        self.problems: list[str] = []
        self._dirty: dict[str, None] = {}
        self._sheets: dict[str, RunSheet] = {}
        self._open: dict[str, _Running] = {}
        self._common: dict[str, str] = {}  # tags that every run of this study carries
        self._study = ""
        self._seed = 0
        self._metric = ""
        self._goal: Goal | None = None
        self._counts = {"complete": 0, "pruned": 0, "failed": 0}
        self._cost = (0.0, 0.0, 0.0)  # CPU seconds, GPU seconds, US dollars
        self._best: tuple[float, str, Mapping[str, Any]] | None = None
        self._references: dict[str, float] = {}  # role -> value of the baseline and the refit
        self._state = "running"

    @property
    def parent(self) -> RunSheet | None:
        return self._sheets.get(PARENT)

    def pending(self) -> list[RunSheet]:
        """Runs with news, the children before the parent, whose summary then is true of them."""
        if PARENT in self._dirty:
            self._sheets[PARENT].tags.update(self._summary_tags())
        return [self._sheets[trial] for trial in sorted(self._dirty, key=lambda trial: trial == PARENT)]

    def told(self, sheet: RunSheet) -> None:
        """The server has all of this sheet."""
        self._dirty.pop(sheet.trial, None)
        if sheet.ended and sheet.trial != PARENT:
            del self._sheets[sheet.trial]
        else:
            sheet.params, sheet.tags, sheet.samples, sheet.artifacts = {}, {}, [], []

    # -- events ---------------------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        event, t_ms = entry.event, round(entry.t * 1000)
        self.next_seq = entry.seq + 1
        match event:
            case StudyStarted():
                self._begin(event, entry)
            case SessionStarted():
                parent = self._touch(PARENT, entry)
                parent.status, parent.end_ms, self._state = "RUNNING", None, "running"
                parent.tags |= {
                    "phasetune.session": str(event.session),
                    "phasetune.placement": _cut(event.placement, MAX_TAG_CHARS),
                }
            case Suggested():
                self._suggest(event, entry)
            case Started():
                sheet = self._touch(event.trial, entry)
                sheet.status, sheet.end_ms = "RUNNING", None
                sheet.tags |= {"phasetune.state": "running", "phasetune.attempt": str(event.attempt)}
            case Reported():
                self._report(event, entry)
                if event.pause:
                    self._touch(event.trial, entry).tags["phasetune.state"] = "paused"
            case Promoted():
                self._touch(event.trial, entry).tags["phasetune.state"] = "waiting"
            case Charged():
                self._charge(event, entry)
            case Retried():
                reason = _cut(f"{event.reason}: {event.detail}", MAX_TAG_CHARS)
                self._touch(event.trial, entry).tags |= {"phasetune.state": "waiting", "phasetune.retried": reason}
            case Ended():
                self._end_trial(event, entry)
            case Noted():
                self._note(event, entry)
            case StudyEnded():
                self._state = event.state
                parent = self._touch(PARENT, entry)
                parent.status, parent.end_ms = _STUDY_STATUS[event.state], t_ms
                parent.tags["phasetune.why"] = _cut(event.why, MAX_TAG_CHARS)
                for trial in self._open:  # they wait for a resume, which sets them running again
                    sheet = self._touch(trial, entry)
                    sheet.status, sheet.end_ms = "KILLED", t_ms
                    sheet.tags["phasetune.state"] = "waiting"
            case _:
                pass

    def _begin(self, event: StudyStarted, entry: Entry) -> None:
        self._study = event.study
        fingerprint = hashlib.sha256(f"{event.study}\n{entry.t!r}\n{event.digest}".encode()).hexdigest()[:12]
        self.study_id = re.sub(r"[^\w.\-]", "_", event.study)[:100] + "-" + fingerprint
        study = _mapping(event.resolved, "study")
        self._goal = Goal.of(event.resolved)
        self._metric = self._goal.metric
        self._seed = int(study.get("seed", 0))
        self._common = {STUDY_TAG: self.study_id, "mlflow.source.name": "phasetune", "mlflow.source.type": "LOCAL"}
        commit = _commit(event.environment)
        if commit:
            self._common |= {"phasetune.commit": commit, "mlflow.source.git.commit": commit}
        head = {**self._common, "phasetune.role": "study", "phasetune.seed": str(self._seed), "phasetune.digest": event.digest}
        sheet = RunSheet(PARENT, _cut(event.study, MAX_NAME_CHARS), round(entry.t * 1000), head, entry.seq)
        self._sheets[PARENT] = sheet
        self._touch(PARENT, entry)
        self._set_params(sheet, flatten(event.resolved))
        sheet.artifacts += [
            Artifact("resolved.json", text=_pretty(event.resolved)),
            Artifact("environment.json", text=_pretty(event.environment)),
        ]

    def _suggest(self, event: Suggested, entry: Entry) -> None:
        head = {
            **self._common,
            TRIAL_TAG: event.trial,
            "phasetune.role": event.role,
            "phasetune.number": str(event.number),
            "phasetune.seed": str(trial_seed(self._seed, event.trial)),
            **({"phasetune.of": event.of} if event.of else {}),
        }
        sheet = RunSheet(event.trial, _short_name(event.trial, event.point), round(entry.t * 1000), head, entry.seq)
        self._sheets[event.trial] = sheet
        self._open[event.trial] = _Running(event.role, event.point)
        self._touch(event.trial, entry).tags["phasetune.state"] = "waiting"
        self._set_params(sheet, event.point)

    def _report(self, event: Reported, entry: Entry) -> None:
        running = self._open[event.trial]
        self._sample(event.trial, entry, event.metrics, event.step)
        running.last.update(event.metrics)
        running.last_step = event.step

    def _charge(self, event: Charged, entry: Entry) -> None:
        spent = (event.cpu_seconds, event.gpu_seconds, event.usd)
        self._cost = _sum(self._cost, spent)
        running = self._open.get(event.trial)
        if running is not None:
            running.cost = _sum(running.cost, spent)
            self._sample(event.trial, entry, _cost_metrics(running.cost), running.charges)
            running.charges += 1
        self._touch(PARENT, entry)

    def _end_trial(self, event: Ended, entry: Entry) -> None:
        running = self._open.pop(event.trial)
        sheet = self._touch(event.trial, entry)
        sheet.status, sheet.end_ms, sheet.ended = _TRIAL_STATUS[event.state], round(entry.t * 1000), True
        sheet.tags["phasetune.state"] = event.state
        sheet.params |= running.told
        for tag, text in (("phasetune.reason", event.reason), ("phasetune.detail", event.detail)):
            if text:
                sheet.tags[tag] = _cut(text, MAX_TAG_CHARS)
        # A final metric that is also a curve gets a name of its own where it differs from the curve's last point.
        final = {k if k not in running.last else f"final/{k}": v for k, v in event.metrics.items() if running.last.get(k) != v}
        if event.state == "complete" and event.value is not None:
            final["objective"] = event.value
        final |= {f"violation/{limit}": amount for limit, amount in event.violations.items()}
        self._sample(event.trial, entry, final, running.last_step)
        if event.files:
            sheet.tags["phasetune.files"] = _cut(json.dumps(dict(event.files)), MAX_TAG_CHARS)
            paths = sorted(set(event.files.values()))
            sheet.artifacts += [Artifact(path, source=f"trials/{event.trial}/{path}") for path in paths]
        self._total(event, running, entry)

    def _total(self, event: Ended, running: _Running, entry: Entry) -> None:
        """The parent's curves: one point for each search trial that ended, in the order in which they ended."""
        value = event.value if event.state == "complete" else None
        if running.role != "search":
            if value is not None:
                self._references[running.role] = value
                self._sample(PARENT, entry, {f"{running.role}/{self._metric}": value}, 0)
            return
        step = sum(self._counts.values())
        self._counts[event.state] += 1
        if value is not None and not event.violations and self._is_better(value):
            self._best = (value, event.trial, running.point)
        metrics = _cost_metrics(self._cost) | {f"trials/{state}": float(n) for state, n in self._counts.items()}
        if self._best is not None:
            metrics[f"best/{self._metric}"] = self._best[0]
        self._sample(PARENT, entry, metrics, step)

    def _is_better(self, value: float) -> bool:
        return self._best is None or (self._goal is not None and better(value, self._best[0], self._goal.mode))

    def _note(self, event: Noted, entry: Entry) -> None:
        trial = told_by(event)
        if trial in self._open:
            facts = {mlflow_key(name): _cut(str(value), MAX_TAG_CHARS) for name, value in event.data.items()}
            self._touch(trial, entry).tags |= facts
            self._open[trial].told = facts
            return
        parent = self._touch(PARENT, entry)
        name = re.sub(r"[^\w.\-]", "_", event.about)[:100] or "note"
        path = "data.json" if event.about == "data" else f"notes/{name}.json"
        parent.artifacts.append(Artifact(path, text=_pretty(event.data)))
        digest = event.data.get("digest") if event.about == "data" else None
        if digest is not None:
            self._common["phasetune.data_digest"] = parent.tags["phasetune.data_digest"] = _cut(str(digest), MAX_TAG_CHARS)

    # -- sheets ---------------------------------------------------------------------------------------------------------------

    def _touch(self, trial: str, entry: Entry) -> RunSheet:
        sheet = self._sheets[trial]
        sheet.seq = entry.seq
        self._dirty[trial] = None
        return sheet

    def _sample(self, trial: str, entry: Entry, metrics: Mapping[str, float], step: int) -> None:
        sheet, t_ms = self._touch(trial, entry), round(entry.t * 1000)
        for key, value in metrics.items():
            try:
                number = float(value)
            except (TypeError, ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                sheet.samples.append(Sample(entry.seq, mlflow_key(key), number, t_ms, step))
            else:
                self.problems.append(f"{trial or 'study'}: {key} = {value} at step {step} is not a finite number; left out")

    def _set_params(self, sheet: RunSheet, values: Mapping[str, Any]) -> None:
        """Parameters within the limits; if one had to be renamed or cut, all stand whole in `parameters.json`."""
        changed = False
        for key, value in values.items():
            text = param_text(value)
            sheet.params[mlflow_key(key)] = _cut(text, MAX_PARAM_CHARS)
            changed |= mlflow_key(key) != key or len(text) > MAX_PARAM_CHARS
        if changed:
            sheet.artifacts.append(Artifact("parameters.json", text=_pretty(values)))

    def _summary_tags(self) -> dict[str, str]:
        counts = ", ".join(f"{n} {state}" for state, n in self._counts.items())
        cpu, gpu, usd = self._cost
        lines = [f"**{self._study}**: {self._state}", "", f"- trials: {counts}, {len(self._open)} open"]
        lines.append(f"- cost: {cpu:.0f} CPU-seconds, {gpu:.0f} GPU-seconds, ${usd:.2f}")
        lines += [f"- {role}: {self._metric} = {value:.6g}" for role, value in self._references.items()]
        tags = {"phasetune.state": self._state}
        if self._best is not None:
            value, trial, point = self._best
            tags["phasetune.best_trial"] = trial
            lines += [f"- best: {trial} with {self._metric} = {value:.6g}", "", "| parameter | value |", "| --- | --- |"]
            lines += [f"| {key} | {_cut(param_text(v), 200)} |" for key, v in point.items()]
        tags["mlflow.note.content"] = _cut("\n".join(lines), MAX_TAG_CHARS)
        return tags


def mlflow_key(key: str) -> str:
    """`key` itself if MLflow takes it, else the nearest allowed name with a digest of the whole, so that none collide."""
    parts = [part for part in re.sub(r"[^\w.\- :/]", "_", key).split("/") if part not in ("", ".", "..")]
    clean = "/".join(parts) or "_"
    clean = f"_{clean}" if clean.startswith("..") else clean
    if clean == key and len(key) <= MAX_KEY_CHARS:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return f"{clean[: MAX_KEY_CHARS - 9]}-{digest}"


def param_text(value: Any) -> str:
    """A parameter's value as the study's YAML would have it: words bare, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _short_name(trial: str, point: Mapping[str, Any]) -> str:
    words = [trial]
    for key, value in point.items():
        text = f"{value:.3g}" if isinstance(value, float) else param_text(value)
        words.append(f"{key.rsplit('.', 1)[-1]}={text}")
    return _cut(" ".join(words), MAX_NAME_CHARS)


def _commit(environment: Mapping[str, Any]) -> str:
    git = _mapping(environment, "git")
    commit = git.get("commit") or environment.get("git_commit") or environment.get("commit")
    dirty = git.get("dirty") or environment.get("git_dirty") or environment.get("dirty")
    return f"{commit}{'-dirty' if dirty else ''}" if commit else ""


def _mapping(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, Mapping) else {}


def _cost_metrics(cost: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("cost/cpu_seconds", "cost/gpu_seconds", "cost/usd"), cost, strict=True))


def _sum(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float, float]:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2])


def _pretty(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 3] + "..."
