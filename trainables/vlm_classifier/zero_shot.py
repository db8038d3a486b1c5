"""A class by the cosine between a row and sentences about the class (CLIP, section 3.1.4): nothing is trained.

Of picture and words the one that `inputs.use` names is compared; of both, the mean of the two cosines. One step is reported.

Legend: N rows, B rows of a batch, C classes, F features.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainables.metrics import summary
from trainables.vlm_classifier.build import build
from trainables.vlm_classifier.encoder import Encoder, open_encoder
from trainables.vlm_classifier.evaluate import evaluate, load_rows
from trainables.vlm_classifier.finish import finish
from trainables.vlm_classifier.spec import VlmClassifierSpec, ZeroShotSpec
from trainables.vlm_classifier.task import Task, open_task
from trainables.vlm_classifier.weights import encoder_weights
from tune.core.ports import Outcome, Reporter


def judge(spec: VlmClassifierSpec, reporter: Reporter) -> Outcome:
    """Validation and test scores without training."""
    started = time.perf_counter()
    task = open_task(spec)
    built = build(spec, task, reporter)
    encoder = open_encoder(spec.encoder, encoder_weights(spec.encoder))
    device = torch.device(reporter.device)
    classes_CF, scale, bias = _classes(spec, task, encoder, device)
    built.module.eval()

    def forward(**batch: Tensor) -> Tensor:
        return scale * _cosines(built.module.outputs(batch), classes_CF) + bias  # logits_BC

    def load(rows: NDArray[np.int64]) -> dict[str, Tensor]:
        return load_rows(rows, built.kept, built.batches, built.streams)

    scores = {split: evaluate(forward, load, task, split, reporter, head_only=not built.streams) for split in ("train", "val", "test")}
    validated = scores["val"].metrics("val")
    trained = summary(scores["train"].confusion_CC)
    report = validated | {f"train/{name}": trained[name] for name in ("accuracy", "f1_weighted", "f1_macro")}
    report |= {"train/loss": scores["train"].loss, "learning_rate": 0.0}
    seconds = time.perf_counter() - started
    n_rows = sum(len(rows) for rows in task.split.values())
    reporter.report(0, report | {"seconds": seconds, "rows_per_second": n_rows / seconds}, lambda folder: None)
    facts = {"trainable_parameters": 0.0, "kept_bytes": float(0 if built.kept is None else built.kept.size_bytes)}
    return finish(task, scores["test"], {**validated, **facts}, {}, reporter)


def _classes(spec: VlmClassifierSpec, task: Task, encoder: Encoder, device: torch.device) -> tuple[Tensor, float, float]:
    """classes_CF of length 1: the mean of the normed features of each class's sentences; with them the model's scale and bias."""
    templates = (ZeroShotSpec() if spec.zero_shot is None else spec.zero_shot).templates
    sentences = [template.replace("{label}", name) for name in task.classes for template in templates]
    tokens = encoder.tokens(sentences)
    chain = encoder.chain(("text",))
    encoder.module.to(device).eval()
    batch = {"ids": torch.from_numpy(tokens.ids_NT).to(device), "mask": torch.from_numpy(tokens.mask_NT).to(device)}
    with torch.no_grad():
        features_NF = functional.normalize(chain.run(batch)["text"].float(), dim=-1)
    classes_CF = functional.normalize(features_NF.view(len(task.classes), len(templates), -1).mean(dim=1), dim=-1)
    assert encoder.similarity is not None, "the spec lets only families with a shared space through"
    return classes_CF, *encoder.similarity()


def _cosines(outputs: Mapping[str, Tensor], classes_CF: Tensor) -> Tensor:
    sides = [functional.normalize(outputs[name].float(), dim=-1) @ classes_CF.T for name in ("image", "text") if name in outputs]
    return torch.stack(sides).mean(dim=0)
