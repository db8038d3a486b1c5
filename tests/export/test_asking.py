"""Pictures by name, folder and pattern; questions that do not fit the model; answers when some pictures are damaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tune.core.errors import UserError
from tune.core.exports import Answer, Query
from tune.exporting.manifest import Manifest
from tune.exporting.predict import BATCH, Export, Line, Unreadable, answer_all, check_question, find_pictures


def model(task: Any = "labels", text: Any = "none", kind: str = "timm_cnn") -> Manifest:
    return Manifest(kind, task, text, 100, "s", "t0000", {}, {}, "0.1.0", {})


class Echo:
    """Answers with the picture's name and the words beside it, and remembers how many came at once."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        self.batches.append(len(queries))
        return [Answer(f"{query.image}{query.text or ''}", (("a", 0.75), ("b", 0.25))) for query in queries]


def decode(path: Path, max_pixels: int) -> str:
    assert max_pixels == 100
    if "bad" in path.name:
        raise Unreadable("it is cut off")
    return path.stem


def test_pictures_are_found_by_name_below_folders_and_by_pattern_each_once(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.JPG", "sub/notes.txt", "sub/deep/c.webp", "d.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    words = [str(tmp_path / "d.dat"), str(tmp_path / "sub"), str(tmp_path / "**" / "*.png"), str(tmp_path / "sub" / "b.JPG")]
    found, problems = find_pictures(words)
    assert problems == []
    assert [str(path.relative_to(tmp_path)) for path in found] == ["d.dat", "sub/b.JPG", "sub/deep/c.webp", "a.png"]


def test_words_that_name_no_picture_are_all_told_at_once(tmp_path: Path) -> None:
    words = [str(tmp_path / "gone.png"), str(tmp_path), str(tmp_path / "*.png")]
    found, problems = find_pictures(words)
    assert found == []
    said = ["no such file or folder", "a folder without pictures", "a pattern that matches no file"]
    assert [(problem.where, problem.got) for problem in problems] == list(zip(words, said, strict=True))


@pytest.mark.parametrize(
    ("asked", "text", "top", "said"),
    [
        (model(), "what?", None, ["words, but a timm_cnn model looks at the picture alone"]),
        (model("text", "required", "vlm_peft"), None, None, ["nothing, but this vlm_peft model needs words beside the picture"]),
        (model("text", "required", "vlm_peft"), "what?", 2, ["2, but this vlm_peft model writes one answer"]),
        (model("labels", "optional"), None, 3, []),
    ],
)
def test_an_option_without_effect_is_refused(asked: Manifest, text: str | None, top: int | None, said: list[str]) -> None:
    assert [problem.got for problem in check_question(asked, text, top)] == said


def test_damaged_pictures_are_named_and_the_others_answered_in_order() -> None:
    echo = Echo()
    names = [f"p{i}.png" for i in range(BATCH)] + ["bad.png", "last.png"]
    lines = list(answer_all(echo.answer, [Path(name) for name in names], "?", 100, decode))
    assert [line.image for line in lines] == names
    assert lines[BATCH] == Line("bad.png", None, "it is cut off")
    assert [line.answer.text for line in lines if line.answer] == [f"p{i}?" for i in range(BATCH)] + ["last?"]
    assert echo.batches == [BATCH, 1]


def test_a_model_is_not_asked_about_nothing() -> None:
    echo = Echo()
    assert [line.error for line in answer_all(echo.answer, [Path("bad.png")], None, 100, decode)] == ["it is cut off"]
    assert echo.batches == []


def test_a_line_reads_the_same_for_people_and_for_scripts() -> None:
    line = Line("cat.png", Answer("cat", (("cat", 0.8), ("dog", 0.15), ("cow", 0.05))))
    assert line.to_text(2, 9) == "cat.png    cat 0.800  dog 0.150"
    assert line.to_json(2) == {"image": "cat.png", "answer": "cat", "shares": {"cat": 0.8, "dog": 0.15}}
    said = Line("cat.png", Answer("a cat\non a mat"))
    assert said.to_text(3, 7) == "cat.png  a cat on a mat" and said.to_json(3) == {"image": "cat.png", "answer": "a cat\non a mat"}
    assert Line("x.png", None, "it is empty").to_json(3) == {"image": "x.png", "error": "it is empty"}


def test_an_export_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    from tune.exporting import manifest

    manifest.write(model(kind="later_kind"), tmp_path)
    with pytest.raises(UserError, match="an export of kind 'later_kind', which this Phasetune cannot open"):
        Export(tmp_path)
