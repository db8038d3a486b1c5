"""Which modules a method adapts: from location, layer range and names to one regular expression over module names.

Pure over an `Anatomy`. Promises: every name given by the user matches something or is refused by name, with the names there are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from trainables.peft_methods.anatomy import Anatomy, LinearPlace
from trainables.peft_methods.method_specs import LayerRange, Targeted
from tune.core.errors import Problem, UserError, did_you_mean

IA3_ROLES = ("k", "v", "down")
IA3_FUSED_ROLES = ("o", "down")  # where queries, keys and values are one layer, as published for Qwen-VL
INNER_ROLES = ("down",)  # IA3 scales the input of these
OUTPUT_ROLES = ("o", "down")  # serial adapters stand on the output of these
BOTTLENECK_ROLES = ("q", "k", "v", "qkv", "o", "gate", "up", "down")


def block_numbers(spec: LayerRange, anatomy: Anatomy, where: str) -> range:
    """The blocks of a range. Raises UserError for blocks the model lacks."""
    n_blocks = len(anatomy.blocks)
    if n_blocks == 0:
        raise UserError(
            Problem(where, "a model in which no list of decoder blocks is found", "use a transformers model of the usual names")
        )
    if spec.layers is not None and spec.layers[1] > n_blocks:
        raise UserError(
            Problem(f"{where}.layers", f"{list(spec.layers)}, but the model has {n_blocks} blocks", f"end it at {n_blocks} at most")
        )
    if spec.last_layers is not None and spec.last_layers > n_blocks:
        raise UserError(
            Problem(f"{where}.last_layers", f"{spec.last_layers}, but the model has {n_blocks} blocks", f"set it to {n_blocks} at most")
        )
    if spec.layers is not None:
        return range(*spec.layers)
    return range(n_blocks - (n_blocks if spec.last_layers is None else spec.last_layers), n_blocks)


def chosen_linears(spec: Targeted, anatomy: Anatomy, where: str, roles: Sequence[str] | None = None) -> list[LinearPlace]:
    """The linear layers that `spec` adapts. roles: of these only, unless `targets` names them; None: all. Raises UserError."""
    blocks = block_numbers(spec, anatomy, where)
    there = [place for place in anatomy.linears if place.block_i in blocks]
    if spec.targets is not None:
        matches = {target: [place for place in there if ends_with(place.name, target)] for target in spec.targets}
        problems = [_nothing(f"{where}.targets", target, there) for target, places in matches.items() if not places]
        if problems:
            raise UserError(problems)
        return [place for place in there if any(place in places for places in matches.values())]
    kept = [place for place in there if spec.location in (None, "both", place.location)]
    if roles is not None:
        kept = [place for place in kept if place.role in roles]
    if not kept:
        raise UserError(_nothing(f"{where}.location", spec.location or "both", there))
    return kept


def ia3_linears(spec: Targeted, anatomy: Anatomy, where: str) -> tuple[list[LinearPlace], list[LinearPlace]]:
    """(targets, those scaled on their input) of IA3."""
    fused = not any(place.role in ("k", "v") for place in anatomy.linears)
    targets = chosen_linears(spec, anatomy, where, IA3_FUSED_ROLES if fused else IA3_ROLES)
    return targets, [place for place in targets if place.role in INNER_ROLES]


def output_side(places: Sequence[LinearPlace], names: tuple[str, ...] | None, where: str) -> list[LinearPlace]:
    """Of `places`, those with a serial adapter on their output."""
    if names is None:
        return [place for place in places if place.role in OUTPUT_ROLES]
    problems = [_nothing(where, name, places) for name in names if not any(ends_with(place.name, name) for place in places)]
    if problems:
        raise UserError(problems)
    return [place for place in places if any(ends_with(place.name, name) for name in names)]


def pattern_of(places: Iterable[LinearPlace], anatomy: Anatomy) -> str:
    """One regular expression that matches exactly these names among those of the model."""
    insides: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place in places:
        prefix = next(prefix for prefix in anatomy.blocks[place.block_i] if place.name.startswith(f"{prefix}."))
        insides[prefix.rpartition(".")[0], place.name[len(prefix) + 1 :]].append(place.block_i)
    by_blocks: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for (blocks_name, inside), numbers in insides.items():
        by_blocks[blocks_name, tuple(numbers)].append(inside)
    parts = []
    for (blocks_name, block_is), names in by_blocks.items():
        whole = len(block_is) == sum(any(p.rpartition(".")[0] == blocks_name for p in prefixes) for prefixes in anatomy.blocks)
        number = r"\d+" if whole else f"(?:{'|'.join(map(str, block_is))})"
        parts.append(rf"{re.escape(blocks_name)}\.{number}\.(?:{'|'.join(re.escape(name) for name in names)})")
    return "|".join(parts)


def pattern_of_names(names: Iterable[str]) -> str:
    """One regular expression for modules of which every number in a name is taken."""
    return "|".join(dict.fromkeys(re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(name)) for name in names))


def unmatched(patterns: Iterable[str], places: Sequence[LinearPlace]) -> list[str]:
    """Keys of a rank pattern that no target ends with."""
    return [pattern for pattern in patterns if not any(re.search(rf"(^|\.)({pattern})$", place.name) for place in places)]


def ends_with(name: str, target: str) -> bool:
    """True if `target` is the last part of a module's name, or several."""
    return name == target or name.endswith(f".{target}")


def _nothing(where: str, wanted: str, there: Sequence[LinearPlace]) -> Problem:
    leaves = list(dict.fromkeys(place.leaf for place in there))
    near = did_you_mean(wanted, leaves)
    fix = f"use targets of {', '.join(leaves)}" if leaves else "choose a model with linear layers in its blocks, or another method"
    return Problem(where, f"{wanted}, which matches no linear layer of the adapted blocks{near}", fix)
