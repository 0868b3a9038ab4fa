"""One text-to-video and one image-to-video model for the server, and the prompts that most tests start from."""

from __future__ import annotations

import pytest
import small_models as small

from comfyui.base import Base

TEXT, IMAGE = "server_text.safetensors", "server_image.safetensors"


@pytest.fixture(scope="session")
def models(base: Base) -> None:
    """Two small whole models in `checkpoints`."""
    small.save(small.TEXT_MODEL, base.model("checkpoints", TEXT))
    small.save(small.IMAGE_MODEL, base.model("checkpoints", IMAGE))


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture
def text_prompt(models: None):
    """Text to video: 1 loader, 2 and 3 prompts, 4 latent, 5 sampler, 6 frames, 7 pictures of them."""

    def make(*, seed=1, steps=4, size=(40, 24), frames=5, text="a red square", **sampler):
        settings = {
            "cfg": 3.0,
            "sampler_name": "ddim_exact",
            "scheduler": "uniform",
            "denoise": 1.0,
            "eta": 1.0,
            "fps": 0.0,
        }
        settings |= {"guidance_rescale": 0.0, "temporal_guidance": 0.0, "seed": seed, "steps": steps} | sampler
        return {
            "1": node("VideoCrafterCheckpointLoader", ckpt_name=TEXT, weight_dtype="default", preset="auto"),
            "2": node("CLIPTextEncode", clip=["1", 1], text=text),
            "3": node("CLIPTextEncode", clip=["1", 1], text=""),
            "4": node("VideoCrafterEmptyLatent", width=size[0], height=size[1], frames=frames),
            "5": node(
                "VideoCrafterKSampler",
                model=["1", 0],
                positive=["2", 0],
                negative=["3", 0],
                latent_image=["4", 0],
                **settings,
            ),
            "6": node("VideoCrafterDecode", samples=["5", 0], vae=["1", 2], frames_per_chunk=4),
            "7": node("SaveImage", images=["6", 0], filename_prefix="server"),
        }

    return make


@pytest.fixture
def image_prompt(text_prompt):
    """The same for image to video, with 8 the picture's conditioning and 9 the picture, a file of the input folder."""

    def make(picture, **options):
        prompt = text_prompt(**options)
        prompt["1"]["inputs"]["ckpt_name"] = IMAGE
        prompt["9"] = node("LoadImage", image=picture)
        inputs = {
            "positive": ["2", 0],
            "negative": ["3", 0],
            "model": ["1", 0],
            "clip_vision": ["1", 3],
            "image": ["9", 0],
        }
        prompt["8"] = node("VideoCrafterImageConditioning", strength=1.0, **inputs)
        prompt["5"]["inputs"] |= {"positive": ["8", 0], "negative": ["8", 1]}
        return prompt

    return make
