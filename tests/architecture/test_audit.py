"""The audit of pinned versions: what of pip-audit's words fails CI, and what is only said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

import pytest

from tests.audit import Audit, audit, judged

CLEAN = {"name": "click", "version": "8.4.2", "vulns": []}
KNOWN = {"name": "numpy", "version": "2.0.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.0.1"]}, {"id": "CVE-2", "fix_versions": []}]}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0)"}


def said(*pins: object) -> str:
    return json.dumps({"dependencies": list(pins), "fixes": []})


def test_nothing_known_is_good() -> None:
    found = judged(said(CLEAN), "WARNING: ...")
    assert (found.code(False), found.code(True)) == (0, 0) and str(found) == "audit: 1 pinned versions, no known vulnerability"


def test_a_known_vulnerability_fails_ci_and_is_named_with_the_version_that_mends_it() -> None:
    found = judged(said(CLEAN, KNOWN, SKIPPED), "")
    assert (found.code(False), found.code(True)) == (1, 1)
    assert "numpy 2.0.0: PYSEC-1, mended in 2.0.1" in str(found) and "CVE-2, mended in no version yet" in str(found)


@pytest.mark.parametrize(
    ("words", "errors", "why"),
    [
        ("", "ERROR:pip_audit._cli:absl-py: Dependency not found on PyPI and could not be audited", "absl-py: Dependency not found"),
        ("", "Traceback ...\nConnectionError: no route to host", "ConnectionError: no route to host"),
        ("", "No module named pip_audit", "No module named pip_audit"),
        ("", "", "said nothing"),
        (said(CLEAN, SKIPPED), "No known vulnerabilities found", "1 of 2 could not be looked up (torch)"),
        (said(), "", "0 of 0"),
    ],
)
def test_what_could_not_be_looked_up_does_not_count_as_clean_and_ci_says_so_in_one_line(words: str, errors: str, why: str) -> None:
    found = judged(words, errors)
    assert (found.code(or_say_so=False), found.code(or_say_so=True)) == (2, 0)
    assert "NOT AUDITED" in str(found) and why in str(found) and "\n" not in str(found)


class Commands:
    """Of a machine on which the `silent` one never ends."""

    def __init__(self, silent: str = "", pips_errors: str = ""):
        self.given: list[str] = []
        self._silent, self._errors = silent, {"pip": pips_errors}

    def __call__(self, command: Sequence[str], within_s: float) -> tuple[str, str]:
        self.given.append(command[1])
        if command[1] == self._silent:
            raise subprocess.TimeoutExpired(list(command), within_s)
        return said(CLEAN), self._errors.get(command[1], "")


def test_the_tool_is_installed_where_it_is_not() -> None:
    bare, ready = Commands(), Commands()
    assert audit((), 60, bare, has_tool=False).n_pins == audit((), 60, ready, has_tool=True).n_pins == 1
    assert (bare.given, ready.given) == (["pip", "pip_audit"], ["pip_audit"])


def test_a_tool_that_cannot_be_installed_is_said_to_be_missing_with_pips_reason() -> None:
    found = audit((), 60, Commands(pips_errors="WARNING: ...\nERROR: No matching distribution found for pip-audit"), has_tool=False)
    assert found.not_made == "pip-audit cannot be installed: No matching distribution found for pip-audit" and found.code(True) == 0


@pytest.mark.parametrize("silent", ["pip", "pip_audit"])
def test_a_service_that_does_not_answer_is_waited_for_within_the_bound(silent: str) -> None:
    assert audit((), 60, Commands(silent), has_tool=False) == Audit(not_made="no answer within 60 s")
