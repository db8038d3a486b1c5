"""YAML's traps: what each spelling means, and the text of each refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tune.yaml_file import parse, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("1.e-4", 1e-4),
        (".5", 0.5),
        ("+3", 3),
        ("-0.0", -0.0),
        ("32", 32),
        ("'32'", "32"),
        ("!!str 32", "32"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'null'", "null"),
        ("12:30", "12:30"),
        ("1:2:3", "1:2:3"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
        ("[1, a, {b: 2}]", [1, "a", {"b": 2}]),
        ("|\n  two\n  lines", "two\nlines\n"),
        ('"\\u00e9"', "é"),
        ('"\\ud83d\\ude00"', "😀"),
    ],
)
def test_a_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    document = parse(f"key: {text}\n", "s.yaml")
    assert document.problems == []
    assert document.value == {"key": value}
    assert type(document.value["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "where", "got", "fix"),
    [
        ("a: 1\nb: 2\na: 3", "s.yaml:3: a", "this key a second time (first on line 1)", "remove one of the two, or merge them"),
        (
            "x:\n  a: 1\n  a: 1",
            "s.yaml:3: x.a",
            "this key a second time (first on line 2)",
            "remove one of the two, or merge them",
        ),
        (
            "a: 007",
            "s.yaml:1: a",
            "007, which is octal to some readers of YAML and decimal to others",
            "write 7, or quote it if it is text",
        ),
        ("a: .nan", "s.yaml:1: a", ".nan", "use a finite number"),
        ("a: [1, -.inf]", "s.yaml:1: a.1", "-.inf", "use a finite number"),
        ("a: 1e999", "s.yaml:1: a", "1e999, which is too large", "use a number below 1e308"),
        (
            "a: 12345678901234567890",
            "s.yaml:1: a",
            "12345678901234567890, which does not fit 64 bits",
            "use a smaller whole number, or quote it if it is text",
        ),
        ('a: "\\ud83d"', "s.yaml:1: a", "half of a character (a lone surrogate)", "write the character itself"),
        ("a:\n\tb: 1", "s.yaml:2", "a tab", "indent with spaces: YAML does not allow tabs there"),
        ("1: a", "s.yaml:1", "the key 1, which is not text", "put the key between quotes, or name it otherwise"),
        ("true: a", "s.yaml:1", "the key True, which is not text", "put the key between quotes, or name it otherwise"),
        (
            "? [a]\n: b",
            "s.yaml:1",
            "the key a list or mapping, which is not text",
            "put the key between quotes, or name it otherwise",
        ),
        (
            "a: !!python/object/apply:os.system [ls]",
            "s.yaml:1: a",
            "the tag tag:yaml.org,2002:python/object/apply:os.system",
            "remove it: a study file holds plain values only",
        ),
        ("a: *b", "s.yaml:1: a", "*b, which no anchor names before", "write the value out, or put &b before it"),
        ("a: &b [*b]", "s.yaml:1: a.0", "*b, which contains itself", "write the value out, or put &b before it"),
        ("a: {<<: 3}", "s.yaml:1: a", "<< with something that is not a mapping", "merge mappings: << : *name"),
        ("a: 1\n---\nb: 1", "s.yaml:2", "a second document", "keep one study in a file: remove what follows `---`"),
        (
            "a: b: c",
            "s.yaml:1",
            "'a: b: c': mapping values are not allowed here",
            "put text with ': ' in it between quotes, and check the indentation",
        ),
        (
            "a: [1",
            "s.yaml:1",
            "'a: [1': expected ',' or ']', but got '<stream end>'",
            "check indentation, brackets and quotes at and above this line",
        ),
        ("[" * 50, "s.yaml:1", "more than 40 levels", "nest less deeply"),
    ],
)
def test_a_trap_is_named_with_its_line(text: str, where: str, got: str, fix: str) -> None:
    (problem,) = parse(text, "s.yaml").problems
    assert (problem.where, problem.got, problem.fix) == (where, got, fix)


def test_anchors_and_merges_work_and_own_keys_win() -> None:
    document = parse("base: &b {x: 1, y: 2}\nuse: {<<: *b, y: 3}\nmany: {<<: [{z: 0}, *b]}\ncopy: *b\n", "s.yaml")
    assert document.problems == []
    assert document.value["use"] == {"x": 1, "y": 3}
    assert document.value["many"] == {"z": 0, "x": 1, "y": 2}
    assert document.value["copy"] == {"x": 1, "y": 2}


def test_a_quoted_merge_sign_is_an_ordinary_key() -> None:
    assert parse("'<<': 3", "s.yaml").value == {"<<": 3}


def test_aliases_that_stand_for_billions_of_values_are_refused_at_once() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * 10)}]\n" for i in range(9))
    (problem,) = parse(bomb, "s.yaml").problems
    assert problem.got == "more than 200,000 values with all aliases written out"


def test_every_key_and_item_has_its_line() -> None:
    document = parse("a:\n  b: 1\n  c:\n    - 2\n    - {d: 3}\n", "s.yaml")
    assert document.lines[("a", "c")] == 3
    assert document.lines[("a", "c", 1, "d")] == 5
    assert document.where(("a", "c", 1, "e")) == "s.yaml:5: a.c.1.e"


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"a: \xff", "byte 0xff, which is not UTF-8"),
        (b"a: \x00", "unacceptable character #x0000: special characters are not allowed"),
        (b"#" * 2_000_001, "more than 2,000,000 bytes"),
    ],
)
def test_a_file_that_is_no_text_is_named(tmp_path: Path, content: bytes, got: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    (problem,) = read(path).problems
    assert problem.got == got


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read(path).value == {"a": 1, "b": 2}


def test_a_path_that_is_no_file_is_named_and_its_neighbours_too(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("a: 1")
    (problem,) = read(tmp_path / "quikstart.yaml").problems
    assert (problem.got, problem.fix) == ("no such file", f"check the path; {tmp_path} has quickstart.yaml")
    (problem,) = read(tmp_path).problems
    assert problem.got == "a folder"
    (problem,) = read(Path("a\0b")).problems
    assert problem.fix == "check the path and its permissions"


@settings(max_examples=300, deadline=None, database=None)
@given(text=st.text(alphabet=st.sampled_from(list("ab01:-,[]{}&*!|>'\"#%@?~<. \n\t\\\r\x07\u2028\ufeff")), max_size=40))
def test_no_text_makes_the_reader_fail(text: str) -> None:
    document = parse(text, "s.yaml")
    assert document.problems or document.value is None or isinstance(document.value, (dict, list, str, int, float, bool))
