"""The store on disk: bounded, shared by processes, sound after kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trainables.frozen_prefix.store import Block, Entry, Store, TooLarge

ROOT = Path(__file__).resolve().parents[2]
N, WIDTH = 10, 100  # rows of 400 bytes: 4,000 bytes an entry


def blocks(value: float) -> Iterator[Block]:
    for start in range(0, N, 4):
        yield {"features": np.full((min(4, N - start), WIDTH), value, dtype=np.float32)}


def put(store: Store, key: str, value: float = 1.0) -> Entry:
    return store.get(key, N, lambda: blocks(value), {"of": key})


def aged(store: Store, key: str, age_s: float) -> None:
    meta = store.folder / f"prefix-{key}" / "meta.json"
    then = time.time() - age_s
    os.utime(meta, (then, then))


def test_an_entry_is_built_once_and_read_by_all_who_ask(tmp_path: Path) -> None:
    store = Store(tmp_path, 10_000)
    first = put(store, "a", 3.0)
    again = store.get("a", N, lambda: pytest.fail("it is there already"), {})
    assert first.built and not again.built and again.facts == {"of": "a"}
    assert again.arrays["features"].shape == (N, WIDTH) and float(again.arrays["features"].sum()) == 3.0 * N * WIDTH
    assert store.find("b") is None


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    store = Store(tmp_path, 9_000)
    for key, age_s in (("old", 50.0), ("older", 60.0)):
        put(store, key)
        aged(store, key, age_s)
    put(store, "new")
    assert store.find("older") is None and store.find("old") is not None and store.find("new") is not None


def test_an_entry_in_use_is_not_deleted_for_room(tmp_path: Path) -> None:
    store = Store(tmp_path, 9_000)
    held = put(store, "held", 2.0)
    aged(store, "held", 100.0)
    put(store, "idle")
    put(store, "new")
    assert store.find("held") is not None and store.find("idle") is None and float(held.arrays["features"][0, 0]) == 2.0


def test_what_cannot_fit_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, 5_000)
    held = put(store, "held")
    with pytest.raises(TooLarge, match="needs 4e-06 GB and the bound is 5e-06 GB, of which running trials hold 4e-06 GB"):
        put(store, "more")
    assert not list(tmp_path.glob("*.part")) and held.arrays


def test_a_builder_that_fails_leaves_nothing_that_reads_as_an_entry(tmp_path: Path) -> None:
    def cut() -> Iterator[Block]:
        yield from list(blocks(1.0))[:2]
        raise KeyboardInterrupt

    store = Store(tmp_path, 10_000)
    with pytest.raises(KeyboardInterrupt):
        store.get("a", N, cut, {})
    assert store.find("a") is None and not list(tmp_path.glob("*.part"))
    assert put(store, "a").built


BUILDER = """
    import sys
    import numpy as np
    from pathlib import Path
    from trainables.frozen_prefix.store import Store

    def slowly():
        for i in range({n}):
            print("row", i, flush=True)
            if {wait} and i == 3:
                sys.stdin.read()  # until this process is killed
            yield {{"features": np.full((1, {width}), 7.0, dtype=np.float32)}}

    entry = Store(Path(sys.argv[1]), 10_000).get("shared", {n}, slowly, {{}})
    print("built" if entry.built else "found", float(entry.arrays["features"].sum()), flush=True)
"""


def builder(folder: Path, wait: bool) -> subprocess.Popen[str]:
    code = textwrap.dedent(BUILDER.format(n=N, width=WIDTH, wait=wait))
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_after_a_killed_builder_the_next_one_builds_it_whole(tmp_path: Path) -> None:
    killed = builder(tmp_path, wait=True)
    assert killed.stdout is not None
    while "row 3" not in killed.stdout.readline():
        pass
    waiting = builder(tmp_path, wait=False)  # held up by the lock of the one that hangs
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    said = waiting.communicate(timeout=60)[0].splitlines()[-1]
    assert said == f"built {7.0 * N * WIDTH}"
    assert not list(tmp_path.glob("*.part"))


def test_of_two_builders_at_once_one_builds(tmp_path: Path) -> None:
    both = [builder(tmp_path, wait=False) for _ in range(2)]
    said = sorted(one.communicate(timeout=60)[0].splitlines()[-1] for one in both)
    assert said == [f"built {7.0 * N * WIDTH}", f"found {7.0 * N * WIDTH}"]


def test_what_a_killed_builder_left_of_another_entry_is_cleared_when_room_is_made(tmp_path: Path) -> None:
    left = tmp_path / "prefix-gone.4000.abc.part"
    left.mkdir()
    (left / "features.bin").write_bytes(b"x" * 1000)
    put(Store(tmp_path, 5_000), "a")
    assert not left.exists()
