"""The report of a made study: what stands on the page, that it needs nothing else, and that nothing in a study can run in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.report import made_study
from tests.report.made_study import events_of, two_objectives, write
from tune.core.errors import UserError
from tune.core.journal import Ended, Entry, SessionStarted, Started, Suggested
from tune.report.command import read_facts, write_report
from tune.report.document import Document
from tune.report.plots_trials import rungs

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def report_of(folder: Path, entries: list[Entry]) -> tuple[Document, str, str]:
    """The document, the page and the Markdown of a study with this journal."""
    written, document = write_report(write(folder / "study-1", entries))
    return document, written.html.read_text(), written.markdown.read_text()


def own_text(page: str) -> str:
    """The page without Plotly's own source."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Document, str, str]:
    return report_of(tmp_path_factory.mktemp("made"), events_of("made", 40, finalists=3))


def test_a_person_finds_the_result_first_and_the_command_last(made: tuple[Document, str, str]) -> None:
    names = [section.name for section in made[0].sections]
    assert names == ["result", "progress", "parameters", "phases", "confusion", "slots", "failures", "cost", "trials", "reproduce"]
    assert "t0036" in made[0].headline and "val/f1_weighted 0.65" in made[0].headline


def test_the_winner_has_an_interval_over_seeds_and_a_test_against_the_runner_up(made: tuple[Document, str, str]) -> None:
    assert "(95 %), mean of 3 seeds" in made[0].cards[0].note
    said = made[0].sections[0].text[0]
    assert re.search(r"t0036 is better than the runner-up t0002 by 0\.\d+ \((paired t|Welch's t) test over .* seeds, p = 0\.0", said)


def test_every_plot_that_was_asked_for_is_there(made: tuple[Document, str, str]) -> None:
    names = {figure.name for section in made[0].sections for figure in section.figures}
    wanted = {"history", "curves", "importance-all", "parallel", "phases", "confusion", "timeline"}
    assert wanted <= names
    assert {name for name in names if name.startswith("slice-")} == {f"slice-{key}" for key in made_study.SPACE}
    assert any(name.startswith("contour-") for name in names)


def test_the_phases_of_the_best_and_of_all_and_the_stress_test_stand_in_tables(made: tuple[Document, str, str]) -> None:
    [phases] = [section for section in made[0].sections if section.name == "phases"]
    by_trial, of_best, stress = phases.tables
    assert by_trial.head == ("trial", "phase 0", "phase 1", "phase 2", "phase 3", "point") and len(by_trial.rows) == 26
    assert of_best.head[:6] == ("phase", "resolution (pixels)", "rows", "start", "seconds (s)", "test/accuracy")
    assert of_best.rows[3][:6] == ("3", "96", "50", "previous", "5", "0.5800")
    assert stress.rows == (("3", "96", "48", "0.4100"),)


def test_rungs_are_marked_on_the_learning_curves(made: tuple[Document, str, str]) -> None:
    [curves] = [figure for section in made[0].sections for figure in section.figures if figure.name == "curves"]
    assert [shape["x0"] for shape in curves.plot["layout"]["shapes"]] == [2, 4, 8]
    assert "judged after epoch 2, 4, 8" in curves.caption


def test_failures_stand_by_reason_with_an_example(made: tuple[Document, str, str]) -> None:
    [failures] = [section for section in made[0].sections if section.name == "failures"]
    assert [row[:2] for row in failures.tables[0].rows] == [("not_finite", "4"), ("out_of_memory", "2")]
    assert "3 attempts ended by something that may pass" in failures.text[0]


def test_the_command_the_commit_and_the_versions_are_given(made: tuple[Document, str, str]) -> None:
    reproduce = made[0].sections[-1]
    assert reproduce.code == (
        "git checkout 0123456789abcdef0123456789abcdef01234567\npython -m tune run configs/studies/quickstart.yaml --set 'study.name=a b'"
    )
    assert any("changes that were not committed" in warning for warning in reproduce.warnings)
    assert "ray 2.60.0, optuna 4.8.0" in dict(reproduce.tables[0].rows)["packages"]


