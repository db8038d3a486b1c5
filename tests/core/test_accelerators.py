"""Names of accelerators: the list is Ray's, and a listed name in another spelling is known for what it is."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from tune.core.accelerators import NAMES, meant


def test_the_list_is_that_of_the_installed_ray() -> None:
    """Read from Ray's source: to import Ray takes a second."""
    ray = importlib.util.find_spec("ray")
    assert ray is not None and ray.origin is not None
    source = Path(ray.origin).parent / "util" / "accelerators" / "accelerators.py"
    rays = [
        str(node.value.value)
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    ]
    assert sorted(NAMES) == sorted(rays)


@pytest.mark.parametrize(
    ("written", "known"),
    [("h100", "H100"), ("NVIDIA_TESLA_V100", "V100"), ("NVIDIA H100", "H100"), ("A100_80G", "A100-80G"), ("rtx_pro_6000", "RTX-PRO-6000")],
)
def test_another_spelling_of_a_listed_name_is_a_mistake(written: str, known: str) -> None:
    assert meant(written) == known


@pytest.mark.parametrize("name", [*NAMES, "A10", "L40", "H800", "RTX4090"])
def test_a_listed_name_and_a_device_that_the_list_lacks_are_none(name: str) -> None:
    assert meant(name) is None
