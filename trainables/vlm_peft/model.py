"""The base model, its processor and what is trained of it; and a finished trial's model for use: `load_for_inference`.

Promises: nothing is fetched or run that the study did not name; weights that do not fit are a UserError and not a warning; the
trained parameters are fp32, the frozen ones have the type that the precision computes in. Everything heavy is imported when called.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.adapters.resident import RESIDENT
from trainables.engine_spec import Precision
from trainables.hub_files import snapshot
from trainables.peft_methods.build import Adapted, build
from trainables.peft_methods.spec import PeftSpec
from trainables.torchvision_ops import ensure_torchvision_ops
from trainables.vlm_peft import assemble, tiny
from trainables.vlm_peft.absent import absent
from trainables.vlm_peft.chat import Chat
from trainables.vlm_peft.model_class import class_of
from trainables.vlm_peft.spec import ModelSpec, VlmPeftSpec
from tune.core.errors import Problem, StopStudy, UserError

FOLDER = "model"  # in a trial's folder: adapter, processor, facts
FACTS = "vlm_peft.json"
DTYPE: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WHERE = "trainable.model.name"
_NOT_WEIGHTS = (".json", ".jinja", ".model", ".txt", ".py")


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode, ready to answer. `classes`: labels of the data it was trained on, empty where they have none."""

    model: Any
    processor: Any
    chat: Chat
    spec: VlmPeftSpec
    classes: tuple[str, ...]


def load_for_inference(folder: Path, device: str = "cpu", precision: Precision | None = None) -> Loaded:
    """The model of a finished trial. folder: the trial's, or the `model` folder in it. precision: the trial's own when absent.

    Raises UserError where the folder holds no such model, or the base weights are not to be had.
    """
    from trainables.peft_methods.save import load_adapter

    home = folder / FOLDER if (folder / FOLDER / FACTS).exists() else folder
    if not (home / FACTS).exists():
        raise UserError(Problem(str(folder), f"no {FACTS} in it", "name the folder of a finished trial of vlm_peft"))
    facts = json.loads((home / FACTS).read_text())
    spec = VlmPeftSpec.model_validate(facts["spec"])
    module = load_adapter(load_model(spec.model, device), home)
    if spec.model.quantize == "none":
        module.to(device)
        for parameter in module.parameters():  # not buffers: rounded rotary frequencies would move every position
            parameter.data = parameter.data.to(DTYPE[precision or spec.engine.precision])
        match_statistics(module)
    processor = _processor_from(home / "processor", spec.model) if (home / "processor").exists() else load_processor(spec.model)
    return Loaded(module.eval(), processor, Chat(processor, spec.model, end_ids(spec.model)), spec, tuple(facts["classes"]))


def write_facts(folder: Path, spec: VlmPeftSpec, classes: Sequence[str], processor: Any) -> None:
    """Beside the adapter: what `load_for_inference` needs besides the base weights."""
    processor.save_pretrained(str(folder / "processor"))
    base = tiny.LABEL if spec.model.tiny_family else str(located(spec.model, weights=False))
    facts = {"spec": written(spec), "base": base, "classes": list(classes)}
    (folder / FACTS).write_text(json.dumps(facts, indent=1))


def written(spec: VlmPeftSpec) -> dict[str, Any]:
    """What `model_validate` reads again: ZeRO refuses knobs that its stage does not use, so its defaults are left out."""
    return spec.model_dump(mode="json", exclude={"engine"}) | {"engine": spec.engine.model_dump(mode="json", exclude_unset=True)}


# ---- the base


def located(spec: ModelSpec, *, weights: bool = True) -> Path:
    """The folder of a model that is not tiny. Raises UserError."""
    return _folder(spec.name, _WHERE, spec.trust_remote_code, weights)


def load_config(spec: ModelSpec) -> Any:
    """The transformers configuration, without weights; of known published models without any file. Raises UserError."""
    ensure_torchvision_ops()
    from transformers import AutoConfig

    from trainables.peft_methods.architectures import config_of, known_architectures

    if spec.tiny_family is not None:
        return tiny.config(spec.tiny_family)
    plain = spec.name.removeprefix("hf:")
    if plain in known_architectures() and not Path(spec.name).expanduser().exists():
        return config_of(plain)
    folder = located(spec, weights=False)
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=spec.trust_remote_code, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UserError(refusal(spec, error)) from None


