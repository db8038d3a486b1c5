"""Studies side by side: ranking, the test that fits what there is, published numbers, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.made_study import METRIC, events_of, started, two_objectives, write
from tune.core.errors import UserError
from tune.core.journal import Noted
from tune.report.command import compare_studies
from tune.report.markdown import markdown
from tune.report.published import read_published

PUBLISHED = """
paper: Someone et al. 2025
test_items: 180
results:
  - {system: ResNet-50, metric: test/accuracy, value: 0.5889, source: table 5}
  - {system: ResNet-50, metric: test/f1_weighted, value: 0.5724, source: table 5}
"""


def test_repeated_winners_are_compared_over_seeds(tmp_path: Path) -> None:
    a = write(tmp_path / "a-1", events_of("a", 30, seed=1, finalists=2))
    b = write(tmp_path / "b-1", events_of("b", 30, seed=2, finalists=2))
    found, document = compare_studies([a, b], None, None)
    assert found.test is not None and "t test over 3" in found.test.how
    values = [each.value for each in found.studies]
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]
    assert found.studies[0].label in document.headline


def test_single_trainings_are_compared_on_the_same_test_items(tmp_path: Path) -> None:
    a = write(tmp_path / "a-1", events_of("a", 20, seed=1))
    b = write(tmp_path / "b-1", events_of("b", 20, seed=2))
    found, document = compare_studies([a, b], None, None)
    assert found.test is not None and found.test.how.startswith("McNemar's exact test over 200 test items")
    assert "difference in test accuracy" in document.sections[0].text[0]


def test_without_repeats_or_answers_it_says_which_file_is_missing(tmp_path: Path) -> None:
    a = write(tmp_path / "a-1", events_of("a", 20, seed=1))
    b = write(tmp_path / "b-1", events_of("b", 20, seed=2), files=False)
    found, document = compare_studies([a, b], None, None)
    assert found.test is None
    assert "predictions.csv (item,label,predicted), which b-1 lacks" in document.sections[0].text[0]
    assert found.studies[0].sure == "one training, no interval"


def test_two_studies_of_the_same_value_are_level_and_neither_is_called_best(tmp_path: Path) -> None:
    a = write(tmp_path / "a-1", events_of("a", 20, seed=1))
    b = write(tmp_path / "b-1", events_of("b", 20, seed=1))
    found, document = compare_studies([a, b], None, None)
    assert document.headline.startswith(f"a-1 and b-1 are level: {found.metric} ")
    low, high = document.sections[0].figures[0].plot["layout"]["xaxis"]["range"]
    value = found.studies[0].value
    assert value is not None and low < value < high < 1.2 * value


def test_answers_to_other_items_are_not_compared(tmp_path: Path) -> None:
    a = write(tmp_path / "a-1", events_of("a", 20, seed=1))
    b = write(tmp_path / "b-1", events_of("b", 20, seed=2))
    for file in (b / "trials").glob("*/predictions.csv"):
        file.write_text(file.read_text().replace("img-", "other-"))
    found, _ = compare_studies([a, b], None, None)
    assert found.no_test == "their best trials were tested on different items"


def test_a_study_without_a_finished_trial_stands_last_and_says_so(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty-1", events_of("empty", 0))
    full = write(tmp_path / "full-1", events_of("full", 20))
    found, document = compare_studies([empty, full], None, None)
    assert [each.label for each in found.studies] == ["full-1", "empty-1"]
    assert found.studies[1].sure == "no finished trial"
    assert "fewer than two studies have a value" in document.sections[0].text[0]


def test_published_numbers_stand_beside_ours_and_both_are_labelled(tmp_path: Path) -> None:
    ours = write(tmp_path / "ours-1", events_of("ours", 20))
    paper = tmp_path / "published.yaml"
    paper.write_text(PUBLISHED)
    found, document = compare_studies([ours], "test/accuracy", paper)
    [section] = [section for section in document.sections if section.name == "published"]
    rows = {row[0]: row for row in section.tables[0].rows}
    assert rows["ours-1"][1] == "ours" and rows["ResNet-50"][1] == "published"
    assert rows["ResNet-50"][2:] == ("0.5889 (0.5159 to 0.6582)", "0.5724", "table 5")
    assert found.to_json()["published"]["paper"] == "Someone et al. 2025"


def test_studies_without_a_common_objective_are_refused_with_what_they_share(tmp_path: Path) -> None:
    a = write(tmp_path / "a-1", events_of("a", 20))
    b = write(tmp_path / "b-1", events_of("b", 20, metric={"name": "val/loss", "mode": "min"}))
    with pytest.raises(UserError, match="without a common objective") as caught:
        compare_studies([a, b], None, None)
    assert "val/loss (min)" in str(caught.value) and "--metric: test/accuracy" in str(caught.value)


def test_the_same_metric_in_the_other_direction_is_not_a_common_objective(tmp_path: Path) -> None:
    a = write(tmp_path / "a-1", events_of("a", 20))
    b = write(tmp_path / "b-1", events_of("b", 20, metric={"name": METRIC, "mode": "min"}))
    with pytest.raises(UserError, match="without a common objective"):
        compare_studies([a, b], None, None)


def test_a_study_named_twice_is_refused(tmp_path: Path) -> None:
    a = write(tmp_path / "a-1", events_of("a", 20))
    with pytest.raises(UserError, match="named 2 times"):
        compare_studies([a, tmp_path / "." / "a-1"], None, None)


def test_a_named_metric_decides_and_the_page_says_that_it_was_not_searched_for(tmp_path: Path) -> None:
    a = write(tmp_path / "a-1", events_of("a", 20, seed=1))
    b = write(tmp_path / "b-1", events_of("b", 20, seed=2))
    found, document = compare_studies([a, b], "test/accuracy", None)
    assert found.metric == "test/accuracy" and found.mode == "max"
    assert any("chosen by that, not by test/accuracy" in warning for warning in document.sections[0].warnings)


def test_an_unknown_metric_gets_the_near_one(tmp_path: Path) -> None:
    a = write(tmp_path / "a-1", events_of("a", 20))
    with pytest.raises(UserError, match=r"'test/acuracy', which no best trial reports \(did you mean 'test/accuracy'\?\)"):
        compare_studies([a], "test/acuracy", None)


def test_all_bad_directories_are_named_at_once(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError) as caught:
        compare_studies([tmp_path / "x", tmp_path / "y"], None, tmp_path / "none.yaml")
    assert len(caught.value.problems) == 3


def test_several_objectives_are_compared_by_hypervolume_too(tmp_path: Path) -> None:
    a, b = (write(tmp_path / f"{name}-1", two_objectives(name, 30, seed)) for name, seed in (("a", 1), ("b", 2)))
    found, document = compare_studies([a, b], None, None)
    assert "hypervolume" in document.sections[0].tables[0].head
    assert found.metric == METRIC


def test_folders_of_the_same_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    a, b = (write(tmp_path / name / "study-1", events_of("s", 12, seed=i)) for i, name in enumerate("ab"))
    found, _ = compare_studies([a, b], None, None)
    assert {each.label for each in found.studies} == {str(a), str(b)}


def test_the_terminals_text_has_no_links_to_plots(tmp_path: Path) -> None:
    a = write(tmp_path / "a-1", events_of("a", 20))
    _, document = compare_studies([a], None, None)
    assert "](" not in markdown(document, None)


@pytest.mark.parametrize(
    ("text", "where", "said"),
    [
        ("[1]", "published.yaml", "not a mapping"),
        ("paper: x\nresults: []\n", "published.yaml:2: results", ""),
        ("paper: x\nresults:\n  - {system: a, metric: b, value: c, source: d}\n", "published.yaml:3: results.0.value", "c"),
        ("paper: x\nresults:\n  - {system: a, metric: b, value: 1.0}\n", "results.0", "source"),
        (PUBLISHED + "  - {system: ResNet-50, metric: test/accuracy, value: 0.6, source: table 5}\n", "published.yaml:7", "a second time"),
    ],
)
def test_a_bad_file_of_published_numbers_is_refused_at_its_line(tmp_path: Path, text: str, where: str, said: str) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_published(path)
    assert where in str(caught.value) and said in str(caught.value)


def test_made_studies_are_what_these_tests_think() -> None:
    assert started("x").resolved["metric"] == {"name": METRIC, "mode": "max"}


def test_studies_of_different_data_have_no_best(tmp_path: Path) -> None:
    folders = []
    for name, digest in (("a", "one"), ("b", "another")):
        noted = Noted("data", {"digest": digest, "rows": {"test": 200}})
        entries = [replace(e, event=noted) if isinstance(e.event, Noted) else e for e in events_of(name, 8, seed=1)]
        folders.append(write(tmp_path / f"{name}-1", entries))
    found, document = compare_studies(folders, None, None)
    assert not found.same_data and "used different data" in document.headline
