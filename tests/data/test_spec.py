"""A data set's spec refuses what it would not use, says what each field is for, and costs no heavy import."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from trainables.data.spec import DataSpec, SplitSpec


def test_shares_that_are_not_one_whole_are_refused_with_their_sum() -> None:
    with pytest.raises(ValidationError, match=r"train \+ val \+ test must be 1, got 1\.1"):
        SplitSpec(train=0.7)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        DataSpec.model_validate({"sauce": "bundled"})


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DataSpec().source = "elsewhere"  # type: ignore[misc]


@pytest.mark.parametrize("spec", [DataSpec, SplitSpec])
def test_every_field_says_what_it_is_for(spec: type[DataSpec] | type[SplitSpec]) -> None:
    assert [name for name, field in spec.model_fields.items() if not field.description] == []


def test_reading_the_spec_loads_no_heavy_package() -> None:
    code = "import sys, trainables.data.spec; print(sorted({'numpy', 'torch', 'PIL', 'pyarrow', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
