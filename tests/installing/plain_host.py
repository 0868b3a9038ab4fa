"""Runs every kind of small model through the nodes, in a ComfyUI that has no package but its own.

    python plain_host.py BASE

BASE is a base directory with the files that `test_packages.py` puts there. Prints a JSON object: the packages that were
left out, the nodes that ran, and for each model the files it wrote.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
KINDS = ("text", "relative", "image", "continuing", "toon", "turbo", "viewed", "style")
SIZE = {"width": 16, "height": 24, "frames": 3}


class Runner:
    """Nodes of a ComfyUI called by id, and which of ours were."""

    def __init__(self, comfy):
        self.comfy, self.ran = comfy, set()

    def __call__(self, node, **inputs):
        self.ran.add(node)
        return self.comfy.call(node, **inputs)

    def text(self, clip, prompt="a red square"):
        return self("CLIPTextEncode", clip=clip, text=prompt).values[0]

    def sampled(self, model, vae, conditions, name, **settings):
        """Samples two steps of a clip, decodes it and writes it; the names of the files."""
        positive, negative, latent = conditions
        given = {"positive": positive, "negative": negative, "latent_image": latent, "steps": 2, **settings}
        (samples,) = self("VideoCrafterKSampler", model=model, **given).values
        (frames,) = self("VideoCrafterDecode", samples=samples, vae=vae).values
        shown = self("VideoCrafterVideoCombine", images=frames, filename_prefix=name).ui
        return [item["filename"] for items in shown.values() for item in items if isinstance(item, dict)]

    def conditions(self, model, clip, vae, vision, picture, **changed):
        """What the sampler of this kind of model takes: positive, negative, latent."""
        texts = {"positive": self.text(clip), "negative": self.text(clip, "")}
        spec, size = model.model.spec, {**SIZE, **changed}
        if spec.follows_views:
            size["views"] = picture.expand(size.pop("frames"), -1, -1, -1)
            given = {**texts, "model": model, "clip_vision": vision, "vae": vae, "image": picture}
            out = self("VideoCrafterViewsToVideo", **given, **size).values
            return out[0], out[1], out[-1]
        if spec.unet.concat_channels:
            given = {**texts, "model": model, "clip_vision": vision, "vae": vae, "image": picture}
            out = self("VideoCrafterPictureToVideo", **given, **size).values
            return out[0], out[1], out[-1]
        (latent,) = self("VideoCrafterEmptyLatent", **size).values
        if spec.unet.image_attention:
            out = self("VideoCrafterImageConditioning", **texts, model=model, clip_vision=vision, image=picture).values
            return out[0], out[1], latent
        return texts["positive"], texts["negative"], latent


def whole_files(run, names, picture):
    """Every file through the checkpoint loader."""
    written = {}
    for name in names:
        parts = run("VideoCrafterCheckpointLoader", ckpt_name=name, weight_dtype="fp32").values
        turbo = {"sampler_name": "lcm_exact", "scheduler": "lcm"} if parts[0].model.spec.unet.guidance_width else {}
        written[name] = run.sampled(parts[0], parts[2], run.conditions(*parts, picture), Path(name).stem, **turbo)
    return written


def files_of_parts(run, picture):
    """The image-to-video model again, from a file for each part, with two LoRA files on a text-to-video model."""
    (model,) = run("VideoCrafterUNETLoader", unet_name="image_part.safetensors", weight_dtype="fp32").values
    (vae,) = run("VideoCrafterVAELoader", vae_name="image_part.safetensors").values
    (clip,) = run("VideoCrafterCLIPLoader", clip_name="image_part.safetensors").values
    (vision,) = run("VideoCrafterCLIPVisionLoader", clip_name="image_part.safetensors").values
    written = {"parts": run.sampled(model, vae, run.conditions(model, clip, vae, vision, picture), "parts")}
    files = {
        "turbo_list.pt": "text.safetensors",
        "videocrafter_small_turbo_lora.safetensors": "videocrafter_small_t2v.safetensors",
    }
    for lora, checkpoint in files.items():
        model, clip, vae, vision = run("VideoCrafterCheckpointLoader", ckpt_name=checkpoint).values
        changed = run("VideoCrafterLoraLoader", model=model, lora_name=lora).values[0]
        settings = {"sampler_name": "lcm_exact", "scheduler": "lcm"}
        conditions = run.conditions(changed, clip, vae, vision, picture)
        written[lora] = run.sampled(changed, vae, conditions, Path(lora).stem, **settings)
    return written


def changed_models(run, picture):
    """The nodes that change a model or a conditioning, and core's own sampling with ours, on a text-to-video model."""
    model, clip, vae, vision = run("VideoCrafterCheckpointLoader", ckpt_name="text.safetensors").values
    conditions = positive, negative, latent = run.conditions(model, clip, vae, vision, picture)
    written = {}
    for node in ("VideoCrafterStepCache", "VideoCrafterGuidanceCache", "VideoCrafterFreeNoise"):
        written[node] = run.sampled(run(node, model=model).values[0], vae, conditions, node)
    (long,) = run("VideoCrafterLongVideo", method="windows").values
    written["long"] = run.sampled(model, vae, conditions, "long", long_video_settings=long)
    windows = run("VideoCrafterContextWindows", model=model).values[0]
    written["windows"] = run.sampled(windows, vae, conditions, "windows")
    paced = run("VideoCrafterFPS", positive=positive, negative=negative, fps=8.0).values
    travel = run("VideoCrafterPromptsOverTime", first=paced[0], second=run.text(clip, "a disc"), latent_image=latent)
    written["prompts"] = run.sampled(model, vae, (travel.values[0], paced[1], latent), "prompts")
    (sigmas,) = run("VideoCrafterScheduler", model=model, steps=2).values
    (sampler,) = run("VideoCrafterSampler").values
    given = {"add_noise": True, "noise_seed": 1, "cfg": 2.0, "sampler": sampler, "sigmas": sigmas}
    given |= {"positive": positive, "negative": negative, "latent_image": latent}
    samples = run("SamplerCustom", model=model, **given).values[0]
    run("VAEDecode", samples=samples, vae=vae)
    model, *_ = run("VideoCrafterCheckpointLoader", ckpt_name="continuing.safetensors").values
    run("VideoCrafterAnalyticInit", model=model)
    return written


