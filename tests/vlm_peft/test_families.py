"""Each family's real classes, tiny and random: rows encoded once equal the processor's own, and a trial runs to its end."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from tests.trainables.reporting import FakeReporter  # noqa: E402
from tests.vlm_peft.cases import spec_of  # noqa: E402
from trainables.vlm_peft import recipe  # noqa: E402
from trainables.vlm_peft.chat import Chat  # noqa: E402
from trainables.vlm_peft.encode import opened, processed  # noqa: E402
from trainables.vlm_peft.model import load_config, load_processor  # noqa: E402
from trainables.vlm_peft.preflight import look  # noqa: E402
from trainables.vlm_peft.spec import TINY_FAMILIES, VlmPeftSpec  # noqa: E402
from trainables.vlm_peft.task import open_tasks  # noqa: E402
from tune.core.errors import UserError  # noqa: E402

FAMILIES = [family for family in TINY_FAMILIES if family != "smolvlm" or importlib.util.find_spec("num2words")]
WITHOUT_TEMPLATE = ("paligemma", "blip2")


def spec_of_family(family: str, rows: Path, **fields: Any) -> VlmPeftSpec:
    model = {"name": f"tiny:{family}", "template": "plain" if family in WITHOUT_TEMPLATE else "own"}
    return spec_of(rows, model=model, epochs=1, evaluation={"by": "generate", "max_new_tokens": 3, "scores": ["accuracy"]}, **fields)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_of_the_family_runs_and_generates(family: str, rows: Path, reporter: Callable[..., FakeReporter]) -> None:
    spec = spec_of_family(family, rows, peft={"method": "lora", "lora": {"r": 4}, "connector": "tuned"})
    run = reporter()
    outcome = recipe.train(spec, run)
    assert {"test/loss", "test/accuracy"} <= outcome.metrics.keys()
    facts = look(spec, seed=0)
    lengths = open_tasks_of(spec, run).target.rows.lengths
    assert facts["longest_tokens"] == lengths.max()


def open_tasks_of(spec: VlmPeftSpec, run: FakeReporter) -> Any:
    processor = load_processor(spec.model)
    return open_tasks(spec, processor=processor, chat=Chat(processor, spec.model), config=load_config(spec.model), reporter=run)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_encoded_with_others_equals_what_its_processor_gives(family: str, rows: Path, reporter: Callable[..., FakeReporter]) -> None:
    spec = spec_of_family(family, rows)
    task = open_tasks_of(spec, reporter()).target
    processor = load_processor(spec.model)
    chat = Chat(processor, spec.model)
    for i in (3, 17):
        row, item = task.table.rows[i], task.rows.examples[i]
        assert row.image is not None
        got = processed(processor, chat.asked(item.prompt, True), opened(row.image, 10**8, None))
        assert np.array_equal(task.rows.prompts[i], got["input_ids"][0])
        for name, pictures in task.rows.pictures.items():
            assert np.array_equal(
                pictures[task.rows.picture_of[i]], got[name].astype(np.float32 if got[name].dtype.kind == "f" else np.int64)
            )
        for name, extra in task.rows.extras.items():
            assert np.array_equal(extra[i], got[name][0])


@pytest.mark.parametrize("family", WITHOUT_TEMPLATE)
def test_a_processor_without_a_chat_template_is_refused_with_the_fix(family: str, rows: Path) -> None:
    with pytest.raises(UserError, match=r"has no chat template\n    fix: set it to plain"):
        look(spec_of(rows, model={"name": f"tiny:{family}"}), seed=0)


@pytest.mark.skipif("smolvlm" in FAMILIES, reason="num2words is installed")
def test_a_processor_whose_package_is_missing_is_refused_with_the_command(rows: Path) -> None:
    with pytest.raises(UserError, match=r"num2words.*\n    fix: pip install num2words"):
        look(spec_of(rows, model={"name": "tiny:smolvlm"}), seed=0)