def load_model(spec: ModelSpec, device: str = "cpu") -> Any:
    """The base model with its weights, on the CPU unless quantised. Raises UserError, and StopStudy for quantisation without CUDA."""
    if spec.tiny_family is not None:
        return tiny.model(spec.tiny_family)
    arguments: dict[str, Any] = {"dtype": "auto", "trust_remote_code": spec.trust_remote_code, "local_files_only": True}
    if spec.quantize != "none":
        arguments |= _quantisation(spec, device)
    try:
        found: Any = class_of(load_config(spec), spec).from_pretrained(str(located(spec)), output_loading_info=True, **arguments)
    except (ValueError, OSError, RuntimeError, KeyError, ImportError) as error:
        raise UserError(refusal(spec, error)) from None
    model, about = found
    problems = [
        Problem(_WHERE, f"{spec.name}: {what} {', '.join(map(str, sorted(about[key], key=str)[:3]))}", "give weights of this configuration")
        for key, what in (("missing_keys", "no weights for"), ("mismatched_keys", "weights of another shape for"))
        if about.get(key)
    ]
    if problems:
        raise UserError(problems)
    return model.eval()


def borrow_model(spec: ModelSpec, device: str, splits: bool = False) -> Any:
    """The base model as `load_model` gives it, for one trial: what this process keeps of it is not loaded again (see `resident`).

    Not kept are quantised weights, which their library changes in place, and models with code of their own, which may not be copied.
    """
    if spec.quantize != "none" or spec.trust_remote_code:
        RESIDENT.drop()
        return load_model(spec, device)
    key = repr((spec.name, None if spec.tiny_family is not None else _stamp(located(spec))))
    return RESIDENT.lend(key, lambda: load_model(spec, device), splits=splits)


def load_processor(spec: ModelSpec) -> Any:
    """The model's processor; nobody changes it, so a process keeps the last one. Raises UserError."""
    ensure_torchvision_ops()
    try:
        if spec.tiny_family is not None:
            return tiny.processor(spec.tiny_family)
        folder = _folder(spec.processor or spec.name, "trainable.model.processor", spec.trust_remote_code, False)
        return _processor_kept(folder, spec, _stamp(folder))
    except ImportError as error:
        needed = re.findall(r"`?pip install ([\w.-]+)`?", str(error))
        fix = f"pip install {needed[0]}" if needed else "install what it names"
        said = (str(error).strip().splitlines() or ["a package is missing"])[0]
        raise UserError(Problem(_WHERE, f"{spec.name}: {said}", fix)) from None


def processor_digest(spec: ModelSpec) -> str:
    """Of all that decides what the processor gives: tells encoded rows of one processor from those of another."""
    import transformers

    digest = hashlib.sha256(transformers.__version__.encode())
    if spec.tiny_family is not None:
        digest.update(spec.name.encode())
        digest.update(Path(tiny.__file__).read_bytes())
        return digest.hexdigest()
    folder = _folder(spec.processor or spec.name, "trainable.model.processor", spec.trust_remote_code, False)
    for file in sorted(folder.iterdir()):
        if file.suffix in _NOT_WEIGHTS and not file.name.endswith("index.json"):
            digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def end_ids(spec: ModelSpec) -> tuple[int, ...]:
    """Tokens that end an answer by the model's generation settings, besides the tokenizer's own end."""
    if spec.tiny_family is not None:
        return ()
    file = located(spec, weights=False) / "generation_config.json"
    if not file.exists():
        return ()
    try:
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        return tuple(map(int, ends)) if isinstance(ends, list) else () if ends is None else (int(ends),)
    except (ValueError, TypeError, AttributeError) as error:
        got = f"{file}: no generation settings: {error}"
        raise UserError(Problem(_WHERE, got, "get this file whole again, or take it out of the folder")) from None


def context_of(config: Any) -> int | None:
    """Most tokens that the language model takes, None where its configuration does not say."""
    text = config.get_text_config()
    found = getattr(text, "max_position_embeddings", None)
    return int(found) if found else None


# ---- what is trained

Typed = Callable[[nn.Parameter, torch.dtype], torch.Tensor]


def _typed(parameter: nn.Parameter, dtype: torch.dtype) -> torch.Tensor:
    return parameter.data.to(dtype)


def adapt(model: nn.Module, spec: VlmPeftSpec, *, seed: int, total_steps: int, typed: Typed = _typed) -> Adapted:
    """`model`, changed in place, under the spec's method. seed: of new weights. Raises UserError."""
    config = getattr(model, "config", None)
    return settled(build(model, spec.peft, seed=seed, total_steps=total_steps, where="trainable.peft"), config, spec, typed)


def settled(adapted: Adapted, config: Any, spec: VlmPeftSpec, typed: Typed = _typed) -> Adapted:
    """Parameters that no output depends on are not trained, and types are set. typed: gives a parameter's values in a type."""
    first_idle = _first_idle_block(config)
    for name, parameter in adapted.trained():
        if adapted.part_of(name) == "vision" and first_idle is not None and _is_idle(adapted.plain_name(name), first_idle):
            parameter.requires_grad_(False)
    frozen = DTYPE[spec.engine.precision]
    for parameter in adapted.module.parameters():
        if parameter.is_floating_point() and spec.model.quantize == "none":
            parameter.data = typed(parameter, torch.float32 if parameter.requires_grad else frozen)
        elif parameter.requires_grad:
            parameter.data = parameter.data.float()
    match_statistics(adapted.module)
    return adapted


