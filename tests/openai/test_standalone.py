"""The server as a program of its own, as demos use it; and pictures, which it knows again at any resolution."""

from __future__ import annotations

import base64
import io
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests.openai.making import BASE, LABELS, PROMPT, Bench

pytestmark = pytest.mark.slow


def drawing(i: int) -> Image.Image:
    """A picture of its own for each number."""
    image = Image.new("RGB", (400, 300), (i * 37 % 256, i * 91 % 256, i * 13 % 256))
    draw = ImageDraw.Draw(image)
    for k in range(12):
        x, y = (i * 53 + k * 67) % 360, (i * 29 + k * 41) % 260
        draw.rectangle((x, y, x + 30 + k * 3, y + 40), fill=(k * 60 % 256, i * 70 % 256, k * i * 17 % 256))
    return image


def data_url(image: Image.Image, width_px: int) -> str:
    small = image.copy()
    small.thumbnail((width_px, 10_000))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=95)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def shown(i: int, width_px: int) -> list[dict[str, Any]]:
    picture = {"type": "image_url", "image_url": {"url": data_url(drawing(i), width_px)}}
    return [{"role": "user", "content": [{"type": "text", "text": PROMPT}, picture]}]


def label(i: int) -> str:
    return LABELS[i % len(LABELS)]


def test_pictures_told_at_one_resolution_are_known_at_others_and_more_pixels_answer_better(start: Callable[..., Bench]) -> None:
    bench = start()
    bench.server.control("truth", [{"image": data_url(drawing(i), 400), "label": label(i)} for i in range(80)])
    right = {}
    for width_px in (100, 400):
        texts = [bench.wire().chat(BASE, shown(i, width_px), {"temperature": 0}).text for i in range(80)]
        right[width_px] = sum(label(i) in text.replace("category", "") for i, text in enumerate(texts)) / 80
    assert 0.55 < right[100] <= right[400] < 0.95


def test_a_grey_picture_is_refused_in_a_question_and_low_detail_costs_85_tokens(bench: Bench) -> None:
    wire = bench.wire()
    grey = {"type": "image_url", "image_url": {"url": data_url(drawing(1).convert("L"), 400)}}
    with pytest.raises(Exception, match="mode L"):
        wire.chat(BASE, [{"role": "user", "content": [grey]}], {})
    used = []
    for detail in ("low", "high"):
        picture = {"type": "image_url", "image_url": {"url": data_url(drawing(1), 400), "detail": detail}}
        used.append(wire.chat(BASE, [{"role": "user", "content": [picture]}], {}).usage.input_tokens)
    assert used[1] - used[0] == 255 - 85


def test_the_program_says_where_it_serves_keeps_its_state_and_ends_on_a_signal(tmp_path: Path) -> None:
    drawing(3).save(tmp_path / "3.png")
    (tmp_path / "truth.jsonl").write_text(json.dumps({"image": "3.png", "label": "cow"}) + "\n")
    (tmp_path / "faults.json").write_text(json.dumps([{"match": "POST", "preset": "server_error"}]))
    command = [sys.executable, "-m", "tests.openai_server", "--state", str(tmp_path / "s.db"), "--seed", "4", "--set", "jobs_per_day=8"]
    states = []
    for more in (["--truth", str(tmp_path / "truth.jsonl"), "--faults", str(tmp_path / "faults.json")], []):
        with subprocess.Popen([*command, *more], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            said = json.loads(server.stdout.readline())
            assert said["base_url"].startswith("http://127.0.0.1:") and said["n_truth"] == 1
            with urllib.request.urlopen(said["control"] + "/state") as answer:
                states.append(json.loads(answer.read()))
            with urllib.request.urlopen(said["control"] + "/faults") as answer:
                assert len(json.loads(answer.read())) == 1
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
    assert states[0]["settings"] == states[1]["settings"] and states[0]["settings"]["jobs_per_day"] == 8
    assert states[0]["now"] < states[1]["now"]
