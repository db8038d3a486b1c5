"""What a submitted job takes along: the files of a working directory, judged before any of them leaves this machine.

Files named by `.gitignore` or `.rayignore` (in any folder, Ray's own ignore file) and caches stay behind. What is left must be code and
configuration: a key, a token, a data set, a link that leads out of the folder or too many bytes refuse the whole archive, every
offence named at once. The archive of the same files is the same to the byte, so that a cluster which has it is not sent it again.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from cluster.planted import secret_in_name, secret_in_text
from tune.core.errors import Problem, UserError

IGNORE_FILES = (".gitignore", ".rayignore")
NEVER_PACKED = (".git/", ".venv/", "venv/", "__pycache__/", "*.pyc", "*.egg-info/", ".*_cache/", ".hypothesis/", "mlruns/", "node_modules/")
MAX_TOTAL_BYTES = 64 * 2**20
MAX_FILE_BYTES = 10 * 2**20
MAX_FILES = 5_000
MAX_PICTURES = 100  # more is a data set
_PICTURES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
_WEIGHTS = {".safetensors", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".tfrecord", ".arrow"}
_MAX_SHOWN = 10
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ON_STORAGE = "put it on the storage that all nodes see and name its path in the study, or name it in .rayignore"


@dataclass(frozen=True)
class Packed:
    """What goes into the archive: name in the archive (POSIX, relative) -> file here. `sizes`: bytes of each when it was judged."""

    root: Path
    files: Mapping[str, Path]
    sizes: Mapping[str, int]

    @property
    def size_bytes(self) -> int:
        return sum(self.sizes.values())

    def listing(self) -> str:
        """One line a file, its size in bytes and its name, and the sum."""
        lines = [f"{self.sizes[name]:>10,}  {name}" for name in self.files]
        return "\n".join([*lines, f"{self.size_bytes:>10,}  bytes in {len(self.files)} files"])


def choose(
    root: Path, extra: Mapping[str, Path] | None = None, max_total_bytes: int = MAX_TOTAL_BYTES, hidden: tuple[str, ...] = ()
) -> Packed:
    """The files of `root` that may leave. Raises UserError with every secret, data set, link out of `root` and bound that is broken.

    extra: folders of code to take along from elsewhere under a name of the archive, where `root` has no such folder of its own.
    hidden: texts that no file may hold, such as the token of the cluster.
    """
    root = root.resolve()
    if not os.path.isdir(root):
        raise UserError(Problem(f"--working-dir {root}", "it is not a folder", "name the folder that holds the study and its code"))
    problems: list[Problem] = []
    files = dict(_walk(root, root, [], problems))
    for name, folder in (extra or {}).items():
        if not os.path.exists(root / name):
            source = folder.resolve().parent
            files |= {f"{name}/{inner}": file for inner, file in _walk(folder.resolve(), source, [], problems, strip=name)}
    try:
        sizes = {name: file.stat().st_size for name, file in files.items()}
        problems += _secrets(files, hidden)
    except OSError as error:
        raise _changing(error) from None
    problems += _data(sizes)
    total = sum(sizes.values())
    if total > max_total_bytes:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
        got = f"{total:,} bytes, at most {max_total_bytes:,}; the largest are {', '.join(largest)}"
        problems.append(Problem(str(root), got, "name what trials do not need in .rayignore, or raise --max-mb"))
    if len(files) > MAX_FILES:
        problems.append(Problem(str(root), f"{len(files):,} files, at most {MAX_FILES:,}", "submit from the folder of the code alone"))
    if problems:
        raise UserError(_few(problems))
    return Packed(root, dict(sorted(files.items())), sizes)


def write(packed: Packed, archive: Path) -> Path:
    """A zip with fixed times and modes: the same files make the same bytes."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as zipped:
        for name, file in packed.files.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o755 if os.access(file, os.X_OK) else 0o644) << 16
            try:
                zipped.writestr(info, file.read_bytes())
            except OSError as error:
                raise _changing(error) from None
    return archive


# -- walking ------------------------------------------------------------------------------------------------------------------

Rules = list[tuple[Path, GitIgnoreSpec]]


