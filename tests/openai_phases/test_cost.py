"""Dollars before and after: the formula with its numbers, exact sums, what a stop loses."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.data.making import encoded
from tests.openai_phases.making import CLASSES, LETTERS, RATES, spec, table
from trainables.openai_phases.bills import Bill, bill_cancelled, bill_training, bill_usage
from trainables.openai_phases.cost import (
    Amount,
    TrialCost,
    estimate_study,
    estimate_trial,
    for_ledger,
    price_load,
    span,
    usd,
)
from trainables.openai_phases.expected import length_counter, stand_in
from trainables.openai_phases.prices import Prices, prices_of
from trainables.openai_phases.profile import ProfileSpec
from trainables.openai_phases.prompt import answer_text, question_text
from trainables.openai_phases.spec import ExpectedSpec, OpenaiPhasesSpec
from trainables.openai_phases.tokens import Count, bounds
from trainables.openai_phases.wire import Usage
from trainables.openai_phases.workload import CHATTER_TOKENS, PhaseLoad, TrialLoad, trial_load
from trainables.phases.spec import Phase
from tune.core.errors import UserError

LISTED = prices_of(ProfileSpec())
MODEL = "gpt-4o-2024-08-06"
TUNED = "ft:gpt-4o-2024-08-06:org:phase-1-resolution-400:AbCd1234"


def prices() -> Prices:
    return LISTED


def trial(**fields: Any) -> TrialCost:
    return estimate_trial(spec(**({"images": {"detail": "high"}} | fields)), table(), prices(), LETTERS)


# -- counts ---------------------------------------------------------------------------------------------------------------------


def test_a_phase_counts_its_own_rows_and_every_phase_the_same_questions() -> None:
    load = trial_load(spec(), table(), RATES, LETTERS)
    assert [(each.phase.number, each.n_examples, each.epochs) for each in load.phases] == [
        (0, 0, Count.exactly(0)),
        (1, 6, Count.exactly(3)),
        (2, 6, Count.exactly(3)),
    ]
    assert [[(q.split, q.n) for q in each.questions] for each in load.phases] == [[("val", 3), ("test", 3)]] * 3


def test_cumulative_phases_count_the_rows_before_them_too() -> None:
    ours = spec(phases={"count": 2, "per_class": 2, "rows": "cumulative"})
    assert [each.n_examples for each in trial_load(ours, table(), RATES, LETTERS).phases] == [6, 12]


def test_tokens_of_a_phase_are_those_counted_by_hand() -> None:
    ours = spec(images={"detail": "low"})
    phase, frame = trial_load(ours, table(), RATES, LETTERS).phases[1], 3
    question = len(question_text(ours.prompt, CLASSES))
    each = 2 * (frame + len("user")) + question + 85 + frame + len("assistant") + 3
    answers = 2 * sum(len(answer_text(ours.prompt, label)) for label in CLASSES)
    assert phase.tokens == Count.exactly(6 * each + answers)
    asked = frame + len("user") + question + 85 + 3
    longest = max(len(answer_text(ours.prompt, label)) for label in CLASSES) + CHATTER_TOKENS
    assert phase.questions[0].input == Count.exactly(3 * asked)
    assert phase.questions[0].output == Count(answers // 2, 3 * longest)


def test_pictures_of_one_tile_cost_the_same_at_every_width_and_larger_ones_do_not() -> None:
    small = [trial(resolution_px=px).high for px in (100, 200, 400)]
    assert small[0] == small[1] == small[2]
    flat = encoded(Image.new("RGB", (1200, 1200)))
    tall = replace(table(), read=lambda _: flat)
    by_width = [estimate_trial(spec(resolution_px=px, images={"detail": "high"}), tall, prices(), LETTERS).high for px in (512, 513)]
    assert by_width[0] < by_width[1]


def test_low_detail_is_cheaper_and_detail_left_to_the_server_lies_between() -> None:
    low, high, left = trial(images={"detail": "low"}), trial(images={"detail": "high"}), trial(images={})
    assert low.high < high.high
    assert (left.low, left.high) == (low.low, high.high)


# -- before ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "n", "dollars"),
    [(85, 1_000, "5.125"), (255, 1_000, "9.375"), (85, 10_000, "51.25"), (255, 10_000, "93.75")],
)
def test_an_epoch_costs_what_the_facts_say(image: int, n: int, dollars: str) -> None:
    """1000 examples of one picture and 120 tokens of text: $5.13 an epoch with low detail, $9.38 with high."""
    phase = PhaseLoad(Phase(1, None, "base", 1, 400, 0), n, Count.exactly((image + 120) * n), Count.exactly(1), ())
    cost = price_load(spec(), TrialLoad((phase,), (), "by hand"), prices())
    assert cost.low == cost.high == Decimal(dollars)


def test_the_working_is_the_formula_with_its_numbers() -> None:
    ours = trial(evaluation={"max_answer_tokens": 20})
    amount = ours.phases[1].training
    assert amount is not None
    tokens = trial_load(spec(), table(), RATES, LETTERS).phases[1].tokens.high
    total = tokens * 3
    assert amount.working == (
        f"6 examples at 400 px = {tokens:,} tokens x 3 epochs = {total:,} tokens x $25/M = {usd(Decimal(total * 25) / 1_000_000)}"
    )
    lines = ours.working.splitlines()
    assert lines[0].startswith("phase 0: $") and lines[1].startswith("  val at 400 px by chat, base model: 3 questions = ")
    assert "input x $2.5/M" in lines[1] and "output x $10/M" in lines[1]
    assert any("tuned model" in line and "input x $3.75/M" in line for line in lines)
    assert lines[-3:-1] == ["tokens of text: a token a letter", f"prices: {prices().source}"]


@pytest.mark.parametrize(
    ("keeps", "said"),
    [
        (None, "openai keeps the answers, so that a crash loses none; trainable.profile.keeps_answers: false asks it not to"),
        (False, "openai keeps no answers (trainable.profile.keeps_answers), so a crash books those under way at their estimate, an upper"),
    ],
)
def test_the_plan_says_what_becomes_of_answers_that_are_under_way_at_a_crash(keeps: bool | None, said: str) -> None:
    assert trial(profile={"keeps_answers": keeps}).notes[-1].startswith(f"evaluation by chat: {said}")
    assert not [note for note in trial(evaluation={"by": "batch"}).notes if "chat" in note]


def test_a_trial_is_the_sum_of_its_phases_and_stress_tests() -> None:
    ours = trial(stress=[100, 200])
    parts = [amount for phase in ours.phases for amount in phase.amounts] + list(ours.stress)
    assert ours.high == sum((amount.high for amount in parts), Decimal(0))
    assert ours.low == sum((amount.low for amount in parts), Decimal(0))
    assert [amount.what for amount in ours.stress] == ["test at 100 px by chat, tuned model", "test at 200 px by chat, tuned model"]
    assert ours.until(2, "high") == ours.phases[0].high + ours.phases[1].high


def test_zero_shot_trains_nothing_and_is_asked_at_the_base_s_price() -> None:
    first, second = trial().phases[:2]
    assert first.training is None and second.training is not None
    assert second.evaluations[0].high == first.evaluations[0].high * Decimal("1.5")  # 3.75 / 2.50 and 15 / 10


def test_zero_shot_of_another_model_is_asked_at_its_own_price() -> None:
    with pytest.raises(UserError, match=r"no prices of gpt-4o-mini"):
        trial(zero_shot_model="gpt-4o-mini")
    assert trial(zero_shot_model="gpt-4o").high == trial().high


def test_evaluation_by_batch_costs_the_listed_price() -> None:
    chat, batch = (trial(evaluation={"by": by}).phases[1].evaluations[0] for by in ("chat", "batch"))
    assert "$2.225/M" in batch.working and "$12.5/M" in batch.working
    assert chat.high / 2 < batch.high < chat.high


def test_epochs_left_to_the_server_cost_up_to_fifty() -> None:
    ours = trial(hyperparameters={"n_epochs": "auto"})
    amount = ours.phases[1].training
    assert amount is not None and amount.high == amount.low * 50
    assert any("give a number to know it" in note for note in ours.notes)


def test_stopping_inside_a_phase_says_what_it_may_lose() -> None:
    ours = trial(report="epoch")
    amount = ours.phases[1].training
    assert amount is not None and any(note.endswith(f"up to {usd(amount.high)} are lost with each stop") for note in ours.notes)


def test_a_deployed_model_is_hosted_by_the_hour_but_for_developers() -> None:
    foundry = {"dialect": "azure_foundry", "prices": "azure_foundry", "base_url": "https://h.openai.azure.com/openai/v1/"}
    listed = prices()
    table_ = listed.table.model_copy(update={"hosting_usd_per_hour": Decimal("1.70")})
    hosted = Prices(table_, "t", listed._file)
    load = trial_load(spec(), table(), RATES, LETTERS)
    amounts = [phase.hosting for phase in price_load(spec(profile=foundry), load, hosted).phases]
    assert amounts[0] is None
    assert [(a.low, a.high, a.working) for a in amounts[1:] if a] == [
        (0, Decimal("1.7"), "0 to 1 hours deployed x $1.7/h = $0.00 to $1.70")
    ] * 2
    free = price_load(spec(profile=foundry | {"training_type": "Developer"}), load, hosted)
    assert [phase.hosting for phase in free.phases] == [None] * 3


def test_a_study_costs_between_all_stopped_but_one_and_none_stopped() -> None:
    ours = trial()
    whole = estimate_study([ours], 8, stops_after=None)
    assert (whole.low, whole.high) == (ours.low * 8, ours.high * 8)
    stopped = estimate_study([ours], 8, stops_after=2)
    assert stopped.low == ours.until(2, "low") * 7 + ours.low and stopped.high == whole.high
    assert "7 stopped after 2 phase(s) x" in stopped.working and usd(stopped.high) in stopped.working
    assert estimate_study([ours], 1, stops_after=2).low == ours.low


def test_points_of_a_study_count_from_the_cheapest_to_the_dearest() -> None:
    cheap, dear = trial(hyperparameters={"n_epochs": 1}), trial(hyperparameters={"n_epochs": 9})
    both = estimate_study([cheap, dear], 4, stops_after=None)
    assert (both.low, both.high) == (cheap.low * 4, dear.high * 4)


# -- a study whose data are not at hand -------------------------------------------------------------------------------------------

PAPER = {"n_classes": 30, "train_rows": 840, "val_rows": 180, "test_rows": 180, "question_chars": 1253, "label_chars": 16}


def test_the_paper_s_study_is_priced_without_its_data() -> None:
    ours = OpenaiPhasesSpec.model_validate({"expected": PAPER, "images": {"detail": "high"}})
    assert ours.expected is not None
    rows = stand_in(ours.expected)
    load = trial_load(ours, rows, RATES, length_counter(ours, rows))
    assert [each.n_examples for each in load.phases] == [0, 210, 210, 210, 210]
    assert load.phases[1].questions[0].n == 180
    least_text, most_text = 1253 / 4, 1253 + 100
    per_example = Count(round(load.phases[1].tokens.low / 210), round(load.phases[1].tokens.high / 210))
    assert 255 + least_text <= per_example.low <= per_example.high <= 255 + most_text
    cost = price_load(ours, load, prices())
    assert "210 examples at 400 px" in cost.working and "the data are not at hand" in cost.notes[0]
    assert "tiktoken" not in cost.notes[0]


def test_a_stand_in_has_the_expected_rows_and_no_more() -> None:
    rows = stand_in(ExpectedSpec.model_validate(PAPER))
    assert {name: len(part) for name, part in rows.split.items()} == {"train": 840, "val": 180, "test": 180}
    assert {n for by_class in (rows.counts()["train"],) for n in by_class.values()} == {28}
    assert len(set(rows.classes)) == 30 and {len(label) for label in rows.classes} == {16}


# -- after ----------------------------------------------------------------------------------------------------------------------


def test_trained_tokens_are_billed_as_counted() -> None:
    assert bill_training(prices(), TUNED, 368_550) == Bill(Decimal("9.21375"), "368,550 trained tokens x $25/M")


def test_usage_is_billed_with_cached_tokens_at_their_price() -> None:
    used = Usage(input_tokens=1_000_000, cached_tokens=400_000, output_tokens=10_000)
    bill = bill_usage(prices(), TUNED, "chat", used)
    assert bill.usd == Decimal("0.6") * Decimal("3.75") + Decimal("0.4") * Decimal("1.875") + Decimal("0.01") * 15
    assert bill.working == "600,000 input x $3.75/M + 400,000 cached x $1.875/M + 10,000 output x $15/M"
    assert bill_usage(prices(), TUNED, "batch", used).usd == Decimal("1.335") + Decimal("0.36") + Decimal("0.125")


def test_cached_tokens_without_a_price_of_their_own_are_input() -> None:
    assert bill_usage(prices(), MODEL, "batch", Usage(1000, 500, 0)).usd == bill_usage(prices(), MODEL, "batch", Usage(1000, 0, 0)).usd


@pytest.mark.parametrize(
    ("steps", "total", "dollars"), [(0, 630, "0"), (315, 630, "5"), (630, 630, "10"), (900, 630, "10"), (5, None, "10"), (0, 0, "10")]
)
def test_a_cancelled_job_is_billed_by_its_steps_until_the_server_says(steps: int, total: int | None, dollars: str) -> None:
    assert bill_cancelled(Amount("training", Decimal(4), Decimal(10), ""), steps, total).usd == Decimal(dollars)


@given(st.lists(st.integers(0, 10**9), max_size=30), st.randoms())
def test_many_small_bills_are_one_large_bill_in_whatever_order(tokens: list[int], random: Any) -> None:
    listed = LISTED
    shuffled = list(tokens)
    random.shuffle(shuffled)
    total = sum((bill_usage(listed, TUNED, "batch", Usage(n, n // 3, n // 7)).usd for n in tokens), Decimal(0))
    assert total == sum((bill_usage(listed, TUNED, "batch", Usage(n, n // 3, n // 7)).usd for n in shuffled), Decimal(0))
    sums = Usage(sum(tokens), sum(n // 3 for n in tokens), sum(n // 7 for n in tokens))
    assert total == bill_usage(listed, TUNED, "batch", sums).usd


def test_the_ledger_gets_the_nearest_float() -> None:
    assert for_ledger(Decimal("9.21375")) == 9.21375
    assert for_ledger(sum((Decimal("0.1") for _ in range(10)), Decimal(0))) == 1.0


def test_dollars_read_as_people_write_them() -> None:
    assert [usd(Decimal(text)) for text in ("0", "0.00123", "0.5", "1", "1234.567")] == [
        "$0.00",
        "$0.0012",
        "$0.5000",
        "$1.00",
        "$1,234.57",
    ]
    assert (span(Decimal(2), Decimal(2)), span(Decimal(2), Decimal(3))) == ("$2.00", "$2.00 to $3.00")


def test_text_in_bounds_makes_a_span_and_says_why() -> None:
    ours = estimate_trial(spec(images={"detail": "high"}), table(), prices(), bounds("this is a test"))
    assert ours.low < ours.high and "since this is a test" in ours.working
