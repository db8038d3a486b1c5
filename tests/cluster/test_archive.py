"""What may leave this machine in the archive of a job, and what may not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import archive
from cluster.archive import choose, write
from tune.core.errors import UserError

PRIVATE_KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nabc\n"
OPENAI_KEY = "sk-proj-" + "a1B2" * 12
AWS_KEY = "AKIA" + "ABCDEFGHIJKLMNOP"
HUB_TOKEN = "hf_" + "x" * 34


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    root = tmp_path / "work"
    (root / "study.yaml").write_text("study: {name: a}\n")
    (root / "code").mkdir()
    (root / "code" / "recipe.py").write_text("x = 1\n")
    return root


def refused(root: Path, **options: object) -> dict[str, str]:
    """Where -> got of everything that is refused."""
    with pytest.raises(UserError) as caught:
        choose(root, **options)  # type: ignore[arg-type]
    return {problem.where: problem.got for problem in caught.value.problems}


def test_code_and_configuration_are_packed(folder: Path) -> None:
    assert list(choose(folder).files) == ["code/recipe.py", "study.yaml"]


def test_the_listing_names_every_file_and_the_sum(folder: Path) -> None:
    assert "code/recipe.py" in choose(folder).listing() and "bytes in 2 files" in choose(folder).listing()


@pytest.mark.parametrize("name", [".env", "prod.env", "server.pem", "tls.key", "id_rsa", "id_ed25519", ".netrc", "code/auth_token"])
def test_a_file_named_like_a_key_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("x\n")
    assert "usually holds keys" in refused(folder)[name]


@pytest.mark.parametrize(
    ("text", "sort"),
    [
        (PRIVATE_KEY, "a private key"),
        (f'client = OpenAI(api_key="{OPENAI_KEY}")', "an OpenAI or Anthropic key"),
        (f"aws_access_key_id = {AWS_KEY}", "an AWS access key"),
        (f"login('{HUB_TOKEN}')", "a Hugging Face token"),
        ("token = ghp_" + "a" * 36, "a GitHub token"),
    ],
)
def test_a_key_inside_a_file_is_refused_with_its_line_and_without_itself(folder: Path, text: str, sort: str) -> None:
    (folder / "code" / "notes.py").write_text(f"# first line\n{text}\n")
    got = refused(folder)["code/notes.py"]
    assert got == f"{sort}, in line 2"


def test_the_token_of_the_cluster_is_refused_in_any_file(folder: Path) -> None:
    (folder / "start.sh").write_text("ray start\nexport T=0123456789abcdef\n")
    assert "secret here, in line 2" in refused(folder, hidden=("0123456789abcdef",))["start.sh"]


def test_a_link_with_an_innocent_name_to_a_key_is_refused(folder: Path) -> None:
    (folder / "server.pem").write_text("x\n")
    (folder / "notes.txt").symlink_to("server.pem")
    assert {"notes.txt", "server.pem"} <= set(refused(folder))


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder.parent / "other.txt").write_text("x\n")
    (folder / "link.txt").symlink_to("../other.txt")
    (folder / "all").symlink_to(folder.parent)
    got = refused(folder)
    assert "outside the folder" in got["link.txt"] and "outside the folder" in got["all"]


def test_a_link_to_nothing_and_a_link_to_a_folder_are_refused(folder: Path) -> None:
    (folder / "gone").symlink_to("nothing")
    (folder / "again").symlink_to("code")
    assert "not there" in refused(folder)["gone"] and refused(folder)["again"] == "a link to a folder"


def test_a_link_to_a_file_inside_is_packed_as_the_file(folder: Path, tmp_path: Path) -> None:
    (folder / "also.py").symlink_to("code/recipe.py")
    with zipfile.ZipFile(write(choose(folder), tmp_path / "a.zip")) as zipped:
        assert zipped.read("also.py") == b"x = 1\n"


def test_data_and_weights_are_refused(folder: Path) -> None:
    (folder / "best.safetensors").write_bytes(b"0")
    with (folder / "rows.bin").open("wb") as file:
        file.truncate(archive.MAX_FILE_BYTES + 1)
    (folder / "pictures").mkdir()
    for i in range(archive.MAX_PICTURES + 1):
        (folder / "pictures" / f"{i}.png").write_bytes(b"0")
    got = refused(folder)
    assert "weights" in got["best.safetensors"] and "data or weights" in got["rows.bin"] and got["pictures"] == "a data set: 101 pictures"


def test_more_bytes_than_allowed_are_refused_with_the_largest_files(folder: Path) -> None:
    (folder / "big.txt").write_text("x" * 1000)
    assert "the largest are big.txt" in refused(folder, max_total_bytes=500)[str(folder)]


AS_SOMEBODY = """
import os, sys
from pathlib import Path
from cluster.archive import choose
from tune.core.errors import UserError
if os.geteuid() == 0:  # root may read everything
    os.setgid(65534), os.setuid(65534)
