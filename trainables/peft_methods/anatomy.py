"""Where the parts of a model are: language model, connector, vision tower, head, decoder blocks and the linear layers in them.

Found by the names that transformers and the published remote-code models give their modules. Promises: a name it returns exists;
what is absent is None or empty. It does not guess by shapes: a model with other names has no connector for us, and `build` says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

VISION = ("vision_tower", "vision_model", "visual", "vision_encoder", "vision_embed_tokens", "image_encoder", "vision")
CONNECTOR = (
    *("multi_modal_projector", "mm_projector", "connector", "language_projection", "qformer", "aligner", "modality_projection"),
    *("embed_vision", "merger", "attn_pool", "resampler", "perceiver", "visual_projection", "text_projection"),
)
CONNECTOR_PARAMETERS = ("query_tokens", "image_newline")
LANGUAGE = ("language_model", "text_model", "llm", "transformer", "text_encoder")
HEAD = ("lm_head", "score", "classifier")
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_ROLES: dict[str, tuple[str, ...]] = {
    "q": ("q_proj", "query", "q"),
    "k": ("k_proj", "key", "k"),
    "v": ("v_proj", "value", "v"),
    "qkv": ("c_attn", "qkv_proj", "query_key_value", "Wqkv", "qkv"),
    "o": ("o_proj", "out_proj", "dense", "o", "c_proj", "wo"),
}
_MLP_ROLES: dict[str, tuple[str, ...]] = {
    "gate": ("gate_proj", "w2", "wi_0"),  # Qwen-VL: c_proj(w1(x) * silu(w2(x)))
    "up": ("up_proj", "w1", "fc1", "wi_1", "wi", "c_fc", "dense_h_to_4h", "gate_up_proj"),
    "down": ("down_proj", "c_proj", "fc2", "wo", "dense_4h_to_h", "dense"),
}


@dataclass(frozen=True)
class LinearPlace:
    """A linear layer of a decoder block. `role`: q k v qkv o, gate up down, or None where the name says nothing."""

    name: str
    block_i: int
    location: Literal["attn", "mlp"]
    role: str | None

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Anatomy:
    """Names of modules. `language` is "" where the model is a language model alone; `blocks` are prefixes by block number."""

    language: str
    vision: str | None
    connectors: tuple[str, ...]
    connector_parameters: tuple[str, ...]
    head: str | None
    blocks: tuple[tuple[str, ...], ...]
    linears: tuple[LinearPlace, ...]
    norms: tuple[tuple[int, str], ...]

    def part_of(self, name: str) -> str:
        """llm, connector, vision or head: the part that a parameter or module of the model as it was before wrapping belongs to."""
        if self.head is not None and under(name, self.head):
            return "head"
        if any(under(name, connector) for connector in (*self.connectors, *self.connector_parameters)):
            return "connector"
        return "vision" if self.vision is not None and under(name, self.vision) else "llm"


def anatomy_of(model: nn.Module, head: str | None = None) -> Anatomy:
    """The anatomy of a model that no adapter wraps yet. head: dotted name of its own head, if it is not one of `HEAD`."""
    modules = dict(model.named_modules())
    vision = _first(modules, VISION)
    language = _first(modules, LANGUAGE, outside=vision) or ""
    connectors = [] if vision is None else _connectors(modules, vision, language)
    outermost = tuple(name for name in connectors if not any(name != other and under(name, other) for other in connectors))
    parameters = tuple(name for name, _ in model.named_parameters() if _leaf(name) in CONNECTOR_PARAMETERS and vision is not None)
    outer = [name for name in (vision, *outermost) if name is not None]
    blocks = _blocks(modules, language, outer)
    return Anatomy(
        language=language,
        vision=vision,
        connectors=outermost,
        connector_parameters=parameters,
        head=head if head is not None else _first(modules, HEAD, outside=vision),
        blocks=blocks,
        linears=tuple(_linears(modules, blocks)),
        norms=tuple(_norms(modules, blocks)),
    )


def under(name: str, prefix: str) -> bool:
    """True if `name` is the module `prefix` or inside it."""
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def is_linear(module: nn.Module) -> bool:
    """nn.Linear and its quantised kinds, and transformers' Conv1D."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) or type(module).__name__.lower().endswith("norm")


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _first(modules: dict[str, nn.Module], leaves: tuple[str, ...], outside: str | None = None) -> str | None:
    """The shallowest module of one of these names, and of these the one listed first."""
    found = [name for name in modules if _leaf(name) in leaves and (outside is None or not under(name, outside))]
    return min(found, key=lambda name: (name.count("."), leaves.index(_leaf(name))), default=None)


def _connectors(modules: dict[str, nn.Module], vision: str, language: str) -> list[str]:
    """Modules of these names directly under the vision tower, or outside both vision tower and language model."""
    named = [name for name in modules if _leaf(name) in CONNECTOR]
    return [
        name for name in named if name.rpartition(".")[0] == vision or not (under(name, vision) or (language and under(name, language)))
    ]


def _blocks(modules: dict[str, nn.Module], language: str, outside: list[str]) -> tuple[tuple[str, ...], ...]:
    """Prefixes of block 0, 1, ...: one each, or two where encoder and decoder are both numbered."""
    lists = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.ModuleList) and under(name, language) and len(module) > 0
        if not any(under(name, other) for other in outside) and any(is_linear(part) for part in module.modules())
    ]
    outermost = [name for name in lists if not any(name != other and under(name, other) for other in lists)]
    depth = max((len(modules[name]) for name in outermost), default=0)  # type: ignore[arg-type]
    return tuple(tuple(f"{name}.{i}" for name in outermost if f"{name}.{i}" in modules) for i in range(depth))


def _linears(modules: dict[str, nn.Module], blocks: tuple[tuple[str, ...], ...]) -> Iterator[LinearPlace]:
    for block_i, prefix, inside, module in _inside(modules, blocks):
        if is_linear(module):
            attention = _ATTENTION.search(inside) is not None
            roles = _ROLES if attention else _MLP_ROLES
            role = next((role for role, names in roles.items() if _leaf(inside) in names), None)
            yield LinearPlace(f"{prefix}.{inside}", block_i, "attn" if attention else "mlp", role)


def _norms(modules: dict[str, nn.Module], blocks: tuple[tuple[str, ...], ...]) -> Iterator[tuple[int, str]]:
    for block_i, prefix, inside, module in _inside(modules, blocks):
        if is_norm(module):
            yield block_i, f"{prefix}.{inside}"


def _inside(modules: dict[str, nn.Module], blocks: tuple[tuple[str, ...], ...]) -> Iterator[tuple[int, str, str, nn.Module]]:
    for block_i, prefixes in enumerate(blocks):
        for prefix in prefixes:
            for name, module in modules[prefix].named_modules():
                if name:
                    yield block_i, prefix, name, module
