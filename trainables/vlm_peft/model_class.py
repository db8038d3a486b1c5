"""Which class a model is: transformers' own for image and text to text, or the one that its repository brings, where the study allows it.

A repository's class is taken by the name under which its `auto_map` offers it, whatever sort of model it calls itself. Whether its
forward takes what its processor gives shows when `check` makes the model and a row.
"""

from __future__ import annotations

from typing import Any

from trainables.vlm_peft.spec import ModelSpec

_OFFERED_AS = ("AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForCausalLM", "AutoModel")


def class_of(config: Any, spec: ModelSpec) -> Any:
    """A class whose `from_pretrained` loads the model of a configuration, which was read with the same spec.

    Raises OSError where its code is not to be had, ImportError where that code wants what is not installed.
    """
    own = brought(config)
    if not spec.trust_remote_code or own is None:
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText
    from transformers.dynamic_module_utils import get_class_from_dynamic_module
    from transformers.models.auto.auto_factory import add_generation_mixin_to_remote_model

    return add_generation_mixin_to_remote_model(get_class_from_dynamic_module(own[0], config._name_or_path, local_files_only=True))


def brought(config: Any) -> tuple[str, str] | None:
    """The model's own class as its `auto_map` names it, and the Auto class that offers it; None where transformers has the class."""
    offered = getattr(config, "auto_map", None) or {}
    return next(((offered[name], name) for name in _OFFERED_AS if name in offered), None)