def controlled_models(run, picture):
    """Every control, on a model that it works with."""
    frames, size = picture.expand(3, -1, -1, -1), {"width": 64, "height": 64}
    boxes = {"words": "red square", "boxes": "0, 0.1, 0.6, 0.1, 0.6", "prompt": "a red square"}
    camera = {"camera": "zoom in"}
    style = {"file": "style_adapter.pth", "temporal": "style_temporal.pth", "images": picture}
    (style["clip_vision"],) = run("VideoCrafterCLIPVisionLoader", clip_name="image_part.safetensors").values
    given = [
        ("motionctrl.pth", "VideoCrafterMotionCtrlControl", {}, camera),
        ("motionctrl.pth", "VideoCrafterFreeTrajControl", {}, boxes),
        ("text.safetensors", "VideoCrafterMotionStrengthControl", {}, {"strength": 0.5}),
        ("text.safetensors", "VideoCrafterScaleCrafterControl", {}, {"factors": "middle: 2"}),
        ("text.safetensors", "VideoCrafterByTheWayControl", {}, {}),
        ("text.safetensors", "VideoCrafterFreqPriorControl", {}, {"rounds": 2}),
        ("text.safetensors", "VideoCrafterNoiseCalibrationControl", {}, {}),
        ("text.safetensors", "VideoCrafterFreeUControl", {}, {}),
        ("text.safetensors", "VideoCrafterLayerGuidanceControl", {}, {"temporal": "skipped"}),
        ("text.safetensors", "VideoCrafterCUDAGraphs", {}, {}),
        ("style.safetensors", "VideoCrafterStyleCrafterControl", {}, style),
        ("toon.safetensors", "VideoCrafterSketchControl", {}, {"file": "sketch_encoder.ckpt", "images": frames}),
        ("continuing.safetensors", "VideoCrafterCamI2VControl", size, {"file": "cami2v.safetensors", **camera}),
        ("continuing.safetensors", "VideoCrafterMotionCtrlI2VControl", size, {"file": "motion.safetensors", **camera}),
    ]
    written = {}
    for checkpoint, node, changed, inputs in given:
        parts = run("VideoCrafterCheckpointLoader", ckpt_name=checkpoint, weight_dtype="fp32").values
        conditions = run.conditions(*parts, picture, **changed)
        start = {}
        if node == "VideoCrafterNoiseCalibrationControl":  # which needs a video to start from
            positive, negative, latent = conditions
            conditions = positive, negative, {**latent, "samples": latent["samples"] + 0.5}
            start = {"denoise": 0.8}
        written[node] = run.sampled(run(node, model=parts[0], **inputs).values[0], parts[2], conditions, node, **start)
    return written


def dragged(run, picture):
    """An object of an image, along a track."""
    model, clip, vae, vision = run("VideoCrafterCheckpointLoader", ckpt_name="text.safetensors").values
    positive, negative, latent = run.conditions(model, clip, vae, vision, picture)
    given = {"image": picture, "mask": picture[..., 0].round(), "track": "4,4; 4,12"}
    changed, latent, _ = run("VideoCrafterDragObject", model=model, vae=vae, latent=latent, **given).values
    return {"dragged": run.sampled(changed, vae, (positive, negative, latent), "dragged", denoise=0.8)}


def main(base_folder):
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]
    from installing import environment

    left_out = environment.other_packages()
    environment.leave_out(left_out)

    import torch

    from comfyui.base import Base
    from comfyui.inprocess import start

    run = Runner(start(Base(Path(base_folder))))
    picture = torch.rand(1, 24, 16, 3, generator=torch.Generator().manual_seed(1))
    boxed = [f"videocrafter_small_{kind}.safetensors" for kind in ("dynamicrafter", "i2v", "t2v")]
    written = whole_files(run, [*(f"{kind}.safetensors" for kind in KINDS), *boxed], picture)
    written |= files_of_parts(run, picture) | changed_models(run, picture)
    written |= controlled_models(run, picture) | dragged(run, picture)
    run("VideoCrafterEvaluate", images=picture.expand(3, -1, -1, -1))
    ours = sorted(run.comfy.ours)
    sys.stdout.write(json.dumps({"left_out": sorted(left_out), "ran": sorted(run.ran), "ours": ours, "files": written}))


if __name__ == "__main__":
    main(sys.argv[1])