def _walk(folder: Path, root: Path, above: Rules, problems: list[Problem], strip: str = "") -> Iterator[tuple[str, Path]]:
    """(name in the archive, file) below `folder`, what is ignored and what is no file left out."""

    def named(entry: Path) -> str:
        return entry.relative_to(root).as_posix().removeprefix(f"{strip}/" if strip else "")

    try:
        kinds = {entry: entry.lstat().st_mode for entry in sorted(folder.iterdir())}
    except PermissionError:
        fix = "change its mode" if folder == root else "name it in .rayignore, or change its mode"
        problems.append(Problem(str(folder) if folder == root else named(folder), "a folder that cannot be read", fix))
        return
    except OSError as error:
        raise _changing(error) from None
    rules = [*above, _rules_of(folder, [(folder / name, named(folder / name)) for name in IGNORE_FILES], problems)]
    for entry, kind in kinds.items():
        if _ignored(entry, stat.S_ISDIR(kind), rules):
            continue
        name = named(entry)
        if name != (shown := name.encode(errors="backslashreplace").decode()):
            problems.append(Problem(shown, "a name that is not UTF-8", "rename it, or name what matches it in .rayignore"))
        elif stat.S_ISLNK(kind):
            wrong = _bad_link(entry, root)
            if wrong is None:
                yield name, entry.resolve()
            else:
                fix = "replace the link by what it leads to, or name it in .rayignore"
                problems.append(Problem(name, wrong, fix))
        elif stat.S_ISDIR(kind):
            yield from _walk(entry, root, rules, problems, strip)
        elif stat.S_ISREG(kind):
            if not os.access(entry, os.R_OK):
                problems.append(Problem(name, "it cannot be read", "name it in .rayignore, or change its mode"))
            else:
                yield name, entry


def _rules_of(folder: Path, files: list[tuple[Path, str]], problems: list[Problem]) -> tuple[Path, GitIgnoreSpec]:
    """What the ignore files of `folder` say, given with the names that they have for people; one that cannot be obeyed is a problem."""
    lines = list(NEVER_PACKED)
    for file, name in files:
        if not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8").removeprefix("\ufeff")  # a byte order mark, as editors write it
            for i, line in enumerate(text.splitlines(), start=1):
                wrong = _wrong_pattern(line)
                if wrong is None:
                    lines.append(line)
                else:
                    problems.append(Problem(f"{name}:{i}", wrong, "take the line out, or write a pattern as git reads it"))
        except UnicodeDecodeError as error:
            i = error.object.count(b"\n", 0, error.start) + 1
            problems.append(Problem(f"{name}:{i}", "text that is not UTF-8", "save it as UTF-8"))
        except OSError as error:
            problems.append(Problem(name, f"it cannot be read: {error.strerror}", "change its mode"))
    return folder, GitIgnoreSpec.from_lines(lines)


def _wrong_pattern(line: str) -> str | None:
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError as error:
        return str(error)
    return None


def _ignored(entry: Path, is_folder: bool, rules: Rules) -> bool:
    mark = "/" if is_folder else ""
    return any(spec.match_file(entry.relative_to(folder).as_posix() + mark) for folder, spec in rules)


def _bad_link(link: Path, root: Path) -> str | None:
    target = Path(os.path.realpath(link))  # a link in a ring ends somewhere in it, and is not there
    if not target.exists():
        return f"a link to {os.readlink(link)}, which is not there"
    if not target.is_relative_to(root):
        return f"a link to {os.readlink(link)}, which is outside the folder that is sent"
    return "a link to a folder" if target.is_dir() else None


# -- judging ------------------------------------------------------------------------------------------------------------------


def _secrets(files: Mapping[str, Path], hidden: tuple[str, ...]) -> list[Problem]:
    found = []
    for name, file in files.items():
        # A link may have an innocent name: both ends are judged.
        what = secret_in_name(PurePosixPath(name)) or secret_in_name(PurePosixPath(file.name)) or secret_in_text(file, hidden)
        if what is not None:
            fix = "take it out of the folder or name it in .rayignore; trials get keys with --env NAME or from the nodes' own environment"
            found.append(Problem(name, what, fix))
    return found


def _data(sizes: Mapping[str, int]) -> list[Problem]:
    problems = []
    pictures: dict[str, int] = {}
    for name, size in sizes.items():
        path = PurePosixPath(name)
        if size > MAX_FILE_BYTES:
            problems.append(Problem(name, f"{size:,} bytes, at most {MAX_FILE_BYTES:,} a file: data or weights", _ON_STORAGE))
        elif path.suffix.lower() in _WEIGHTS:
            problems.append(Problem(name, f"a file of data or weights ({path.suffix})", _ON_STORAGE))
        if path.suffix.lower() in _PICTURES:
            top = path.parts[0] if len(path.parts) > 1 else "."
            pictures[top] = pictures.get(top, 0) + 1
    problems += [Problem(top, f"a data set: {n:,} pictures", _ON_STORAGE) for top, n in pictures.items() if n > MAX_PICTURES]
    return problems


def _changing(error: OSError) -> UserError:
    return UserError(
        Problem(str(error.filename), f"it changed while it was packed: {error.strerror}", "try again when nothing writes there")
    )


def _few(problems: list[Problem]) -> list[Problem]:
    """All of them where a person can read them; a folder full of offences says how many more there are."""
    if len(problems) <= _MAX_SHOWN:
        return problems
    left = len(problems) - _MAX_SHOWN
    return [*problems[:_MAX_SHOWN], Problem("working directory", f"{left} more such files", "mend these first, then look with --dry-run")]
