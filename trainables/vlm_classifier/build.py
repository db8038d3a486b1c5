"""From a spec to a module that can be trained: encoder, adapters, head, and what of the encoder is kept instead of computed.

Promises: head and adapters start the same whether outputs are kept or not. Where everything before the head is frozen and another trial
of this node has kept its outputs, the encoder is not even loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainables.adapters.engine import ParamGroup
from trainables.adapters.torch_engine import AUTOCAST_DTYPE
from trainables.engine_spec import AdamSpec, AdamWSpec, SgdSpec
from trainables.frozen_prefix.chain import Chain
from trainables.frozen_prefix.features import Kept, find, keep, key_of
from trainables.frozen_prefix.frontier import Frontier
from trainables.frozen_prefix.frontier import find as find_frontier
from trainables.frozen_prefix.store import Store, TooLarge
from trainables.pieces import derived_seed
from trainables.vlm_classifier.encoder import Encoder, open_encoder
from trainables.vlm_classifier.encoder_specs import TwoTowerSpec
from trainables.vlm_classifier.head import Classifier, Head
from trainables.vlm_classifier.spec import OptimSpec, VlmClassifierSpec
from trainables.vlm_classifier.task import Batches, Task
from trainables.vlm_classifier.weights import Weights, encoder_weights, libraries
from tune.core.errors import FailTrial
from tune.core.ports import Reporter

_ALL = "all"


@dataclass(frozen=True)
class Built:
    """`streams`: raw inputs that a batch needs besides what is kept; `batches` gives them, None where none are needed."""

    module: Classifier
    groups: list[ParamGroup]
    kept: Kept | None
    streams: tuple[str, ...]
    batches: Batches | None
    similarity: tuple[float, float] | None


def store_of(spec: VlmClassifierSpec, reporter: Reporter) -> Store:
    return Store(reporter.cache_dir, int(spec.cache.max_gb * 1e9))


def build(spec: VlmClassifierSpec, task: Task, reporter: Reporter) -> Built:
    """The module of a trial, on its device. Raises UserError for weights, FailTrial for `cache.use: required` that cannot be."""
    weights = encoder_weights(spec.encoder)
    store, device = store_of(spec, reporter), torch.device(reporter.device)
    if spec.whole_encoder_frozen and not _why_random(spec) and spec.cache.use != "off":
        kept = find(store, {name: _key(spec, task, weights, name, _ALL, device) for name in last_sections(spec)}, device)
        if kept is not None:
            widths = {name: shape[-1] for name, shape in kept.shapes.items()}
            module = Classifier(None, None, _head(spec, widths, task, reporter))
            return Built(module.to(device), _groups(spec, module, None), kept, (), None, None)
    encoder = open_encoder(spec.encoder, weights)
    adapted = _adapted(spec, encoder, task, reporter)
    chain = encoder.chain(spec.streams)
    module = Classifier(encoder.module, chain, _head(spec, encoder.widths(spec.streams), task, reporter), spec.encoder.frozen_dropout)
    module.to(device).train()
    batches = Batches(task, encoder, store, device)
    kept = None if spec.cache.use == "off" else _keep(spec, task, weights, chain, batches, store, device)
    streams: tuple[str, ...] = _raw_streams(spec, chain, {})
    if kept is not None:
        places = {name: len(_section(chain, name).stages) if at == _ALL else int(at) for name, at in _places_of(kept).items()}
        streams = _raw_streams(spec, chain, places)
        chain.cut(places)
        if not streams:
            module.drop_encoder()
    similarity = None if encoder.similarity is None else encoder.similarity()
    return Built(module, _groups(spec, module, adapted), kept, streams, batches, similarity)


def frontier_of(spec: VlmClassifierSpec, chain: Chain) -> Frontier:
    """Where the chain of a module in training mode stops being fixed."""
    why = _why_random(spec)
    return find_frontier(chain, {"image": why} if why and "image" in spec.streams else {})


def optimizer_spec(optim: OptimSpec) -> AdamSpec | SgdSpec:
    if optim.kind == "sgd":
        return SgdSpec() if optim.momentum is None else SgdSpec(momentum=optim.momentum)
    return AdamWSpec() if optim.kind == "adamw" else AdamSpec()


def last_sections(spec: VlmClassifierSpec) -> tuple[str, ...]:
    """The sections whose outputs the head reads."""
    return ("joint",) if spec.encoder.fuses_itself else spec.streams


def adapters(spec: VlmClassifierSpec, encoder: Encoder, *, seed: int, total_steps: int | None) -> Any:
    """The encoder with its adapters (peft_methods' Adapted), or None where all of it is frozen, which it is made here."""
    encoder.module.requires_grad_(False)
    if spec.whole_encoder_frozen:
        return None
    from trainables.peft_methods.build import build as build_adapters

    frozen_factors = spec.peft.model_copy(update={"lr_factors": spec.peft.lr_factors.model_copy(update={"head": None})})
    return build_adapters(encoder.module, frozen_factors, seed=seed, generative=False, total_steps=total_steps, where="trainable.peft")


def _adapted(spec: VlmClassifierSpec, encoder: Encoder, task: Task, reporter: Reporter) -> Any:
    steps = spec.epochs * -(-len(task.split["train"]) // spec.batch)
    return adapters(spec, encoder, seed=derived_seed(reporter.seed, "adapters"), total_steps=steps)


def _why_random(spec: VlmClassifierSpec) -> str | None:
    """Why the pictures differ from epoch to epoch."""
    if spec.augment is None or "image" not in spec.streams:
        return None
    return "augment changes the pictures in every epoch"


def _keep(
    spec: VlmClassifierSpec,
    task: Task,
    weights: Mapping[str, Weights],
    chain: Chain,
    batches: Batches,
    store: Store,
    device: torch.device,
) -> Kept | None:
    frontier = frontier_of(spec, chain)
    if frontier.empty:
        if spec.cache.use == "required":
            raise FailTrial(
                "nothing_to_keep", f"cache.use is required, but of this model can be kept {frontier.words()}; set cache.use: auto"
            )
        return None
    at = {name: _at(chain, name, place) for name, place in frontier.places.items() if place}
    keys = {name: _key(spec, task, weights, name, place, device) for name, place in at.items()}
    try:
        return keep(
            chain,
            frontier,
            store=store,
            keys=keys,
            n_rows=len(task.table.rows),
            load=batches.load,
            device=device,
            dtype=AUTOCAST_DTYPE[spec.engine.precision] or torch.float32,
            at=at,
        )
    except TooLarge as error:
        if spec.cache.use == "required":
            raise FailTrial("nothing_to_keep", f"cache.use is required, but {error}; raise cache.max_gb") from None
        return None


def _places_of(kept: Kept) -> dict[str, str]:
    return {name: entry.facts["at"] for name, entry in kept.entries.items()}


def _at(chain: Chain, name: str, place: int) -> str:
    return _ALL if place == len(_section(chain, name).stages) else str(place)


def _section(chain: Chain, name: str) -> Any:
    return next(section for section in chain.sections if section.name == name)


def _raw_streams(spec: VlmClassifierSpec, chain: Chain, places: Mapping[str, int]) -> tuple[str, ...]:
    """Raw inputs still needed: of a stream that is not kept as a whole, pictures only where nothing of it is kept."""
    in_joint = chain.joint is not None and places.get(chain.joint.name, 0) > 0
    needed = []
    if any(section.name == "image" for section in chain.streams) and not places.get("image") and not in_joint:
        needed.append("image")
    last = "joint" if chain.joint is not None else "text"
    reads_words = chain.joint is not None or any(section.name == "text" for section in chain.streams)
    if reads_words and places.get(last, 0) < len(_section(chain, last).stages):
        needed.append("text")
    return tuple(needed)


def _key(spec: VlmClassifierSpec, task: Task, weights: Mapping[str, Weights], section: str, at: str, device: torch.device) -> str:
    """Of everything that decides what a section gives before its stage `at`, and of nothing else, so that trials share it."""
    encoder, chosen = spec.encoder, spec.encoder.chosen
    if isinstance(chosen, TwoTowerSpec):
        model: Any = {"image": chosen.image, "text": chosen.text}[section].model_dump()
        digests = {section: weights[section].digest}
    else:
        model, digests = chosen.model_dump(), {"model": weights["model"].digest}
    pictures = {"data": task.table.digest, "size_px": encoder.image_size, "resize": encoder.resize} if section != "text" else None
    words = {"words": task.words_digest, "max_tokens": encoder.max_tokens} if section != "image" else None
    return key_of(
        family=encoder.family,
        section=section,
        at=at,
        model=model,
        weights=digests,
        pictures=pictures,
        words=words,
        streams=spec.streams if section == "joint" else None,
        n_rows=len(task.table.rows),
        precision=spec.engine.precision,
        device=device.type,
        libraries=libraries(),
    )


def _head(spec: VlmClassifierSpec, widths: Mapping[str, int], task: Task, reporter: Reporter) -> Head:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(reporter.seed, "head"))
        return Head({name: widths[name] for name in last_sections(spec)}, len(task.classes), spec.inputs.fusion, spec.head)


def _groups(spec: VlmClassifierSpec, module: Classifier, adapted: Any) -> list[ParamGroup]:
    """The head, and the trained parts of the encoder, each at its own rate."""
    optim = spec.optim
    rate = optim.lr * spec.peft.lr_factors.of("head")
    groups = [ParamGroup(name="head", params=list(module.head.parameters()), lr=rate, weight_decay=optim.weight_decay)]
    if adapted is None:
        return groups
    from trainables.peft_methods.build import parameter_groups

    return [*groups, *parameter_groups(adapted, lr=optim.lr, weight_decay=optim.weight_decay)]
