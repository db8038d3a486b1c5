"""Runs a module of ours as rank 0 and rank 1 over gloo on loopback, and hands back what each wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 1800


def seen_by_two_ranks(module: str) -> list[dict[str, Any]]:
    """`python -m module RANK RENDEZVOUS OUT.json` for both ranks at once; what rank 0 and rank 1 saw."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
        outs = [Path(folder, f"rank{rank}.json") for rank in (0, 1)]
        logs = [Path(folder, f"rank{rank}.log") for rank in (0, 1)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, str(rank), str(Path(folder, "rendezvous")), str(out)],
                cwd=ROOT,
                env=environment,
                stdout=log.open("w"),
                stderr=subprocess.STDOUT,
            )
            for rank, (out, log) in enumerate(zip(outs, logs, strict=True))
        ]
        try:
            codes = [process.wait(timeout=TIMEOUT_S) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
        return [json.loads(out.read_text()) for out in outs]
