"""A class by the cosine between a row and sentences about the class (CLIP, section 3.1.4): nothing is trained.

Of picture and words the one that `inputs.use` names is compared; of both, the mean of the two cosines. One step is reported. What
the sentences gave is kept, so that the trial can be exported.

Legend: N rows, B rows of a batch, C classes, F features.
"""

from __future__ import annotations

import json
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from trainables.kept import BEST, give_last_name, keep
from trainables.metrics import summary
from trainables.vlm_classifier.build import build
from trainables.vlm_classifier.encoder import Encoder, open_encoder
from trainables.vlm_classifier.evaluate import evaluate, load_rows
from trainables.vlm_classifier.finish import finish
from trainables.vlm_classifier.head import CosineHead
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
    head = _head(spec, task, encoder, device)
    built.module.eval()

    def forward(**batch: Tensor) -> Tensor:
        return head(built.module.outputs(batch))  # logits_BC

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
    kept = {f"head.{name}": tensor.cpu().contiguous() for name, tensor in head.state_dict().items()}
    keep(kept, 0, {"family": spec.encoder.family, "classes": json.dumps(task.classes)}, reporter)
    give_last_name(0, reporter)
    facts = {"trainable_parameters": 0.0, "kept_bytes": float(0 if built.kept is None else built.kept.size_bytes)}
    return finish(task, scores["test"], {**validated, **facts}, {"best weights": BEST}, reporter)


def _head(spec: VlmClassifierSpec, task: Task, encoder: Encoder, device: torch.device) -> CosineHead:
    """classes_CF: the mean of the normed features of each class's sentences; scale and bias are the model's own."""
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
    return CosineHead(classes_CF, *encoder.similarity())
