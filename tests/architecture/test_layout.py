"""Five top-level folders, a docstring in every module, short files, pins for every dependency, no path of anyone's machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.tree import PACKAGES, ROOT, Module, ignored_by_git, modules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDERS = {"tune", "trainables", "cluster", "configs", "tests"}
MAX_LINES = 400
TEXT_FILES = {".py", ".yaml", ".yml", ".md", ".toml", ".txt", ".json", ".jsonl", ".csv", ".sh", ""}
# Homes and mounts of one machine. Written in pieces, so that this file does not match itself.
MACHINE_PATH = re.compile("|".join(rf"(?<![\w./-])/{name}/" for name in ("root", r"home/\w+", "Users", "work", "opt", "srv/jenkins")))


def tracked_files() -> Iterator[Path]:
    """Files of the five folders and of the top level, caches left out."""
    top = [file for file in ROOT.iterdir() if file.is_file()]
    inner = [file for folder in sorted(FOLDERS | {".ci"}) for file in (ROOT / folder).rglob("*") if file.is_file()]
    return (file for file in top + inner if "__pycache__" not in file.parts)


def test_the_top_level_has_five_folders_and_no_others() -> None:
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".") and not ignored_by_git(p.name)}
    assert folders == FOLDERS


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(module.path) for module in modules(*PACKAGES, "tests") if not (is_marker(module) or ast.get_docstring(module.tree))]
    assert silent == [], "say what it is for, promises and does not do"


def is_marker(module: Module) -> bool:
    return module.path.name == "__init__.py" and not module.text.strip()


def test_no_module_is_longer_than_a_reader_bears() -> None:
    long = [f"{module.path} ({module.n_lines} lines)" for module in modules(*PACKAGES) if module.n_lines > MAX_LINES]
    assert long == [], f"at most {MAX_LINES}: split it by idea"


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [str(m.path) for m in modules(*PACKAGES) if m.path.stem in drawers] == []


def test_configs_holds_yaml_only() -> None:
    files = [file for file in (ROOT / "configs").rglob("*") if file.is_file()]
    assert [str(file.relative_to(ROOT)) for file in files if file.suffix not in {".yaml", ".yml", ".md"}] == []


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    found = []
    for file in tracked_files():
        if file.suffix in TEXT_FILES:
            for i, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
                if MACHINE_PATH.search(line):
                    found.append(f"{file.relative_to(ROOT)}:{i}: {line.strip()[:100]}")
    assert found == []


def test_every_dependency_is_pinned_in_constraints_txt() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [d for extra in project["optional-dependencies"].values() for d in extra]
    pinned = {canonical(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert [text for text in wanted if canonical(re.split(r"[\[<>=!~; ]", text)[0]) not in pinned] == []


def test_pins_are_exact_and_carry_no_local_tag() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    exact = re.compile(r'[a-z0-9-]+==[0-9][^+ ;]*(; python_version (<|>=) "3\.\d+")?')
    assert [line for line in lines if not exact.fullmatch(line)] == []


def test_set_up_and_tests_leave_nothing_for_git_to_see() -> None:
    """What `make` writes at the top level is ignored, so that `git status` is clean after it."""
    made = [".venv", "studies", "mlruns", "build", "dist", "phasetune.egg-info", ".pytest_cache", ".mypy_cache", ".ruff_cache"]
    assert [name for name in made if not ignored_by_git(name)] == []


@pytest.mark.parametrize("script", [".ci/run"])
def test_the_shell_scripts_are_executable_and_parse(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", str(ROOT / script)], check=False).returncode == 0


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).strip().lower()
