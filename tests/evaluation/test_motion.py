"""How dragging is measured: a perfect clip is on its track, one that stands still is not."""

from __future__ import annotations

import numpy as np

from evaluation.motion import drag_cases, drag_figures


def test_the_rough_video_is_on_its_track_and_the_image_alone_is_not() -> None:
    cases = list(drag_cases(8))
    assert {case.scene.shape for case in cases} == {"circle", "square", "triangle", "cross"}
    rough = [case.drag.reference(case.image[None], 16) for case in cases]
    perfect = drag_figures(cases, [(one, one.frames.numpy()) for one in rough])
    assert (perfect["on_track"], perfect["error"], perfect["object"]) == (100, 0, 100)
    assert perfect["rest"] < 0.005
    still = [(one, np.repeat(case.image[None].numpy(), 16, axis=0)) for case, one in zip(cases, rough, strict=True)]
    assert drag_figures(cases, still)["on_track"] == 0
