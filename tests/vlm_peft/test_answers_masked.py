"""What is learnt of a row: the exact tokens that labels leave unmasked under two chat templates, and what encoding refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from PIL import Image  # noqa: E402

from tests.trainables.reporting import FakeReporter  # noqa: E402
from tests.vlm_peft.cases import spec_of  # noqa: E402
from trainables.vlm_data.row import Picture  # noqa: E402
from trainables.vlm_peft import tiny  # noqa: E402
from trainables.vlm_peft.batches import IGNORED, Batches  # noqa: E402
from trainables.vlm_peft.chat import Chat  # noqa: E402
from trainables.vlm_peft.encode import opened  # noqa: E402
from trainables.vlm_peft.model import load_config  # noqa: E402
from trainables.vlm_peft.preflight import look  # noqa: E402
from trainables.vlm_peft.spec import ModelSpec, VlmPeftSpec  # noqa: E402
from trainables.vlm_peft.task import open_tasks  # noqa: E402
from tune.core.errors import UserError  # noqa: E402

LLAVA_SEEN = "<s>USER: " + "<image>" * 16 + "\npost 2 ASSISTANT:"
QWEN_SEEN = "<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * 6 + "<|vision_end|>post 2<|im_end|>\n<|im_start|>assistant\n"
VICUNA_SEEN = (
    "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite "
    "answers to the user's questions. USER: " + "<image>" * 16 + "\npost 2 ASSISTANT:"
)


@pytest.mark.parametrize(
    ("family", "template", "seen", "learnt"),
    [
        ("llava", "own", LLAVA_SEEN, " negative</s>"),
        ("qwen2_5_vl", "own", QWEN_SEEN, "negative<|im_end|>"),
        ("llava", "vicuna_v1", VICUNA_SEEN, " negative</s>"),
    ],
    ids=["llava", "qwen", "vicuna"],
)
def test_the_answer_and_its_end_alone_are_learnt(
    family: str, template: str, seen: str, learnt: str, rows: Path, reporter: Callable[..., FakeReporter]
) -> None:
    spec = spec_of(rows, model={"name": f"tiny:{family}", "template": template})
    processor = tiny.processor(family)
    chat = Chat(processor, spec.model)
    task = open_tasks(spec, processor=processor, chat=chat, config=load_config(spec.model), reporter=reporter()).target
    places = [next(i for i, row in enumerate(task.table.rows) if row.text == text) for text in ("post 2", "post 13")]
    batch = Batches(task.rows, processor.tokenizer.pad_token_id, torch.device("cpu"), torch.float32, True).training(places)
    ids, labels = batch.inputs["input_ids"][0].tolist(), batch.labels_BT[0].tolist()  # type: ignore[index]
    kept = [i for i, label in enumerate(labels) if label != IGNORED]
    n_padding = ids.count(processor.tokenizer.pad_token_id)
    assert processor.tokenizer.decode(ids[: kept[0]]) == seen
    assert processor.tokenizer.decode([labels[i] for i in kept]) == learnt
    assert kept == list(range(kept[0], len(ids) - n_padding)) and [ids[i] for i in kept] == [labels[i] for i in kept]
    assert batch.n_last == len(ids) - min(kept[0], len(task.rows.prompts[places[1]])) + 1


@pytest.mark.parametrize(
    ("family", "template", "text"),
    [
        ("llava", "own", "[ one</s>] USER: and? ASSISTANT:[ two</s>]"),
        ("qwen2_5_vl", "own", "[one<|im_end|>]\n<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n[two<|im_end|>]"),
        ("llava", "vicuna_v1", "[ one</s>]USER: and? ASSISTANT:[ two</s>]"),
    ],
    ids=["llava", "qwen", "vicuna"],
)
def test_of_a_conversation_every_answer_and_no_question_is_learnt(
    family: str, template: str, text: str, tmp_path: Path, reporter: Callable[..., FakeReporter]
) -> None:
    turns = [{"from": who, "value": said} for who, said in (("human", "<image>\nwhat?"), ("gpt", "one"), ("human", "and?"), ("gpt", "two"))]
    rows = [{"id": str(i), "image": f"{i}.png", "conversations": turns} for i in range(6)]
    for row in rows:
        Image.new("RGB", (40, 40), (40 * int(row["id"]), 0, 0)).save(tmp_path / row["image"])  # type: ignore[call-overload, operator]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    data = {"reader": "llava_json", "source": str(tmp_path / "rows.json")}
    spec = VlmPeftSpec.model_validate({"model": {"name": f"tiny:{family}", "template": template}, "data": data})
    processor = tiny.processor(family)
    chat = Chat(processor, spec.model)
    task = open_tasks(spec, processor=processor, chat=chat, config=load_config(spec.model), reporter=reporter()).target
    got, inside = "", 0
    for token, learnt in zip(task.rows.answers[0].tolist(), task.rows.learnt[0].tolist(), strict=True):
        got += ("[" if learnt > inside else "]" if learnt < inside else "") + processor.tokenizer.decode([token])
        inside = learnt
    assert got + "]" == text and look(spec, seed=0)["longest_tokens"] == task.rows.lengths[0]
    labels = Batches(task.rows, 0, torch.device("cpu"), torch.float32, True).training([0, 1]).labels_BT
    assert labels is not None and int((labels != IGNORED).sum()) == 2 * task.rows.n_answer_tokens[0]


def test_tokens_joined_over_the_border_belong_to_the_answer() -> None:
    """A tokenizer that makes one token of the last letter of the question and the first of the answer."""

    class Joining:
        eos_token_id, bos_token = 0, None

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [1 if part == ":y" else ord(part[0]) + 10 for part in _parts(text)]}

    class Processor:
        tokenizer, image_token, chat_template = Joining(), None, "there is one"

        def apply_chat_template(self, messages: list[dict[str, Any]], add_generation_prompt: bool, tokenize: bool) -> str:
            return "Q:" if add_generation_prompt else f"Q:{messages[1]['content'][0]['text']}"

    def _parts(text: str) -> list[str]:
        return [":y" if part == "\0" else part for part in text.replace(":y", "\0")]

    ids, n_replaced = Chat(Processor(), ModelSpec(name="tiny:llava")).answer_ids("Q", "yes", False)
    assert (ids, n_replaced) == ([1, ord("e") + 10, ord("s") + 10, 0], 1)


def test_an_image_token_in_a_users_words_is_taken_out() -> None:
    chat = Chat(tiny.processor("llava"), ModelSpec(name="tiny:llava"))
    assert chat.asked("what <image> is\nit?", True).text.count("<image>") == 1


def test_a_row_longer_than_the_limit_is_named_before_the_start_and_when_encoded(rows: Path, reporter: Callable[..., FakeReporter]) -> None:
    spec = spec_of(rows, model={"name": "tiny:llava", "max_length": 51})
    words = r"row \d+ has 5[2-9] tokens with its picture and answer, more than 51\n    fix: shorten or leave out"
    with pytest.raises(UserError, match=words):
        look(spec, seed=0)
    processor = tiny.processor("llava")
    chat = Chat(processor, spec.model)
    with pytest.raises(UserError, match=words):
        open_tasks(spec, processor=processor, chat=chat, config=load_config(spec.model), reporter=reporter())


def test_a_row_without_a_picture_is_refused_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"id": "a", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]')
    data = {"reader": "llava_json", "source": str(tmp_path / "rows.json")}
    spec = VlmPeftSpec.model_validate({"model": {"name": "tiny:llava"}, "data": data})
    with pytest.raises(UserError, match=r"row .* has no picture\n    fix: give it one, or set trainable.data.imageless"):
        look(spec, seed=0)


def test_a_picture_is_padded_to_a_square_with_the_mean_colour() -> None:
    import io

    file = io.BytesIO()
    Image.fromarray(np.full((4, 8, 3), 200, np.uint8)).save(file, "PNG")
    image = opened(Picture("p", file.getvalue), 1000, (0.5, 0.25, 1.0))
    pixels = np.asarray(image)
    assert pixels.shape == (8, 8, 3) and pixels[0, 0].tolist() == [127, 63, 255] and (pixels[2:6] == 200).all()
