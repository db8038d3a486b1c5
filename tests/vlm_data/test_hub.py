"""A hub data set, saved to disk or asked for by name: columns by usual names, and what is said where the hub cannot be reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.vlm_data.open import open_rows
from trainables.vlm_data.spec import VlmDataSpec
from tune.core.errors import UserError

ASK = """
from tune.core.errors import UserError
from trainables.vlm_data.open import open_rows
from trainables.vlm_data.spec import VlmDataSpec
try:
    open_rows(VlmDataSpec(reader="gqa", source="hf:owner/questions"))
except UserError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    def part(n: int, first: int) -> object:
        images = [Image.new("RGB", (8, 6), (first + k, k, 0)) for k in range(n)]
        columns = {
            "image": images,
            "question": [f"Which {k}?" for k in range(n)],
            "choices": [["red", "green", "blue"]] * n,
            "answer": [k % 3 for k in range(n)],
            "hint": ["Look."] * n,
        }
        return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())

    root = tmp_path_factory.mktemp("saved")
    whole = datasets.DatasetDict({"train": part(5, 1), "validation": part(2, 50), "test": part(3, 100)})
    whole.save_to_disk(str(root / "scienceqa"))
    return root / "scienceqa"


@pytest.mark.slow
def test_a_saved_data_set_is_read_by_the_usual_names_of_columns(saved: Path) -> None:
    table = open_rows(VlmDataSpec(reader="scienceqa", source=str(saved)))
    assert table.counts() == {"train": 5, "val": 2, "test": 3}
    row = table.rows[1]
    assert (row.text, row.choices, row.answers, row.context) == ("Which 1?", ("red", "green", "blue"), ("green",), "Look.")
    assert row.image is not None and row.image.load()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_split_that_a_saved_data_set_lacks_is_named(saved: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_rows(VlmDataSpec(reader="gqa", source=str(saved)))
    assert f"there is no split testdev in {saved}\n    fix: use one of train, validation, test" in str(caught.value)


@pytest.mark.slow
def test_a_hub_name_without_the_hub_says_what_to_get_and_where_to_put_it(tmp_path: Path) -> None:
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}  # read when the library is imported, so a process of its own
    said = subprocess.run([sys.executable, "-c", ASK], env=offline, capture_output=True, text=True, check=True).stdout
    assert said.startswith("trainable.data.source = hf:owner/questions\n    got: owner/questions cannot be had: ")
    assert (
        "datasets.load_dataset('owner/questions').save_to_disk('DIR'), then bring DIR and name it here; or get GQA (gqadataset.org)" in said
    )