try:
    print(*choose(Path(sys.argv[1])).files, sep="\\n")
except UserError as error:
    print(*(f"{problem.where}: {problem.got}: {problem.fix}" for problem in error.problems), sep="\\n")
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder with one file, which any user may read: those of pytest are for the one who runs it alone."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "work"
        root.mkdir()
        (root / "recipe.py").write_text("x = 1\n")
        for path in (root.parent, root):
            path.chmod(0o755)
        yield root
        for path in (root, *(path for path in root.iterdir() if path.is_dir())):
            path.chmod(0o755)


def said_to_somebody(root: Path) -> list[str]:
    """By a process that is not root's."""
    command = [sys.executable, "-c", AS_SOMEBODY, str(root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_a_folder_that_may_not_be_read_is_named_unless_it_is_ignored(open_folder: Path, mode: int) -> None:
    (open_folder / "private").mkdir()
    (open_folder / "private" / "diary.txt").write_text("x\n")
    (open_folder / "private").chmod(mode)
    assert said_to_somebody(open_folder) == ["private: a folder that cannot be read: name it in .rayignore, or change its mode"]
    (open_folder / ".rayignore").write_text("private/\n")
    assert said_to_somebody(open_folder) == [".rayignore", "recipe.py"]


def test_a_folder_that_is_sent_and_may_not_be_read_is_named(open_folder: Path) -> None:
    open_folder.chmod(0o111)
    assert said_to_somebody(open_folder) == [f"{open_folder}: a folder that cannot be read: change its mode"]


def test_an_ignore_file_that_may_not_be_read_is_named(open_folder: Path) -> None:
    (open_folder / ".gitignore").write_text("*.log\n")
    (open_folder / ".gitignore").chmod(0)
    assert ".gitignore: it cannot be read: Permission denied: change its mode" in said_to_somebody(open_folder)


@pytest.mark.parametrize(("text", "wrong"), [(b"*.log\ncaf\xe9\n", "text that is not UTF-8"), (b"*.log\n!\n", "Invalid git pattern: '!'")])
@pytest.mark.parametrize("ignore_file", [".gitignore", ".rayignore"])
def test_an_ignore_file_that_cannot_be_obeyed_is_named_with_its_line(folder: Path, ignore_file: str, text: bytes, wrong: str) -> None:
    (folder / "code" / ignore_file).write_bytes(text)
    assert refused(folder) == {f"code/{ignore_file}:2": wrong}


def test_a_file_whose_name_is_no_text_is_refused_unless_it_is_ignored(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("x\n")
    assert refused(folder) == {"caf\\udce9.txt": "a name that is not UTF-8"}
    (folder / ".rayignore").write_text("caf*\n")
    assert "code/recipe.py" in choose(folder).files


def test_links_in_a_ring_are_refused(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert "not there" in refused(folder)["a"] and "not there" in refused(folder)["b"]


@pytest.mark.parametrize("ignore_file", [".gitignore", ".rayignore"])
def test_what_an_ignore_file_names_stays_here_and_is_not_judged(folder: Path, ignore_file: str) -> None:
    (folder / ".env").write_text("x\n")
    (folder / "code" / "secret.key").write_text("x\n")
    (folder / ignore_file).write_text(".env\n")
    (folder / "code" / ignore_file).write_text("*.key\n")
    assert {".env", "code/secret.key"} & set(choose(folder).files) == set()


def test_histories_environments_and_caches_stay_here(folder: Path) -> None:
    for name in (".git/config", ".venv/pyvenv.cfg", "code/__pycache__/recipe.pyc", ".mypy_cache/x", "a.egg-info/PKG-INFO"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x\n")
    assert list(choose(folder).files) == ["code/recipe.py", "study.yaml"]


def test_code_from_elsewhere_comes_along_unless_the_folder_has_its_own(folder: Path, tmp_path: Path) -> None:
    for name in ("tune", "code"):
        (tmp_path / "lib" / name).mkdir(parents=True)
        (tmp_path / "lib" / name / "theirs.py").write_text("y = 2\n")
    files = choose(folder, {name: tmp_path / "lib" / name for name in ("tune", "code")}).files
    assert list(files) == ["code/recipe.py", "study.yaml", "tune/theirs.py"]


def test_the_same_files_make_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = write(choose(folder), tmp_path / "a.zip").read_bytes()
    (folder / "study.yaml").touch()
    assert write(choose(folder), tmp_path / "b.zip").read_bytes() == first


def test_this_project_can_be_sent_and_holds_no_tests_and_no_keys() -> None:
    files = choose(Path(__file__).resolve().parents[2]).files
    assert "tune/__main__.py" in files and "configs/studies/smoke.yaml" in files
    assert not any(name.startswith(("tests/", ".git/", ".venv/")) for name in files)
