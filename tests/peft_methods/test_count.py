"""Trainable parameters of full-size models, counted on the meta device, against published figures and arithmetic by hand.

Published: the last two blocks and the connector of LLaVA-1.5-7B, 404,766,720 + 20,979,712 = 425,746,432 parameters, 6.0 % (SPIDER);
the prefix projection of LLaVA-1.5-7B "about 1 B" (Zhou et al.). The papers print no other trainable shares that we know of; the
others here are the published sizes of B.3 put into the formulas of the methods.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

from trainables.peft_methods.architectures import config_of, known_architectures  # noqa: E402
from trainables.peft_methods.spec import PeftSpec  # noqa: E402
from tune.core.errors import UserError  # noqa: E402

LLAVA_7B, LLAVA_13B, SHARE_GPT4V = "liuhaotian/llava-v1.5-7b", "liuhaotian/llava-v1.5-13b", "Lin-Chen/ShareGPT4V-7B"
CONNECTOR = {LLAVA_7B: 20_979_712, SHARE_GPT4V: 20_979_712, LLAVA_13B: 31_467_520}
WIDTHS = {LLAVA_7B: (4096, 11_008, 32), SHARE_GPT4V: (4096, 11_008, 32), LLAVA_13B: (5120, 13_824, 40)}
ZHOU = {
    "lora": {"method": "lora", "lora": {"r": 128, "alpha": 256}},
    "ia3": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "bottleneck": {"size": 256, "location": "mlp"}},
    "prefix": {"method": "prefix", "prefix": {"tokens": 20, "projection": True}},
    "prefix plain": {"method": "prefix", "prefix": {"tokens": 20}},
}


def counted(name: str, **fields: Any) -> Any:
    from trainables.peft_methods.count import count

    return count(config_of(name), PeftSpec.model_validate(fields))


def by_hand(method: str, hidden: int, inner: int, n_layers: int) -> int:
    """Trained parameters of the language model under the published settings."""
    if method == "lora":
        return n_layers * 128 * (4 * 2 * hidden + 3 * (hidden + inner))
    if method == "ia3":
        return n_layers * (2 * hidden + inner)
    if method == "bottleneck":
        return n_layers * 3 * 2 * 256 * hidden
    if method == "prefix plain":
        return 20 * n_layers * 2 * hidden
    width = n_layers * 2 * hidden
    return 20 * hidden + (hidden * hidden + hidden) + (hidden * width + width)


@pytest.mark.parametrize("name", [LLAVA_7B, LLAVA_13B])
@pytest.mark.parametrize("method", list(ZHOU))
def test_the_four_methods_of_zhou_have_the_sizes_of_their_formulas(name: str, method: str) -> None:
    got = counted(name, **ZHOU[method], connector="tuned")
    assert got.parts == {"llm": by_hand(method, *WIDTHS[name]), "connector": CONNECTOR[name]}
    assert got.total == got.base + got.parts["llm"], "a tuned connector counts once"


def test_a_frozen_connector_is_not_counted() -> None:
    assert counted(SHARE_GPT4V, method="ia3").parts == {"llm": by_hand("ia3", *WIDTHS[SHARE_GPT4V])}


def test_spiders_modules_have_their_published_size() -> None:
    got = counted(LLAVA_7B, method="full", full={"last_layers": 2}, connector="tuned")
    assert got.parts == {"llm": 404_766_720, "connector": 20_979_712}
    assert got.trainable == 425_746_432
    assert round(100 * got.share, 1) == 6.0


def test_the_prefix_projection_adds_about_a_billion() -> None:
    with_it, without = counted(LLAVA_7B, **ZHOU["prefix"]), counted(LLAVA_7B, **ZHOU["prefix plain"])
    assert with_it.trainable - without.trainable == pytest.approx(1.09e9, rel=0.01)


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("llava-hf/llava-1.5-7b-hf", 7_063_427_072),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976),
    ],
)
def test_totals_are_those_of_the_published_checkpoints(name: str, total: int) -> None:
    assert counted(name, method="frozen", connector="tuned").total == total


WITH_A_LANGUAGE_MODEL = [name for name in known_architectures() if "clip" not in name]
COUNTER = """
import json, re, sys
from tests.peft_methods.test_count import WITH_A_LANGUAGE_MODEL, counted

for name in WITH_A_LANGUAGE_MODEL:
    parts = counted(name, method="lora", connector="tuned").parts
    most = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()) if sys.platform == "linux" else None
    print(json.dumps([name, sorted(parts), int(most[1]) * 1024 if most else 0]))
"""


@cache
def counted_alone() -> dict[str, tuple[list[str], int]]:
    """The parts of every one, counted in a process that does nothing else, and the most bytes that it had held by then."""
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", COUNTER], cwd=root, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return {name: (parts, held) for name, parts, held in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", WITH_A_LANGUAGE_MODEL)
def test_every_known_architecture_is_counted_in_little_memory(name: str) -> None:
    parts, held = counted_alone()[name]
    assert parts == ["connector", "llm"]
    assert held < 2 * 2**30, "a model of billions of parameters was made"
    assert held or sys.platform != "linux", "nobody looked"


def test_an_unknown_architecture_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as caught:
        config_of("llava-hf/llava-1.5-7b")
    (problem,) = caught.value.problems
    assert "did you mean 'llava-hf/llava-1.5-7b-hf'" in problem.got and "config.json" in problem.fix
