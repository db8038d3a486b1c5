"""The Makefile and what CI runs of it, as make itself reads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.architecture.tree import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}  # of `make test` itself
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))


def test_clean_removes_what_set_up_and_tests_made_and_nothing_else(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = ["tune/__pycache__", "tests/core/__pycache__", ".mypy_cache", "phasetune.egg-info"]
    kept = ["studies/quickstart-1", "tune/core", "cluster", "trainables"]
    for name in (*made, *kept):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    subprocess.run(["make", "clean"], cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=60)
    assert [name for name in made if (tmp_path / name).exists()] == []
    assert [name for name in kept if not (tmp_path / name / "file").exists()] == []


def test_no_recipe_holds_words_of_another_line() -> None:
    recipes = [line for line in MAKEFILE.splitlines() if line.startswith("\t")]
    assert [line for line in recipes if ".PHONY" in line] == []


def test_every_target_is_phony_and_told_by_help() -> None:
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split())  # type: ignore[index]
    told = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.M))
    assert phony == TARGETS == told


def test_ci_runs_the_tests_then_the_audit_and_ends_as_the_tests_do(tmp_path: Path) -> None:
    """With a Python of its own, which notes what it is told and whose tests end as they are told to."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\necho "$2" >> told\n[ "$2" != pytest ] || exit $(cat tests-end)\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    for ended, told in ((0, ["pytest", "tests.audit"]), (1, ["pytest"])):
        (tmp_path / "told").unlink(missing_ok=True)
        (tmp_path / "tests-end").write_text(str(ended))
        code = subprocess.run([tmp_path / ".ci" / "run"], env=ENVIRONMENT, check=False, timeout=60).returncode
        assert (tmp_path / "told").read_text().split() == told and (code == 0) == (ended == 0)
