"""Wrong models, methods and data, each refused by name before a trial starts; and a local folder that is right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from safetensors.torch import load_file, save_file  # noqa: E402

from tests.trainables.reporting import FakeReporter  # noqa: E402
from tests.vlm_peft.cases import spec_of  # noqa: E402
from trainables.vlm_peft import recipe, tiny  # noqa: E402
from trainables.vlm_peft.estimate import estimate  # noqa: E402
from trainables.vlm_peft.export import export, opened  # noqa: E402
from trainables.vlm_peft.model import load_for_inference, load_model, load_processor  # noqa: E402
from trainables.vlm_peft.preflight import look  # noqa: E402
from trainables.vlm_peft.spec import ModelSpec  # noqa: E402
from tune.core.errors import UserError  # noqa: E402
from tune.core.exports import ExportOrder  # noqa: E402


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its processor in the layout of save_pretrained."""
    folder = tmp_path_factory.mktemp("saved") / "tiny-llava"
    tiny.model("llava").save_pretrained(folder)
    tiny.processor("llava").save_pretrained(folder)
    return folder


def test_a_local_folder_trains_as_the_model_that_was_saved_in_it(saved: Path, rows: Path, reporter: Callable[..., FakeReporter]) -> None:
    spec = spec_of(rows, model={"name": str(saved)}, epochs=1)
    facts = look(spec, seed=0)
    assert facts["weights"] == str(saved) and facts["classes"] == ["positive", "neutral", "negative"]
    from_folder, from_here = reporter("folder"), reporter("here")
    wanted = recipe.train(spec_of(rows, epochs=1), from_here).metrics
    got = recipe.train(spec, from_folder).metrics
    assert got["test/loss"] == pytest.approx(wanted["test/loss"], rel=1e-6)
    assert load_for_inference(from_folder.workdir / "model").spec == spec
    assert estimate(spec).trainable_parameters == from_folder.reports[0][1]["trainable_parameters"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": {"name": "nowhere/at-all"}}, r"there is no folder nowhere/at-all \(for a model of the hub write hf:owner/name\)"),
        ({"peft": {"method": "lora", "lora": {"targets": ["q_prj"]}}}, r"q_prj, which matches no linear layer .*did you mean 'q_proj'"),
        ({"peft": {"method": "frozen"}}, r"frozen with connector frozen and vision frozen, which leaves nothing to train"),
        ({"peft": {"method": "prompt", "prompt": {"tokens": 1000}}}, r"row 1 has \d+ tokens with its picture and answer, more than 24"),
        ({"peft": {"method": "prompt", "prompt": {"tokens": 1024}}}, r"tokens\n    got: 1024, but the model's context is 1024 tokens"),
        ({"peft": {"method": "full", "full": {"last_layers": 9}}}, r"9, but the model has 2 blocks\n    fix: set it to 2 at most"),
    ],
)
def test_a_wrong_model_or_method_is_refused_with_the_fix(fields: dict[str, Any], said: str, rows: Path) -> None:
    with pytest.raises(UserError, match=said):
        look(spec_of(rows, **fields), seed=0)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        look(spec_of(tmp_path / "none", model={"name": "tiny:paligemma"}, peft={"method": "frozen"}), seed=0)
    wheres = {problem.where.split(" ")[0] for problem in caught.value.problems}
    assert wheres == {"trainable.data.source", "trainable.model.template", "trainable.peft.method"}


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("chat_template.jinja", b"{% for x in %}", r"template\n    got: own, and the model's chat template fails: Expected an expression"),
        ("chat_template.jinja", b"{{ raise_exception('no') }}", r"chat template fails: no\n    fix: mend its chat_template.jinja"),
        ("config.json", b"[]", r"argument after \*\* must be a mapping|Unrecognized model"),
        ("config.json", b'{"model_type": "bert"}', r"Unrecognized configuration class .*BertConfig"),
        ("generation_config.json", b"{", r"generation_config.json: no generation settings: .*\n    fix: get this file whole again"),
        ("model.safetensors", b"\x10\0\0", r"model.safetensors: .*header.*\n    fix: it is damaged or cut short: fetch it again"),
        ("model.safetensors", None, r"which has no weights\n    fix: put model.safetensors there"),
    ],
)
def test_a_damaged_folder_is_refused_before_a_trial(
    file: str, content: bytes | None, said: str, saved: Path, rows: Path, tmp_path: Path
) -> None:
    for one in saved.iterdir():
        (tmp_path / one.name).write_bytes(one.read_bytes())
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=said):
        look(spec_of(rows, model={"name": str(tmp_path)}), seed=0)


def test_a_model_that_is_nowhere_is_said_once(rows: Path) -> None:
    with pytest.raises(UserError) as caught:
        look(spec_of(rows, model={"name": "nowhere/at-all"}), seed=0)
    assert [problem.where for problem in caught.value.problems] == ["trainable.model.name"]


def test_weights_of_another_shape_are_refused(saved: Path, rows: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    name = next(key for key in weights if key.endswith("linear_1.weight"))
    save_file({**weights, name: weights[name][:, :-1].contiguous()}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"weights of another shape: .*linear_1.weight \[\d+, \d+\] for \[\d+, \d+\]"):
        look(spec_of(rows, model={"name": str(tmp_path)}), seed=0)
    with pytest.raises(UserError, match=r"(mismatch|another shape)"):
        load_model(ModelSpec(name=str(tmp_path)))
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"no weights for .*linear_1"):
        load_model(ModelSpec(name=str(tmp_path)))


