"""What a pickle would build is found without building it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from vc_core.checkpoint.pickles import has_endless_tuple
from vc_core.checkpoint.reading import read
from vc_core.errors import UserError

WEIGHTS = {"a.weight": torch.zeros(2, 2)}

formats = pytest.mark.parametrize("archive", [True, False], ids=["archive", "old"])


def nested(times: int) -> tuple[Any, ...]:
    """A tuple that holds another one twice, and that one too, and so on: 2^(times + 1) numbers in a few bytes."""
    found: tuple[Any, ...] = (1, 2)
    for _ in range(times):
        found = (found, found)
    return found


def saved(folder: Path, content: object, *, archive: bool) -> Path:
    path = folder / "model.ckpt"
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    return path


@formats
def test_a_tuple_that_python_cannot_hash_in_time_is_refused(tmp_path: Path, archive: bool) -> None:
    path = saved(tmp_path, {**WEIGHTS, "state": nested(40)}, archive=archive)
    with pytest.raises(UserError, match="a tuple with more items than any model"):
        read(path)


def test_it_is_found_as_a_key_and_in_a_damaged_program(tmp_path: Path) -> None:
    program = pickle.dumps(nested(40), protocol=2)[:-1]
    path = tmp_path / "model.pt"
    for before, after in ((b"\x80\x02}", b"K\x01s."), (b"\x80\x02", b"\xff")):
        path.write_bytes(before + program[2:] + after)
        assert has_endless_tuple(path, archive=False)
    path.write_bytes(b"\x80\x02\xff" + program[2:])
    assert not has_endless_tuple(path, archive=False), "Python stops before it"


@formats
def test_tuples_that_are_used_often_are_fine(tmp_path: Path, archive: bool) -> None:
    state = [nested(3)] * 1000
    path = saved(tmp_path, {**WEIGHTS, "state": state, "more": (state, state)}, archive=archive)
    assert set(read(path).tensors) == set(WEIGHTS)
