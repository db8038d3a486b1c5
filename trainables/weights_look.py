"""Weights against a configuration by the headers of their files alone, so that wrong ones are refused before a trial starts.

Promises: reads no tensor. Names are those that transformers gives the tensors while it loads them; a tensor that is then called as a
parameter must have its shape. Tensors that it puts together of several, and those that are missing, are known only when it loads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tune.core.errors import Problem

_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"
_OTHERS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth")
_SHOWN = 3


def weights_problems(folder: Path, model: Any, where: str) -> Iterator[Problem]:
    """model: of the configuration, on the meta device. Files in other formats than safetensors are left to the loader."""
    files, missing = _files(folder)
    if missing:
        yield Problem(where, f"{folder}, which lacks {', '.join(missing[:_SHOWN])}", "fetch the whole folder again")
    if not files and not missing and not any(any(folder.glob(pattern)) for pattern in _OTHERS):
        yield Problem(where, f"{folder}, which has no weights", f"put {_WHOLE} there, or name a folder that has it")
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    renamed = _renaming(model)
    packed = getattr(model.config, "quantization_config", None) is not None  # such tensors have shapes of their own
    for file in files:
        try:
            found = {renamed(name): shape for name, shape in _shapes(file).items()}
        except (OSError, ValueError) as error:
            yield Problem(where, f"{file}: {error}", "it is damaged or cut short: fetch it again")
            continue
        wrong = [name for name, shape in found.items() if not packed and shapes.get(name, shape) != shape]
        if wrong:
            shown = ", ".join(f"{name} {list(found[name])} for {list(shapes[name])}" for name in wrong[:_SHOWN])
            more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            yield Problem(where, f"{file}: weights of another shape: {shown}{more}", "give weights of this configuration")


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """(safetensors files that the loader would read, names of those that the index names and are not there)."""
    if (folder / _WHOLE).exists():
        return [folder / _WHOLE], []
    if not (folder / _INDEX).exists():
        return [], []
    try:
        names = sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [], [f"a whole {_INDEX}"]
    there = [folder / name for name in names if (folder / name).exists()]
    return there, [name for name in names if not (folder / name).exists()]


def _renaming(model: Any) -> Callable[[str], str]:
    """A tensor's name in a file -> its parameter's, or the first again where several tensors become one parameter."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    parameters = model.state_dict()

    def renamed(name: str) -> str:
        if name in parameters:
            return name
        new, converted = rename_source_key(name, renamings, converters, model.base_model_prefix, parameters)
        return name if converted else new

    return renamed


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Of each tensor. Raises OSError or ValueError for a file that is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
