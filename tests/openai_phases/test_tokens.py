"""Golden numbers of the tile rule, bounds of text, and what is said where counts are not exact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.openai_phases.making import LETTERS, RATES
from trainables.openai_phases.prompt import question_messages, question_text
from trainables.openai_phases.spec import PromptSpec
from trainables.openai_phases.tokens import NONE, Count, bounds, counter_of, image_tokens, message_tokens, text_counter

SIDE = st.integers(1, 20_000)


@pytest.mark.parametrize(
    ("width", "height", "high"),
    [
        (100, 100, 255), (200, 150, 255), (400, 400, 255),  # every published width costs the same: nothing is enlarged
        (128, 64, 255),  # measured by a user: 97 and 267 with 12 tokens of text
        (512, 512, 255),
        (513, 513, 765), (513, 512, 425),  # one pixel over is a tile more on that side
        (768, 768, 765),
        (1024, 1024, 765),  # shrunk to 768
        (2048, 4096, 1105),  # 1024 x 2048, then 768 x 1536
        (1, 20_000, 765),  # 0.1 x 2048: four tiles high
    ],
)  # fmt: skip
def test_a_picture_costs_its_tiles(width: int, height: int, high: int) -> None:
    assert image_tokens(width, height, "high", RATES) == Count.exactly(high)
    assert image_tokens(width, height, "low", RATES) == Count.exactly(85)
    assert image_tokens(width, height, "auto", RATES) == image_tokens(width, height, None, RATES) == Count(85, high)


@given(SIDE, SIDE)
def test_turning_a_picture_changes_no_cost_and_no_picture_has_more_than_eight_tiles(width: int, height: int) -> None:
    upright = image_tokens(width, height, "high", RATES)
    assert upright == image_tokens(height, width, "high", RATES)
    assert 1 <= (upright.low - 85) / 170 <= 8


@given(SIDE, SIDE)
def test_a_larger_picture_never_costs_less(width: int, height: int) -> None:
    doubled = image_tokens(width * 2, height * 2, "high", RATES)
    assert image_tokens(width, height, "high", RATES).high <= doubled.high


def test_a_conversation_counts_text_frames_pictures_and_the_start_of_the_answer() -> None:
    messages = [{"role": "user", "content": "four"}, {"role": "assistant", "content": [{"type": "text", "text": "six..."}]}]
    by_hand = (3 + len("user") + 4) + (3 + len("assistant") + 6) + 255
    assert message_tokens(messages, Count.exactly(255), LETTERS, reply=False) == Count.exactly(by_hand)
    assert message_tokens(messages, Count.exactly(255), LETTERS, reply=True) == Count.exactly(by_hand + 3)


def test_a_picture_in_a_message_is_not_counted_as_text() -> None:
    question = question_messages(PromptSpec(), ("a", "b"), "data:" + "x" * 10_000, "low")
    assert message_tokens(question, NONE, LETTERS, reply=True).high < 1_000


# Measured with o200k_base; the text is the question of nine labels of the paper.
LABELS = (
    "party supplies", "party decorations", "kids party supplies", "luggage", "suitcases",
    "playstation 3 games", "playstation 4 games", "psp games", "nintendo ds games",
)  # fmt: skip
MEASURED = [
    (
        "Look at the picture of a product and decide which one of these categories it belongs to.\n"
        + json.dumps({"categories": LABELS}, indent=2)
        + '\nAnswer with a JSON object that has the key "category" and one of the categories above as its value, without any explanation.',
        109,
    ),
    ("{category: kids party supplies}", 7),
    ('{"category": "suitcases"}', 8),
    ("naïve café ✓ 日本語", 7),
    ("hello world", 2),
    ('    \n  "luggage",\n', 6),
]


@pytest.mark.parametrize(("text", "exact"), MEASURED, ids=[text[:20] for text, _ in MEASURED])
def test_no_text_has_more_tokens_than_the_high_figure(text: str, exact: int) -> None:
    counted = bounds("a test").count(text)
    assert counted.high >= exact
    assert counted.low <= exact * 1.5  # a rule of thumb, no bound


def test_the_low_figure_of_the_whole_question_is_within_a_tenth_of_the_measured() -> None:
    text, exact = MEASURED[0]
    assert text == question_text(PromptSpec(), LABELS)
    assert bounds("a test").count(text).low == pytest.approx(exact, rel=0.1)


def test_without_tiktoken_the_counter_says_so_and_how_to_get_it() -> None:
    counter = bounds("tiktoken is not installed")
    assert not counter.exact
    assert counter.how == (
        "bounds (low: 4 bytes a token, high: 1), since tiktoken is not installed; for exact counts install tiktoken and, once with a "
        "network, run: python -c \"import tiktoken; tiktoken.get_encoding('o200k_base')\""
    )


def test_an_encoding_that_is_not_on_this_machine_is_not_fetched(tmp_path: Path) -> None:
    counter = counter_of(tmp_path)
    assert not counter.exact
    assert (
        "tiktoken is not installed" in counter.how
        or f"has not fetched o200k_base (no fb374d419588a4632f3f557e76b4b70aebbca790 in {tmp_path}" in counter.how
    )


def test_text_is_counted_exactly_or_it_is_said_why_not() -> None:
    counter = text_counter()
    counted = [counter.count(text) for text, _ in MEASURED]
    if counter.exact:
        assert counted == [Count.exactly(exact) for _, exact in MEASURED]
    else:
        assert "to " in str(counted[0]) and "since" in counter.how


@given(st.text(max_size=200))
def test_bounds_are_in_order_for_any_text(text: str) -> None:
    counted = bounds("a test").count(text)
    assert 0 <= counted.low <= counted.high == len(text.encode())


def test_counts_add_and_multiply_end_by_end() -> None:
    assert Count(1, 2) + Count(10, 20) == Count(11, 22)
    assert Count(1, 2) * 3 == Count(3, 6)
    assert Count(2, 3) * Count(1, 50) == Count(2, 150)
    assert (str(Count(1000, 2000)), str(Count.exactly(1000))) == ("1,000 to 2,000", "1,000")
