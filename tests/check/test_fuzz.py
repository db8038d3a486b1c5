"""Whatever a study file or a --set holds, the answer is a sound study or a UserError with where, got and fix.

FUZZ_EXAMPLES=2000 in the environment looks further than the default of each test.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.check.kinds import KINDS, STUDY, load_text
from tune.core.errors import UserError
from tune.load import LoadedStudy, load_resolved
from tune.yaml_file import parse

FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from(["", "asha", "tpe", "grid", "table", "toy", "lora", "no", "a.b", "..", "1e-4", "kind", "choice", "é\n"]),
    st.text(max_size=5),
)
KEYS = st.one_of(
    st.sampled_from(["kind", "float", "int", "choice", "choose", "log", "step", "name", "mode", "optim.lr", "peft", "", "."]),
    st.text(max_size=4),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
BASE: dict[str, Any] = parse(STUDY, "s").value


def _outcome(load: Callable[[], LoadedStudy]) -> LoadedStudy | None:
    """The study, or None after a UserError all of whose problems are whole. Anything else is raised."""
    try:
        return load()
    except UserError as error:
        for problem in error.problems:
            assert problem.where and problem.got and problem.fix, problem
        return None


def _check(tmp_path: Path, text: str | bytes, *sets: str) -> None:
    loaded = _outcome(lambda: load_text(tmp_path, text, *sets))
    if loaded is not None:
        again = load_resolved(json.loads(json.dumps(loaded.resolved)), kinds=KINDS)
        assert again.spec == loaded.spec and again.spec.digest == loaded.spec.digest
        for point in loaded.spec.space.corners(8):
            loaded.spec.spec_at(point)


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [place, *(found for key, inner in items for found in _places(inner, (*place, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """The sound study with up to three places replaced, removed, or given another key."""
    study = copy.deepcopy(BASE)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from([p for p in _places(study) if p] or [("x",)]))
        node = study
        for part in place[:-1]:
            node = node[part]
        what = draw(st.sampled_from(["replace", "remove", "rename", "add"]))
        if what == "replace" or isinstance(node, list):
            node[place[-1]] = draw(VALUES)
        elif what == "remove":
            node.pop(place[-1], None)
        elif what == "rename":
            node[draw(KEYS)] = node.pop(place[-1], None)
        else:
            node[draw(KEYS)] = draw(VALUES)
    return study


@FUZZ
@given(study=mutated())
def test_a_damaged_study_is_sound_or_a_user_error(tmp_path: Path, study: dict[str, Any]) -> None:
    _check(tmp_path, json.dumps(study))  # JSON is YAML; NaN and Infinity come as text


@FUZZ
@given(study=mutated())
def test_a_damaged_resolved_study_is_sound_or_a_user_error(study: dict[str, Any]) -> None:
    _outcome(lambda: load_resolved(study, kinds=KINDS))


@FUZZ
@given(start=st.integers(0, len(STUDY)), cut=st.integers(0, 30), noise=st.text(alphabet="ab01:-,[]{}&*!|>'\"#%? \n\t", max_size=8))
def test_a_study_with_noise_in_its_text_is_sound_or_a_user_error(tmp_path: Path, start: int, cut: int, noise: str) -> None:
    _check(tmp_path, STUDY[:start] + noise + STUDY[start + cut :])


@FUZZ
@given(content=st.binary(max_size=60))
def test_random_bytes_are_a_user_error(tmp_path: Path, content: bytes) -> None:
    _check(tmp_path, content)


@FUZZ
@given(
    key=st.sampled_from(["space.optim.lr", "space.x", "first.0", "first.0.batch", "trainable", "cluster", "sampler", "objectives", "space"])
    | st.sampled_from([".".join(map(str, place)) for place in _places(BASE) if place])
    | st.text(max_size=8),
    value=VALUES.map(json.dumps) | st.text(max_size=10),
)
def test_any_set_is_sound_or_a_user_error(tmp_path: Path, key: str, value: str) -> None:
    _check(tmp_path, STUDY, f"{key}={value}")


@pytest.mark.parametrize("text", ["", "null", "3", "[]", "study", "- a", "# nothing"])
def test_a_file_that_is_no_mapping_is_a_user_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"write a mapping with study, metric, objectives, budget"):
        load_text(tmp_path, text)
