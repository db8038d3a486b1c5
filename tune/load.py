"""From a study file and `--set` to a checked study, or to every mistake in it at once.

`load_study` reads the YAML, lays the command line over it, resolves the name of a cluster, validates each section by itself, then
the rules between the sections that are sound. Each mistake says `file:line: dotted.key`, what was got and the fix. The result
knows where each value comes from. Neither torch nor ray is imported; of the catalog, only the spec of the kind that is named.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tune.core.errors import Problem, UserError, did_you_mean
from tune.core.patch import Branching
from tune.core.scheduler_spec import AshaScheduler, HyperbandScheduler
from tune.core.space_text import parse_space
from tune.core.spec import Mistake, listed, outline_of, shown, validated
from tune.core.study import Kind, StudySpec
from tune.core.study_rules import rules, trial_length
from tune.overrides import lay_over, parse_sets
from tune.yaml_file import Document, Place, dotted, read

CLUSTERS_DIR = Path(__file__).resolve().parents[1] / "configs" / "clusters"
FROM_SET, FROM_DEFAULT = "--set", "default"
_IN_LIST = re.compile(r"\.\d+$")  # the end of `first.0`
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SECTIONS = tuple(StudySpec.model_fields)
_OWN_CHECK: dict[str, Any] = {
    "trainable": {},
    "space": {},
    "first": [],
}  # checked here, not by pydantic: what stands in for them meanwhile


@dataclass(frozen=True)
class LoadedStudy:
    """A sound study. `resolved`: JSON that `load_resolved` takes; the trainable stands there as written.

    complete: the same with the defaults of the trainable filled in, for people. origins: dotted key of each value of `complete`
    -> `file:line`, `--set` or `default`; an entry of the space is one value.
    """

    spec: StudySpec
    resolved: dict[str, Any]
    complete: dict[str, Any]
    origins: dict[str, str]
    name: str


def trained(kind: str) -> Problem | None:
    """What is wrong with running a study of this kind, or None: `table` has results and nothing to train."""
    if kind != "table":
        return None
    return Problem("trainable.kind", "table, which has results and no training", "use `phasetune simulate STUDY.yaml --table RESULTS.csv`")


class CatalogKinds(Mapping[str, Kind]):
    """The kinds of `trainables.catalog`, whose specs are imported when asked for, and `table`, which has none."""

    def __getitem__(self, name: str) -> Kind:
        from trainables.catalog import CATALOG, load, metrics_of, spec_class

        if name == "table":
            return Kind("table", None, None)
        entry = CATALOG[name]
        fits = None if entry.fits is None else load(entry.fits)
        return Kind(name, spec_class(name), metrics_of(name), entry.axes, fits, estimates=entry.estimates)

    def __iter__(self) -> Iterator[str]:
        from trainables.catalog import CATALOG

        return iter((*CATALOG, "table"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def load_study(
    path: Path | str, sets: Sequence[str] = (), *, kinds: Mapping[str, Kind] | None = None, clusters_dir: Path = CLUSTERS_DIR
) -> LoadedStudy:
    """The study in the file at `path` with `sets` (texts `key=value`) laid over it. Raises UserError with every mistake."""
    draft = _Draft(read(Path(path)), kinds if kinds is not None else CatalogKinds(), clusters_dir)
    return draft.finished(sets)


def load_resolved(resolved: Mapping[str, Any], *, kinds: Mapping[str, Kind] | None = None) -> LoadedStudy:
    """The study of a `resolved.json`. Raises UserError if it is not one of this version."""
    document = Document("resolved.json", value=copy.deepcopy(dict(resolved)))
    return _Draft(document, kinds if kinds is not None else CatalogKinds(), CLUSTERS_DIR).finished(())


def leaves_of(complete: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that has an origin, in order."""
    return ((dotted(place), value) for place, value in _leaves(dict(complete), ()))


