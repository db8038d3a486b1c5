"""The shipped phase studies say what the published experiment was; the axis of reports and the ladder's must agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.timm_cnn.spec import TimmCnnSpec
from tune.core.errors import UserError
from tune.load import LoadedStudy, load_study

PAPERS = Path("configs/papers/roumeliotis2025")
BUNDLED = Path("configs/studies/phases.yaml")
BY_PHASE = ("trainable.report=phase", "scheduler={kind: asha, axis: phase, grace: 1, factor: 2}")


def base(loaded: LoadedStudy) -> TimmCnnSpec:
    spec = loaded.spec.spec_at({})
    assert isinstance(spec, TimmCnnSpec)
    return spec


@pytest.mark.parametrize("model", ["resnet50", "convnext_tiny"])
def test_the_published_phases_are_written_down(model: str) -> None:
    loaded = load_study(PAPERS / f"phases_{model}.yaml")
    spec = base(loaded)
    assert spec.phases is not None
    assert [(phase.blocks, phase.start) for phase in spec.phase_list] == [
        ((0,), "base"), ((1,), "previous"), ((2,), "previous"), ((3,), "previous")
    ]  # fmt: skip
    assert spec.phases.sizes == (7, 7, 7, 7) and spec.stress == (100, 200, 400)
    assert [point["image_size"] for point in loaded.spec.first] == [100, 200, 400]
    assert loaded.spec.budget.trials == 3


@pytest.mark.parametrize("model", ["resnet50", "convnext_tiny"])
def test_but_for_the_phases_the_recipe_is_that_of_the_published_search(model: str) -> None:
    phases, search = base(load_study(PAPERS / f"phases_{model}.yaml")), base(load_study(PAPERS / f"{model}_400.yaml"))
    assert phases.model_copy(update={"phases": None, "stress": (), "objective": "last", "refit": search.refit}) == search


def test_the_bundled_study_has_four_phases_and_three_resolutions_in_the_published_proportion() -> None:
    loaded = load_study(BUNDLED)
    sizes = [point["image_size"] for point in loaded.spec.space.grid() if point["phases.start"] == "previous"]
    assert len(base(loaded).phase_list) == 4 and [size / sizes[0] for size in sizes] == [1, 2, 4]
    assert set(base(loaded).stress) == set(sizes)


def test_a_ladder_may_stand_at_phase_ends_and_is_then_as_long_as_there_are_phases() -> None:
    assert load_study(BUNDLED, BY_PHASE).resolved["scheduler"]["max"] == 4
    by_epoch = load_study(BUNDLED, ["scheduler={kind: asha, grace: 5, factor: 2}"])
    assert by_epoch.resolved["scheduler"]["max"] == 24


def test_the_longest_trial_of_the_space_is_meant() -> None:
    more = "space.phases.count={choice: [2, 4]}"
    assert load_study(BUNDLED, [*BY_PHASE, more, "trainable.phases.count=1"]).resolved["scheduler"]["max"] == 4


@pytest.mark.parametrize(
    ("sets", "where", "got", "fix"),
    [
        (BY_PHASE[1:], "scheduler.axis", "phase, while trainable.report is epoch", "set trainable.report to phase, or axis to epoch"),
        (
            ["scheduler={kind: asha, axis: phases}"],
            "scheduler.axis",
            "phases (did you mean 'phase'?)",
            "use epoch or phase: that is what the steps of timm_cnn count",
        ),
        (
            ["space.report={choice: [epoch, phase]}"],
            "space.report",
            "report, which is one for the whole study",
            "remove it, and set trainable.report",
        ),
        (
            ["trainable.phases.zero_shot=true"],
            "trainable",
            "phases.zero_shot with a new head, which has learnt nothing before the first phase",
            "set it to false",
        ),
        (["trainable.epochs=[3, 4]"], "trainable", "epochs has 2 numbers for 4 phases", "give one number, or one for each phase"),
        (["trainable.stress=[96, 96]"], "trainable", "stress has a size twice, [96, 96]", "give each once"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(sets: list[str], where: str, got: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        load_study(BUNDLED, sets)
    found = [(problem.where.rpartition(" ")[2], problem.got, problem.fix) for problem in caught.value.problems]
    assert (where, got, fix) in found
