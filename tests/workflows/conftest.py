"""The files that the workflows name, in the folders of the tests' ComfyUI."""

from __future__ import annotations

import pytest
import stand_ins

from comfyui.base import Base


@pytest.fixture(scope="session")
def files(base: Base) -> None:
    """Small stand-ins for everything that a workflow loads."""
    stand_ins.put(base)
