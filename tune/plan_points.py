"""The table of `plan` for a person: what one trial needs at the base, in each branch and at the corners of the space. Pure.

Corners that need the same stand in one line, which names only the settings that make a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainables.catalog import Estimate
from tune.summary import clock

_GIB = 2**30
_NEEDS = tuple(Estimate.__dataclass_fields__)
_MOST_VALUES = 6  # of a setting, in one line


def point_lines(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of the table, or one that says that this kind estimates nothing."""
    if all(point[name] is None for point in points for name in _NEEDS):
        return ["  one trial    no estimate of parameters, memory, time or cost (see missing, or this kind gives none)"]
    lines = ["  one trial    parameters trained / all          tensors      whole trial  cost"]
    lines += [_line("base", point, "") for point in points if point["role"] == "base"]
    alike: dict[str, list[Mapping[str, Any]]] = {}  # by what a reader sees of their needs
    for point in points:
        if point["role"] != "base":
            alike.setdefault(_line("", point, ""), []).append(point)
    telling = _telling(list(alike.values()))
    for group in alike.values():
        settings = " ".join(f"{key}={'|'.join(shown)}" for key, shown in _values(group).items() if key in telling)
        title = group[0]["role"] if len(group) == 1 else f"{len(group)} alike"
        lines.append(_line(title, group[0], settings))
    return lines


def _telling(groups: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """The settings that tell the groups apart: what varies most within them is left out first, as long as no two points of
    different groups become equal. A branch that all points of a group are in is named even if its knobs would tell it."""
    keys = list(dict.fromkeys(key for group in groups for point in group for key in point["point"]))
    keys.sort(key=lambda key: -sum(len({point["point"].get(key) for point in group}) / len(group) for group in groups))
    branches = {key for key in keys if all(_is_one_branch(key, group) for group in groups)}
    for key in tuple(keys):
        if key in branches and len({group[0]["point"][key] for group in groups}) > 1:
            continue
        rest = [other for other in keys if other != key]
        home: dict[tuple[Any, ...], int] = {}
        mine = ((tuple(point["point"].get(other) for other in rest), i) for i, group in enumerate(groups) for point in group)
        if all(home.setdefault(settings, i) == i for settings, i in mine):
            keys = rest
    return keys


def _is_one_branch(key: str, group: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all points have the same word under a nested `key`, as `peft.method: lora`, which stands with its knobs or with none."""
    chosen = {point["point"].get(key) for point in group}
    parent = key.rpartition(".")[0]
    return len(chosen) == 1 and isinstance(next(iter(chosen)), str) and bool(parent)


def _values(group: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The settings of points, each with the values it has among them."""
    found: dict[str, dict[Any, None]] = {}
    for point in group:
        for key, value in point["point"].items():
            found.setdefault(key, {})[value] = None
    shown = {key: [str(value) for value in _in_order(values)] for key, values in found.items()}
    return {key: values if len(values) <= _MOST_VALUES else [values[0], "...", values[-1]] for key, values in shown.items()}


def _in_order(values: Mapping[Any, None]) -> list[Any]:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return sorted(values) if numbers else list(values)


def _line(title: str, point: Mapping[str, Any], settings: str) -> str:
    trained, all_of_them = point["trainable_parameters"], point["total_parameters"]
    share = "" if point["trainable_share"] is None else f" ({point['trainable_share']:.2%})"
    counts = "-" if trained is None or all_of_them is None else f"{trained:,} / {all_of_them:,}{share}"
    memory = "-" if point["peak_memory_bytes"] is None else f"{point['peak_memory_bytes'] / _GIB:.2f} GiB"
    cost = "-" if point["usd"] is None else f"${point['usd']:.2f}"
    seconds = "-" if point["seconds"] is None else clock(point["seconds"])
    settings += "".join(f"  breaks the limit on {name} by {amount:.0%}" for name, amount in point["breaks"].items())
    note = "" if point["note"] is None else f"\n      {point['note']}"
    return f"    {title:<9}  {counts:<32}  {memory:<11}  {seconds:<11}  {cost:<7}  {settings}".rstrip() + note
