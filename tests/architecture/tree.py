"""The repository as the architecture tests see it: its folders, its modules, what each imports and calls. Reads files only."""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("tune", "trainables", "cluster")


@dataclass(frozen=True)
class Module:
    """`name` is dotted (`tune.core.space`; a package has its own name), `path` relative to the root. `source`: None for what the
    file holds, which is read and parsed when a test asks, not when tests are collected."""

    name: str
    path: Path
    source: str | None = None

    @cached_property
    def text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8") if self.source is None else self.source

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes of the tree: walked once, asked by many rules."""
        return tuple(ast.walk(self.tree))

    @property
    def n_lines(self) -> int:
        return len(self.text.splitlines())


def modules(*folders: str) -> tuple[Module, ...]:
    """All modules under these folders (`tune`, `tune/core`), by path. A file is one Module however it is asked for."""
    return tuple(module for folder in sorted(folders) for module in _modules(folder))


@cache
def _modules(folder: str) -> tuple[Module, ...]:
    return tuple(_module(file.relative_to(ROOT)) for file in sorted((ROOT / folder).rglob("*.py")))


@cache
def _module(path: Path) -> Module:
    parts = path.with_suffix("").parts
    return Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path)


def ignored_by_git(name: str) -> bool:
    """True if .gitignore names this top-level folder (patterns with a trailing slash; that is all this file uses for folders)."""
    patterns = [line.strip() for line in (ROOT / ".gitignore").read_text().splitlines()]
    return any(fnmatch.fnmatch(name, pattern.strip("/")) for pattern in patterns if pattern.endswith("/"))


def imported(module: Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, inside functions and `if TYPE_CHECKING` too; `from a import b` gives `a.b`."""
    for node in module.nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.path}:{node.lineno}: write the import in full, from the top-level package"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain, or the empty string for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def within(name: str, package: str) -> bool:
    """True if the dotted `name` is `package` or stands under it."""
    return name == package or name.startswith(package + ".")


def enclosing_functions(module: Module) -> dict[ast.AST, str]:
    """For each node the qualified name of the function or class it stands in ("<module>" for the top level)."""
    homes: dict[ast.AST, str] = {}

    def walk(node: ast.AST, home: str) -> None:
        for child in ast.iter_child_nodes(node):
            homes[child] = home
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                walk(child, child.name if home == "<module>" else f"{home}.{child.name}")
            else:
                walk(child, home)

    walk(module.tree, "<module>")
    return homes
