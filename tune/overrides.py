"""`--set key=value`: values of the command line laid over those of a study file.

The value is read as YAML. A key is dotted as everywhere; under `space` the key of a parameter itself has dots, so the longest
entry that is there is meant, else a new one is made, and null takes an entry away. Choosing another branch of a tagged union
(`--set scheduler.kind=none`) drops the keys that the branch does not have, as a point of the space does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from tune.core.errors import Problem, UserError, did_you_mean
from tune.core.patch import Branching, PatchError, apply, settled_key
from tune.core.spec import listed, shown
from tune.yaml_file import Place, parse_value

Override = tuple[str, Any]  # (dotted key, value)


def parse_sets(sets: Iterable[str], flag: str = "--set", example: str = "budget.trials=8") -> tuple[list[Override], list[Problem]]:
    """`key=value` texts taken apart."""
    overrides, problems = [], []
    for text in sets:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key or not all(key.split(".")):
            problems.append(Problem(f"{flag} {text}", "no key=value with a dotted key", f"write it like {flag} {example}"))
            continue
        try:
            overrides.append((key, parse_value(value, f"{flag} {key}")))
        except UserError as error:
            problems += error.problems
    return overrides, problems


def lay_over(
    raw: dict[str, Any], override: Override, sections: Iterable[str], branchings: Mapping[str, Branching]
) -> tuple[dict[str, Any], Place, list[Problem]]:
    """(a copy of `raw` with the override in it, the place that was set, problems)."""
    key, value = override
    head, _, rest = key.partition(".")
    if head not in (*sections, "objectives"):
        fix = f"begin the key with one of {listed(list(sections))}"
        return raw, (), [Problem(f"--set {key}", f"no section '{head}'{did_you_mean(head, sections)}", fix)]
    changed = copy.deepcopy(raw)
    if head == "space" and rest:
        return changed, *_set_in_space(changed, rest, value)
    if head == "first" and rest:
        return changed, *_set_in_first(changed, rest, value)
    try:
        return apply(raw, {key: value}, branchings), tuple(settled_key(key, branchings).split(".")), []
    except PatchError as error:
        got = f"a key inside '{error.parent}', which is {shown(error.value)}"
        return raw, (), [Problem(f"--set {key}", got, f"set {error.parent} as a whole, or remove this")]


def _set_in_space(changed: dict[str, Any], rest: str, value: Any) -> tuple[Place, list[Problem]]:
    space = changed.get("space")
    if not isinstance(space, dict):
        space = changed["space"] = {}
    entries = [entry for entry in space if rest == entry or rest.startswith(f"{entry}.")]
    entry = max(entries, key=len, default=rest)
    inner = rest[len(entry) + 1 :]
    if not inner:
        if value is None:
            if entry not in space:
                got = f"null for an entry that the space does not have{did_you_mean(entry, space)}"
                return (), [Problem(f"--set space.{rest}", got, f"remove it; the space has {listed(list(space)) or 'no entries'}")]
            del space[entry]
        else:
            space[entry] = value
        return ("space", entry), []
    if not isinstance(space[entry], dict):
        got = f"a key inside 'space.{entry}', which is {shown(space[entry])}"
        return (), [Problem(f"--set space.{rest}", got, f"set space.{entry} as a whole")]
    try:
        space[entry] = apply(space[entry], {inner: value})
    except PatchError as error:
        got = f"a key inside '{error.parent}', which is {shown(error.value)}"
        return (), [Problem(f"--set space.{rest}", got, f"set space.{entry} as a whole")]
    return ("space", entry, *inner.split(".")), []


def _set_in_first(changed: dict[str, Any], rest: str, value: Any) -> tuple[Place, list[Problem]]:
    index, _, key = rest.partition(".")
    points = changed.get("first")
    n_points = len(points) if isinstance(points, list) else 0
    if not (index.isascii() and index.isdigit() and len(index) < 6 and int(index) < n_points):
        fix = "use `--set first=[{key: value}]`" + (f" or an index from 0 to {n_points - 1}" if n_points else "")
        return (), [Problem(f"--set first.{rest}", f"'{index}', which is no index of a point", fix)]
    assert isinstance(points, list)
    i = int(index)
    if key and not isinstance(points[i], dict):
        return (), [Problem(f"--set first.{rest}", f"a key inside first.{i}, which is {shown(points[i])}", f"set first.{i} as a whole")]
    if key:
        points[i][key] = value
        return ("first", i, key), []
    points[i] = value
    return ("first", i), []
