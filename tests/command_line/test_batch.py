"""The command `batch`: what it makes, what it refuses, and how it goes on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line.running import run

from benchmarks import batch_kills
from vc_core import files, making
from vc_core.batch import lines as batch_lines
from vc_core.batch.manifest import Manifest
from vc_core.files import append_line

Batch = Callable[..., int]


@pytest.fixture
def batch(text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    """Runs a batch of JSON lines in a folder of its own, with the small text model."""
    monkeypatch.chdir(tmp_path)

    def call(lines: Sequence[Any], *options: str, model: Path = text_model) -> int:
        text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
        (tmp_path / "lines.jsonl").write_text(text, encoding="utf-8")
        common = ("--set", f"model={model}", "--set", "device=cpu")
        return run("batch", "lines.jsonl", *common, *options)

    return call


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]


def counted_loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that are loaded from now on."""
    loads: list[Any] = []
    load = making.VideoCrafter.load

    def spy(path: Any, **given: Any) -> Any:
        loads.append(path)
        return load(path, **given)

    monkeypatch.setattr(making.VideoCrafter, "load", spy)
    return loads


class TestMaking:
    def test_videos_are_those_of_the_single_commands_byte_for_byte(
        self, batch: Batch, text_model: Path, image_model: Path, picture: Path, tmp_path: Path
    ) -> None:
        lines = [
            {"prompt": "a boat", "seed": 7, "steps": 4, "then": ["a ship", "a car"], "output": "first.mp4"},
            {"prompt": "5 degrees", "picture": str(picture), "model": str(image_model), "seed": 2, "output": "b.gif"},
            {"prompt": "a boat", "negative": "", "motion-strength": True, "seed": 3, "output": "new/c.webp"},
        ]
        assert batch(lines) == 0
        text, image = ("-m", text_model, "--device", "cpu"), ("-m", image_model, "--device", "cpu")
        then = ("--then", "a ship", "--then", "a car", "--steps", "4")
        assert run("text-to-video", "a boat", "--seed", "7", *then, *text, "-o", tmp_path / "1.mp4") == 0
        given = ("-i", picture, "--seed", "2", *image, "-o", tmp_path / "2.gif")
        assert run("image-to-video", "5 degrees", *given) == 0
        strong = ("--motion-strength", "--seed", "3", *text, "-o", tmp_path / "3.webp")
        assert run("text-to-video", "a boat", *strong) == 0
        made = tmp_path / "lines"
        for ours, single in (("first.mp4", "1.mp4"), ("b.gif", "2.gif"), ("new/c.webp", "3.webp")):
            assert (made / ours).read_bytes() == (tmp_path / single).read_bytes()

    def test_lists_and_ranges_make_all_combinations_with_one_load_of_each_model(
        self, batch: Batch, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loads = counted_loads(monkeypatch)
        bundled = "small"
        lines = [
            {"prompt": "a boat", "seed": "1-2", "cfg": [1, 2.5], "frames": 2},
            {"prompt": "a red square", "seed": 1, "model": bundled, "steps": 1, "frames": 1},
            {"prompt": "a ship", "seed": [5, "7, 9"], "frames": 2},
        ]
        assert batch(lines) == 0
        assert [[path.name for path in paths] for paths in loads] == [
            [text_model.name],
            ["videocrafter_small_t2v.safetensors"],
        ]
        entries = manifest(tmp_path / "lines")
        assert [(entry["line"], entry["seed"]) for entry in entries] == [
            *((1, seed) for seed in (1, 1, 2, 2)),
            (2, 1),
            *((3, seed) for seed in (5, 7, 9)),
        ]
        assert [entry["settings"]["cfg"] for entry in entries[:4]] == [1, 2.5, 1, 2.5]
        assert entries[1]["file"] == "0001-a-boat-seed-1-cfg-2_5.mp4"
        assert len({entry["file"] for entry in entries}) == len(list((tmp_path / "lines").glob("*.mp4"))) == 8
        assert all(entry["status"] == "done" and entry["seconds"] > 0 and entry["bytes"] > 0 for entry in entries)

    def test_the_page_the_sheet_and_the_end_of_the_output(
        self, batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert batch([{"prompt": "<b>a boat</b>", "seed": 1}]) == 0
        folder = tmp_path / "lines"
        page = (folder / "index.html").read_text("utf-8")
        assert "&lt;b&gt;a boat" in page
        assert 'src="./0001-b-a-boat-b.mp4"' in page
        assert (folder / "contact-sheet.jpg").stat().st_size > 500
        assert "index.html: 1 video\n" in capsys.readouterr().out

    def test_check_makes_nothing(
        self, batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(making.VideoCrafter, "load", None)
        assert batch([{"prompt": "a boat", "seed": "1-2"}], "--check") == 0
        assert "line 1 (seed 2): " in capsys.readouterr().out
        assert not (tmp_path / "lines").exists()


BAD: dict[str, tuple[Any, str]] = {
    "unknown option": ({"prompt": "a", "stepz": 3}, "There is no option 'stepz'. Did you mean steps?"),
    "missing image": ({"prompt": "a", "picture": "missing.png"}, "Image 'missing.png' not found"),
    "bad number": ({"prompt": "a", "steps": "x"}, "argument --steps: invalid int value: 'x'"),
    "no such model": ({"prompt": "a", "model": "nothing.ckpt"}, "There is no file nothing.ckpt"),
    "model for images": ({"prompt": "a", "picture": "picture.png"}, "This is a text-to-video model"),
    "size": ({"prompt": "a", "width": 33}, "Width is 33 pixels"),
    "option of the other command": ({"prompt": "a", "loop": True}, "loop is an option of image-to-video"),
    "same name": ([{"prompt": "a", "output": "b.mp4"}, {"prompt": "c", "output": "B.mp4"}], "is that of line 2"),
    "outside": ({"prompt": "a", "output": "../a.mp4"}, "is not a name inside of the folder of results"),
    "own file": ({"prompt": "a", "output": "index.html/a.mp4"}, "is not a name inside of the folder of results"),
    "inside of a video": ([{"prompt": "a", "output": "b"}, {"prompt": "c", "output": "b/a.mp4"}], "that of line 2"),
    "around a video": ([{"prompt": "a", "output": "b/a.mp4"}, {"prompt": "c", "output": "B"}], "that of line 2"),
    "ending": ({"prompt": "a", "output": "a.exe"}, "does not end with the suffix of a video format"),
    "same video": ([{"prompt": "a", "seed": 1}, {"seed": "1", "prompt": "a"}], "the same video as that of line 2"),
    "seeds": ({"prompt": "a", "seed": "4-1"}, "from a lower to a higher number"),
    "seed": ({"prompt": "a", "seed": -1}, "-1 is not a whole number from 0"),
    "too many": ({"prompt": "a", "seed": "0-18446744073709551615"}, "100000 are allowed"),
    "too many combinations": ({"prompt": "a", "seed": "1-9999", "cfg": [1] * 11}, "109989 videos"),
    "empty list": ({"prompt": "a", "cfg": []}, "cfg is an empty list"),
    "list in a list": ({"prompt": "a", "cfg": [[1]]}, "cfg has one value in each video"),
    "mixed list": ({"prompt": "a", "then": ["b", ["c"]]}, "then mixes values and lists"),
    "object": ({"prompt": {"text": "a"}}, 'prompt is {"text": "a"}'),
    "switch": ({"prompt": "a", "overwrite": "maybe"}, "overwrite is 'maybe'; it should be true or false"),
    "truth": ({"prompt": "a", "steps": True}, "steps is true; it should be a text or a number"),
    "zero byte": ({"prompt": "a\0"}, "contains a zero byte"),
    "surrogate": ({"prompt": "\ud800"}, "is not valid text"),
    "option of the command itself": ({"prompt": "a", "verbose": True}, "There is no option 'verbose'"),
    "no prompt": ({"seed": 1}, "There is no prompt"),
    "not JSON": ("prompt: a\n", "This is not JSON (Expecting value, column 1)"),
    "not an object": ([["a"]], "This is not a JSON object"),
    "twice": ('{"prompt": "a", "--Prompt": "b"}\n', "is given twice"),
    "NaN": ('{"prompt": "a", "cfg": NaN}\n', "NaN is not a number that JSON has"),
}


class TestBadLines:
    def test_all_are_reported_with_their_numbers_before_anything_runs(
        self,
        batch: Batch,
        picture: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """One file for each case with one line before it; and one file with all of them."""
        monkeypatch.setattr(making.VideoCrafter, "load", None)
        for case, (given, message) in BAD.items():
            lines = given if isinstance(given, list) else [given]
            assert batch(["# a comment\n", *lines]) == 2, case
            *problems, last = capsys.readouterr().err.splitlines()
            assert problems[-1].startswith(f"lines.jsonl, line {len(lines) + 1}: "), (case, problems)
            assert message in problems[-1], (case, problems)
            assert last.startswith("error: 1 line of lines.jsonl cannot be used, and no video was made."), case
        single = [given for given, _ in BAD.values() if not isinstance(given, list)]
        assert batch(["\n", *single]) == 2
        *problems, last = capsys.readouterr().err.splitlines()
        assert [problem.split(": ")[0] for problem in problems] == [
            f"lines.jsonl, line {2 + index}" for index in range(len(single))
        ]
        assert last.startswith(f"error: {len(single)} lines of lines.jsonl cannot be used")
        assert {path.name for path in tmp_path.iterdir()} == {"lines.jsonl", picture.name}

    def test_skip_bad_makes_the_others(self, batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lines = ["not JSON\n", {"prompt": "a", "seed": 1}, {"prompt": "a", "seed": 1, "steps": -1}]
        assert batch(lines, "--skip-bad") == 0
        assert [entry["line"] for entry in manifest(tmp_path / "lines")] == [2]
        problems = capsys.readouterr().err.splitlines()
        assert [problem.split(": ")[0] for problem in problems] == ["lines.jsonl, line 1", "lines.jsonl, line 3"]
        assert batch(lines[:1], "--skip-bad") == 2

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--set", "model"), "--set 'model' should be NAME=VALUE"),
            (("--ending", ".exe"), "does not end with the suffix of a video format"),
            (("--output", "lines.jsonl/new"), "is not a valid file name here"),
            (("--output", "lines.jsonl"), "'lines.jsonl' is a file. Choose a folder"),
        ],
    )
    def test_bad_options_of_the_command(
        self, options: Sequence[str], message: str, batch: Batch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert batch([{"prompt": "a"}], *options) == 2
        assert message in capsys.readouterr().err


class TestResuming:
    LINES = [{"prompt": f"a {name}", "seed": 1, "frames": 1, "steps": 1} for name in ("boat", "ship", "car")]

    def test_nothing_is_made_again_and_what_is_missing_is(
        self, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert batch(self.LINES) == 0
        loads = counted_loads(monkeypatch)
        moved = ["# moved by two lines\n", "\n", *self.LINES]
        assert batch(moved) == 0
        assert loads == []
        assert "3 of 3 videos are done already." in capsys.readouterr().out
        first = next((tmp_path / "lines").glob("0001*.mp4"))
        data = first.read_bytes()
        first.unlink()
        assert batch(self.LINES) == 0
        assert first.read_bytes() == data
        first.write_bytes(data[:-1])  # changed by another program: neither a result nor ours to replace
        assert batch(self.LINES) == 0
        assert first.read_bytes() == data[:-1]
        assert first.with_stem(f"{first.stem}-2").read_bytes() == data
        assert len(loads) == 2

    def test_every_moment_of_a_kill(self, batch: Batch, tmp_path: Path) -> None:
        """The states that a killed process leaves, between any two of its writes."""
        assert batch(self.LINES) == 0
        folder = tmp_path / "lines"
        videos = {path.name: path.read_bytes() for path in folder.glob("*.mp4")}
        whole = (folder / "manifest.jsonl").read_bytes()
        entries = whole.splitlines(keepends=True)
        last = folder / json.loads(entries[2])["file"]
        part = folder / ".videocrafter-0123456789abcdef.part"
        states = {
            "before the entry": (b"".join(entries[:2]), False),
            "within the entry": (b"".join(entries[:2]) + entries[2][:40], False),
            "between entry and name": (whole, False),
            "after the name": (whole, True),
        }
        for state, (written, named) in states.items():
            (folder / "manifest.jsonl").write_bytes(written)
            part.write_bytes(b"half a video")
            if not named:
                last.unlink()
            assert batch(self.LINES) == 0, state
            assert {path.name: path.read_bytes() for path in folder.glob("*.mp4")} == videos, state
            assert [entry["file"] for entry in manifest(folder)] == sorted(videos), state
            assert not part.exists(), state

    def test_a_killed_process_loses_and_repeats_nothing(self, text_model: Path, tmp_path: Path) -> None:
        found = batch_kills.measure(tmp_path, lines=12, kills=3, model=str(text_model))
        wanted = {"videos": 12, "equal_bytes": 12, "entries": 12, "distinct_entries": 12, "made_twice": 0}
        assert {name: found[name] for name in wanted} == wanted
        assert found["kills"] >= 1
        assert found["temporary_files"] == 0

    def test_an_entry_is_on_the_disk_before_the_video_has_its_name(
        self, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[int, bool]] = []
        commit = files._commit

        def spy(place: Any, **given: Any) -> None:
            if place.final.suffix == ".mp4":
                seen.append((len(manifest(tmp_path / "lines")), place.final.exists()))
            commit(place, **given)

        monkeypatch.setattr(files, "_commit", spy)
        assert batch(self.LINES) == 0
        assert seen == [(1, False), (2, False), (3, False)]

    def test_what_fails_is_recorded_reported_and_tried_again(
        self, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        generate = making.VideoCrafter.generate

        def broken(self: Any, prompt: str, *given: Any, **settings: Any) -> Any:
            if prompt == "a ship":
                raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return generate(self, prompt, *given, **settings)

        with monkeypatch.context() as patched:
            patched.setattr(making.VideoCrafter, "generate", broken)
            assert batch(self.LINES) == 2
        said = capsys.readouterr().err
        assert "line 2: There is not enough memory" in said
        assert "1 of 3 videos could not be made (line 2). The same command tries them again." in said
        entries = manifest(tmp_path / "lines")
        assert [entry["status"] for entry in entries] == ["done", "failed", "done"]
        assert "Line 2 failed: There is not enough memory" in (tmp_path / "lines" / "index.html").read_text("utf-8")
        assert batch(self.LINES) == 0
        assert [entry["status"] for entry in manifest(tmp_path / "lines")] == ["done"] * 3

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("shapes do not fit")], ids=["ctrl-c", "bug"])
    def test_ctrl_c_and_unknown_errors_end_it_and_keep_what_is_done(
        self, error: BaseException, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generate = making.VideoCrafter.generate

        def broken(self: Any, prompt: str, *given: Any, **settings: Any) -> Any:
            if prompt == "a ship":
                raise error
            return generate(self, prompt, *given, **settings)

        monkeypatch.setattr(making.VideoCrafter, "generate", broken)
        if isinstance(error, KeyboardInterrupt):
            assert batch(self.LINES) == 130
        else:
            with pytest.raises(RuntimeError, match="shapes"):
                batch(self.LINES)
        assert [entry["line"] for entry in manifest(tmp_path / "lines")] == [1]
        assert (tmp_path / "lines" / "index.html").is_file()

    def test_a_changed_line_does_not_replace_the_earlier_video(
        self, batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = {"prompt": "a boat", "seed": 1, "frames": 1, "steps": 1, "output": "boat.mp4"}
        assert batch([line]) == 0
        assert batch([{**line, "seed": 2}]) == 2
        assert "boat.mp4' already exists" in capsys.readouterr().err
        assert batch([{**line, "seed": 2, "overwrite": True}]) == 0
        assert [entry["seed"] for entry in manifest(tmp_path / "lines")] == [2]
        assert batch([{**line, "seed": 2, "overwrite": True}]) == 0

    def test_a_folder_in_use_and_a_foreign_manifest_are_refused(
        self, batch: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "lines"
        folder.mkdir()
        with files.locked(folder / ".batch.lock", ""):
            assert batch(self.LINES) == 2
        assert "Another process works in the folder" in capsys.readouterr().err
        (folder / "manifest.jsonl").write_text('{"file": "photo.jpg"}\n')
        assert batch(self.LINES) == 2
        assert "Line 1 of" in (said := capsys.readouterr().err)
        assert "is not an entry of a batch" in said


def test_every_option_of_the_commands_can_be_set_in_a_line() -> None:
    """From the parsers, so that new options follow: each gives the words that its parser takes."""
    for command, parser in batch_lines.parsers().items():
        options = batch_lines.options_of(command)
        assert {action.dest for action in parser._actions} == set(options)
        for name, option in options.items():
            action = next(action for action in parser._actions if action.dest == name)
            value = True if action.nargs == 0 else next(iter(action.choices)) if action.choices else "1"
            values = {"prompt": "a", "model": "m", **({"picture": "p"} if command == "image-to-video" else {})}
            read = getattr(batch_lines.parsed({**values, name: value}), name)
            assert read not in (None, False, []), name
            if option.takes is batch_lines.Takes.SEVERAL:
                assert len(getattr(batch_lines.parsed({**values, name: ["1", "2"]}), name)) == 2
            if isinstance(action, argparse.BooleanOptionalAction):
                assert getattr(batch_lines.parsed({**values, name: "no"}), name) is False


def test_a_prompt_may_look_like_an_option() -> None:
    assert batch_lines.parsed({"prompt": "--steps 5", "model": "m"}).prompt == "--steps 5"


def test_a_line_is_appended_after_an_incomplete_one(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    append_line(path, "1")
    path.write_bytes(path.read_bytes() + b"torn")
    append_line(path, "2")
    assert path.read_bytes() == b"1\ntorn\n2\n"
    assert Manifest(tmp_path / "none").entries == {}
