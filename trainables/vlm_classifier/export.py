"""A trained classifier as a folder, and answers from it.

`model.safetensors` holds what was trained: head, adapters, tuned modules (of a zero-shot trial: what sentences about the classes gave);
`phasetune.json` the spec that says how the rest is built. The pretrained encoder stays where it is, and is named; weights that were
drawn exist nowhere, so they are written as well. No library knows such a model: it is opened with Phasetune.

Legend: B rows, C classes.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.adapters.torch_engine import AUTOCAST_DTYPE
from trainables.frozen_prefix.store import Store
from trainables.kept import BEST
from trainables.vlm_classifier.build import adapters, last_sections
from trainables.vlm_classifier.encoder import Encoder, open_encoder
from trainables.vlm_classifier.encoder_specs import TINY
from trainables.vlm_classifier.head import Classifier, CosineHead, Head
from trainables.vlm_classifier.spec import VlmClassifierSpec
from trainables.vlm_classifier.task import Batches, Task
from trainables.vlm_classifier.weights import MINILM, Weights, encoder_weights
from trainables.vlm_data.open import VlmTable
from trainables.vlm_data.row import At, Picture, Row
from tune.core.errors import Problem, UserError
from tune.core.exports import Answer, Exported, ExportOrder, Predictor, Query, TextUse

WEIGHTS = "model.safetensors"
_SCRATCH_BYTES = 1 << 30
_LOADING = """\
from pathlib import Path

from PIL import Image
from tune.core.exports import Query
from tune.exporting.predict import Export

image = Image.open("picture.jpg").convert("RGB")
print(Export(Path("EXPORT")).answer([Query(image, {words})])[0])"""
_APACHE = {"lite0_package": "Apache-2.0", MINILM: "Apache-2.0"}
_NAMED = (TINY, MINILM, "hub", "torchvision", "lite0_package", "none")  # weights that are no path
_RANDOM = "none: there were no weights to begin with"
_UNKNOWN = "not known to Phasetune: look at where they came from"


def export(order: ExportOrder) -> Exported:
    """Raises UserError: no weights kept, a merge that this kind has not, encoder weights not to be had, tensors that do not fit."""
    from safetensors.torch import save_file

    spec: VlmClassifierSpec = order.spec
    if order.merge:
        got = "a head on an encoder, whose adapters are part of model.safetensors"
        raise UserError(Problem("--merge", got, "leave --merge out"))
    state, classes = _kept(order.workdir / BEST)
    found = encoder_weights(spec.encoder)
    module, encoder = _built(spec, classes, found)
    _fill(module, state, order.workdir / BEST)
    drawn = [name for name, weights in found.items() if weights.folder is None]
    written = dict(module.state_dict()) if drawn else state
    save_file({name: value.detach().cpu().clone().contiguous() for name, value in written.items()}, order.folder / WEIGHTS)
    said = _words_of_weights(spec, found)
    n_trained, n_all = sum(value.numel() for value in state.values()), sum(value.numel() for value in module.parameters())
    return Exported(
        task="labels",
        text=_text_use(spec),
        about={"spec": _written(spec) | {"encoder": _placed(spec.encoder.model_dump(mode="json"))}, "classes": list(classes)},
        max_pixels=spec.data.max_pixels,
        facts={
            "encoder": "; ".join(f"{name}: {words}" for name, (words, _) in said.items()),
            "looked at": {"image": "the picture", "text": "the words", "both": "the picture and the words"}[spec.inputs.use],
            "trained": _trained(spec, n_trained, n_all),
            "classes": f"{len(classes)}: {', '.join(classes)}",
            "picture": f"RGB, {encoder.picture.resize} to {encoder.picture.size_px} x {encoder.picture.size_px}",
        },
        loading=_LOADING.format(words="None" if _text_use(spec) == "none" else '"its words"'),
        starting_weights="; ".join(words for words, _ in said.values()),
        licence="; ".join(f"{name}: {licence}" for name, (_, licence) in said.items()),
        random_weights=bool(drawn),
        packages=("transformers", "timm", "peft", "torch", "safetensors", "pillow"),
        tags=("image-classification",),
        notes=() if drawn else ("The encoder is not in this folder: it is read from where the study read it.",),
    )


def predict(folder: Path, about: Mapping[str, Any]) -> Predictor:
    """The model of an export, on a GPU if there is one."""
    return _Answerer(folder, VlmClassifierSpec.model_validate(about["spec"]), tuple(about["classes"]))


class _Answerer:
    def __init__(self, folder: Path, spec: VlmClassifierSpec, classes: tuple[str, ...]):
        from safetensors.torch import load_file

        self._spec, self._classes = spec, classes
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module, self._encoder = _built(spec, classes, encoder_weights(spec.encoder))
        _fill(self._module, load_file(folder / WEIGHTS), folder / WEIGHTS)
        self._module.to(self._device).eval()

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        rows = np.arange(len(queries))
        dtype = AUTOCAST_DTYPE[self._spec.engine.precision]
        autocast = torch.autocast(self._device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad(), autocast:
            batches = Batches(_task(queries, self._classes, self._spec), self._encoder, Store(Path(scratch), _SCRATCH_BYTES), self._device)
            logits_BC = self._module(**batches.load(rows, self._spec.streams)).float()
        answers = []
        for shares_C in logits_BC.softmax(dim=1).cpu():
            ranked = shares_C.argsort(descending=True, stable=True).tolist()
            shares = tuple((self._classes[i], float(shares_C[i])) for i in ranked)
            answers.append(Answer(shares[0][0], shares))
        return answers


def _built(spec: VlmClassifierSpec, classes: Sequence[str], weights: Mapping[str, Weights]) -> tuple[Classifier, Encoder]:
    """The module as `build` makes it for a trial of which nothing is kept; what was trained is filled in next."""
    encoder = open_encoder(spec.encoder, weights)
    adapters(spec, encoder, seed=0, total_steps=1)
    widths = encoder.widths(spec.streams)
    head: Head | CosineHead
    if spec.mode == "zero_shot":
        head = CosineHead(torch.zeros(len(classes), widths[last_sections(spec)[0]]), 1.0, 0.0)
    else:
        head = Head({name: widths[name] for name in last_sections(spec)}, len(classes), spec.inputs.fusion, spec.head)
    return Classifier(encoder.module, encoder.chain(spec.streams), head, spec.encoder.frozen_dropout), encoder


def _fill(module: Classifier, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put tensors into the module; its head and all that it trains must be among them."""
    there = module.state_dict()
    strange = [name for name, value in state.items() if name not in there or there[name].shape != value.shape]
    heads = {name for name in there if name.startswith("head.")}
    lacking = sorted((module.trained_names() | heads) - state.keys())
    if strange or lacking:
        got = f"{strange[0]} does not fit the encoder" if strange else f"it lacks {lacking[0]}"
        raise UserError(Problem(str(path), got, "give the encoder weights that it was trained on"))
    module.load_state_dict(dict(state), strict=False)


