"""The section that lets a reader run the study again: command, commit, versions, seed, data. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime, timezone

from tune.report.document import Section, Table
from tune.report.facts import Facts

FIRST_REAL_S = 1_000_000_000  # a clock before 2001 is a simulation's


def reproduction(facts: Facts) -> Section:
    environment = facts.environment
    commit, dirty = environment.get("git_commit"), environment.get("git_dirty")
    lines = [f"git checkout {commit}"] if commit else []
    lines.append(command(facts))
    warnings = []
    if dirty:
        warnings.append("The tree had changes that were not committed: the commit alone is not the code that ran.")
    if not commit:
        warnings.append("The code was not in a git checkout: its version is only known by its number.")
    rows = [
        ("study directory", facts.where),
        ("begun", utc(facts.fold.started_at) if facts.fold.started_at > FIRST_REAL_S else "on a virtual clock (simulated)"),
        ("git commit", f"{commit}{' (with uncommitted changes)' if dirty else ''}" if commit else "unknown"),
        ("seed", str(facts.seed)),
        ("host", " ".join(str(environment[key]) for key in ("host", "platform") if environment.get(key))),
        ("placement", facts.fold.placement),
        ("python", str(environment.get("python", "unknown"))),
    ]
    data = facts.fold.notes.get("data", {})
    if data.get("digest"):
        rows.append(("data digest", str(data["digest"])))
    versions = environment.get("versions")
    if isinstance(versions, Mapping):
        rows.append(("packages", ", ".join(f"{name} {version}" for name, version in versions.items())))
    table = Table("Where and with what", ("", "value"), tuple(rows))
    text = ("The resolved study, with every default, is in resolved.json beside the journal.",)
    return Section("reproduce", "Run it again", text, tuple(warnings), "\n".join(lines), tables=(table,))


def command(facts: Facts) -> str:
    """The command that started the study, as it would be typed."""
    recorded = facts.environment.get("command")
    words = [str(word) for word in recorded] if isinstance(recorded, list) else []
    if len(words) < 2:
        return "phasetune run resolved.json"
    program = ["python", "-m", "tune"] if words[0] == "__main__.py" else [words[0]]
    return shlex.join([*program, *words[1:]])


def utc(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
