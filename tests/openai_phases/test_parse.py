"""Answers of every shape that models give, and how they are scored."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.openai_phases.parse import Answer, read_answer, score
from trainables.openai_phases.prompt import answer_text
from trainables.openai_phases.spec import PromptSpec

CLASSES = ("party supplies", "kids party supplies", "suitcases", "men's shoes", "home, kitchen", "ps3", "a:b", "7")
SUITCASES = "suitcases"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        # the shape that is trained on: no quotes, which is no JSON
        ("{category: suitcases}", SUITCASES),
        ("{category: kids party supplies}", "kids party supplies"),
        ("{category: party supplies}", "party supplies"),
        ("{ category :  kids   party supplies }", "kids party supplies"),
        ("{\n  category: suitcases\n}", SUITCASES),
        ("{category:suitcases}", SUITCASES),
        # quotes on either side, of either sort, or on both
        ('{"category": "suitcases"}', SUITCASES),
        ("{'category': 'suitcases'}", SUITCASES),
        ('{category: "suitcases"}', SUITCASES),
        ('{"category": suitcases}', SUITCASES),
        ("{category: 'kids party supplies'}", "kids party supplies"),
        ("{“category”: “suitcases”}", SUITCASES),
        ("{`category`: `suitcases`}", SUITCASES),
        ('{"category": "suitcases",}', SUITCASES),
        # text around the object
        ("The category is:\n{category: suitcases}", SUITCASES),
        ('```json\n{"category": "suitcases"}\n```', SUITCASES),
        ("{category: suitcases} I hope this helps!", SUITCASES),
        # labels that hold what the shape uses itself
        ("{category: men's shoes}", "men's shoes"),
        ("{category: 'men's shoes'}", "men's shoes"),
        ('{"category": "men\'s shoes"}', "men's shoes"),
        ("{category: home, kitchen}", "home, kitchen"),
        ("{category: a:b}", "a:b"),
        ('{"category": 7}', "7"),
        # more than was asked for
        ('{"category": "suitcases", "confidence": 0.9}', SUITCASES),
        ("{category: suitcases, confidence: 0.9}", SUITCASES),
        ("{'category': 'home, kitchen', 'reason': 'pots'}", "home, kitchen"),
        ("{subcategory: ps3, category: suitcases}", SUITCASES),
        ('{"answer": {"category": "suitcases"}}', SUITCASES),
        ('{"category": ["suitcases"]}', SUITCASES),
        ("{{category: suitcases}}", SUITCASES),
        ("{category: suitcases}\n{category: suitcases}", SUITCASES),
        # case
        ("{Category: Suitcases}", SUITCASES),
        ('{"CATEGORY": "PS3"}', "ps3"),
    ],
)
def test_an_answer_is_read_as_its_label(text: str, label: str) -> None:
    answer = read_answer(text, CLASSES)
    assert (answer.kind, answer.label_i) == ("label", CLASSES.index(label))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{category: luggage}", "luggage"),
        ('{"category": "party  supply"}', "party supply"),
        ("{'category': 'suitcases and more'}", "suitcases and more"),
        ("{category: suitcases.}", "suitcases."),
        ("{category: party}", "party"),
    ],
)
def test_a_value_that_is_no_label_is_out_of_list(text: str, said: str) -> None:
    assert read_answer(text, CLASSES) == Answer("out_of_list", None, said)


@pytest.mark.parametrize(
    "text",
    [
        "suitcases",  # the published reader needs braces, too
        "",
        None,
        "I'm sorry, I can't help with that.",
        "{}",
        "{category: }",
        '{"category": null}',
        '{"category": true}',
        '{"category": ["ps3", "suitcases"]}',
        "{category suitcases}",
        "{categories: suitcases}",
        "{category: suitcases",  # cut off by a limit of tokens
        "} {",
        "{category: suitcases} or {category: ps3}",
        '{"category": "ps3", "category": "suitcases"}',
    ],
)
def test_what_has_no_single_value_is_unparsed(text: str | None) -> None:
    answer = read_answer(text, CLASSES)
    assert (answer.kind, answer.label_i) == ("unparsed", None)


def test_case_does_not_decide_between_two_labels_that_differ_in_nothing_else() -> None:
    assert read_answer("{category: DS}", ("ds", "DS")).label_i == 1
    assert read_answer("{category: Ds}", ("ds", "DS")).kind == "out_of_list"


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).map(str.strip).filter(bool)


@given(st.lists(WORDS, min_size=1, max_size=5, unique_by=lambda word: " ".join(word.split()).casefold()), st.data())
@settings(deadline=None)
def test_a_strict_answer_is_read_back_whatever_the_label(labels: list[str], data: st.DataObject) -> None:
    label = data.draw(st.sampled_from(labels))
    answer = read_answer(answer_text(PromptSpec(shape="strict_json"), label), labels)
    assert answer.label_i == labels.index(label)


@given(st.lists(st.from_regex(r"[a-z0-9][a-z0-9 ,:&/-]{0,15}[a-z0-9]", fullmatch=True), min_size=1, max_size=5, unique=True), st.data())
@settings(deadline=None)
def test_a_published_answer_is_read_back_whatever_the_label(labels: list[str], data: st.DataObject) -> None:
    label = data.draw(st.sampled_from(labels))
    found = [i for i, each in enumerate(labels) if " ".join(each.split()) == " ".join(label.split())]
    answer = read_answer(answer_text(PromptSpec(), label), labels)
    assert answer.label_i in found


@given(st.text(alphabet="{}[]category:,\"' \nsuit\\", max_size=80))
@settings(deadline=None)
def test_no_text_breaks_the_reader(text: str) -> None:
    answer = read_answer(text, CLASSES)
    assert (answer.label_i is None) == (answer.kind != "label")


def test_answers_without_a_label_count_as_wrong_in_every_score() -> None:
    answers = [Answer("label", 0, ""), Answer("out_of_list", None, "x"), Answer("label", 1, ""), Answer("unparsed", None, "")]
    scores = score(answers, [0, 0, 1, 1], n_classes=2)
    assert scores["accuracy"] == 0.5
    assert scores["recall_weighted"] == 0.5  # weighted recall is accuracy by construction
    assert scores["precision_weighted"] == 1.0  # what was called 0 or 1 was right
    assert scores["f1_weighted"] == pytest.approx(2 / 3)
    assert (scores["unparsed"], scores["out_of_list"]) == (0.25, 0.25)


def test_the_published_count_gives_the_published_accuracy() -> None:
    """158 of 180 right is .8778 (phase 3 at 400 px)."""
    answers = [Answer("label", i % 30 if i < 158 else (i + 1) % 30, "") for i in range(180)]
    assert round(score(answers, [i % 30 for i in range(180)], 30)["accuracy"], 4) == 0.8778


@pytest.mark.slow
def test_weighted_scores_are_those_of_scikit_learn_on_the_words() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    labels = ["a", "b", "c"]
    true = ["a", "a", "b", "b", "c", "c", "c"]
    words = ["a", "zebra", "b", "a", "c", "c", "yak"]
    answers = [read_answer(f"{{category: {word}}}", labels) for word in words]
    ours = score(answers, [labels.index(word) for word in true], 3)
    theirs = precision_recall_fscore_support(true, words, average="weighted", zero_division=0)
    assert [ours["precision_weighted"], ours["recall_weighted"], ours["f1_weighted"]] == pytest.approx(theirs[:3])