def test_the_page_asks_the_network_for_nothing(made: tuple[Document, str, str]) -> None:
    page = own_text(made[1])
    assert re.findall(r"<(?:link|iframe|object|embed|base)\b|\bsrc=|@import|url\(", page) == []
    assert "default-src 'none'" in page


def test_only_the_scripts_whose_digests_stand_in_the_policy_may_run(made: tuple[Document, str, str]) -> None:
    allowed = set(re.findall(r"'sha256-([^']+)'", made[1]))
    scripts = re.findall(r"<script>(.*?)</script>", made[1], flags=re.DOTALL)
    assert len(scripts) == 2
    assert {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts} == allowed
    assert "'unsafe-inline'" not in made[1].split("script-src")[1].split('"')[0]


def test_plots_have_a_text_for_those_who_cannot_see_them_and_tables_have_headers(made: tuple[Document, str, str]) -> None:
    page = own_text(made[1])
    plots = re.findall(r'<div class="plot"[^>]*>', page)
    assert plots and all(re.search(r'role="img" aria-label="[^"]{20,}"', plot) for plot in plots)
    assert page.count("<table") == page.count("<thead>") and 'scope="col"' in page and 'scope="row"' in page


def test_the_markdown_has_the_same_tables_and_points_to_the_plots(made: tuple[Document, str, str]) -> None:
    text = made[2]
    assert "| optim.lr | 0.002156 | 0.0001 to 0.1, log |" in text
    assert "- [plot](report.html#figure-history): Best val/f1_weighted so far" in text
    assert "```\ngit checkout" in text


def test_markup_from_a_study_is_shown_and_never_run(tmp_path: Path) -> None:
    entries = events_of(EVIL, 12)
    entries = [_with_detail(entry, EVIL) for entry in entries]
    document, page, text = report_of(tmp_path, entries)
    assert document.title == EVIL
    assert "alert(1)</script><img" not in page and "&lt;script&gt;alert(1)" in page
    [data] = re.findall(r'<script type="application/json" id="plots">(.*?)</script>', page, flags=re.DOTALL)
    assert json.loads(data)["figures"]
    assert "\\<script\\>" in text


def _with_detail(entry: Entry, detail: str) -> Entry:
    event = entry.event
    if isinstance(event, Ended) and event.state == "failed":
        event = Ended(event.trial, "failed", (), reason=detail, detail=detail)
    return Entry(entry.seq, entry.t, event)


def test_several_objectives_have_a_front_a_knee_and_a_hypervolume(tmp_path: Path) -> None:
    document, _, _ = report_of(tmp_path, two_objectives("two", 40))
    assert document.headline.startswith("The knee of the front is t")
    [fronts] = [section for section in document.sections if section.name == "pareto"]
    assert [figure.name for figure in fronts.figures] == ["pareto-0-1", "hypervolume"]
    assert sum("(knee)" in row[0] for row in fronts.tables[0].rows) == 1


def test_a_front_of_one_trial_says_why_it_has_no_hypervolume(tmp_path: Path) -> None:
    document, _, _ = report_of(tmp_path, two_objectives("two", 1))
    [fronts] = [section for section in document.sections if section.name == "pareto"]
    assert fronts.text == ("The hypervolume needs two finished trials that differ in every objective.",)


def test_a_study_of_one_objective_has_no_pareto_section(made: tuple[Document, str, str]) -> None:
    assert "pareto" not in {section.name for section in made[0].sections}


def test_a_study_without_a_finished_trial_gets_a_page_that_says_so(tmp_path: Path) -> None:
    entries = [entry for entry in events_of("empty", 3, resume=False) if not isinstance(entry.event, Ended)]
    entries = [Entry(i, entry.t, entry.event) for i, entry in enumerate(entries)]
    document, page, text = report_of(tmp_path, entries)
    assert document.headline == "No trial has finished yet: there is no result."
    assert "3 trials not over; make the report again later." in page
    assert "There is no finished trial to report on." in text


