"""What a spec refuses, without loading torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from trainables.vlm_classifier.spec import VlmClassifierSpec

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"encoder": {"family": "clip", "llava": {}}}, "llava is given while family is clip"),
    ({"encoder": {"two_tower": {"image": {"drop": 0.3}}}}, "image.drop 0.3 is dropout of a head that is not used"),
    ({"inputs": {"use": "image", "both": {}}}, "both is given while use is image"),
    ({"inputs": {"both": {}}, "encoder": {"family": "llava"}}, "where picture and words meet inside"),
    ({"inputs": {"use": "text"}, "encoder": {"family": "blip2"}}, "which is asked about a picture"),
    ({"encoder": {"family": "blip2", "blip2": {"prompt": "{txt}"}}}, "nothing else stands in braces"),
    ({"encoder": {"family": "llava", "llava": {"prompt": "{text}"}}}, "<image> stands 0 times"),
    ({"encoder": {"family": "llava", "llava": {"prompt": "{text} <image>"}}}, "put <image> first"),
    ({"encoder": {"family": "llava", "llava": {"prompt": "<image> look"}}}, "inputs.use: both with a prompt without"),
    ({"mode": "zero_shot"}, "no space that picture and words share"),
    ({"mode": "zero_shot", "encoder": {"family": "clip"}, "peft": {"method": "lora"}}, "nothing is trained; remove peft"),
    ({"mode": "zero_shot", "encoder": {"family": "clip"}, "zero_shot": {"templates": ["a photo"]}}, "all classes are one"),
    ({"zero_shot": {}}, "zero_shot is given while mode is train"),
    ({"loss": {"focal": {}}}, "focal is given while kind is cross_entropy"),
    ({"augment": {}, "inputs": {"use": "text"}}, "augment is not used without the picture"),
    ({"data": {"reader": "easy_vqa"}}, "whose rows have no class"),
    ({"data": {"reader": "clipart", "text_field": "none"}}, "leaves no words to look at"),
    ({"peft": {"method": "prompt"}}, "learns tokens of a model that gives text"),
    ({"peft": {"method": "adalora"}}, "ranks are not shared out"),
    ({"head": {"hidden": "512-"}}, "pattern"),
    ({"cache": {"use": "required"}, "encoder": {"frozen_dropout": True}}, "makes every output differ"),
    ({"cache": {"use": "required"}, "augment": {}, "inputs": {"use": "image"}}, "changes the pictures in every epoch"),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_knob_that_would_do_nothing_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        VlmClassifierSpec.model_validate(fields)


def test_widths_of_hidden_layers_are_read_from_words() -> None:
    spec = VlmClassifierSpec.model_validate({"head": {"hidden": "512-256"}})
    assert spec.head.hidden_sizes == (512, 256) and VlmClassifierSpec().head.hidden_sizes == ()


def test_the_spec_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, trainables.vlm_classifier.spec; print([n for n in ('torch', 'transformers', 'timm', 'peft') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
