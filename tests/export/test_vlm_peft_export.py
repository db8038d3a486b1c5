"""A trained adapter of a tiny LLaVA with random weights, exported: peft and transformers alone give the trial's own answers.

One trial is trained for all tests; what its answers mean is no matter, only that they are the same.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

from tests.export.written_study import Past, resolved, write_study  # noqa: E402
from tests.trainables.reporting import FakeReporter  # noqa: E402
from trainables.vlm_data.open import open_rows  # noqa: E402
from trainables.vlm_peft import recipe  # noqa: E402
from trainables.vlm_peft.model import load_for_inference  # noqa: E402
from trainables.vlm_peft.spec import METRICS, VlmPeftSpec  # noqa: E402
from tune.__main__ import cli  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4  # of logits after the prompt, in fp32: another process, and for the merged model another order of sums
# What the card tells a stranger to do, after what a CPU build of torch needs beside the published torchvision.
CLEAN = """
import json, sys, torch
library = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    try:
        getattr(torch.ops.torchvision, name)
    except (AttributeError, RuntimeError):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
adapter, merged = sys.argv[1:]
found = {}
def ask(name, model, processor):
    found[name] = []
    for text, special, path in asked:
        image = Image.open(path).convert("RGB")
        inputs = processor(text=[text], images=[image], return_tensors="pt", add_special_tokens=special)
        with torch.no_grad():
            logits = model(**inputs).logits[0, -1].tolist()
            tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=ends)
        words = processor.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip()
        found[name].append((logits, words))
asked, ends = json.load(sys.stdin)
base = AutoModelForImageTextToText.from_pretrained(adapter + "/base", dtype=torch.float32)
ask("adapter", PeftModel.from_pretrained(base, adapter).eval(), AutoProcessor.from_pretrained(adapter))
whole = AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32).eval()
ask("merged", whole, AutoProcessor.from_pretrained(merged))
assert not [name for name in sys.modules if name.split(".")[0] in ("tune", "trainables", "cluster", "ray")]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Question:
    """`answered`: what the trial's own test evaluation has written down. `text`: the prompt with the model's chat template."""

    picture: Path
    words: str
    text: str
    special: bool
    answered: str
    logits_V: np.ndarray


@dataclass(frozen=True)
class Made:
    study: Path
    questions: list[Question]
    ends: list[int]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("vlm")
    trainable = {
        "kind": "vlm_peft",
        "model": {"name": "tiny:llava"},
        "data": {"reader": "easy_vqa", "subset": {"train": 16, "val": 4, "test": 4}},
        "peft": {"method": "lora", "lora": {"r": 4}, "connector": "tuned"},
        "batch": 8,
        "epochs": 1,
        "evaluation": {"by": "generate", "max_new_tokens": 6},
    }
    spec = VlmPeftSpec.model_validate({**trainable, "optim": {"lr": 0.02}})
    reporter = FakeReporter(folder, METRICS)
    outcome = recipe.train(spec, reporter)
    past = Past("t0000", values=(outcome.metrics["val/score"],), metrics=outcome.metrics)
    written = resolved(trainable, "val/score") | {"space": {"optim.lr": {"float": [1e-4, 1e-1], "log": True}}}
    study = write_study(folder / "made-1", written, [past], {"digest": "da7a", "rows": {"train": 16, "val": 4, "test": 4}})
    shutil.copytree(reporter.workdir, study / "trials" / "t0000", dirs_exist_ok=True)
    with open(reporter.workdir / "predictions.csv", encoding="utf-8", newline="") as file:
        answered = [row["predicted"] for row in csv.DictReader(file)]
    loaded = load_for_inference(reporter.workdir)
    table = open_rows(spec.data)
    questions = []
    for i, said in zip(table.split["test"], answered, strict=True):
        row = table.rows[int(i)]
        assert row.image is not None
        picture = folder / f"{len(questions)}.png"
        picture.write_bytes(row.image.load())
        asked = loaded.chat.asked(f"{row.text}\nAnswer the question using a single word or phrase.", True)
        questions.append(Question(picture, row.text, asked.text, asked.special, said, _logits(loaded, asked, picture)))
    return Made(study, questions, sorted(loaded.chat.end_ids))


def _logits(loaded: object, asked: object, picture: Path) -> np.ndarray:
    """logits_V after the prompt, as the trial's own encoding puts it."""
    from PIL import Image

    from trainables.vlm_peft.encode import processed

    with Image.open(picture) as opened:
        values = processed(loaded.processor, asked, opened.convert("RGB"))  # type: ignore[attr-defined, arg-type]
    inputs = {name: torch.from_numpy(value) for name, value in values.items()}
    with torch.no_grad():
        return loaded.model(**inputs).logits[0, -1].numpy()  # type: ignore[attr-defined]


def phasetune(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def exports(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, more in (("adapter", []), ("merged", ["--merge"])):
        done = phasetune("export", made.study, "--out", folder / name, *more)
        assert done.exit_code == 0, (done.output, done.exception)
    return {name: folder / name for name in ("adapter", "merged")}


def test_peft_and_transformers_alone_give_the_trials_own_answers_in_a_clean_process(made: Made, exports: dict[str, Path]) -> None:
    asked = [[(q.text, q.special, str(q.picture)) for q in made.questions], made.ends]
    command = [sys.executable, "-I", "-c", CLEAN, str(exports["adapter"]), str(exports["merged"])]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("adapter", "merged"):
        for (logits, words), question in zip(found[name], made.questions, strict=True):
            assert np.abs(np.array(logits) - question.logits_V).max() <= TOLERANCE, name
            assert words == question.answered, name


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_predict_answers_as_the_trial_was_tested(form: str, made: Made, exports: dict[str, Path]) -> None:
    first = made.questions[0]
    same = [question for question in made.questions if question.words == first.words]
    done = phasetune("predict", exports[form], *(question.picture for question in same), "--text", first.words, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    assert [json.loads(line)["answer"] for line in done.stdout.splitlines()] == [question.answered for question in same]


def test_a_question_without_words_or_with_top_is_refused(made: Made, exports: dict[str, Path]) -> None:
    done = phasetune("predict", exports["adapter"], made.questions[0].picture, "--top", 3)
    assert done.exit_code == 2
    assert "needs words beside the picture" in done.stderr and "--top" in done.stderr


def test_the_card_says_that_the_weights_were_random_and_how_to_load_them(exports: dict[str, Path]) -> None:
    card = (exports["adapter"] / "README.md").read_text(encoding="utf-8")
    for said in (
        "library_name: peft",
        "> **Random weights.**",
        "| form | a peft adapter |",
        'PeftModel.from_pretrained(base, "EXPORT")',
        "lora; connector tuned, vision tower frozen",
    ):
        assert said in card
    assert "| form | the adapter merged into the base model's weights |" in (exports["merged"] / "README.md").read_text(encoding="utf-8")
    assert json.loads((exports["adapter"] / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
