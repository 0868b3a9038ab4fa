"""How long, wide and branched a function may be, and what the nodes leave to vc_core."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import syntax

from run import ROOT

FILE_LINES, LINES, ARGUMENTS, COMPLEXITY = 400, 60, 8, 10

SAMPLES = {"make", "sample", "sample_custom", "sampling.run"}
"""Calls in `nodes` that run a sampler, by their last name or in full."""


@pytest.mark.parametrize("file", syntax.code(), ids=str)
def test_files_stay_small(file: Path):
    lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES, f"{file} has {lines} lines; give its second noun a file of its own"


@pytest.mark.parametrize("file", syntax.code(), ids=str)
def test_functions_stay_small(file: Path):
    for name, function in syntax.functions(file):
        assert not list(_excess(file, function)), f"{file}:{function.lineno} {name} has {_said(file, function)}"


@pytest.mark.parametrize("file", syntax.code(), ids=str)
def test_arguments_do_not_bundle_unrelated_things(file: Path):
    """A tuple of a few unrelated things is one argument on paper only; a dataclass says what they are together."""
    for name, function in syntax.functions(file):
        assert not list(_bundles(function)), (
            f"{file}:{function.lineno} {name}: {', '.join(_bundles(function))}. Pass them one by one, or name what "
            "they form."
        )


@pytest.mark.parametrize("file", syntax.files("nodes"), ids=str)
def test_nodes_do_not_loop_over_clips(file: Path):
    """Segments, rounds, key frames and queue positions follow each other in vc_core, which calls the nodes' sampler."""
    for name, function in syntax.functions(file):
        for line in _sampling_loops(function):
            raise AssertionError(f"{file}:{line} {name} samples in a loop: let vc_core drive it")


def test_complexity_is_counted_as_by_radon():
    """1, and 1 for each branch, loop, handler, comprehension and its conditions, and further operand of and, or."""
    source = """
def f(x):
    assert x and x
    try:
        for i in range(3):
            if x and i or x:
                y = [j for j in x if j if i]
        else:
            y = x if x else 0
    except OSError:
        pass
    while x:
        def g():
            if x:
                pass
    return lambda: x or y
"""
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    expected = {"f": 1, "assert": 1, "except": 1, "for, else": 2, "if": 1, "and, or": 2, "comprehension": 3}
    expected |= {"conditional expression": 1, "while": 1, "lambda": 1}
    assert _complexity(function) == sum(expected.values())


def _said(file: Path, function: syntax.Function) -> str:
    return ", ".join(f"{count} {what} (at most {limit})" for what, count, limit in _excess(file, function))


def _excess(file: Path, function: syntax.Function) -> Iterator[tuple[str, int, int]]:
    """What exceeds its limit: its name, the function's number and the limit."""
    in_nodes = file.parts[0] == "nodes"
    if in_nodes and function.name == "define_schema":  # a table of inputs and tooltips
        return
    # Triton takes every argument of a kernel by position, and gives each a line of its own.
    kernel = any(ast.unparse(item).startswith("triton.jit") for item in function.decorator_list)
    first = function.body[0].lineno if kernel else function.lineno
    counts = [
        ("lines", (function.end_lineno or 0) - first + 1, LINES),
        ("complexity", _complexity(function), COMPLEXITY),
    ]
    if not kernel and not (in_nodes and function.name == "execute"):  # whose arguments are the node's inputs
        counts.append(("arguments", len(_arguments(function)), ARGUMENTS))
    yield from (item for item in counts if item[1] > item[2])


def _arguments(function: syntax.Function) -> list[ast.arg]:
    """All but self and cls, keyword-only ones included."""
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [item for item in given if item.arg not in ("self", "cls")]


def _bundles(function: syntax.Function) -> Iterator[str]:
    """Arguments that are themselves a tuple of different types; a sequence of such tuples is a table, which is fine."""
    for item in _arguments(function):
        for part in _alternatives(item.annotation):
            if isinstance(part, ast.Subscript) and ast.unparse(part.value) == "tuple":
                kinds = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
                if len({ast.unparse(kind) for kind in kinds} - {"..."}) > 1:
                    yield f"{item.arg}: {ast.unparse(part)}"


def _alternatives(annotation: ast.expr | None) -> Iterator[ast.expr]:
    if isinstance(annotation, ast.BinOp) and isinstance(annotation.op, ast.BitOr):
        yield from _alternatives(annotation.left)
        yield from _alternatives(annotation.right)
    elif annotation is not None:
        yield annotation


def _sampling_loops(function: syntax.Function) -> Iterator[int]:
    """The lines of loops and comprehensions that run a sampler each time around."""
    for node in ast.walk(function):
        if isinstance(node, ast.For | ast.AsyncFor | ast.While):
            repeated: list[ast.AST] = [*node.body]
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
            repeated = [node.elt]
        elif isinstance(node, ast.DictComp):
            repeated = [node.key, node.value]
        else:
            continue
        if any(isinstance(inner, ast.Call) and _samples(inner) for part in repeated for inner in ast.walk(part)):
            yield node.lineno


def _samples(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    return name in SAMPLES or name.rpartition(".")[2] in SAMPLES


def _complexity(function: syntax.Function) -> int:
    """Cyclomatic complexity by radon's rules. Closures count for themselves, and what an assert says does not count."""
    return 1 + sum(map(_branches, function.body))


def _branches(node: ast.AST) -> int:
    if isinstance(node, syntax.Function | ast.ClassDef):
        return 0
    if isinstance(node, ast.Assert):
        return 1
    own = 0
    if isinstance(node, ast.Try):
        own = len(node.handlers) + bool(node.orelse)
    elif isinstance(node, ast.BoolOp):
        own = len(node.values) - 1
    elif isinstance(node, ast.If | ast.IfExp):
        own = 1
    elif isinstance(node, ast.For | ast.AsyncFor | ast.While):
        own = 1 + bool(node.orelse)
    elif isinstance(node, ast.comprehension):
        own = 1 + len(node.ifs)
    elif isinstance(node, ast.Match):
        own = sum(not (isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None) for case in node.cases)
    return own + sum(map(_branches, ast.iter_child_nodes(node)))
