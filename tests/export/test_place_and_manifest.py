"""A folder that appears whole or not at all, and what makes a folder an export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tune.core.errors import StopStudy, UserError
from tune.exporting import manifest
from tune.exporting.manifest import NAME, Manifest
from tune.exporting.place import appearing

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import sys
from pathlib import Path
from tune.exporting.place import appearing
with appearing(Path(sys.argv[1])) as folder:
    (folder / "model.safetensors").write_text("half")
    (folder / "sub").mkdir()
    print("written", flush=True)
    sys.stdin.read()
"""


def test_what_is_written_appears_at_the_end_and_can_be_read_by_others(tmp_path: Path) -> None:
    out = tmp_path / "new" / "export"
    with appearing(out) as folder:
        (folder / "weights").write_text("x")
        (folder / "weights").chmod(0o600)
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["weights"] and [path.name for path in out.parent.iterdir()] == ["export"]
    assert (out / "weights").stat().st_mode & 0o777 == out.stat().st_mode & 0o666


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), appearing(tmp_path / "export") as folder:
        (folder / "weights").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    import errno

    with pytest.raises(StopStudy, match="disk_full"), appearing(tmp_path / "export"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_killed_writer_leaves_nothing_that_looks_whole_and_the_next_one_clears_up(tmp_path: Path) -> None:
    out = tmp_path / "export"
    command = [sys.executable, "-c", KILLED, str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        with pytest.raises(UserError, match="another process is writing it"), appearing(out):
            pass
        process.kill()
    assert not out.exists()
    with pytest.raises(UserError, match="no such folder"):
        manifest.read(out)
    with appearing(out) as folder:
        assert list(folder.iterdir()) == []
        (folder / "weights").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def export_at(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"12345")
    made = Manifest("timm_cnn", "labels", "none", 10, "s", "t0000", {}, {}, "0.1.0", manifest.files_of(folder))
    manifest.write(made, folder)
    assert manifest.read(folder) == made
    return json.loads((folder / NAME).read_text())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2; this Phasetune reads 1"),
        ({"about": []}, "spec, about and files are not all mappings"),
        ({"files": {"../other": {"bytes": 1}}}, "a file outside of the export: ../other"),
        ({"files": {"adapter.safetensors": {"bytes": 1}}}, "it is missing"),
        ({"files": {"model.safetensors": {"bytes": 9}}}, "5 bytes where 9 were written"),
    ],
)
def test_a_folder_that_is_no_sound_export_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    raw = export_at(tmp_path / "export")
    (tmp_path / "export" / NAME).write_text(json.dumps(raw | change))
    with pytest.raises(UserError) as caught:
        manifest.read(tmp_path / "export")
    [problem] = caught.value.problems
    assert said in problem.got and problem.fix


def test_other_folders_are_told_from_exports(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not an export: it has no phasetune\.json"):
        manifest.read(tmp_path)
    (tmp_path / "journal.jsonl").write_text("")
    with pytest.raises(UserError, match="a study's directory, not an export"):
        manifest.read(tmp_path)
    (tmp_path / NAME).write_text("{half")
    with pytest.raises(UserError, match="it cannot be read"):
        manifest.read(tmp_path)
    raw = {"format": 1, "phasetune": "9.9"}
    (tmp_path / NAME).write_text(json.dumps(raw))
    with pytest.raises(UserError, match="it lacks about, files, kind"):
        manifest.read(tmp_path)