def test_a_model_with_code_of_its_own_needs_the_switch(saved: Path, tmp_path: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "of_their_own", "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForImageTextToText": "theirs.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "theirs.py").write_text("raise SystemExit('their code ran')")
    with pytest.raises(UserError, match=r"brings Python code of its own\n    fix: read that code, then set it to true"):
        load_model(ModelSpec(name=str(tmp_path)))


_THEIRS = """
from transformers import LlavaConfig, LlavaForConditionalGeneration

class Config(LlavaConfig):
    model_type = "of_their_own"

class Model(LlavaForConditionalGeneration):
    config_class = Config
    answers_with = "their code"
"""


@pytest.mark.parametrize("offered_as", ["AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForCausalLM"])
def test_a_model_with_code_of_its_own_trains_as_the_same_model_does_once_the_switch_is_set(
    saved: Path, rows: Path, tmp_path: Path, reporter: Callable[..., FakeReporter], monkeypatch: pytest.MonkeyPatch, offered_as: str
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    theirs = tmp_path / f"theirs_{offered_as}"
    shutil.copytree(saved, theirs)
    config = json.loads((theirs / "config.json").read_text())
    config |= {"model_type": "of_their_own", "auto_map": {"AutoConfig": "theirs.Config", offered_as: "theirs.Model"}}
    (theirs / "config.json").write_text(json.dumps(config))
    (theirs / "theirs.py").write_text(_THEIRS)
    weights = {name: tensor.clone() for name, tensor in tiny.model("llava").state_dict().items()}  # under the names that their class has
    save_file(weights, theirs / "model.safetensors", metadata={"format": "pt"})
    spec = spec_of(rows, model={"name": str(theirs), "trust_remote_code": True}, epochs=1)
    assert load_model(spec.model).answers_with == "their code"
    look(spec, seed=0)
    ours, run = reporter("ours"), reporter("theirs")
    wanted = recipe.train(spec_of(rows, model={"name": str(saved)}, epochs=1), ours).metrics
    got = recipe.train(spec, run).metrics
    assert got["test/loss"] == pytest.approx(wanted["test/loss"], rel=1e-6)
    assert load_for_inference(run.workdir).model.get_base_model().answers_with == "their code"
    assert estimate(spec).trainable_parameters == run.reports[0][1]["trainable_parameters"]
    for merge in (False, True):
        out = tmp_path / f"export-{merge}"
        out.mkdir()
        card = export(ExportOrder("t0000", spec, 7, run.workdir, out, merge)).loading
        assert f"from transformers import {offered_as}, AutoProcessor" in card and ", trust_remote_code=True)" in card
        model, _ = opened(out, spec, merge, "cpu")
        assert (model if merge else model.get_base_model()).answers_with == "their code"


_THEIRS_OF_OLD = """
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

class Config(LlavaConfig):
    model_type = "of_their_own"

class Model(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.inner = LlavaForConditionalGeneration(config)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **more):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, **more)

    def prepare_inputs_for_generation(self, *args, **kwargs):
        return self.inner.prepare_inputs_for_generation(*args, **kwargs)
"""


def test_their_class_of_the_time_when_every_model_could_generate_still_can(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    theirs = tmp_path / "theirs_of_old"
    shutil.copytree(saved, theirs)
    config = json.loads((theirs / "config.json").read_text())
    config |= {"model_type": "of_their_own", "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}}
    (theirs / "config.json").write_text(json.dumps(config))
    (theirs / "theirs.py").write_text(_THEIRS_OF_OLD)
    weights = {f"inner.{name}": tensor.clone() for name, tensor in tiny.model("llava").state_dict().items()}
    save_file(weights, theirs / "model.safetensors", metadata={"format": "pt"})
    words = torch.tensor([[5, 6, 7]])
    model = load_model(ModelSpec.model_validate({"name": str(theirs), "trust_remote_code": True}))
    same = load_model(ModelSpec(name=str(saved)))
    assert "GenerationMixin" not in _THEIRS_OF_OLD and type(model).__name__ == "Model"
    got, wanted = (one.eval().generate(input_ids=words, max_new_tokens=4, do_sample=False) for one in (model, same))
    assert got.shape == (1, 7) and torch.equal(got, wanted)


def test_their_code_without_a_processor_is_refused_with_what_to_take_instead(saved: Path, rows: Path, tmp_path: Path) -> None:
    shutil.copy(saved / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen", "auto_map": {"AutoConfig": "theirs.Config"}}))
    (tmp_path / "theirs.py").write_text(_THEIRS)
    with pytest.raises(UserError, match=r"does not take both words and pictures(.|\n)*as Qwen-VL-Chat's does(.|\n)*such as Qwen2.5-VL"):
        load_processor(ModelSpec.model_validate({"name": str(tmp_path), "trust_remote_code": True}))


def test_a_folder_without_a_model_of_this_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no vlm_peft.json in it\n    fix: name the folder of a finished trial"):
        load_for_inference(tmp_path)