def match_statistics(module: nn.Module) -> None:
    """The running statistics of batch norms get the type of their weights: a convolutional tower computes with one type only."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.weight is not None:
            for name, statistic in part.named_buffers(recurse=False):
                if statistic.is_floating_point():
                    setattr(part, name, statistic.to(part.weight.dtype))


def frozen_modules(adapted: Adapted, spec: PeftSpec) -> list[nn.Module]:
    """Modules that stay in eval mode while the rest trains: a frozen vision tower."""
    if spec.vision != "frozen" or adapted.anatomy.vision is None:
        return []
    return [module for name, module in adapted.module.named_modules() if name and adapted.plain_name(name) == adapted.anatomy.vision]


def anatomy_facts(config: Any, n_all: int, n_embedding: int) -> tuple[int, int, int]:
    """(non-embedding parameters, blocks of the language model, its width)."""
    text = config.get_text_config()
    return n_all - n_embedding, int(text.num_hidden_layers), int(text.hidden_size)


def _first_idle_block(config: Any) -> int | None:
    """The first block of the vision tower whose output is not used, None where all are (LLaVA takes the last but one)."""
    layers = getattr(config, "vision_feature_layer", None)
    vision = getattr(config, "vision_config", None)
    n_blocks = getattr(vision, "num_hidden_layers", None)
    if layers is None or n_blocks is None:
        return None
    used = [layer if layer >= 0 else n_blocks + 1 + layer for layer in (layers if isinstance(layers, (list, tuple)) else [layers])]
    return max(used) if max(used) < n_blocks else None


def _is_idle(name: str, first_idle: int) -> bool:
    if re.search(r"\.(post_layernorm|head)\.", name):
        return True
    found = re.search(r"\.encoder\.layers\.(\d+)\.", name)
    return found is not None and int(found[1]) >= first_idle


# ---- parts


def _folder(name: str, where: str, code: bool, weights: bool) -> Path:
    if name.startswith("hf:"):
        return snapshot(name.removeprefix("hf:"), where=where, code=code, weights=weights)
    made = assemble.whole_folder(name)
    if made is not None:
        return made
    path = Path(name).expanduser()
    if not path.is_dir() or (where == _WHERE and not (path / "config.json").exists()):
        raise UserError(absent(name, where))
    return path


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Tells files from those that stood there before, without reading them."""
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.rglob("*")) if file.is_file())


def forget_processor() -> None:
    """Keep none."""
    _processor_kept.cache_clear()


@functools.lru_cache(maxsize=1)
def _processor_kept(folder: Path, spec: ModelSpec, stamp: object) -> Any:
    return _processor_from(folder, spec)


def _processor_from(folder: Path, spec: ModelSpec) -> Any:
    from transformers import AutoProcessor

    try:
        found = AutoProcessor.from_pretrained(str(folder), trust_remote_code=spec.trust_remote_code, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UserError(refusal(spec, error)) from None
    if not hasattr(found, "tokenizer") or not hasattr(found, "image_processor"):
        got = f"{folder} gives a {type(found).__name__}, which does not take both words and pictures"
        fix = "name a folder with preprocessor_config.json and a tokenizer"
        if spec.trust_remote_code:
            fix += (
                "; a model whose code finds pictures by paths in the text, as Qwen-VL-Chat's does, cannot be trained here: "
                "take one in transformers' layout, such as Qwen2.5-VL"
            )
        raise UserError(Problem("trainable.model.processor", got, fix))
    return found


def refusal(spec: ModelSpec, error: Exception) -> Problem:
    said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if "trust_remote_code" in str(error):
        got = f"{spec.name}, which brings Python code of its own"
        return Problem(
            "trainable.model.trust_remote_code", got, "read that code, then set it to true; or use the model's transformers layout"
        )
    fix = "give the whole folder of a model that transformers knows as image-text-to-text"
    return Problem(_WHERE, f"{spec.name}: {said[:300]}", fix)


def _quantisation(spec: ModelSpec, device: str) -> dict[str, Any]:
    if not device.startswith("cuda"):
        raise StopStudy(
            "no_cuda", f"model.quantize: {spec.quantize} on {device}", "use a GPU (cluster.gpus_per_worker: 1), or quantize: none"
        )
    from transformers import BitsAndBytesConfig

    four = spec.quantize == "4bit"
    config = BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
        **({"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16} if four else {}),
    )
    return {"quantization_config": config, "device_map": {"": device}}