class _Draft:
    """A study on its way from text to spec: the raw mapping, where its values come from, the problems so far."""

    def __init__(self, document: Document, kinds: Mapping[str, Kind], clusters_dir: Path):
        self.name, self.kinds, self.clusters_dir = document.name, kinds, clusters_dir
        self.problems = list(document.problems)
        self.unread = {where for problem in document.problems for where in (problem.where, _IN_LIST.sub("", problem.where))}
        self.origins: dict[Place, str] = {place: f"{document.name}:{line}" for place, line in document.lines.items()}
        if not isinstance(document.value, dict):
            if not self.problems:
                got = "an empty file" if document.value is None else f"{shown(document.value)} at the top"
                self.problems.append(Problem(document.name, got, f"write a mapping with {listed(_SECTIONS)}"))
            raise UserError(self.problems)
        self.raw: dict[str, Any] = document.value

    def finished(self, sets: Sequence[str]) -> LoadedStudy:
        self._lay_over(sets)
        sections = self._sections()
        kind = self._kind()
        if kind is None:
            sections.pop("trainable", None)
        elif "cluster" in sections:
            kind = replace(kind, workers=sections["cluster"].workers)
        self._fill_ladder(sections, kind)
        known = kind or Kind("this kind", None, None)
        of_kind = () if kind is not None else ("metric", "objectives", "trainable")
        self._add(mistake for mistake in rules(sections, known) if mistake.path[0] not in of_kind)
        if self.problems:
            raise UserError(list(dict.fromkeys(self.problems)))
        assert kind is not None
        first = tuple(sections["space"].settled(point) for point in sections["first"])
        spec = StudySpec.model_construct(**{**sections, "first": first}).bound(kind)
        return self._loaded(spec)

    def _loaded(self, spec: StudySpec) -> LoadedStudy:
        resolved = spec.to_json()
        complete = resolved | {"trainable": spec.complete_trainable}
        origins = {dotted(place): self._origin(place) for place, _ in _leaves(complete, ())}
        return LoadedStudy(spec, resolved, complete, origins, self.name)

    # -- command line and cluster files ------------------------------------------------------------------------------------------

    def _lay_over(self, sets: Sequence[str]) -> None:
        overrides, problems = parse_sets(sets)
        self.problems += problems
        for override in overrides:
            if override[0] in ("cluster", "trainable.kind"):
                self._set(override, {})
        self._resolve_cluster()
        branchings = self._branchings()
        for override in overrides:
            if override[0] not in ("cluster", "trainable.kind"):
                self._set(override, branchings)

    def _set(self, override: tuple[str, Any], branchings: Mapping[str, Branching]) -> None:
        self.raw, place, problems = lay_over(self.raw, override, _SECTIONS, branchings)
        self.problems += problems
        if not problems:
            self._now_from(place, override[1], FROM_SET)

    def _now_from(self, place: Place, value: Any, origin: str) -> None:
        """`place` and all in it now come from `origin`."""
        self.origins = {old: where for old, where in self.origins.items() if old[: len(place)] != place}
        for end in range(1, len(place)):
            self.origins.setdefault(place[:end], origin)
        self.origins |= dict.fromkeys(_places(value, place), origin)

    def _branchings(self) -> dict[str, Branching]:
        found = dict(outline_of(StudySpec).branchings)
        trainable = self.raw.get("trainable")
        name = trainable.get("kind") if isinstance(trainable, dict) else None
        kind = self.kinds.get(name) if isinstance(name, str) else None
        if kind is not None and kind.outline is not None:
            found |= {f"trainable.{key}".rstrip("."): branching for key, branching in kind.outline.branchings.items()}
        return found

    def _resolve_cluster(self) -> None:
        """Replace `local` or the name of a file under configs/clusters by the mapping that it stands for."""
        name = self.raw.get("cluster")
        if not isinstance(name, str):
            return
        line = self.origins.get(("cluster",), self.name)
        if name == "local":
            self.raw["cluster"] = {"address": "local"}
            self._now_from(("cluster",), self.raw["cluster"], line)
            return
        known = sorted(path.stem for path in self.clusters_dir.glob("*.yaml"))
        if not _CLUSTER_NAME.fullmatch(name) or name not in known:
            fix = f"use local, {'one of ' + listed(known) if known else 'a file <name>.yaml under configs/clusters'}, or a mapping"
            self._add([Mistake(("cluster",), f"{shown(name)}{did_you_mean(name, ('local', *known))}", fix)])
            del self.raw["cluster"]
            return
        document = read(self.clusters_dir / f"{name}.yaml", f"configs/clusters/{name}.yaml")
        self.problems += document.problems
        self.raw["cluster"] = document.value
        self._now_from(("cluster",), {}, line)
        self.origins |= {("cluster", *place): f"{document.name}:{n}" for place, n in document.lines.items()}

    # -- sections ----------------------------------------------------------------------------------------------------------------

    def _sections(self) -> dict[str, Any]:
        """The sections that are sound by themselves."""
        checked = {name: value for name, value in self.raw.items() if name not in _OWN_CHECK}
        placeholder = {name: stand_in for name, stand_in in _OWN_CHECK.items() if name in self.raw or name == "first"}
        _, mistakes = validated(StudySpec, checked | placeholder)
        self._add(mistakes)
        bad = {mistake.path[0] for mistake in mistakes}
        sections: dict[str, Any] = {}
        for name, info in StudySpec.model_fields.items():
            if name in bad or name in _OWN_CHECK:
                continue
            if name in self.raw:
                adapter: TypeAdapter[Any] = TypeAdapter(info.annotation or Any)
                sections[name] = adapter.validate_json(json.dumps(self.raw[name]), strict=True)
            elif not info.is_required():
                sections[name] = info.get_default(call_default_factory=True)
        return sections | self._own_sections()

    def _own_sections(self) -> dict[str, Any]:
        found: dict[str, Any] = {"first": ()}
        trainable = self.raw.get("trainable", {})
        if isinstance(trainable, dict):
            found["trainable"] = trainable
        if "space" in self.raw:
            space, mistakes = parse_space(self.raw["space"])
            self._add(mistake.below(("space",)) for mistake in mistakes)
            if space is not None:
                found["space"] = space
        first = self.raw.get("first", [])
        if not isinstance(first, list):
            self._add([Mistake(("first",), shown(first), "use a list of points: [{key: value, ...}]")])
        else:
            found["first"] = tuple(point for point in first if isinstance(point, dict))
            for i, point in enumerate(first):
                if not isinstance(point, dict):
                    self._add([Mistake(("first", i), shown(point), "use a point: {key: value, ...} with keys of the space")])
                    found.pop("first", None)
        return found

    def _kind(self) -> Kind | None:
        if "trainable" not in self.raw:
            return None
        trainable, known = self.raw["trainable"], sorted(self.kinds)
        if not isinstance(trainable, dict):
            fix = f"use a mapping with a kind ({listed(known)}) and its fields"
            self._add([Mistake(("trainable",), shown(trainable), fix)])
            return None
        name = trainable.get("kind")
        if not isinstance(name, str) or name not in self.kinds:
            near = did_you_mean(name, known) if isinstance(name, str) else ""
            self._add([Mistake(("trainable", "kind"), f"{shown(name)}{near}", f"set kind to one of {listed(known)}")])
            return None
        return self.kinds[name]

    def _fill_ladder(self, sections: dict[str, Any], kind: Kind | None) -> None:
        """A ladder without `max` is as long as the longest trial."""
        scheduler = sections.get("scheduler")
        if kind is None or not isinstance(scheduler, (AshaScheduler, HyperbandScheduler)) or scheduler.max is not None:
            return
        if "space" in sections and "trainable" in sections:
            sections["scheduler"] = scheduler.model_copy(update={"max": trial_length(sections["trainable"], sections["space"], kind)})

    # -- places ------------------------------------------------------------------------------------------------------------------

    def _add(self, mistakes: Any) -> None:
        """Nothing is said of a value that could not be read, nor of the list it stands in."""
        found = [Problem(self._where(mistake.path), mistake.got, mistake.fix) for mistake in mistakes]
        self.problems += [problem for problem in found if problem.where not in self.unread]

    def _where(self, place: Place) -> str:
        origin = self._nearest(place)
        if origin == FROM_SET:
            return f"{FROM_SET} {dotted(place)}"
        return f"{origin}: {dotted(place)}" if place else origin

    def _nearest(self, place: Place) -> str:
        return next((self.origins[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self.origins), self.name)

    def _origin(self, place: Place) -> str:
        node: Any = self.raw
        for part in place:
            if not isinstance(node, dict) or part not in node:
                return FROM_DEFAULT
            node = node[part]
        return self._nearest(place)


def _places(value: Any, place: Place) -> Iterator[Place]:
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*place, key))


def _leaves(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    """Values of the resolved study: not mappings, except entries of the space and empty ones."""
    whole = len(place) == 2 and place[0] == "space"
    if isinstance(value, dict) and value and not whole:
        for key, inner in value.items():
            yield from _leaves(inner, (*place, key))
    else:
        yield place, value
