"""Scores against values of their papers and libraries, or worked out by hand where a comment shows how."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainables.text_metrics.match import (
    accuracy,
    choice_accuracy,
    chosen,
    classification,
    exact_match,
    f1_macro,
    f1_weighted,
    option_accuracy,
    option_letter,
)
from trainables.text_metrics.optional import need
from trainables.text_metrics.registry import METRICS
from trainables.text_metrics.vqa import normalised, vqa_score
from tune.core.errors import UserError


@pytest.mark.parametrize(("agreeing", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_the_vqa_score_of_n_agreeing_of_ten_is_the_published_one(agreeing: int, score: float) -> None:
    """visualqa.org/evaluation.html: min(n / 3, 1), averaged over all sets of nine answers."""
    answers = ["net"] * agreeing + [f"other {k}" for k in range(10 - agreeing)]
    assert vqa_score(["net"], [answers]) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("The dog.", "dog"),
        ("Two", "2"),
        ("none", "0"),
        ("a man, and a dog", "man and dog"),
        ("1,000", "1000"),  # a comma between digits makes punctuation vanish
        ("yes/no", "yes no"),  # without a space beside it, a mark becomes one
        ("yes /no", "yes no"),  # with one it vanishes
        ("3.5", "3.5"),
        ("p.m.", "pm"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),  # the table knows words that lack one apostrophe
        ("couldnt've", "couldn't've"),
        ("lets", "lets"),
        ("black-white", "black white"),
        ("what?!", "what"),
        ("net\nbag\t", "net bag"),
    ],
)
def test_answers_are_normalised_as_the_official_evaluation_does(answer: str, plain: str) -> None:
    assert normalised(answer) == plain


def test_the_vqa_score_normalises_only_where_people_disagree() -> None:
    assert vqa_score(["The net."], [["net"] * 10]) == 0.0
    assert vqa_score(["The net."], [["net"] * 9 + ["mesh"]]) == 1.0


def test_exact_match_passes_over_case_and_space_but_not_over_marks() -> None:
    assert exact_match(["Certain ", "five", "cat."], [["certain"], ["5", "Five"], ["cat"]]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("A", "A"),
        ("B.", "B"),
        (" C \n", "C"),
        ("D. Oklahoma", "D"),
        ("The answer is B.", "B"),
        ("Because of that.\nThe answer is C", "C"),
        ("B\nThe map shows it", "B"),
        ("E", None),  # there are four choices
        ("West Virginia", None),
        ("Answer: A", None),
        ("A dog", None),
        ("The answer is Arizona", None),
        ("", None),
    ],
)
def test_an_option_is_read_from_an_answer_as_llava_does(said: str, letter: str | None) -> None:
    assert option_letter(said, 4) == letter


def test_option_accuracy_counts_an_answer_without_a_letter_as_wrong() -> None:
    assert option_accuracy(["A", "B. x", "Louisiana"], [["A"], ["B"], ["B"]]) == pytest.approx(2 / 3)


def test_choice_accuracy_takes_letters_and_words_but_no_answer_that_names_two() -> None:
    choices = ["red", "dark red", "blue"]
    assert [chosen(said, choices) for said in ("B", "It is blue.", "red", "dark red", "red or blue", "infrared")] == [
        "dark red", "blue", "red", "dark red", None, None,
    ]  # fmt: skip
    assert choice_accuracy(["C", "red", "green"], [["blue"], ["red"], ["red"]], [choices] * 3) == pytest.approx(2 / 3)


@pytest.mark.slow
def test_classification_scores_are_scikit_learns() -> None:
    from sklearn.metrics import f1_score, precision_score, recall_score

    classes = ["positive", "neutral", "negative"]
    draw = np.random.default_rng(0)
    true = [classes[k] for k in draw.integers(0, 3, 80)]
    said = [[*classes, "I cannot tell"][k] for k in draw.integers(0, 4, 80)]
    values = classification([word.title() + "." for word in said], [[word] for word in true], classes)
    for mean in ("macro", "weighted"):
        for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            assert values[f"{name}_{mean}"] == pytest.approx(score(true, said, labels=classes, average=mean, zero_division=0))
    assert values["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(true, said, strict=True)]))


def test_macro_f1_of_a_model_that_never_says_a_class() -> None:
    """Two of three right as a, b never said: f1(a) = 2*2/(3+2) = .8, f1(b) = 0."""
    predictions, references = ["a", "a", "a"], [["a"], ["a"], ["b"]]
    assert f1_macro(predictions, references) == pytest.approx(0.4)
    assert f1_weighted(predictions, references) == pytest.approx(0.8 * 2 / 3)
    assert accuracy(predictions, references) == pytest.approx(2 / 3)


def test_a_reference_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="reference 'sad' is not among the classes happy, angry"):
        classification(["happy"], [["sad"]], ["happy", "angry"])


def test_bleu_is_that_of_sacrebleus_readme() -> None:
    pytest.importorskip("sacrebleu")
    said = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    known = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    assert METRICS["bleu"].score(said, known) == pytest.approx(0.48530827009929865)


def test_bleu_takes_pictures_with_different_numbers_of_references() -> None:
    pytest.importorskip("sacrebleu")
    same = "a dog runs over the green grass"
    assert METRICS["bleu"].score([same, same], [[same], ["a cat", same]]) == pytest.approx(1.0)


def test_rouge_l_of_the_example_in_rouge_scores_readme() -> None:
    """`the quick brown ... jumps ... the` is 5 words long; of 8 said, of 9 known: 2 * 5 / (8 + 9)."""
    pytest.importorskip("rouge_score")
    said, known = "The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog"
    assert METRICS["rouge_l"].score([said], [[known, "nothing"]]) == pytest.approx(10 / 17)


def test_cider_of_captions_that_share_no_word_with_each_other_is_ten_when_right_and_zero_when_swapped() -> None:
    pytest.importorskip("pycocoevalcap")
    captions = ["a dog runs fast", "two red birds sleep"]
    assert METRICS["cider"].score(captions, [[caption] for caption in captions]) == pytest.approx(10.0)
    assert METRICS["cider"].score(captions[::-1], [[caption] for caption in captions]) == pytest.approx(0.0)


def test_cider_of_one_word_too_many_is_that_of_its_formula() -> None:
    """All n-grams have one idf, which cancels: cosines 4/sqrt(5*4), 3/sqrt(4*3), 2/sqrt(3*2), 1/sqrt(2*1); lengths differ by 1, sigma 6."""
    pytest.importorskip("pycocoevalcap")
    cosines = [4 / math.sqrt(20), 3 / math.sqrt(12), 2 / math.sqrt(6), 1 / math.sqrt(2)]
    first = 10 * math.exp(-1 / 72) * sum(cosines) / 4
    score = METRICS["cider"].score(["one dog runs fast today", "x y z w"], [["one dog runs fast"], ["x y z w"]])
    assert score == pytest.approx((first + 10) / 2)


@pytest.mark.parametrize("name", METRICS)
def test_every_score_stays_in_its_range_and_refuses_what_it_cannot_compare(name: str) -> None:
    metric = METRICS[name]
    if metric.needs is not None:
        pytest.importorskip({"rouge-score": "rouge_score"}.get(metric.needs.partition("==")[0], metric.needs.partition("==")[0]))
    score = metric.score(["a dog on the grass", "b"], [["a dog on grass", "dog"], ["b", "a"]])
    assert isinstance(score, float) and 0 <= score <= metric.top
    for predictions, references, said in (
        ([], [], "no predictions to score"),
        (["a"], [], "1 predictions for 0 lists of references"),
        (["a"], [[]], "prediction 0 has no reference"),
        (["a"], ["a"], "references are lists of texts, not texts"),
    ):
        with pytest.raises(ValueError, match=said):
            metric.score(predictions, references)


def test_a_score_whose_package_is_not_installed_says_what_to_run() -> None:
    with pytest.raises(UserError) as caught:
        need("a_package_that_is_not_there.inside", "not-there==1.0", "CIDEr")
    assert str(caught.value) == (
        "metric\n    got: CIDEr needs the package not-there==1.0, which is not installed\n"
        "    fix: run: pip install 'not-there==1.0' (or pip install 'phasetune[text]')"
    )
