"""Texts in files: camera poses, tracks, boxes, batches, manifests, workflows, settings of LoRA files, specs."""

from __future__ import annotations

import json
from typing import Any

from checkpoint.synthetic import IMAGE_MODEL, TEXT_MODEL
from fuzz.damage import CHANGES, SCALARS, VALUES, damaged, json_text, replaced
from fuzz.fuzzing import fuzzed
from fuzz.guards import Folder
from hypothesis import strategies as st

from vc_core.batch.manifest import NAME, Manifest
from vc_core.batch.page import save_page
from vc_core.batch.reading import read_rows
from vc_core.checkpoint.lora import _peft_scale
from vc_core.checkpoint.plausible import check_spec
from vc_core.control.boxes import Canvas, paths_of
from vc_core.control.camera import poses_of
from vc_core.control.options import _text as text_of_control
from vc_core.control.tracks import every, for_frames, on_canvas, tracks_of
from vc_core.dragging import _text as text_of_drag
from vc_core.errors import UserError
from vc_core.specs import from_json, to_json
from vc_core.submit.filling import load_workflow

FRAMES = 16
NUMBERS = st.one_of(
    st.integers(-9, 99).map(str),
    st.floats().map(str),
    st.sampled_from(["", "nan", "-inf", "1e999", "1e308", "0x10", "1_0", "٣", "x", "--1", "9" * 400, "http://a", "#"]),
)
SEPARATORS = st.sampled_from([" ", ",", ";", "\n", "\n\n", "\t", ", ", "\r\n", "\u2028", "\x00"])
WRITTEN = st.lists(st.tuples(NUMBERS, SEPARATORS), max_size=40).map(lambda parts: "".join(map("".join, parts)))
POINT = {"x": 10, "y": 20.5}
BOX = {"x": 0, "y": 4, "width": 64, "height": 32}
POSES = [[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]] * 2
TRACKS = st.one_of(
    WRITTEN,
    json_text(),
    json_text(replaced([[POINT, [1, 2]], [POINT]])),
    json_text(replaced([[1, 2], [3, 4]])),
    st.text(max_size=40),
)


@fuzzed(st.one_of(WRITTEN, json_text(), json_text(replaced(POSES)), st.text(max_size=40)), examples=40)
def test_camera_poses(case: str) -> None:
    assert poses_of(case).isfinite().all()


@fuzzed(TRACKS, examples=40)
def test_tracks(case: str) -> None:
    tracks = tracks_of(case)
    for track in tracks:
        for_frames(track, FRAMES)
        every(track, FRAMES)
    on_canvas(tracks, canvas=512, width=64)


@fuzzed(st.one_of(TRACKS, json_text(replaced([[BOX, BOX], [BOX, BOX]])), json_text(replaced(BOX))), examples=40)
def test_boxes(case: str) -> None:
    for path in paths_of(case, Canvas(frames=FRAMES, width=64, height=64, box=(0.25, 0.25))):
        assert len(path.cells(8, 8)) >= FRAMES


@fuzzed(st.one_of(st.text(max_size=300), st.binary(max_size=60)), examples=20)
def test_values_that_may_be_files(case: str | bytes, folder: Folder) -> None:
    given = case if isinstance(case, str) else str(folder.file("track.txt", case))
    for text in (text_of_drag, text_of_control):
        try:
            assert isinstance(text(given), str)
        except UserError:
            continue


ROW = {"prompt": "a boat", "seed": 7, "end-picture": ["a.png", "b.png"], "cfg": 7.5}
LINES = st.lists(st.one_of(json_text(replaced(ROW)), json_text(), st.text(max_size=30)), max_size=4).map("\n".join)
CELLS = st.one_of(st.text(max_size=8), st.sampled_from(["prompt", "seed", '"', '""', '"a', "#", "sep=;", 'sep="', " "]))
ROWS = st.lists(st.lists(CELLS, max_size=4), max_size=5)
TABLES = st.tuples(ROWS, st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["\n", "\r\n", "\r"])).map(
    lambda case: case[2].join(case[1].join(row) for row in case[0])
)
SUFFIXES = st.sampled_from([".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".CSV"])
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "utf-32"])


