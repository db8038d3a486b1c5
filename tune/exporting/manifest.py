"""`phasetune.json`, what `predict` reads of an export: its kind, how to ask it, which files belong to it.

A folder is an export if this file is there, is of this version, and every file it names has the size that it says. Contents are
not hashed again when an export is opened: that would take minutes for a large model; the digests are for people who copy it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tune.core.errors import Problem, UserError
from tune.core.exports import Task, TextUse

NAME = "phasetune.json"
FORMAT = 1
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Manifest:
    """`about` is the kind's own. `files`: path in the folder -> {"bytes", "sha256"}. `spec`: the trial's, complete."""

    kind: str
    task: Task
    text: TextUse
    max_pixels: int
    study: str
    trial: str
    spec: Mapping[str, Any]
    about: Mapping[str, Any]
    phasetune: str
    files: Mapping[str, Mapping[str, Any]]
    format: int = FORMAT


def write(manifest: Manifest, folder: Path) -> None:
    """Write it, synced."""
    with open(folder / NAME, "w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(manifest), indent=1, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def files_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of every file in the folder, each synced to the disk; `phasetune.json` is left out."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name == NAME:
            continue
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
            os.fsync(file.fileno())
        found[name] = {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
    return found


def read(folder: Path) -> Manifest:
    """The manifest of an export. Raises UserError: no such folder, not an export, another version, damaged, files missing."""
    path = folder / NAME
    if not folder.is_dir():
        raise UserError(Problem(str(folder), "no such folder", "name the folder that `phasetune export` wrote"))
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw.pop("format")
    except FileNotFoundError:
        raise UserError(_not_an_export(folder)) from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(Problem(str(path), f"it cannot be read: {error!r}", "export the trial again")) from None
    if version != FORMAT:
        fix = f"use the Phasetune that wrote it ({raw.get('phasetune', 'unknown')}), or export the trial again"
        raise UserError(Problem(str(path), f"format {version}; this Phasetune reads {FORMAT}", fix))
    known = {part.name for part in fields(Manifest)} - {"format"}
    lacking = sorted(known - set(raw))
    if lacking or not all(isinstance(raw[name], dict) for name in ("spec", "about", "files")):
        got = f"it lacks {', '.join(lacking)}" if lacking else "spec, about and files are not all mappings"
        raise UserError(Problem(str(path), got, "export the trial again"))
    manifest = Manifest(**{name: raw[name] for name in known})
    problems = list(_damaged(manifest, folder))
    if problems:
        raise UserError(problems)
    return manifest


def _not_an_export(folder: Path) -> Problem:
    if (folder / "journal.jsonl").exists():
        return Problem(str(folder), "a study's directory, not an export", f"export a trial first: phasetune export {folder}")
    return Problem(str(folder), f"not an export: it has no {NAME}", "name the folder that `phasetune export` wrote")


def _damaged(manifest: Manifest, folder: Path) -> list[Problem]:
    problems = []
    for name, facts in manifest.files.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            problems.append(Problem(str(folder / NAME), f"a file outside of the export: {name}", "use an export that you trust"))
        elif not path.is_file():
            problems.append(Problem(str(folder / name), "it is missing", "copy the export again, whole"))
        elif not isinstance(facts, dict) or path.stat().st_size != facts.get("bytes"):
            size = facts.get("bytes") if isinstance(facts, dict) else None
            problems.append(Problem(str(path), f"{path.stat().st_size} bytes where {size} were written", "copy the export again, whole"))
    return problems
