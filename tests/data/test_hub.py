"""A data set of the hub, asked for where the hub cannot be reached, is refused with what to fetch and where to put it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ASK = """
from tune.core.errors import UserError
from trainables.data.sources import open_table
from trainables.data.spec import DataSpec
try:
    open_table(DataSpec(source="hf:owner/pictures"))
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_hub_name_without_the_hub_says_what_to_fetch_and_how_to_bring_it(tmp_path: Path) -> None:
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}  # read when the library is imported, so a process of its own
    said = subprocess.run([sys.executable, "-c", ASK], env=offline, capture_output=True, text=True, check=True).stdout
    assert "trainable.data.source = hf:owner/pictures\n    got: owner/pictures cannot be had from the hub" in said
    assert "datasets.load_dataset('owner/pictures').save_to_disk('DIR'), then bring DIR and name it here" in said
