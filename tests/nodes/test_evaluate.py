"""VideoCrafter Evaluate: the figures of vc_core, and what it says of wrong inputs."""

from __future__ import annotations

import json

import pytest
from judging.constructed import fading, texture

from vc_core.judging import METRICS, judge, metrics
from vc_core.judging.drawing import PAGE

QUICK = "temporal_flickering, window_seams, first_frame_psnr"


def test_the_node_gives_the_figures_of_vc_core(comfy):
    clip = fading(6, 0.02, {4: 0.06})
    image = clip[:1] + 0.01
    with comfy.progress() as seen:
        report, text, shown = comfy.call(
            "VideoCrafterEvaluate", images=clip, metrics=QUICK, window_stride=4, image=image
        ).values
    expected = judge(clip, metrics(tuple(QUICK.split(", ")), window_stride=4, image=(image[0],))).values
    found = json.loads(text)["videos"]["video"]["metrics"]
    assert {name: each["value"] for name, each in found.items()} == pytest.approx(expected, rel=1e-5)
    assert found["window_seams"]["value"] == pytest.approx(3, rel=0.02)
    assert "window_seams" in report
    assert shown.shape[0] == 1
    assert shown.shape[2:] == (PAGE, 3)
    assert seen.steps[-1] == (6, 6)


def test_all_metrics_of_images_with_other_channels(comfy):
    clip = texture()[None, :16, :24].repeat(2, 1, 1, 1)
    for images in (clip[..., :1], clip):
        _, text, _ = comfy.call("VideoCrafterEvaluate", images=images).values
        video = json.loads(text)["videos"]["video"]
        assert video["metrics"].keys() | video["not_measured"].keys() == METRICS.keys()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"metrics": "sharpness"}, "There is no metric 'sharpness'"),
        ({"image": texture()[None].repeat(2, 1, 1, 1)}, "The image input contains 2 images"),
        ({"images": texture()}, "The frames have the shape"),
    ],
)
def test_wrong_inputs(comfy, given, words):
    with pytest.raises(ValueError, match=words):
        comfy.call("VideoCrafterEvaluate", **{"images": texture()[None], **given})
