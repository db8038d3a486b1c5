"""Looks the pinned versions up in the database of known vulnerabilities: `make audit`, and the end of `make ci`.

Ends with 0 if every pin was looked up and nothing is known of it, with 1 if something is, which it lists, and with 2 if pins could not be
looked up: no network, a mirror without the database, no pip-audit to be had, no answer in time. With --or-say-so that is one line and 0,
as a machine without network cannot mend it. Words that are not its own go to pip-audit: `--ignore-vuln ID`, `--vulnerability-service osv`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITHIN_S = 60.0
_NO_DEPENDENCIES = ("--no-deps", "--disable-pip", "--strict")  # constraints.txt has them all; --strict: an unknown one is no clean one
Run = Callable[[Sequence[str], float], tuple[str, str]]  # a command of this Python within seconds -> its output, its errors


@dataclass(frozen=True)
class Audit:
    """known: one line a vulnerability. not_made: why pins could not be looked up, None if all were."""

    known: tuple[str, ...] = ()
    n_pins: int = 0
    not_made: str | None = None

    def code(self, or_say_so: bool) -> int:
        return 1 if self.known else 2 if self.not_made is not None and not or_say_so else 0

    def __str__(self) -> str:
        if self.known:
            return "\n".join([f"audit: {len(self.known)} KNOWN VULNERABILITIES in constraints.txt", *self.known])
        if self.not_made is not None:
            return f"audit: DEPENDENCIES WERE NOT AUDITED for known vulnerabilities: {self.not_made}"
        return f"audit: {self.n_pins} pinned versions, no known vulnerability"


def run(command: Sequence[str], within_s: float) -> tuple[str, str]:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=within_s)
    return done.stdout, done.stderr


def audit(words: Sequence[str], within_s: float, run: Run = run, has_tool: bool | None = None) -> Audit:
    """has_tool: whether pip-audit is installed; None: look."""
    over = time.monotonic() + within_s
    try:
        if not (importlib.util.find_spec("pip_audit") is not None if has_tool is None else has_tool):
            install = ["-m", "pip", "install", "--quiet", "--no-input", "--retries", "0", "--timeout", "15", "-c", "constraints.txt"]
            _, errors = run([*install, "pip-audit"], within_s)
            if "ERROR:" in errors:
                return Audit(not_made=f"pip-audit cannot be installed: {errors.strip().splitlines()[-1].removeprefix('ERROR: ')[:300]}")
        asked = ["-m", "pip_audit", "-r", "constraints.txt", *_NO_DEPENDENCIES, "-f", "json", "--progress-spinner", "off", *words]
        said, errors = run(asked, max(0.1, over - time.monotonic()))
    except subprocess.TimeoutExpired:
        return Audit(not_made=f"no answer within {within_s:g} s")
    return judged(said, errors)


def judged(said: str, errors: str) -> Audit:
    """What pip-audit's JSON says; its own exit code is 1 for a vulnerability and for a failure alike."""
    try:
        pins = json.loads(said)["dependencies"]
        known = tuple(
            f"    {pin['name']} {pin['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version yet'}"
            for pin in pins
            for found in pin.get("vulns", ())
        )
    except (ValueError, KeyError, TypeError):
        last = (errors.strip().splitlines() or ["pip-audit said nothing"])[-1]
        return Audit(not_made=last.removeprefix("ERROR:pip_audit._cli:")[:300])
    skipped = [pin["name"] for pin in pins if "skip_reason" in pin]
    why = f"{len(skipped)} of {len(pins)} could not be looked up ({', '.join(skipped[:5])})" if skipped or not pins else None
    return Audit(known, len(pins), why)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--within", type=float, default=WITHIN_S, metavar="S", help="seconds in which it has to be done; default: %(default)g"
    )
    parser.add_argument("--or-say-so", action="store_true", help="end with 0, and a line, where the database cannot be reached")
    given, words = parser.parse_known_args()
    found = audit(words, given.within)
    code = found.code(given.or_say_so)
    print(found, file=sys.stdout if code == 0 and found.not_made is None else sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