def test_a_study_that_only_began_gets_a_page(tmp_path: Path) -> None:
    document, page, _ = report_of(tmp_path, events_of("begun", 0)[:2])
    assert "The study has not started a trial." in document.sections[0].text
    assert "plotly" not in page.lower()  # nothing to draw, nothing to carry


def test_failed_trials_alone_are_told_by_reason(tmp_path: Path) -> None:
    log = made_study.Recorder()
    log.at(0.0, made_study.started("bad"))
    log.at(0.0, SessionStarted(1, 1, "here"))
    for i in range(3):
        log.at(0.0, Suggested(f"t{i:04d}", i, "search", {"optim.lr": 0.1}))
        log.at(0.1, Started(f"t{i:04d}", 1, 0))
        log.at(1.0, Ended(f"t{i:04d}", "failed", (), reason="not_finite", detail="nan"))
    document, _, _ = report_of(tmp_path, log.entries)
    assert "Trials that ended: 3 x not_finite." in document.sections[0].text


def test_few_trials_carry_a_warning_at_the_importances(tmp_path: Path) -> None:
    document, _, _ = report_of(tmp_path, events_of("few", 12))
    [parameters] = [section for section in document.sections if section.name == "parameters"]
    assert parameters.warnings == ("fANOVA judged 4 parameters from 10 trials: too few for more than a hint.",)


def test_few_complete_trials_are_judged_where_more_of_them_stood(tmp_path: Path) -> None:
    facts = read_facts(write(tmp_path / "study-1", events_of("made", 40)))
    assert len(facts.measured) == 26
    assert facts.comparable(20).where == "complete trials"
    found = facts.comparable(30)
    assert (len(found.values), found.where) == (34, "trials, as they stood after epoch 2")
    assert all(value == dict(trial.curve)[2][made_study.METRIC] for trial, value in found.values)


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        ({"kind": "asha", "grace": 5, "factor": 4, "max": 50}, (5, 20)),
        ({"kind": "asha", "form": "promote", "grace": 1, "factor": 3, "max": 10, "brackets": 2}, (1, 3)),
        ({"kind": "hyperband", "grace": 1, "factor": 3, "max": 10}, (1, 3)),
        ({"kind": "median", "grace": 2}, ()),
        ({"kind": "of_tomorrow"}, ()),
        (None, ()),
    ],
)
def test_rungs_are_those_of_the_studys_ladders(tmp_path: Path, scheduler: dict[str, object] | None, steps: tuple[int, ...]) -> None:
    facts = read_facts(write(tmp_path / "study-1", events_of("made", 4, scheduler=scheduler)))
    assert rungs(facts) == steps


def test_a_file_outside_the_trials_folder_is_never_opened(tmp_path: Path) -> None:
    study = write(tmp_path / "study-1", events_of("made", 8))
    (tmp_path / "secret.json").write_text(json.dumps({"classes": ["a"], "true_by_predicted": [[1]]}))
    facts = read_facts(study)
    [trial] = facts.measured[:1]
    assert facts.read_file(trial, "../../../secret.json") is None
    assert facts.read_file(trial, "confusion_matrix.json") is not None


@pytest.mark.parametrize("text", ["{", "[]", '{"classes": ["a"], "true_by_predicted": [[1, 2]]}', '{"classes": 3}', "[" * 9999])
def test_a_damaged_confusion_matrix_is_left_out(tmp_path: Path, text: str) -> None:
    study = write(tmp_path / "study-1", events_of("made", 8))
    facts = read_facts(study)
    assert facts.winner is not None
    (study / "trials" / facts.winner.trial / "confusion_matrix.json").write_text(text)
    assert facts.confusion(facts.winner) is None


def test_a_folder_without_a_study_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no journal.jsonl there"):
        write_report(tmp_path)


def test_a_report_that_cannot_be_written_names_the_folder(tmp_path: Path) -> None:
    study = write(tmp_path / "study-1", events_of("made", 4))
    (study / "report").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"report\n    got: it cannot be written"):
        write_report(study)