def _kept(path: Path) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """What the trial trained, and its classes."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return state, tuple(json.loads(about["classes"]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        why = "it is not there" if not path.exists() else f"it cannot be read: {error!r}"
        raise UserError(Problem(str(path), why, "export a trial whose weights were kept, or run the study again")) from None


def _trained(spec: VlmClassifierSpec, n_trained: int, n_all: int) -> str:
    if spec.mode == "zero_shot":
        return "nothing: a row is compared with sentences about the classes, whose features are the head"
    return f"{n_trained:,} of {n_all:,} parameters: the head" + ("" if spec.whole_encoder_frozen else f" and {spec.peft.method}")


def _text_use(spec: VlmClassifierSpec) -> TextUse:
    return {"image": "none", "both": "optional", "text": "required"}[spec.inputs.use]  # type: ignore[return-value]


def _words_of_weights(spec: VlmClassifierSpec, found: Mapping[str, Weights]) -> dict[str, tuple[str, str]]:
    """Of each part of the encoder: what its weights are, and their licence as far as it is known."""
    words = {}
    for name, weights in found.items():
        if name == "image":
            said = f"{spec.encoder.chosen.image.name} ({spec.encoder.chosen.image.weights})"  # type: ignore[union-attr]
            given = spec.encoder.chosen.image.weights  # type: ignore[union-attr]
        else:
            given = spec.encoder.chosen.text.weights if name == "text" else spec.encoder.chosen.weights  # type: ignore[union-attr]
            said = given if name == "text" else f"{spec.encoder.family} ({given})"
        words[name] = (f"{said}, random" if weights.folder is None else said, _licence(given, weights.folder))
    return words


def _licence(given: str, folder: Path | None) -> str:
    if folder is None:
        return _RANDOM
    if given in _APACHE:
        return _APACHE[given]
    card = folder / "README.md"
    found = re.search(r"^license:\s*(\S+)", card.read_text(encoding="utf-8", errors="replace")[:4000], re.M) if card.is_file() else None
    return f"{found[1]} (as their card says)" if found else _UNKNOWN


def _placed(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Files and folders of weights by their full path: an export is asked from anywhere."""

    def full(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return _placed(value)
        if key != "weights" or value in _NAMED or value.startswith("hf:"):
            return value
        return str(Path(value).expanduser().resolve())

    return {key: full(key, value) for key, value in encoder.items()}


def _task(queries: Sequence[Query], classes: tuple[str, ...], spec: VlmClassifierSpec) -> Task:
    """The questions as rows of a data set whose labels nobody knows."""
    rows = tuple(
        Row(str(i), Picture(str(i), _bytes_of(query.image)), (query.text or "").strip(), (), At(Path("question")), classes[0])
        for i, query in enumerate(queries)
    )
    table = VlmTable(rows, {}, classes, "questions", (), spec.data.max_pixels)
    return Task(table, np.zeros(len(rows), dtype=np.int64), tuple(row.text for row in rows))


def _bytes_of(image: Any) -> Callable[[], bytes]:
    """A picture as a file's bytes, without loss."""

    def load() -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()

    return load


def _written(spec: VlmClassifierSpec) -> dict[str, Any]:
    """What `model_validate` reads again: ZeRO refuses knobs that its stage does not use, so its defaults are left out."""
    return spec.model_dump(mode="json", exclude={"engine"}) | {"engine": spec.engine.model_dump(mode="json", exclude_unset=True)}
