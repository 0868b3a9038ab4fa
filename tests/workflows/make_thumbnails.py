"""Makes the thumbnails beside the workflows: each from a run of its own, on a real ComfyUI with the boxed models.

    PYTHONPATH=.:tests .venv/bin/python tests/workflows/make_thumbnails.py [NAME ...]

The boxed models stand in for the published files, so a prompt that they know takes the place of the workflow's own.
`python run.py test` makes that `.venv`; `COMFYUI_PATH` may name a ComfyUI.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import stand_ins
from PIL import Image, ImageDraw

from comfyui.base import Base, make_base
from comfyui.server import Server
from comfyui.workflow import to_prompt
from vc_core.frames.video import write_video

SIDE = 384
QUALITY = 85
TEXT, IMAGE, CONTINUING = stand_ins.BOXED
PROMPTS = {
    "11": "a green triangle moves down on a grey background",
    "12": "a purple cross moves to the left on a grey background",
    "13": "a green triangle moves down on a grey background",
    "14": "it moves down and to the right",
    "15": "it moves down and to the right",
    "16": "a shape",
    "17": "a shape",
    "18": "a shape",
    "19": "it moves down and to the right",
    "20": "a white square moves to the left on a brown background",
    "21": "an orange circle grows on a grey background",
    "22": "a cyan ring moves to the upper right on black",
}
SETTINGS = {"cfg": 4.0, "eta": 0.0, "fps": 8.0}
"""What the boxed models were trained for."""


def put(base: Base) -> None:
    """The boxed models under the published names; a picture and a video of the world that they know."""
    stand_ins.put(base)
    for name, spec in stand_ins.CHECKPOINTS.items():
        boxed = CONTINUING if spec.unet.concat_channels else IMAGE if spec.unet.image_attention else TEXT
        shutil.copyfile(stand_ins.boxed_file(boxed), base.model("checkpoints", name))
    shutil.copyfile(stand_ins.boxed_file("example_picture.png"), base.input / "example.png")
    write_video(base.input / "video.mp4", [moving_disc(index) for index in range(16)], fps=8, overwrite=True)


def moving_disc(index: int) -> np.ndarray:
    """A frame of a red disc that wanders to the left before a brown background, 64 64 3 uint8."""
    picture = Image.new("RGB", (4 * 64, 4 * 64), (92, 56, 26))
    middle = 4 * (44 - 0.75 * index), 4 * 32
    ImageDraw.Draw(picture).ellipse([*(at - 44 for at in middle), *(at + 44 for at in middle)], fill=(230, 26, 31))
    return np.array(picture.resize((64, 64), Image.Resampling.LANCZOS))


def adapted(name: str, workflow: dict, info: dict) -> dict:
    """The prompt of a workflow, for the boxed models' size and vocabulary."""
    prompt = to_prompt(workflow, info)
    if name.endswith(stand_ins.SMALL):
        return prompt
    for node in prompt.values():
        inputs = node["inputs"]
        inputs.update(
            {key: value for key, value in SETTINGS.items() if key in inputs and node["class_type"] != "CreateVideo"}
        )
        if node["class_type"] == "VideoCrafterVideoCombine":
            inputs["fps"] = 8.0
        if node["class_type"] in ("VideoCrafterEmptyLatent", "VideoCrafterPictureToVideo"):
            inputs.update(width=64, height=64)
        if node["class_type"] == "VideoCrafterLoraLoader":
            inputs["strength"] = 0.0  # the stand-in is made for another network
        if node["class_type"] == "VideoCrafterKSampler" and inputs["sampler_name"] == "lcm_exact":
            inputs.update(steps=50, sampler_name="ddim_exact", scheduler="uniform")
        if node["class_type"] == "ImageScale":
            times = inputs["width"] // 512
            inputs.update(width=64 * times, height=64 * times)
        if node["class_type"] == "CLIPTextEncode" and inputs["text"]:
            inputs["text"] = PROMPTS[name[:2]]
    return prompt


def thumbnail(data: bytes, place: Path) -> None:
    """Four frames of a video in a square."""
    frames = stand_ins.decode(data).frames
    sheet = Image.new("RGB", (SIDE, SIDE))
    half = SIDE // 2
    for index in range(4):
        frame = Image.fromarray(frames[round(index * (len(frames) - 1) / 3)])
        sheet.paste(
            frame.resize((half - 2, half - 2), Image.Resampling.LANCZOS),
            (index % 2 * (half + 2), index // 2 * (half + 2)),
        )
    sheet.save(place, quality=QUALITY)


def main(names: list[str]) -> int:
    chosen = names or [file.stem for file in stand_ins.FILES]
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder))
        put(base)
        with Server(base) as server:
            for name in chosen:
                workflow = stand_ins.load(name)
                run = server.run(adapted(name, workflow, server.object_info()), workflow=workflow)
                if run.status != "success":
                    sys.stderr.write(f"{name}: {run.error}\n")
                    return 1
                (shown,) = [file for file in run.files if file["filename"].endswith(".mp4")]
                thumbnail(server.view(shown), stand_ins.FOLDER / f"{name}.jpg")
                sys.stderr.write(f"{name}: done\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
