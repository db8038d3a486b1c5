"""A process is ended for sure, and never another one that has got its number."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from trainables.adapters.worker_end import end_process

pytestmark = pytest.mark.slow


def test_a_process_is_killed_and_one_that_began_at_another_time_is_left_alone():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    began = psutil.Process(process.pid).create_time()
    assert end_process(process.pid, began - 60.0) and process.poll() is None
    assert end_process(process.pid, began) and process.wait(1) == -9
    assert end_process(process.pid, began), "it is gone"
