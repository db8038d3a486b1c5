"""What `check` says of a sampler that does not fit the study's space or goal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.check.kinds import STUDY, edited, load_text, problems_of
from tune.check import check

SAMPLER = "{kind: tpe, n_startup: 5}"
TWO = ("metric", "objectives: [{name: val/f1, mode: max}, {name: val/loss, mode: min}]")


def with_two_objectives(sampler: str) -> str:
    return edited(SAMPLER, sampler).replace("metric: {name: val/f1, mode: max}", TWO[1])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            with_two_objectives("{kind: cmaes}"),
            ("study.yaml:4: sampler.kind", "cmaes, which has one objective, with 2", "use nsga2, tpe or gp, or keep one objective"),
        ),
        (
            edited(SAMPLER, "{kind: nsga3}"),
            ("study.yaml:4: sampler.kind", "nsga3, which is for several objectives, with one", "use nsga2, tpe or gp"),
        ),
        (
            edited(SAMPLER, "{kind: cmaes}"),
            (
                "study.yaml:4: sampler.kind",
                "cmaes over optim.lr alone; it needs two int or float keys outside branches",
                "use tpe or gp",
            ),
        ),
        (
            edited(SAMPLER, "{kind: tpe, group: true}"),
            ("study.yaml:4: sampler.group", "true without multivariate", "add multivariate: true, or remove group"),
        ),
    ],
)
def test_a_sampler_that_cannot_is_refused_with_one_that_can(tmp_path: Path, text: str, problem: tuple[str, str, str]) -> None:
    assert problem in problems_of(tmp_path, text)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "nsga3", "quasi_random", "random"])
def test_every_other_sampler_takes_branches_and_two_objectives(tmp_path: Path, sampler: str) -> None:
    assert problems_of(tmp_path, with_two_objectives(f"{{kind: {sampler}}}")) == []


@pytest.mark.parametrize(
    ("sampler", "sets", "note"),
    [
        ("{kind: gp}", (), "gp leaves the keys within the branches of schedule, peft to independent random draws; tpe models them"),
        ("{kind: gp}", (), "gp learns from trials that ran to their end; of those that asha stops it hears nothing, tpe does"),
        (
            "{kind: gp}",
            ("budget.trials=900",),
            "gp needs seconds for a suggestion after some 500 complete trials, and ever more; tpe does not",
        ),
        ("{kind: nsga2}", (), "budget.trials is 32 and sampler.population 50: all trials are the first generation, nothing evolves"),
        (
            "{kind: cmaes}",
            ("space.optim.momentum={float: [0.0, 0.9]}", "trainable.optim.kind=sgd"),
            "cmaes leaves batch, schedule, peft to independent random draws; tpe models them",
        ),
        (
            "{kind: tpe, startup: quasi_random, n_startup: 40}",
            (),
            "budget.trials is 32 and sampler.n_startup 40: all trials are quasi-random, TPE's model is never used",
        ),
    ],
)
def test_what_a_sampler_leaves_to_chance_is_noted(tmp_path: Path, sampler: str, sets: tuple[str, ...], note: str) -> None:
    assert note in check(load_text(tmp_path, edited(SAMPLER, sampler), *sets))


def test_a_plain_tpe_study_has_no_note_on_samplers(tmp_path: Path) -> None:
    assert check(load_text(tmp_path, STUDY, "sampler.multivariate=true")) == []
