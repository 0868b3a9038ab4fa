"""Random valid graphs of our nodes and ComfyUI's, in a real server; see `random_graphs`.

python run.py fuzz --minutes 15 -k graphs                     # new ones
python run.py test tests/fuzz/test_graphs.py --fuzz-seed 17   # the one of a seed again
python -m benchmarks.random_graphs --graphs 300               # counted, for benchmarks/results
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.fuzzing import Fuzz
from random_graphs import files
from random_graphs.grammar import Grammar
from random_graphs.judging import Judge, Verdict, verdict_of
from random_graphs.making import Prompt, make
from random_graphs.shrinking import CORPUS, keep, shrink
from random_graphs.values import Values

from comfyui.base import Base, comfy_path
from comfyui.limits import skip_without_node
from comfyui.server import Run, Server

SEEDS = range(7, 9)
"""Of the graphs in the normal suite."""


@pytest.fixture(scope="module")
def graphs(server: Server, base: Base) -> files.Graphs:
    files.put(base)
    return files.Graphs(server)


@pytest.fixture(scope="module")
def judge(server: Server, graphs: files.Graphs) -> Judge:
    return Judge(server)


@pytest.fixture
def seeds(request: pytest.FixtureRequest, fuzz: Fuzz) -> Iterator[int]:
    """Those of the suite, that of `--fuzz-seed`, or new ones until the time is over."""
    given, until = request.config.getoption("--fuzz-seed"), time.monotonic() + (fuzz.share or 0)
    if given is not None:
        return iter([given])
    if fuzz.share is None:
        return iter(SEEDS)
    first = random.getrandbits(40)
    return itertools.takewhile(lambda _: time.monotonic() < until, itertools.count(first))


def test_random_graphs(graphs: files.Graphs, judge: Judge, seeds: Iterator[int], fuzz: Fuzz) -> None:
    """Each ends with a result, an error of ours, or one of ComfyUI's nodes; and the next run is the same as ever."""
    begun = time.monotonic()
    for seed in seeds:
        fuzz.counted.inputs += 1
        verdict = judge.judge(graphs[seed])
        if verdict.failed:
            fuzz.counted.failures.append(f"--fuzz-seed {seed}: {verdict.kind}, {verdict.place}, {verdict.said}")
            small = shrink(graphs[seed], graphs.info, lambda one, kind=verdict.kind: judge.judge(one).kind == kind)
            kept = keep(small, f"seed_{seed}", verdict.said)
            pytest.fail(f"{fuzz.counted.failures[-1]}\nmade small: {kept}")
    fuzz.counted.seconds = round(time.monotonic() - begun, 1)


test_random_graphs.fuzzed = True  # it takes its share of --fuzz-minutes


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*.json")), ids=lambda file: file.stem)
def test_graphs_that_failed_once(graphs: files.Graphs, judge: Judge, file: Path) -> None:
    kept = json.loads(file.read_text(encoding="utf-8"))
    for node in kept["prompt"].values():
        skip_without_node(node["class_type"])
    verdict = judge.judge(kept["prompt"])
    assert not verdict.failed, verdict
    assert verdict.kind == kept["now"], verdict


INFO = {
    "VideoCrafterMake": {"input": {"required": {"x": ["A"], "size": ["INT", {"max": 9}]}}, "output": ["B"]},
    "Show": {"input": {"required": {"b": ["B"]}}, "output": [], "output_node": True},
    "Load": {"input": {"required": {"name": [["a", "b"]]}}, "output": ["A"]},
    "Turn": {"input": {"required": {"b": ["B"]}, "optional": {"a": ["A"]}}, "output": ["B"]},
    "Nowhere": {"input": {"required": {"b": ["B"], "z": ["Z"]}}, "output": ["A"]},
    "Empty": {"input": {"required": {"a": ["A"], "name": [[]]}}, "output": ["A"]},
    "Other": {"input": {"required": {}}, "output": ["Q"]},
}


def test_the_grammar_has_what_can_be_made() -> None:
    grammar = Grammar(INFO)
    assert {kind.name for kind in grammar.kinds} == {"VideoCrafterMake", "Show", "Load", "Turn"}
    assert grammar.depth == {"A": 1, "B": 2}
    assert [kind.name for kind in grammar.nearest(["B"])] == ["VideoCrafterMake"]


def test_graphs_are_valid_and_the_same_for_a_seed() -> None:
    seen, grammar = set(), Grammar(INFO, ["Turn"])
    for seed in range(40):
        prompt = make(grammar, Values({}), seed)
        assert prompt == make(grammar, Values({}), seed)
        assert prompt[str(len(prompt))]["class_type"] == "Show"
        for number, node in prompt.items():
            assert set(INFO[node["class_type"]]["input"]["required"]) <= set(node["inputs"])
            for value in node["inputs"].values():
                assert not isinstance(value, list) or int(value[0]) < int(number), "no circles"
        seen |= {node["class_type"] for node in prompt.values()}
    assert seen == {"VideoCrafterMake", "Show", "Load", "Turn"}


def _failed(kind: str, *files_: str) -> Verdict:
    trace = [f'  File "{file}", line 7, in run\n    x()\n' for file in files_]
    error = {"node_type": "N", "exception_type": kind, "exception_message": "no", "traceback": trace}
    return verdict_of(Run("error", error=error))


def test_whose_error_it_is() -> None:
    ours, core = "/base/custom_nodes/videocrafter/nodes/a.py", f"{comfy_path()}/execution.py"
    library = "/x/lib/python3.11/site-packages/torch/a.py"
    assert _failed("videocrafter.UserError", core, ours).kind == "user error"
    assert _failed("ValueError", core, library) == Verdict("core", "N: ValueError: no", "/execution.py:7 run")
    assert _failed("ValueError", core, ours, library) == Verdict("ours", "N: ValueError: no", "nodes/a.py:7 run")
    assert _failed("ValueError", core, ours, core).kind == "under ours"
    assert [each.failed for each in (_failed("ValueError", core, ours), _failed("ValueError", core))] == [True, False]


def test_failing_graphs_become_small() -> None:
    load = {"class_type": "Load", "inputs": {"name": "b"}}
    made = {"class_type": "VideoCrafterMake", "inputs": {"x": ["1", 0], "size": 5}}
    turned = {"class_type": "Turn", "inputs": {"b": ["2", 0], "a": ["1", 0]}}
    prompt: Prompt = {"1": load, "2": made, "3": turned, "4": {"class_type": "Show", "inputs": {"b": ["3", 0]}}}
    small = shrink(prompt, INFO, lambda one: one.get("2", made)["inputs"]["size"] == 5)
    assert small == {
        "1": {"class_type": "Load", "inputs": {"name": "a"}},
        "2": made,
        "4": {"class_type": "Show", "inputs": {"b": ["2", 0]}},
    }
