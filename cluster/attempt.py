"""One attempt at a study on the node where its driver runs: look at the versions, then become `run`, or `resume` if it began before.

Which study is its own it knows from `environment.json` in the storage, where a driver writes the name of its job. So the same command
may be given any number of times, by the supervisor, by KubeRay or by a person: it begins the study once and goes on with it from then on.

    python -m cluster.attempt --job NAME --storage DIR [--expect ray==2.60.0]... -- run STUDY.yaml --set budget.trials=8
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tune.core.errors import Problem, UserError
from tune.core.secrets import masked

JOB, COMMIT, ENTRY_CPUS = "PHASETUNE_JOB", "PHASETUNE_COMMIT", "PHASETUNE_ENTRY_CPUS"
STORAGE = "PHASETUNE_STORAGE"  # a node's own: an image or a pod says where the shared volume is
HOME_STORAGE = "~/phasetune/studies"


def words_of_attempt(words: Sequence[str], job: str, storage: Path) -> list[str]:
    """The words after `python -m tune` for this attempt: those given, or `resume` of the study that this job began."""
    if words[:1] != ["run"]:
        return list(words)
    begun = study_of(job, storage)
    if begun is None:
        return [*words, "--storage", str(storage)]
    kept = [w for name in ("--address", "--tracking-uri") if name in words for w in (name, words[words.index(name) + 1])]
    return ["resume", str(begun), *kept, *(["--json"] if "--json" in words else [])]


def study_of(job: str, storage: Path) -> Path | None:
    """The directory of the study that a driver of this job has begun: its journal has a first whole line."""
    for facts in sorted(storage.glob("*/environment.json")):
        try:
            mine = json.loads(facts.read_text()).get("job") == job
            journal = facts.parent / "journal.jsonl"
            if mine and journal.exists() and b"\n" in journal.read_bytes()[: 2**20]:
                return facts.parent
        except (OSError, ValueError):
            continue  # of another study, just being written or no longer readable
    return None


def differing(expected: Mapping[str, str], installed: Mapping[str, str | None]) -> list[Problem]:
    """The packages that are missing here or of another version; what a build adds after `+` does not count."""
    problems = []
    for name, version in expected.items():
        here = installed.get(name)
        if here is None or here.split("+")[0] != version.split("+")[0]:
            got = "it is not installed" if here is None else f"version {here}"
            fix = f"use an image with {name}=={version} (cluster/manifests), send it with --requirements, or submit with --any-versions"
            problems.append(Problem(f"{name} on the cluster", got, fix))
    return problems


def versions(names: Sequence[str]) -> dict[str, str | None]:
    """What is installed here; `python` counts to its minor version."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = f"{sys.version_info[0]}.{sys.version_info[1]}" if name == "python" else importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.attempt", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--job", required=True, help="name under which the study is found again")
    parser.add_argument("--storage", type=Path, help=f"where study directories go; default: ${STORAGE}, else {HOME_STORAGE}")
    parser.add_argument("--expect", action="append", default=[], metavar="NAME==VERSION", help="refuse to start with another version")
    parser.add_argument("--commit", help="git commit of the code that was sent")
    parser.add_argument("--entry-cpus", help="CPUs that this process itself holds")
    parser.add_argument("words", nargs="+", metavar="-- run STUDY | resume DIR ...")
    given = parser.parse_args()
    expected = dict(text.split("==", 1) for text in given.expect)
    problems = differing(expected, versions(list(expected)))
    if problems:
        sys.stderr.write(f"{len(problems)} problems; nothing was started\n{UserError(problems)}\n")
        sys.exit(2)
    os.environ[JOB] = given.job
    os.environ |= {name: value for name, value in ((COMMIT, given.commit), (ENTRY_CPUS, given.entry_cpus)) if value}
    storage = given.storage or Path(os.environ.get(STORAGE) or HOME_STORAGE).expanduser()
    words = words_of_attempt(given.words, given.job, storage)
    sys.stdout.write(f"phasetune {' '.join(masked(word) for word in words)}\n")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "tune", *words])


if __name__ == "__main__":
    main()
