"""Checkpoints that are damaged, of another sort or without words, each refused by name before a trial starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from safetensors.torch import save_file  # noqa: E402

from tests.vlm_classifier.trials import family, spec  # noqa: E402
from trainables.vlm_classifier.encoder import open_encoder  # noqa: E402
from trainables.vlm_classifier.preflight import look  # noqa: E402
from trainables.vlm_classifier.weights import encoder_weights  # noqa: E402
from tune.core.errors import UserError  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What lies beside a CLIP checkpoint; its one tensor is never read."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"one": torch.zeros(1)}, tmp_path / "model.safetensors")
    return tmp_path


def clip(folder: Path) -> Any:
    return spec(encoder={"family": "clip", "clip": {"weights": str(folder)}}).encoder


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", b"{", r"config.json, which is not JSON: .*\n    fix: fetch it again"),
        ("config.json", b"[]", r"config.json, in which there is no object"),
        ("config.json", b'{"model_type": "bert"}', r"a model of type bert\n    fix: name a checkpoint of type clip, or set another"),
        ("preprocessor_config.json", b"\xff", r"preprocessor_config.json, which is not JSON"),
        ("tokenizer.json", None, r"there is no tokenizer\n    fix: put tokenizer.json and tokenizer_config.json there"),
        ("model.safetensors", b"\x10\0", r"model.safetensors, which is damaged or cut short"),
    ],
)
def test_a_damaged_checkpoint_is_refused(file: str, content: bytes | None, said: str, folder: Path) -> None:
    assert encoder_weights(clip(folder))["model"].folder == folder
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=said):
        encoder_weights(clip(folder))


@pytest.mark.parametrize(("name", "part", "width"), [("clip", "text_config", "hidden_size"), ("llava", "vision_config", "hidden_size")])
def test_weights_of_another_shape_than_the_configuration_are_refused_before_a_trial(name: str, part: str, width: str, folder: Path) -> None:
    model: Any = open_encoder(spec(encoder=family(name)).encoder, encoder_weights(spec(encoder=family(name)).encoder)).module
    model.save_pretrained(folder)
    wanted = spec(encoder={"family": name, name: {"weights": str(folder)}, "max_tokens": 12}, cache={"use": "off"})
    assert look(wanted, 0)["weights"] == {"model": str(folder)}
    config = json.loads((folder / "config.json").read_text())
    config[part][width] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"model\.safetensors: weights of another shape: .* \[.*32.*\] for \[.*64.*\] and \d+ more"
    ) as caught:
        look(wanted, 0)
    assert [problem.where for problem in caught.value.problems] == [f"trainable.encoder.{name}.weights"]


def test_pictures_of_a_size_that_the_model_does_not_take_are_refused_before_a_trial() -> None:
    with pytest.raises(UserError, match=r"a model that cannot compute a row: .*\n    fix: set image_size to null"):
        look(spec(encoder={**family("blip2"), "image_size": 100}), seed=0)
