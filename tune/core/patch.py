"""A point is a patch: dotted keys merged into the nested mapping of a trainable.

`apply` knows about tagged unions through `Branching`s, so that choosing another branch drops the keys of the one before, and so
that `schedule.cosine.t_max` of a space finds the field `t_max` of a flat union. Plain data in, new plain data out.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Branching:
    """A mapping with alternatives: `selector` names the branch that holds, `branches` the keys that each of them has.

    nested: the keys of a branch stand under its name (`peft: {method: lora, lora: {r: 8}}`); else beside the selector
    (`schedule: {kind: cosine, t_max: 10}`).
    """

    selector: str
    branches: Mapping[str, frozenset[str]]
    nested: bool = False


class PatchError(ValueError):
    """A dotted key that goes through something that is not a mapping."""

    def __init__(self, key: str, parent: str, value: Any):
        self.key, self.parent, self.value = key, parent, value
        super().__init__(f"{key}: '{parent}' is {value!r}, which has no keys")


def apply(trainable: Mapping[str, Any], point: Mapping[str, Any], branchings: Mapping[str, Branching] | None = None) -> dict[str, Any]:
    """A copy of `trainable` with every dotted key of `point` set, in order. `branchings`: by the dotted key of their mapping.

    Keys that both the old and the new branch of a flat union have are kept when the branch changes. Raises PatchError.
    """
    patched = copy.deepcopy(dict(trainable))
    for key, value in point.items():
        _put(patched, tuple(key.split(".")), value, branchings or {})
    return patched


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves under their dotted keys; an empty mapping is a leaf."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def get(nested: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key. Raises KeyError naming the whole key."""
    value: Any = nested
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise KeyError(key)
        value = value[part]
    return value


def settled_key(key: str, branchings: Mapping[str, Branching]) -> str:
    """The key that `apply` sets for `key`: without the names of branches of flat unions."""
    return ".".join(_path(tuple(key.split(".")), branchings))


def _path(parts: tuple[str, ...], branchings: Mapping[str, Branching]) -> tuple[str, ...]:
    path: tuple[str, ...] = ()
    for i, part in enumerate(parts):
        branching = branchings.get(".".join(path))
        if branching is not None and not branching.nested and i + 1 < len(parts) and part in branching.branches:
            continue
        path = (*path, part)
    return path


def _put(root: dict[str, Any], parts: tuple[str, ...], value: Any, branchings: Mapping[str, Branching]) -> None:
    path = _path(parts, branchings)
    node = root
    for i, part in enumerate(path[:-1]):
        inner = node.get(part)
        if inner is None:
            inner = node[part] = {}
        elif not isinstance(inner, dict):
            raise PatchError(".".join(parts), ".".join(path[: i + 1]), inner)
        node = inner
    branching = branchings.get(".".join(path[:-1]))
    if branching is not None and path[-1] == branching.selector and node.get(path[-1]) != value:
        _leave_branch(node, branching, value)
    node[path[-1]] = copy.deepcopy(value)


def _leave_branch(node: dict[str, Any], branching: Branching, name: Any) -> None:
    if not isinstance(name, str) or name not in branching.branches:
        return
    for key in list(node):
        if branching.nested:
            gone = key in branching.branches and key != name
        else:
            gone = key != branching.selector and key not in branching.branches[name]
        if gone:
            del node[key]
