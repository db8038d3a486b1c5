"""What a resume takes over from the run: where its trials run and where MLflow is, but no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.session.driver import CURVE, entries, phasetune, write_study

pytestmark = pytest.mark.slow


def test_a_resume_goes_where_the_run_went_without_being_told(tmp_path: Path) -> None:
    study, storage = write_study(tmp_path, CURVE.replace("trials: 10", "trials: 2")), tmp_path / "studies"
    uri = f"sqlite:///{tmp_path}/elsewhere.db"
    assert phasetune("run", study, "--foreground", "--storage", storage, "--tracking-uri", uri).code == 0
    again = phasetune("resume", storage / "curve-1")
    assert again.code == 0 and "Ray" not in again.err
    assert (tmp_path / "elsewhere.db").exists() and not (storage / "mlflow.db").exists()


def test_a_password_in_the_tracking_uri_is_in_no_file_and_in_no_output(tmp_path: Path) -> None:
    study, storage = write_study(tmp_path, CURVE.replace("trials: 10", "trials: 1")), tmp_path / "studies"
    uri = "http://someone:hunter2@127.0.0.1:1"
    done = phasetune("run", study, "--foreground", "--storage", storage, "--tracking-uri", uri)
    assert done.code == 0 and "hunter2" not in done.out + done.err
    assert entries(storage / "curve-1")[0].event.environment["options"]["tracking_uri"] is None
    for path in storage.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
