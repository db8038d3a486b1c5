"""What is refused before anything is paid, each with where, got and fix; and what a study shares at a provider."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.openai.making import KEY_ENV
from tests.openai_phases.trials import pictures, spec_of
from tests.openai_server.server import LocalServer
from tests.openai_server.settings import Settings
from trainables.adapters.openai_client import OpenAIWire
from trainables.openai_phases.estimate import estimate, working
from trainables.openai_phases.preflight import latest_end, look_with
from trainables.openai_phases.queue import one_worker, permits
from trainables.openai_phases.spec import OpenaiPhasesSpec
from tune.core.errors import UserError
from tune.core.permits import Permit

pytestmark = pytest.mark.slow
NOW = 1_795_000_000.0  # 2026-11-18


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(settings=Settings(speed=0)) as running:
        yield running


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, "sk-local-0123456789abcdef")


def look(spec: OpenaiPhasesSpec, now: float = NOW) -> dict[str, Any]:
    return look_with(spec, OpenAIWire, lambda: now, lambda seconds: None)


def problems(spec: OpenaiPhasesSpec, now: float = NOW) -> str:
    with pytest.raises(UserError) as caught:
        look(spec, now)
    return str(caught.value)


def test_sound_data_and_a_living_model_give_the_facts_of_a_trial(server: LocalServer, root: Path) -> None:
    facts = look(spec_of(server, root))
    assert facts["rows"] == {"train": 36, "val": 12, "test": 12} and facts["classes"] == ["cat", "dog", "pig"]
    assert [(p["phase"], p["rows"]) for p in facts["phases"]] == [(0, 0), (1, 15), (2, 15)]
    assert facts["shutdown_date"] == "2027-01-14" and facts["usd"].startswith("$")


def test_all_that_is_wrong_is_told_at_once(server: LocalServer, root: Path) -> None:
    wrong = spec_of(
        server, root, model="gpt-4o-mini-2024-07-18", zero_shot_model="gpt-9", phases={"count": 2, "per_class": 3, "zero_shot": True}
    )
    told = problems(wrong)
    assert "trainable.zero_shot_model" in told and "gpt-9, which http://" in told
    assert "no prices of gpt-4o-mini-2024-07-18" in told and "trainable.profile.price_file" in told


def test_a_file_of_too_few_rows_is_refused_before_it_is_uploaded(server: LocalServer, root: Path) -> None:
    told = problems(spec_of(server, root, phases={"count": 2, "per_class": 3}))
    assert "9 examples" in told and "give at least 10" in told


def test_no_key_is_named_by_its_variable(server: LocalServer, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV)
    assert f"no key in {KEY_ENV}" in problems(spec_of(server, root))


def test_a_model_that_ends_before_a_trial_may_is_refused(server: LocalServer, root: Path) -> None:
    late = NOW + 55 * 86_400
    told = problems(spec_of(server, root), late)
    assert "which is shut down on 2027-01-14; a trial may last until 2027-01-19" in told and "trainable.model" in told
    assert latest_end(spec_of(server, root), late).isoformat() == "2027-01-19"


def test_a_service_that_does_not_answer_is_named_by_its_address(server: LocalServer, root: Path) -> None:
    told = problems(spec_of(server, root, profile={"base_url": "http://127.0.0.1:9/v1"}))
    assert "trainable.profile.base_url" in told and "no answer" in told


def test_the_plan_s_dollars_come_with_their_working(server: LocalServer, root: Path) -> None:
    spec = spec_of(server, root)
    told = working(spec)
    assert "15 examples at 100 px" in told and "x 3 epochs" in told and "x $25/M" in told
    assert estimate(spec).usd == pytest.approx(float(told.rpartition("to $")[2].split("\n")[0]), abs=0.01)


def test_permits_are_the_profile_s_limits(server: LocalServer, root: Path) -> None:
    queue = {"concurrent_jobs": 3, "jobs_per_day": 12, "tokens_per_minute": 9000}
    assert permits(spec_of(server, root, profile={"queue": queue})) == {
        "local:jobs": Permit(at_once=3, a_day=12),
        "local:requests": Permit(),
        "local:tokens": Permit(a_minute=9000),
    }


def test_a_trial_has_one_worker(server: LocalServer, root: Path) -> None:
    one_worker(spec_of(server, root), 1)
    with pytest.raises(UserError, match="2, and a trial of openai_phases has one"):
        one_worker(spec_of(server, root), 2)
