"""Ratings read from a judge's replies, and the protocol spoken with a real server on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest

from trainables.text_metrics.judged import Judged, judged, openai_judge, rating
from tune.core.errors import UserError


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("It is right.\nRating: 6", 6),
        ("**Rating: 0**, it invents a cat", 0),
        ("rating = 3.", 3),
        ("Rating: 12", None),
        ("Rating: 2 or Rating: 3", None),
        ("Good.", None),
    ],
)
def test_a_rating_is_read_or_there_is_none(reply: str, value: int | None) -> None:
    assert rating(reply) == value


def test_ratings_below_three_are_hallucinations_and_replies_without_one_are_counted() -> None:
    replies = iter(["Rating: 6", "Rating: 2", "who knows", "Rating: 1"])
    result = judged(["a"] * 4, [["b"]] * 4, ["q"] * 4, ["a dog"] * 4, lambda request: next(replies))
    assert result == Judged(score=3.0, hallucination_rate=pytest.approx(2 / 3), n_unrated=1)


def test_a_judge_that_rates_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="the judge gave no rating"):
        judged(["a"], [["b"]], ["q"], ["dog"], lambda request: "no")


def test_a_judge_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(UserError) as caught:
        openai_judge("http://127.0.0.1:1/v1", "m", key_variable="JUDGE_KEY")
    assert "the judge needs a key, and JUDGE_KEY is not set" in str(caught.value)


class _Endpoint(BaseHTTPRequestHandler):
    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Nothing invented.\nRating: 5"}}
        reply = json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Endpoint)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_judge_on_an_openai_compatible_endpoint_is_asked_with_the_facts(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    ask = openai_judge(endpoint, "judge-1", key_variable="JUDGE_KEY")
    result = judged(["Two dogs."], [["A dog."]], ["What is it?"], ["dog, grass"], ask)
    assert result == Judged(score=5.0, hallucination_rate=0.0, n_unrated=0)
    [asked] = _Endpoint.asked
    assert (asked["path"], asked["key"], asked["model"], asked["temperature"]) == ("/v1/chat/completions", "Bearer secret", "judge-1", 0)
    request = asked["messages"][0]["content"]
    assert all(words in request for words in ("Picture: dog, grass", "Question: What is it?", "right answer: A dog.", "answer: Two dogs."))
