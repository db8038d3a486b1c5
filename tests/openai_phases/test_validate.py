"""Every published limit at its border: exactly at it is good, one over is refused, with the line and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.making import encoded, image
from tests.openai_phases.making import JPEG, LETTERS, RATES, data_url, example, limits_with, look, said, spec, table, write
from trainables.openai_phases.jsonl import BOM, write_batches, write_examples
from trainables.openai_phases.limits import LIMITS
from trainables.openai_phases.tokens import bounds
from trainables.openai_phases.validate import MOST_PROBLEMS, check_file, look_at_file
from tune.core.errors import UserError

TEN = [example()] * 10


def one(tmp_path: Path, record: Any, **how: Any) -> list[str]:
    """What is said of a file whose first line is `record` and the others sound."""
    return said(look(write(tmp_path / "f.jsonl", [record, *TEN]), **how))


# -- the published figures ------------------------------------------------------------------------------------------------------


def test_the_limits_of_openai_are_the_published_ones() -> None:
    limits = LIMITS["openai"]
    assert (limits.file_bytes, limits.upload_bytes, limits.part_bytes) == (512_000_000, 8_000_000_000, 64_000_000)
    assert (limits.min_examples, limits.image_examples, limits.images_per_example, limits.image_bytes) == (10, 50_000, 10, 10_000_000)
    assert (limits.example_tokens, limits.suffix_chars, limits.metadata_keys) == (65_536, 64, 16)
    assert (limits.batch_requests, limits.batch_bytes) == (50_000, 200_000_000)


def test_foundry_deviates_in_file_size_pictures_and_suffix() -> None:
    ours, theirs = LIMITS["openai"].model_dump(), LIMITS["azure_foundry"].model_dump()
    assert {name: theirs[name] for name in ours if ours[name] != theirs[name]} == {
        "file_bytes": 511_999_999,
        "upload_bytes": 511_999_999,
        "images_per_example": 64,
        "suffix_chars": 18,
    }


# -- files ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "good"), [(10, True), (9, False)])
def test_a_training_file_has_ten_examples(tmp_path: Path, n: int, good: bool) -> None:
    report = look(write(tmp_path / "f.jsonl", TEN[:n]))
    assert said(report) == ([] if good else ["f.jsonl | 9 examples"])


@pytest.mark.parametrize(("n", "good"), [(1, True), (0, False)])
def test_a_validation_file_has_one_example(tmp_path: Path, n: int, good: bool) -> None:
    assert (said(look(write(tmp_path / "f.jsonl", TEN[:n]), use="validation")) == []) == good


@pytest.mark.parametrize("over", [0, 1])
def test_a_file_is_as_large_as_an_upload_in_parts_may_be(tmp_path: Path, over: int) -> None:
    path = write(tmp_path / "f.jsonl", TEN)
    size = path.stat().st_size
    report = look(path, file_bytes=1, upload_bytes=size - over)  # file_bytes: above it goes up in parts
    assert said(report) == ([f"f.jsonl | {size:,} bytes"] if over else [])
    assert report.size_bytes == size


@pytest.mark.parametrize("over", [0, 1])
def test_only_so_many_examples_have_pictures(tmp_path: Path, over: int) -> None:
    text_only = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    report = look(write(tmp_path / "f.jsonl", [*TEN, text_only]), image_examples=10 - over)
    assert said(report) == (["f.jsonl | 10 examples with pictures"] if over else [])
    assert (report.n_lines, report.n_image_lines, report.n_images) == (11, 10, 10)


def test_foundry_wants_a_byte_order_mark_and_the_others_refuse_one(tmp_path: Path) -> None:
    with_one, without = write(tmp_path / "a.jsonl", TEN, BOM), write(tmp_path / "b.jsonl", TEN)
    assert said(look(with_one, dialect="azure_foundry")) == said(look(without)) == []
    assert said(look(without, dialect="azure_foundry")) == ["b.jsonl:1 | no byte-order mark"]
    assert said(look(with_one)) == ["a.jsonl:1 | a byte-order mark"]


@pytest.mark.parametrize(
    ("line", "got"),
    [
        (b"\n", "an empty line"),
        (b'{"messages": [\n', "text that is no JSON"),
        (b'{"messages": NaN}\n', "NaN, which JSON does not have"),
        (b'{"messages": "\xff"}\n', "byte 0xff, which is not UTF-8"),
        (b"[1, 2]\n", "a list"),
        (b"3\n", "a number"),
        (b"{}\n", "nothing"),
        (b'{"messages": []}\n', "an empty list"),
        (b'{"message": []}\n', "the key message (did you mean 'messages'?)"),
        (b"[" * 100_000 + b"\n", "text that is no JSON"),
    ],
)
def test_a_line_that_is_no_example_is_named(tmp_path: Path, line: bytes, got: str) -> None:
    path = write(tmp_path / "f.jsonl", TEN)
    path.write_bytes(path.read_bytes() + line)
    [first, *_] = said(look(path))
    assert first.startswith("f.jsonl:11") and got in first


def test_a_file_without_line_ends_is_refused_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"x" * 4_100_000)
    [first, *_] = said(look(path, use="validation", images_per_example=1, image_bytes=30))
    assert first == "f.jsonl:1 | a line of more than 4,000,040 bytes"


def test_a_file_that_is_not_there_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        look(tmp_path / "none.jsonl")


def test_all_problems_come_at_once_each_with_its_line(tmp_path: Path) -> None:
    bad_role = {"messages": [{"role": "usr", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path = write(tmp_path / "f.jsonl", [example("ftp://host/a.png"), example(), bad_role])
    with pytest.raises(UserError) as caught:
        check_file(path, "training", "openai", limits_with(), RATES, LETTERS)
    assert [str(problem) for problem in caught.value.problems] == [
        "f.jsonl:1: messages[1].content[0].image_url.url\n    got: ftp://host/a.png\n"
        "    fix: give a data URL, or an address that begins with http:// or https://",
        "f.jsonl:3: messages[0].role\n    got: usr (did you mean 'user'?)\n    fix: use one of system, user, assistant, tool, function",
        "f.jsonl\n    got: 3 examples\n    fix: give at least 10",
    ]


def test_a_file_of_nothing_but_problems_does_not_fill_the_memory(tmp_path: Path) -> None:
    report = look(write(tmp_path / "f.jsonl", [1] * (MOST_PROBLEMS + 50)))
    assert len(report.problems) == MOST_PROBLEMS + 1
    assert report.problems[-1].got == "50 more problems"


# -- examples -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [10, 11])
def test_an_example_has_ten_pictures(tmp_path: Path, n: int) -> None:
    assert one(tmp_path, example(*[data_url()] * n)) == ([] if n == 10 else ["f.jsonl:1 | 11 pictures"])


@pytest.mark.parametrize("n", [64, 65])
def test_an_example_for_foundry_has_64_pictures(tmp_path: Path, n: int) -> None:
    path = write(tmp_path / "f.jsonl", [example(*[data_url()] * n), *TEN], BOM)
    assert said(look(path, dialect="azure_foundry")) == ([] if n == 64 else ["f.jsonl:1 | 65 pictures"])


@pytest.mark.parametrize("over", [0, 1])
def test_a_picture_is_as_large_as_the_limit(tmp_path: Path, over: int) -> None:
    found = one(tmp_path, example(), image_bytes=len(JPEG) - over)
    assert len(found) == (11 if over else 0)
    assert not over or f"a picture of {len(JPEG):,} bytes" in found[0]


@pytest.mark.parametrize("over", [0, 1])
def test_an_example_is_as_long_as_the_limit(tmp_path: Path, over: int) -> None:
    tokens = look(write(tmp_path / "f.jsonl", TEN[:1]), use="validation").tokens.low
    longer = example(question="what?" + "x" * over)
    found = look(write(tmp_path / "g.jsonl", [longer]), use="validation", example_tokens=tokens).problems
    assert [problem.got for problem in found] == ([f"{tokens + 1:,} to {tokens + 171:,} tokens"] if over else [])


def test_a_length_that_only_bounds_know_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", [example(question="x" * 600)], b"")
    report = look(path, use="validation", counter=bounds("a test"), example_tokens=500)
    assert report.problems == ()
    assert "1 line(s), the first is 1, may be over 500 tokens" in report.warnings[0]


def test_the_limit_of_a_real_example_is_65536_tokens(tmp_path: Path) -> None:
    found = one(tmp_path, example(question="x" * 70_000))
    assert len(found) == 1 and "tokens" in found[0]


@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
def test_pictures_stand_in_user_messages_only(tmp_path: Path, role: str) -> None:
    record = example()
    record["messages"].insert(0, {"role": role, "content": [{"type": "image_url", "image_url": {"url": data_url()}}]})
    assert one(tmp_path, record) == [f"f.jsonl:1: messages[0].content[0] | a picture in a message of role {role}"]


MODES = [
    ("RGB", "JPEG", True), ("RGB", "PNG", True), ("RGBA", "PNG", True), ("RGB", "WEBP", True), ("RGBA", "WEBP", True),
    ("L", "JPEG", False), ("CMYK", "JPEG", False), ("L", "PNG", False), ("LA", "PNG", False), ("P", "PNG", False),
    ("1", "PNG", False), ("I;16", "PNG", False),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "kind", "good"), MODES)
def test_pictures_are_rgb_or_rgba(tmp_path: Path, mode: str, kind: str, good: bool) -> None:
    picture = Image.fromarray(np.zeros((4, 4), np.uint16)) if mode == "I;16" else image(3).convert(mode)
    found = one(tmp_path, example(data_url(encoded(picture, kind), kind.lower())))
    assert found == ([] if good else [f"f.jsonl:1: messages[1].content[0].image_url.url | a picture of mode {mode}"])


def test_a_format_that_is_not_taken_is_refused_whatever_it_is_declared(tmp_path: Path) -> None:
    gif, bmp = encoded(image(1), "GIF"), encoded(image(1), "BMP")
    assert "data:image/gif;base64" in one(tmp_path, example(data_url(gif, "gif")))[0]
    assert "a picture of format BMP that is declared png" in one(tmp_path, example(data_url(bmp, "png")))[0]
    assert "a picture of format JPEG that is declared webp" in one(tmp_path, example(data_url(JPEG, "webp")))[0]


def test_bytes_that_are_no_picture_are_refused(tmp_path: Path) -> None:
    assert "text that is no base64" in one(tmp_path, example("data:image/png;base64,???"))[0]
    assert "cannot be used" in one(tmp_path, example(data_url(b"hello")))[0]
    assert "cannot be used" in one(tmp_path, example(data_url(JPEG[:-200])))[0]


def test_what_is_said_of_a_picture_never_holds_its_bytes(tmp_path: Path) -> None:
    secret = data_url(b"\x00" * 3000)
    for record in (example(secret), example(secret.replace("jpeg", "gif")), example(secret[5:]), example(secret, kind=secret)):
        assert all(len(str(problem)) < 400 for problem in look(write(tmp_path / "f.jsonl", [record])).problems)
        assert "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" not in str(one(tmp_path, record))


@pytest.mark.parametrize(
    ("message", "got"),
    [
        ({"role": "user", "content": ""}, "an empty text"),
        ({"role": "user", "content": []}, "an empty list"),
        ({"role": "user"}, "nothing"),
        ({"role": "user", "content": [{"type": "video"}]}, "video"),
        ({"role": "user", "content": [{"type": "text", "text": ""}]}, "an empty text"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "http://a/b"}]}, "none"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b", "detail": "max"}}]}, "max"),
        ({"role": "developer", "content": "x"}, "developer"),
        ({"role": "user", "content": "x", "weight": 1}, "1 of role user"),
        ({"role": "assistant", "content": "x", "weight": 2}, "2 of role assistant"),
        ({"role": "user", "content": "x", "wieght": 1}, "the key wieght (did you mean 'weight'?)"),
        ("hello", "a text"),
    ],
)
def test_a_message_of_another_form_is_refused(tmp_path: Path, message: Any, got: str) -> None:
    record = example()
    record["messages"].insert(0, message)
    [problem] = one(tmp_path, record)
    assert problem.endswith(got) and problem.startswith("f.jsonl:1: messages[0]")


def test_an_example_ends_with_an_answer_that_is_learnt(tmp_path: Path) -> None:
    question = {"messages": example()["messages"][:-1]}
    assert one(tmp_path, question) == ["f.jsonl:1: messages[1] | a last message that is not the assistant's"]
    unlearnt = example()
    unlearnt["messages"][-1]["weight"] = 0
    assert one(tmp_path, unlearnt) == ["f.jsonl:1: messages | weight 0 on every assistant message"]


# -- batches --------------------------------------------------------------------------------------------------------------------


def request(custom_id: str = "a", model: str = "m", **more: Any) -> dict[str, Any]:
    body = {"model": model, "messages": example()["messages"][:2]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body} | more


@pytest.mark.parametrize("over", [0, 1])
def test_a_batch_is_as_large_as_the_limits(tmp_path: Path, over: int) -> None:
    path = write(tmp_path / "b.jsonl", [request("a"), request("b")])
    size = path.stat().st_size
    assert said(look(path, use="batch", batch_bytes=size - over)) == ([f"b.jsonl | {size:,} bytes"] if over else [])
    assert said(look(path, use="batch", batch_requests=2 - over)) == (["b.jsonl | 2 requests"] if over else [])


@pytest.mark.parametrize(
    ("second", "got"),
    [
        (request("a"), "b.jsonl:2: custom_id | a, as on line 1"),
        (request("b", model="other"), "b.jsonl | several models: m, other"),
        (request("b", url="/v1/embeddings"), "b.jsonl:2 | POST /v1/embeddings"),
        (request("", extra=1), "b.jsonl:2 | keys body, custom_id, extra, method, url"),
        (request(""), "b.jsonl:2: custom_id | ''"),
        (request("b", body={"model": "m"}), "b.jsonl:2: body: messages | nothing"),
        (request("b", body={"messages": [{"role": "user", "content": "x"}]}), "b.jsonl:2: body.model | None"),
    ],
)
def test_a_request_that_the_batch_would_refuse_is_named(tmp_path: Path, second: Any, got: str) -> None:
    assert got in said(look(write(tmp_path / "b.jsonl", [request("a"), second]), use="batch"))


# -- our own files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["openai", "azure_foundry"])
@pytest.mark.parametrize("shape", ["published", "strict_json"])
def test_what_we_write_is_what_we_would_send(tmp_path: Path, dialect: Any, shape: str) -> None:
    host = "https://host.openai.azure.com/openai/v1/" if dialect == "azure_foundry" else "https://api.openai.com/v1"
    profile = {"dialect": dialect, "prices": dialect, "base_url": host}
    ours, rows = spec(profile=profile, prompt={"shape": shape, "system": "Be brief."}), table()
    built = write_examples(ours, rows, rows.split["train"], 4, tmp_path, "train")
    report = look_at_file(built.path, "training", dialect, limits_with(dialect), RATES, LETTERS)
    assert report.problems == () and report.sha256 == built.sha256 and report.n_image_lines == built.n_lines == 12
    for batch in write_batches(ours, rows, rows.split["test"], 4, "m", "test", tmp_path, "batch"):
        assert said(look_at_file(batch.path, "batch", dialect, limits_with(dialect), RATES, LETTERS)) == []
