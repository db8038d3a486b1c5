"""The ladder against Optuna and Ray, both seen from outside: where is a trial that turns bad at step s stopped?"""

from __future__ import annotations

import pytest

from tune.core.rungs import expected_steps, milestones

LADDERS = [(5, 4, 50), (1, 4, 50), (1, 2, 9), (2, 3, 19), (5, 4, 80), (5, 4, 81), (3, 3, 3), (4, 4, 5)]


def test_the_published_ladder_judges_after_epochs_6_and_21() -> None:
    assert [step + 1 for step in milestones(5, 4, 50)] == [6, 21]


def test_later_brackets_start_later() -> None:
    assert milestones(1, 4, 50, bracket=1) == (4, 16)


@pytest.mark.parametrize(("grace", "factor", "max_steps"), LADDERS)
def test_the_ladder_is_that_of_optunas_successive_halving(grace: int, factor: int, max_steps: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def stopped_at(bad_from: int) -> int | None:
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=grace, reduction_factor=factor, min_early_stopping_rate=0)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        good, turning = study.ask(), study.ask()
        for step in range(max_steps):
            good.report(1.0, step)
            good.should_prune()
        for step in range(max_steps):
            turning.report(1.0 if step < bad_from else 0.0, step)
            if turning.should_prune():
                return step
        return None

    last = max_steps - 1  # Optuna would judge there too, where a trial is complete
    assert {stopped_at(step) for step in range(max_steps)} - {None, last} == set(milestones(grace, factor, max_steps))


@pytest.mark.slow
@pytest.mark.parametrize(("grace", "factor", "max_steps"), LADDERS)
def test_the_ladder_is_that_of_rays_asha_on_a_zero_based_axis(grace: int, factor: int, max_steps: int) -> None:
    if grace >= max_steps:
        pytest.skip("Ray refuses a grace period of a whole trial")
    from tune.adapters.schedulers import SeededASHA

    def stopped_at(bad_from: int) -> int | None:
        asha = SeededASHA("max", 0, grace=grace, factor=factor, max_steps=max_steps)
        asha.add("good")
        asha.add("turning")
        for step in range(max_steps):
            asha.decide("good", step, (1.0,))
        for step in range(max_steps):
            if asha.decide("turning", step, (1.0 if step < bad_from else 0.0,)).action == "stop":
                return step
        return None

    assert {stopped_at(step) for step in range(max_steps)} - {None} == set(milestones(grace, factor, max_steps))


def test_expected_steps_of_a_ladder_without_rungs_is_a_whole_trial() -> None:
    assert expected_steps(50, (), 4) == 50
    assert expected_steps(50, (5, 20), 4) == 6 + 15 / 4 + 29 / 16
