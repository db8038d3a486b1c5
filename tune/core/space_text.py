"""From the `space` of a study file to a Space, or to every mistake in it at once.

optim.lr: {float: [1e-6, 1e-3], log: true}      a real number; `step: 0.1` instead of log for a ladder of values
depth: {int: [1, 8]}                            a whole number; log or step likewise
batch: {choice: [8, 16, 32]}                    one of these, without order
peft: {choose: {method: {lora: {r: {int: [4, 128], log: true}}, ia3: {}}}}
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from tune.core.errors import did_you_mean
from tune.core.space import ON_STEP, Choice, Choose, Float, Int, Param, Space
from tune.core.spec import Mistake, Path, listed, shown

MOST_STEPS = 1_000_000
KINDS = ("float", "int", "choice", "choose")
_EXTRAS = {"float": ("log", "step"), "int": ("log", "step"), "choice": (), "choose": ()}
_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_EXAMPLE = "{float: [low, high]}, {int: [low, high]}, {choice: [a, b]} or {choose: {selector: {branch: {...}}}}"


def parse_space(raw: Any) -> tuple[Space | None, list[Mistake]]:
    """The space and no mistakes, or None and all of them; paths are relative to `space`."""
    mistakes: list[Mistake] = []
    params = _params(raw, (), mistakes)
    if not mistakes:
        _collisions(Space(params), mistakes)
    return (None, mistakes) if mistakes else (Space(params), [])


def _params(raw: Any, path: Path, mistakes: list[Mistake]) -> tuple[tuple[str, Param], ...]:
    if raw is None and path:
        return ()  # a branch without parameters, `ia3:`
    if not isinstance(raw, Mapping):
        mistakes.append(Mistake(path, shown(raw), "use a mapping of dotted keys of `trainable` to " + _EXAMPLE))
        return ()
    params = []
    for key, value in raw.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            mistakes.append(Mistake((*path, key), f"the key {key!r}", "use a dotted key of letters, digits, _ and -"))
            continue
        param = _param(key, value, (*path, key), mistakes)
        if param is not None:
            params.append((key, param))
    return tuple(params)


def _param(key: str, raw: Any, path: Path, mistakes: list[Mistake]) -> Param | None:
    if isinstance(raw, list):
        mistakes.append(Mistake(path, shown(raw), f"write {key}: {{choice: {json.dumps(raw, default=str)}}} for one of these values"))
        return None
    if not isinstance(raw, Mapping):
        fix = f"use {_EXAMPLE}; a fixed value belongs under trainable"
        mistakes.append(Mistake(path, shown(raw), fix))
        return None
    kinds = [kind for kind in KINDS if kind in raw]
    if len(kinds) != 1:
        if kinds:
            mistakes.append(Mistake(path, f"both {' and '.join(kinds)}", "keep one of them"))
        else:
            near = next((hint for name in raw if (hint := did_you_mean(str(name), KINDS))), "")
            mistakes.append(Mistake(path, f"{shown(raw)}{near}", f"use {_EXAMPLE}"))
        return None
    kind = kinds[0]
    before = len(mistakes)
    for name in raw:
        if name != kind and name not in _EXTRAS[kind]:
            allowed = (kind, *_EXTRAS[kind])
            got = f"a key that does not exist here{did_you_mean(str(name), allowed)}"
            mistakes.append(
                Mistake((*path, name), got, f"use {listed(allowed)}" if len(allowed) > 1 else f"remove it: {kind} stands alone")
            )
    param: Param | None
    if kind == "choice":
        param = _choice(raw["choice"], (*path, "choice"), mistakes)
    elif kind == "choose":
        param = _choose(raw["choose"], (*path, "choose"), mistakes)
    else:
        param = _number(kind, raw, path, mistakes)
    return param if len(mistakes) == before else None


def _choice(raw: Any, path: Path, mistakes: list[Mistake]) -> Choice | None:
    if not isinstance(raw, list) or not raw:
        mistakes.append(Mistake(path, shown(raw), "use a list with at least one option"))
        return None
    seen: list[Any] = []
    for i, option in enumerate(raw):
        if isinstance(option, (list, Mapping)):
            fix = "use texts, numbers, true, false or null as options; for alternatives with parts of their own use choose"
            mistakes.append(Mistake((*path, i), shown(option), fix))
        elif option in seen:
            mistakes.append(Mistake((*path, i), f"{shown(option)} a second time", "remove one of the two (1, 1.0 and true count as equal)"))
        seen.append(option)
    return Choice(tuple(seen))


def _choose(raw: Any, path: Path, mistakes: list[Mistake]) -> Choose | None:
    if not isinstance(raw, Mapping) or len(raw) != 1:
        mistakes.append(Mistake(path, shown(raw), "use a mapping with one selector: {choose: {method: {lora: {...}, ia3: {}}}}"))
        return None
    selector, branches = next(iter(raw.items()))
    if not isinstance(branches, Mapping) or not branches:
        mistakes.append(
            Mistake((*path, selector), shown(branches), "use a mapping of branch names to their parameters: {lora: {...}, ia3: {}}")
        )
        return None
    for name in (selector, *branches):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            where = (*path, selector) if name == selector else (*path, selector, name)
            mistakes.append(Mistake(where, f"the name {name!r}", "use letters, digits, _ and - (no dots)"))
    found = tuple((name, _params(inner, (*path, selector, name), mistakes)) for name, inner in branches.items())
    return Choose(selector, found)


def _number(kind: str, raw: Mapping[str, Any], path: Path, mistakes: list[Mistake]) -> Float | Int | None:
    here = (*path, kind)
    bounds = raw[kind]
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(_is_number(bound) for bound in bounds):
        mistakes.append(Mistake(here, shown(bounds), f"use two numbers: {{{kind}: [low, high]}}"))
        return None
    low, high = bounds
    log: Any = raw.get("log", False)
    step: Any = raw.get("step")
    before = len(mistakes)
    if not isinstance(log, bool):
        mistakes.append(Mistake((*path, "log"), shown(log), "use true or false"))
        return None
    if "step" in raw and not (_is_number(step) and step > 0):
        mistakes.append(Mistake((*path, "step"), shown(step), "use a number above 0, or remove it"))
        return None
    if kind == "int":
        for name, value in (("int", low), ("int", high), ("step", step)):
            if value is not None and not isinstance(value, int):
                mistakes.append(Mistake((*path, name), shown(value), "use whole numbers, or float instead of int"))
    if low >= high:
        fix = "put the lower bound first" if low > high else "use two different bounds; a fixed value belongs under trainable"
        mistakes.append(Mistake(here, f"low {low:g}, high {high:g}", fix))
    elif log and low <= 0:
        mistakes.append(Mistake(here, f"low {low:g} on a log axis", "use a lower bound above 0, or log: false"))
    elif log and step is not None:
        mistakes.append(Mistake((*path, "step"), f"step {step:g} together with log: true", "remove one of the two"))
    elif not math.isfinite(float(high) - float(low)):
        mistakes.append(Mistake(here, f"low {low:g}, high {high:g}", "use bounds that are less far apart"))
    elif step is not None:
        steps = (high - low) / step
        if steps > MOST_STEPS:
            mistakes.append(Mistake((*path, "step"), f"step {step:g}: more than {MOST_STEPS:,} values", "remove it or make it larger"))
        elif steps < 1 or abs(steps - round(steps)) > ON_STEP * max(1.0, steps):
            top = low + max(1, math.floor(steps)) * step
            mistakes.append(
                Mistake((*path, "step"), f"step {step:g} does not lead from {low:g} to {high:g}", f"set the upper bound to {top:g}")
            )
    if len(mistakes) > before:
        return None
    if kind == "int":
        return Int(low, high, log, 1 if step is None else step)
    return Float(float(low), float(high), log, None if step is None else float(step))


def _collisions(space: Space, mistakes: list[Mistake]) -> None:
    """Two parameters under one key, or one inside the other."""
    keys = [place.key for place in space.places()]
    for i, key in enumerate(keys):
        for other in keys[:i]:
            if key == other or key.startswith(f"{other}.") or other.startswith(f"{key}."):
                owner = next(name for name, _ in space.params if key == name or key.startswith(f"{name}."))
                mistakes.append(Mistake((owner,), f"{key}, while the space already has {other}", "keep one of the two"))
                break


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
