"""Answers that go on from a kept prompt: the same losses as each answer on a row of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from tests.trainables.reporting import FakeReporter  # noqa: E402
from tests.vlm_peft.cases import PEFT, spec_of  # noqa: E402
from trainables.vlm_peft.batches import Batches, answer_loss, keeps_logits  # noqa: E402
from trainables.vlm_peft.chat import Chat  # noqa: E402
from trainables.vlm_peft.likelihood import answer_losses, goes_on  # noqa: E402
from trainables.vlm_peft.model import adapt, load_config, load_model, load_processor  # noqa: E402
from trainables.vlm_peft.task import open_tasks  # noqa: E402


@pytest.mark.parametrize("name", ["lora", "bottleneck", "prefix"])
def test_the_losses_are_those_of_whole_rows(name: str, rows: Path, reporter: Callable[..., FakeReporter]) -> None:
    spec = spec_of(rows, peft=PEFT[name])
    processor = load_processor(spec.model)
    chat = Chat(processor, spec.model)
    tasks = open_tasks(spec, processor=processor, chat=chat, config=load_config(spec.model), reporter=reporter())
    base = load_model(spec.model)
    batches = Batches(tasks.target.rows, 0, torch.device("cpu"), torch.float32, keeps_logits(base))
    module = adapt(base, spec, seed=3, total_steps=4).module.eval()
    chosen, answers = [0, 3, 8, 11, 12], [chat.candidate_ids(word) for word in ("no", "positive", "a")]
    with torch.no_grad():
        assert goes_on(module, longest=80)
        found = dict(answer_losses(module, module, batches, chosen, answers, n_together=4))
        for place, row in enumerate(chosen):
            batch = batches.answered([row] * len(answers), answers)
            loss_C, _ = answer_loss(module(**batch.inputs).logits, batch.labels_BT, batch.n_last)
            assert found[place] == pytest.approx(loss_C.tolist(), rel=1e-4)


@pytest.mark.parametrize("name", ["prompt"])
def test_virtual_tokens_among_the_words_are_left_to_whole_rows(name: str, rows: Path) -> None:
    spec = spec_of(rows, peft=PEFT[name])
    assert not goes_on(adapt(load_model(spec.model), spec, seed=3, total_steps=4).module, longest=80)
