"""What no file may do: unpickle, run code from a hub, or catch everything outside the places listed here with their reasons."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.tree import PACKAGES, Module, dotted, enclosing_functions, modules

# "path::function" -> why everything must be caught there. A handler that ends in `raise` is not a catch and needs no entry.
MAY_CATCH_EVERYTHING: dict[str, str] = {
    "trainables/adapters/attempt.py::attempt": "the trial's outer edge: whatever a recipe raises becomes the end of its trial",
    "tune/adapters/mlflow_log.py::MlflowProjection._run": "whatever MLflow does, the study goes on; it tries again",
    "tune/adapters/ray_tune.py::_SearcherOf.suggest": "Ray would swallow it; give_up keeps it and raises it after the loop",
    "tune/adapters/ray_tune.py::_SchedulerOf._hear": "as above",
    "tune/adapters/ray_tune.py::_PollOf.on_step_begin": "as above",
}
UNPICKLERS = re.compile(r"(c?[pP]ickle|cloudpickle|dill|joblib|shelve)\.(load|loads|open|Unpickler)|(pd|pandas)\.read_pickle")


def calls(module: Module) -> Iterator[tuple[int, str, dict[str, ast.expr]]]:
    """(line, dotted name of what is called, keyword arguments)."""
    for node in module.nodes:
        if isinstance(node, ast.Call):
            yield node.lineno, dotted(node.func), {k.arg: k.value for k in node.keywords if k.arg}


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def problems_of_calls(module: Module) -> list[str]:
    """Loading that could run code of a file's or a hub repository's author."""
    found = []
    for line, name, keywords in calls(module):
        if UNPICKLERS.fullmatch(name):
            found.append(f"{module.path}:{line}: {name} runs code of the file's author; use safetensors or JSON")
        if name == "torch.load" and not is_true(keywords.get("weights_only")):
            found.append(f"{module.path}:{line}: torch.load without weights_only=True")
        if is_true(keywords.get("allow_pickle")):
            found.append(f"{module.path}:{line}: allow_pickle=True")
        if is_true(keywords.get("trust_remote_code")):
            found.append(f"{module.path}:{line}: trust_remote_code=True that no study asked for")
    return found


def broad_catches(module: Module) -> Iterator[tuple[str, int]]:
    """("path::function", line) of every handler of everything that does not raise again."""
    homes = enclosing_functions(module)
    for node in module.nodes:
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = any(kind is None or dotted(kind) in ("Exception", "BaseException") for kind in kinds)
            if broad and not isinstance(node.body[-1], ast.Raise):
                yield f"{module.path.as_posix()}::{homes[node]}", node.lineno


def test_nothing_is_loaded_that_could_run_code() -> None:
    assert [problem for module in modules(*PACKAGES, "tests") for problem in problems_of_calls(module)] == []


def test_everything_is_caught_only_where_the_list_says_why() -> None:
    found = {place: line for module in modules(*PACKAGES) for place, line in broad_catches(module)}
    unlisted = {f"{place} (line {line})" for place, line in found.items() if place not in MAY_CATCH_EVERYTHING}
    assert unlisted == set(), "catch what you expect, or add the place to MAY_CATCH_EVERYTHING with the reason"
    assert set(MAY_CATCH_EVERYTHING) - set(found) == set(), "the list names places that are no longer there"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import pickle\npickle.load(f)", "pickle.load runs code"),
        ("import torch\ntorch.load(path)", "torch.load without weights_only=True"),
        ("import torch\ntorch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("np.load(path, allow_pickle=True)", "allow_pickle=True"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "trust_remote_code=True"),
    ],
)
def test_the_rule_sees_what_it_forbids(code: str, said: str) -> None:
    [problem] = problems_of_calls(Module("x", modules("tune")[0].path, code))
    assert said in problem


def test_the_rule_lets_safe_loading_pass() -> None:
    code = "torch.load(path, weights_only=True)\nnp.load(path)\njson.load(f)"
    assert problems_of_calls(Module("x", modules("tune")[0].path, code)) == []
