"""Every study and cluster file that is shipped passes `check`."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tune.check import check, resolved_text
from tune.core.spec import validated
from tune.core.study import ClusterPart
from tune.load import load_resolved, load_study
from tune.report.published import read_published
from tune.yaml_file import read

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PUBLISHED = sorted(CONFIGS.glob("papers/*/published.yaml"))
STUDIES = sorted({*CONFIGS.glob("studies/**/*.yaml"), *CONFIGS.glob("papers/**/*.yaml")} - {*PUBLISHED})
CLUSTERS = sorted(CONFIGS.glob("clusters/*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=[str(path.relative_to(CONFIGS)) for path in STUDIES])
def test_a_shipped_study_is_sound(path: Path) -> None:
    loaded = load_study(path)
    check(loaded)
    assert resolved_text(loaded)
    assert load_resolved(loaded.resolved).spec.digest == loaded.spec.digest


@pytest.mark.parametrize("path", STUDIES, ids=[str(path.relative_to(CONFIGS)) for path in STUDIES])
def test_a_shipped_study_opens_with_its_header(path: Path) -> None:
    """Command, hardware, minutes, cost and expected result stand at the top as comments."""
    comment = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines()))
    assert "phasetune run" in comment or "make run" in comment or "-m tune run" in comment


@pytest.mark.parametrize("path", CLUSTERS, ids=[path.stem for path in CLUSTERS])
def test_a_shipped_cluster_is_sound(path: Path) -> None:
    document = read(path)
    assert document.problems == []
    assert validated(ClusterPart, document.value)[1] == []


@pytest.mark.parametrize("path", PUBLISHED, ids=[path.parent.name for path in PUBLISHED])
def test_published_numbers_are_sound_and_name_their_sources(path: Path) -> None:
    published = read_published(path)
    assert published.paper and all(result.source for result in published.results)


def test_no_other_kind_of_file_stands_under_configs() -> None:
    known = {*STUDIES, *CLUSTERS, *PUBLISHED, CONFIGS / "prices.yaml"}
    assert [path for path in CONFIGS.rglob("*.y*ml") if path not in known] == []
