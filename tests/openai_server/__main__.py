"""The local server alone, for demos: `python -m tests.openai_server --port 0 --speed 600 --state FILE --set jobs_per_day=8`.

Writes one line of JSON with its base URL when it serves, and serves until it is told to stop. `--truth FILE` is JSONL of
{"image": a data URL, a URL or a path, "label": ...} or {"text": ..., "label": ...}; `--faults FILE` a JSON list (see faults.py).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import signal
from pathlib import Path
from typing import Any

from tests.openai_server import faults
from tests.openai_server.rows import read_picture
from tests.openai_server.server import App, started
from tests.openai_server.settings import Settings
from tests.openai_server.store import Store
from tests.openai_server.world import World

RAW = argparse.RawDescriptionHelpFormatter


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.openai_server", description=__doc__, formatter_class=RAW)
    parser.add_argument("--port", type=int, default=0, help="0: the system chooses")
    parser.add_argument("--state", type=Path, help="SQLite file that survives a restart")
    parser.add_argument("--speed", type=float, default=600.0, help="virtual seconds a real second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--truth", type=Path, help="what is right, for pictures that no training file shows")
    parser.add_argument("--faults", type=Path, help="faults on demand")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="a setting (settings.py), such as shutdown=false")
    args = parser.parse_args()
    settings = Settings(seed=args.seed, speed=args.speed).patched(dict(_pair(text) for text in args.set))
    asyncio.run(serve(args.port, args.state, settings, args.truth, args.faults))


async def serve(port: int, state: Path | None, settings: Settings, truth: Path | None, faults_file: Path | None) -> None:
    store = Store(state)
    world = World(store, settings)
    if truth is not None:
        world.learn_truth(_truth_row(json.loads(line), truth.parent) for line in truth.read_text().splitlines() if line.strip())
    if faults_file is not None:
        for fault in json.loads(faults_file.read_text()):
            faults.add(world, fault)
    store.commit()
    runner, port = await started(App(world), port)
    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    prefix = "/openai/v1" if world.settings.dialect == "azure_foundry" else "/v1"
    root = f"http://127.0.0.1:{port}"
    print(json.dumps({"base_url": root + prefix, "control": root + "/_control", "n_truth": len(store.items("truth"))}), flush=True)
    await end.wait()
    await runner.cleanup()
    store.close()


def _truth_row(row: dict[str, Any], folder: Path) -> tuple[str, str]:
    if "text" in row:
        return "text:" + row["text"], row["label"]
    image = row["image"]
    if not image.startswith(("data:", "http:", "https:")):
        image = "data:image/jpeg;base64," + base64.b64encode((folder / image).read_bytes()).decode()
    return read_picture(image, "auto").key, row["label"]


def _pair(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    main()
