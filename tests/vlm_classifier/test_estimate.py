"""What `plan` is told of a trial's memory, against the classifier that the recipe would build and run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

import numpy as np  # noqa: E402

from tests.vlm_classifier.trials import TWO_TOWER, family, reporter, spec  # noqa: E402
from trainables.meta_memory import kept_bytes  # noqa: E402
from trainables.vlm_classifier.build import build  # noqa: E402
from trainables.vlm_classifier.estimate import _on_meta, estimate  # noqa: E402
from trainables.vlm_classifier.evaluate import load_rows  # noqa: E402
from trainables.vlm_classifier.task import open_task  # noqa: E402

LORA = {"method": "lora", "lora": {"r": 2, "dropout": 0.0}}
TUNED = {"method": "frozen", "connector": "tuned"}


def memory(**fields: Any) -> int:
    found = estimate(spec(**fields)).peak_memory_bytes
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("encoder", "peft"),
    [(family("clip"), LORA), (family("clip"), TUNED), (family("blip2"), TUNED), (family("llava"), LORA), (TWO_TOWER, LORA)],
    ids=["clip, adapters", "clip, projections", "blip2", "llava", "two towers"],
)
def test_what_is_kept_for_the_backward_is_the_same_without_computing_it(
    encoder: dict[str, Any], peft: dict[str, Any], tmp_path: Path
) -> None:
    one = spec(encoder=encoder, peft=peft, cache={"use": "off"})
    task = open_task(one)
    real = build(one, task, reporter(tmp_path))
    loaded = load_rows(np.arange(10), None, real.batches, real.streams)
    batch = {name: loaded[name] for name in ("pixels", "ids")}
    computed = kept_bytes(real.module, partial(real.module.train(), **batch))
    meta, _ = _on_meta(one, len(task.classes))
    told = kept_bytes(meta, partial(meta.train(), **{name: torch.empty_like(value, device="meta") for name, value in batch.items()}))
    assert told == pytest.approx(computed, rel=0.1)  # seen: .00 and, for llava, .09


def test_memory_follows_what_is_trained_kept_and_computed_at_once() -> None:
    trained = {"encoder": family("clip"), "peft": LORA, "batch": 512}
    plain = memory(**trained)
    assert memory(**{**trained, "peft": {"method": "frozen"}}) < plain, "of a frozen encoder everything is kept"
    assert memory(**trained, engine={"accumulation": 4}) < plain
    assert memory(**trained, engine={"precision": "bf16"}) < plain
    n_trained = estimate(spec(**trained)).trainable_parameters or 0
    assert memory(**trained, optim={"kind": "sgd", "lr": 1e-2}) == plain - 4 * n_trained  # one moment instead of two
    assert estimate(spec(**trained, engine={"zero": {"stage": 2}})).peak_memory_bytes is None


def test_keeping_the_frozen_part_takes_it_out_of_the_steps() -> None:
    frozen = {"encoder": family("clip"), "peft": {"method": "frozen"}, "batch": 512}
    assert memory(**frozen) < memory(**frozen, cache={"use": "off"})
