"""An adapted model as files, and back: the peft library's adapter folder, with what the library cannot hold beside it.

`adapter_model.safetensors` and `adapter_config.json` are the library's and enough for `PeftModel.from_pretrained`, connector, vision
tower and head included. `tuned.safetensors` holds trained tensors of the base model itself: everything of methods full and frozen,
and lone parameters of a connector (`query_tokens`, `image_newline`). Safetensors only, no pickle.

The model must hold its weights whole: after ZeRO-3, build it anew and load `Engine.weights()` first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from trainables.peft_methods.build import Adapted
from trainables.peft_methods.library import ModulesToSaveWrapper, PeftModel
from tune.core.errors import Problem, UserError

TUNED_FILE = "tuned.safetensors"
_NO_MERGE = "learns tokens, not weights"


def save_adapter(adapted: Adapted, folder: Path) -> None:
    """Write what was trained into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    lone = {
        adapted.plain_name(name): parameter.detach().to("cpu", copy=True).contiguous()
        for name, parameter in adapted.trained()
        if not adapted.wrapped or adapted.plain_name(name) in adapted.anatomy.connector_parameters
    }
    if lone:
        save_file(lone, str(folder / TUNED_FILE))
    if adapted.wrapped:
        adapted.module.save_pretrained(str(folder), safe_serialization=True)


def load_adapter(model: nn.Module, folder: Path) -> Any:
    """`model`, a base model with its pretrained weights, as `save_adapter` left it: for use, not for further training."""
    from safetensors.torch import load_file

    import trainables.peft_methods.bottleneck  # noqa: F401  # registers the method, so that its folders load

    if (folder / TUNED_FILE).exists():
        tensors = load_file(str(folder / TUNED_FILE))
        there = dict(model.named_parameters())
        problems = [
            Problem(str(folder / TUNED_FILE), f"{name} of shape {list(tensor.shape)}", "give the base model it was trained from")
            for name, tensor in tensors.items()
            if name not in there or there[name].shape != tensor.shape
        ]
        if problems:
            raise UserError(problems)
        for name, tensor in tensors.items():
            there[name].data.copy_(tensor)
    if not (folder / "adapter_config.json").exists():
        return model
    try:
        return PeftModel.from_pretrained(model, str(folder))
    except RuntimeError as error:  # shapes that differ
        raise UserError(Problem(str(folder), str(error).splitlines()[-1].strip(), "give the base model it was trained from")) from error


def merged(adapted: Adapted) -> Any:
    """The base model with the adapter in its weights; `adapted` is used up. Raises UserError where no weights can hold it."""
    if not adapted.wrapped:
        return adapted.module
    method = adapted.spec.method
    tuner = adapted.module.base_model
    if adapted.module.active_peft_config.is_prompt_learning or not hasattr(tuner, "merge_and_unload"):
        raise UserError(Problem(f"peft.{method}", f"merging {method}, which {_NO_MERGE}", "export the adapter without merging"))
    _check_bottleneck(adapted.module)
    _unwrap_saved(adapted.module)
    try:
        return adapted.module.merge_and_unload()
    except (NotImplementedError, ValueError) as error:
        raise UserError(Problem(f"peft.{method}", f"merging {method}: {error}", "export the adapter without merging")) from error


def _check_bottleneck(module: nn.Module) -> None:
    from trainables.peft_methods.bottleneck import BottleneckLinear

    for part in module.modules():
        if isinstance(part, BottleneckLinear):
            part.check_merges()


def _unwrap_saved(module: nn.Module) -> None:
    """Modules trained whole take the place of the originals; the library's own unloading wants each to have a `weight`."""
    wrappers = [(name, part) for name, part in module.named_modules() if isinstance(part, ModulesToSaveWrapper)]
    for name, wrapper in wrappers:
        parent, _, leaf = name.rpartition(".")
        (active,) = wrapper.active_adapters
        setattr(module.get_submodule(parent), leaf, wrapper.modules_to_save[active])
