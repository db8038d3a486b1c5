"""Imports go one way: __main__ -> the commands -> adapters | trainables | cluster -> core. Read from the syntax tree.

`lint-imports` (make check) follows chains of imports; these tests see direct ones, those inside functions too, and name the line.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys

from tests.architecture.test_layout import canonical, tomllib
from tests.architecture.tree import PACKAGES, ROOT, imported, modules, within

# What wires: the program, one driver process at work on a study, and the commands that look at a study directory from outside.
ROOTS = (
    "tune.__main__",
    "tune.exporting.commands",
    "tune.exporting.pyfunc",
    "tune.places",
    "tune.report.command",
    "tune.session",
    "tune.simulate",
    "tune.status",
    "tune.steer_commands",
)
# Who may import what of ours: the longest matching prefix on the left decides. `tune` is every plain file of the search side.
MAY_IMPORT = {
    **dict.fromkeys(ROOTS, ("tune", "trainables", "cluster")),
    "tune.core": ("tune.core",),
    "tune.adapters": ("tune", "trainables.catalog", "cluster"),
    "tune": ("tune", "trainables.catalog", "cluster"),
    "trainables": ("trainables", "tune.core"),
    "cluster": ("cluster", "tune.core"),
}
ENGINES = ("ray", "optuna", "mlflow", "deepspeed", "torch", "timm", "openai", "transformers", "datasets", "torchvision")


def may_import(importer: str) -> tuple[str, ...]:
    return MAY_IMPORT[max((prefix for prefix in MAY_IMPORT if within(importer, prefix)), key=len)]


def test_a_module_imports_only_what_its_layer_may() -> None:
    wrong = [
        f"{module.path}:{line}: {name} (it may import {', '.join(may_import(module.name))})"
        for module in modules(*PACKAGES)
        for line, name in imported(module)
        if name.split(".")[0] in PACKAGES and not any(within(name, p) for p in may_import(module.name))
    ]
    assert wrong == []


def test_only_a_composition_root_imports_tune_adapters() -> None:
    wrong = [
        f"{module.path}:{line}: {name}"
        for module in modules(*PACKAGES)
        if module.name not in ROOTS and not within(module.name, "tune.adapters")
        for line, name in imported(module)
        if within(name, "tune.adapters")
    ]
    assert wrong == []


def test_nobody_but_the_program_imports_a_composition_root() -> None:
    wrong = [
        f"{module.path}:{line}: {name}"
        for module in modules(*PACKAGES)
        if module.name not in ROOTS
        for line, name in imported(module)
        if any(within(name, root) for root in ROOTS)
    ]
    assert wrong == []


def test_packages_import_no_tests() -> None:
    wrong = [f"{m.path}:{line}" for m in modules(*PACKAGES) for line, name in imported(m) if within(name, "tests")]
    assert wrong == []


def test_the_core_touches_no_engine_and_no_operating_system() -> None:
    outside = (*ENGINES, "os", "socket", "subprocess", "threading", "asyncio", "time", "shutil", "requests", "psutil")
    wrong = [
        f"{module.path}:{line}: {name}"
        for module in modules("tune/core")
        for line, name in imported(module)
        if name.split(".")[0] in outside
    ]
    assert wrong == [], "tune.core is pure: clocks, disks, networks and engines are given to it through ports"


def test_plain_files_of_the_search_side_import_no_engine() -> None:
    wrong = [
        f"{module.path}:{line}: {name}"
        for module in modules("tune")
        if not within(module.name, "tune.adapters") and module.name not in ROOTS
        for line, name in imported(module)
        if name.split(".")[0] in ENGINES
    ]
    assert wrong == []


def test_nobody_writes_from_ray_import_tune() -> None:
    wrong = [
        f"{module.path}:{line}"
        for module in modules(*PACKAGES, "tests")
        for line, name in imported(module)
        if name == "ray.tune" and "from ray import" in module.text.splitlines()[line - 1]
    ]
    assert wrong == [], "write `import ray.tune`; `tune` is our own package"


def test_every_package_we_import_is_declared() -> None:
    """A package that only comes along with another one may go away with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name_of = lambda text: canonical(re.split(r"[\[<>=!~; ]", text)[0])  # noqa: E731 - one expression, used twice
    core = {name_of(text) for text in project["dependencies"]}
    everything = core | {name_of(text) for extra in project["optional-dependencies"].values() for text in extra}
    sold_as = importlib.metadata.packages_distributions()
    wrong = set()
    for folders, declared in ((PACKAGES, core), (("tests",), everything)):
        for module in modules(*folders):
            for line, name in imported(module):
                top = name.split(".")[0]
                if top in sys.stdlib_module_names or top in (*PACKAGES, "tests", "tomli"):
                    continue
                if not {canonical(d) for d in sold_as.get(top, [top])} & declared:
                    wrong.add(f"{module.path}:{line}: {top}")
    assert sorted(wrong) == []