@fuzzed(st.tuples(st.one_of(LINES, TABLES), SUFFIXES, ENCODINGS, st.one_of(st.just([]), CHANGES)), examples=40)
def test_batch_files(case: tuple[str, str, str, list[Any]], folder: Folder) -> None:
    text, suffix, encoding, changes = case
    path = folder.file(f"batch{suffix}", damaged(text.encode(encoding, "replace"), changes))
    read = read_rows(path)
    assert all(len(problem.message.splitlines()) == 1 for problem in read.problems)
    assert all(isinstance(name, str) for row in read.rows for name in row.values)


ENTRY = {"key": "ab12", "line": 1, "status": "done", "given": {"prompt": "a"}, "file": "0001.mp4", "bytes": 3, "fps": 8}
ENTRIES = st.lists(st.one_of(json_text(replaced(ENTRY)), json_text(), st.text(max_size=30)), max_size=3)


@fuzzed(ENTRIES, examples=40)
def test_manifests(case: list[str], folder: Folder) -> None:
    folder.file(NAME, "\n".join(case))
    manifest = Manifest(folder.inputs)
    for key in manifest.entries:
        manifest.file_of(key)
    manifest.files()
    save_page(folder.outputs / "index.html", "batch", manifest.ordered(["ab12"]), sheet=False)
    manifest.compact(["ab12"])


WORKFLOW = {
    "1": {"class_type": "A", "inputs": {"seed": 7, "model": ["2", 0]}, "_meta": {"title": "Sampler"}},
    "2": {"class_type": "B", "inputs": {"name": "x"}},
}
NODES = {
    "A": {"input": {"required": {"seed": ["INT", {"min": 0, "max": 99}], "model": ["MODEL"]}}},
    "B": {
        "input": {"required": {"name": [["x", "y"], {}]}, "optional": {"image": [["a.png"], {"image_upload": True}]}}
    },
}


@fuzzed(
    st.tuples(
        st.one_of(json_text(replaced(WORKFLOW)), json_text(), st.text(max_size=30)),
        st.dictionaries(st.sampled_from(["seed", "name", "Sampler.seed", "image", "1.seed", "x"]), VALUES, max_size=2),
    ),
    examples=40,
)
def test_workflows(case: tuple[str, dict[str, Any]], folder: Folder) -> None:
    text, values = case
    load_workflow(folder.file("workflow.json", text), NODES).fill(values)


@fuzzed(
    st.one_of(json_text(replaced({"r": 4, "lora_alpha": 8, "use_rslora": True})), json_text(), st.binary(max_size=9)),
    examples=30,
)
def test_settings_of_lora_files(case: str | bytes, folder: Folder) -> None:
    folder.file("adapter_config.json", case)
    scale = _peft_scale(folder.inputs / "adapter.safetensors")
    assert scale == scale
    assert abs(scale) != float("inf")


SPECS = [json.loads(to_json(spec)) for spec in (TEXT_MODEL, IMAGE_MODEL)]


@fuzzed(
    st.one_of(json_text(st.sampled_from(SPECS).flatmap(lambda spec: replaced(spec, SCALARS | VALUES))), json_text()),
    examples=60,
)
def test_specs(case: str) -> None:
    try:
        check_spec(from_json(case))
    except (ValueError, TypeError):  # both are said as a UserError by the one who reads it
        return


@fuzzed(st.tuples(st.text(max_size=300), st.booleans()), examples=20)
def test_names_of_files(case: tuple[str, bool]) -> None:
    from vc_core.checkpoint import read
    from vc_core.video.clips import open_frames

    name, image = case
    open_frames(name) if image else read(name)
