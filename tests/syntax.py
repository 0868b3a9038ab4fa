"""The product's files and their syntax trees, for the tests that read code instead of running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from run import ROOT

FOLDERS = ("vc_core", "nodes", "worlds", "training", "evaluation", "benchmarks")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files(*folders: str) -> list[Path]:
    """The Python files below these folders, relative to the repository's root."""
    found = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    assert found, f"no code in {folders}"
    return [path.relative_to(ROOT) for path in found]


def code() -> list[Path]:
    """Every Python file but the tests."""
    return [*files(*FOLDERS), Path("run.py"), Path("__init__.py")]


@cache
def tree(file: Path) -> ast.Module:
    """The syntax tree of a file of `files` or `code`."""
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), str(file))


def functions(file: Path) -> Iterator[tuple[str, Function]]:
    """Every function of a file, closures included, with its qualified name: `Class.method`, `outer.inner`."""
    return _below(tree(file), "")


def _below(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, Function | ast.ClassDef):
            inner = f"{prefix}{child.name}."
        if isinstance(child, Function):
            yield f"{prefix}{child.name}", child
        yield from _below(child, inner)
