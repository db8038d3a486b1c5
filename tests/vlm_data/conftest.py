"""Folders made once for the session, and what a spec says of a bad one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vlm_data.make_fixtures import MAKERS


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """reader -> a folder in its layout, made when first asked for and not to be changed."""
    made: dict[str, Path] = {}

    def folder(reader: str) -> Path:
        if reader not in made:
            made[reader] = tmp_path_factory.mktemp(reader)
            MAKERS[reader](made[reader] / "source")
        return made[reader] / "source"

    return folder
