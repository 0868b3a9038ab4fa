"""Core's nodes around the small models of this pack, on a real server: the video shows what the prompt says.

Every case changes one graph: loader, two prompts, empty latent, KSampler, VAE Decode, and a file of the frames. What
the nodes do exactly is in `tests/nodes/test_core_*.py`; here it is that a model which has learnt something still makes
its picture with them, and that files, images and videos come out as they should.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
import stand_ins
from PIL import Image

from comfyui.limits import skip_without
from comfyui.server import Server
from evaluation.detector import observe

TEXT_MODEL, IMAGE_MODEL = "videocrafter_small_t2v.safetensors", "videocrafter_small_i2v.safetensors"
COLOUR = "red"
SHARE = 0.8
"""Of the frames that show the colour. Patches at their default settings take their toll of a model as small as this."""


class Graph:
    """A prompt for the server; widgets that are left out take their defaults."""

    def __init__(self, server: Server) -> None:
        self.info, self.nodes = server.object_info(), {}
        self.add("load", "VideoCrafterCheckpointLoader", ckpt_name=TEXT_MODEL, weight_dtype="fp32")
        self.add("text", "CLIPTextEncode", clip=["load", 1], text=f"a {COLOUR} square moves to the left")
        self.add("other", "CLIPTextEncode", clip=["load", 1], text="a blue circle stands still")
        self.add("empty", "CLIPTextEncode", clip=["load", 1], text="")
        self.add("latent", "VideoCrafterEmptyLatent", width=64, height=64, frames=16)
        self.add(
            "sample", "KSampler", model=["load", 0], positive=["text", 0], negative=["empty", 0],
            latent_image=["latent", 0], seed=1, steps=8, cfg=4.0, sampler_name="dpmpp_2m", scheduler="karras",
        )  # fmt: skip
        self.add("decode", "VAEDecode", samples=["sample", 0], vae=["load", 2])
        self.save("decode")

    def add(self, name: str, kind: str, **inputs):
        """Puts a node there, in the place of one of the same name; gives its first output."""
        known = self.info[kind]["input"]
        defaults = {}
        for key, spec in {**known.get("required", {}), **known.get("optional", {})}.items():
            options = spec[1] if len(spec) > 1 else {}
            choices = spec[0] if isinstance(spec[0], list) else options.get("options")
            if "default" in options:
                defaults[key] = options["default"]
            elif choices and not isinstance(choices[0], dict):
                defaults[key] = choices[0]
        self.nodes[name] = {"class_type": kind, "inputs": {**defaults, **inputs}}
        return [name, 0]

    def change(self, name: str, **inputs) -> None:
        self.nodes[name]["inputs"] |= inputs

    def patch(self, kind: str, **inputs) -> None:
        """A node between the loader's MODEL and the sampler."""
        self.change("sample", model=self.add("patch", kind, model=["load", 0], **inputs))

    def save(self, source: str) -> None:
        """The frames as a file, loss-free."""
        self.add(
            "save", "SaveAnimatedWEBP", images=[source, 0], filename_prefix="matrix", fps=8.0, lossless=True,
            quality=100, method="default",
        )  # fmt: skip

    def run(self, server: Server) -> np.ndarray:
        """f h w 3 in 0..1"""
        run = server.run(self.nodes)
        assert run.status == "success", run.error
        (file,) = run.files
        return frames_of(server.view(file))


def frames_of(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as file:
        frames = []
        for index in range(file.n_frames):
            file.seek(index)
            frames.append(np.asarray(file.convert("RGB")))
    return np.stack(frames).astype(np.float32) / 255


def assert_shows(clip: np.ndarray, colour: str = COLOUR, share: float = SHARE) -> None:
    seen = observe(clip)
    assert seen.share(colour=colour) >= share, (seen.colour, seen.shape, seen.share(colour=colour))


@pytest.fixture
def graph(server: Server) -> Graph:
    return Graph(server)


# --- samplers, guiders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [("euler", "normal"), ("euler_ancestral", "sgm_uniform"), ("heun", "karras"), ("ddim", "ddim_uniform"),
     ("uni_pc", "simple"), ("dpmpp_2m_sde", "beta"), ("dpmpp_3m_sde", "exponential"),
     ("res_multistep", "kl_optimal")],
)  # fmt: skip
def test_samplers_follow_the_prompt(server, graph, sampler, scheduler):
    graph.change("sample", sampler_name=sampler, scheduler=scheduler, steps=10)
    assert_shows(graph.run(server))


def advanced(graph):
    given = {key: value for key, value in graph.nodes["sample"]["inputs"].items() if key not in ("seed", "denoise")}
    first = graph.add("first", "KSamplerAdvanced", **given | {"noise_seed": 1, "end_at_step": 4,
                      "return_with_leftover_noise": "enable"})  # fmt: skip
    graph.add("sample", "KSamplerAdvanced", **given | {"noise_seed": 1, "start_at_step": 4, "add_noise": "disable",
              "latent_image": first})  # fmt: skip


def custom(graph):
    sigmas = graph.add("sigmas", "VideoCrafterScheduler", model=["load", 0], spacing="trailing", steps=10)
    sampler = graph.add("sampler", "VideoCrafterSampler", sampler="ddim_exact", eta=0.0)
    graph.add(
        "sample", "SamplerCustom", model=["load", 0], add_noise=True, noise_seed=1, cfg=4.0, positive=["text", 0],
        negative=["empty", 0], sampler=sampler, sigmas=sigmas, latent_image=["latent", 0],
    )  # fmt: skip


def guided(kind, **inputs):
    def change(graph):
        graph.add(
            "sample", "SamplerCustomAdvanced", noise=graph.add("noise", "RandomNoise", noise_seed=1),
            guider=graph.add("guider", kind, model=["load", 0], **inputs),
            sampler=graph.add("sampler", "KSamplerSelect", sampler_name="dpmpp_2m"),
            sigmas=graph.add("sigmas", "BasicScheduler", model=["load", 0], scheduler="karras", steps=8),
            latent_image=["latent", 0],
        )  # fmt: skip

    return change


def ours(graph):
    graph.add(
        "sample", "VideoCrafterKSampler", model=["load", 0], seed=1, steps=10, cfg=4.0, scheduler="trailing", eta=0.0,
        positive=["text", 0], negative=["empty", 0], latent_image=["latent", 0],
    )  # fmt: skip


SAMPLERS = {
    "KSamplerAdvanced": advanced,
    "SamplerCustom": custom,
    "BasicGuider": guided("BasicGuider", conditioning=["text", 0]),
    "CFGGuider": guided("CFGGuider", positive=["text", 0], negative=["empty", 0], cfg=4.0),
    "DualCFGGuider": guided(
        "DualCFGGuider",
        cond1=["text", 0],
        cond2=["empty", 0],
        negative=["empty", 0],
        cfg_conds=4.0,
        cfg_cond2_negative=1.0,
    ),
    "VideoCrafterKSampler": ours,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_nodes_follow_the_prompt(server, graph, name):
    SAMPLERS[name](graph)
    assert_shows(graph.run(server))


# --- patches ----------------------------------------------------------------------------------------------------------

PATCHES = {
    "FreeU": {"b1": 1.02, "b2": 1.02, "s1": 0.98, "s2": 0.98},
    "FreeU_V2": {"b1": 1.02, "b2": 1.02, "s1": 0.98, "s2": 0.98},
    "HyperTile": {"tile_size": 32},
    "TomePatchModel": {},
    "PatchModelAddDownscale": {"end_percent": 0.2},
    "PerturbedAttentionGuidance": {"scale": 0.5},
    "SelfAttentionGuidance": {},
    "RescaleCFG": {},
    "VideoLinearCFGGuidance": {},
    "APG": {},
    "EasyCache": {"reuse_threshold": 0.05},
    "LazyCache": {"reuse_threshold": 0.05},
    "VideoCrafterAnalyticInit": {"start_timestep": 960},
}
"""With their default settings, where those are not made for networks of a thousand times the size."""


@pytest.mark.parametrize("name", PATCHES)
def test_patched_models_follow_the_prompt(server, graph, name):
    if name == "EasyCache":
        skip_without("EasyCache on a batch")
    graph.patch(name, **PATCHES[name])
    if name.endswith("Cache"):
        graph.change("sample", steps=16)
    assert_shows(graph.run(server))


@pytest.mark.parametrize("node", ["ContextWindowsManual", "VideoCrafterContextWindows", "VideoCrafterFreeNoise"])
def test_long_clips_follow_the_prompt(server, graph, node):
    if node == "ContextWindowsManual":
        skip_without("core's context windows over our frames")
    graph.patch(node)
    graph.change("latent", frames=40)
    graph.change("sample", steps=6)
    clip = graph.run(server)
    assert len(clip) == 40
    assert_shows(clip)


@pytest.mark.parametrize("dtype", ["bf16", "fp8_e4m3fn"])
def test_weights_of_fewer_bits_follow_the_prompt(server, graph, dtype):
    graph.change("load", weight_dtype=dtype)
    assert_shows(graph.run(server))


# --- conditions, latents, masks ---------------------------------------------------------------------------------------


def weighted(graph):
    graph.change("text", text=f"a ({COLOUR}:1.2) square moves to the left")


def averaged(graph):
    mixed = graph.add(
        "mixed", "ConditioningAverage", conditioning_to=["text", 0], conditioning_from=["other", 0],
        conditioning_to_strength=0.9,
    )  # fmt: skip
    graph.change("sample", positive=mixed)


def in_turn(graph):
    """The prompt for most of the time, another at the very end, when the colour has been settled."""
    parts = [
        graph.add(f"range{index}", "ConditioningSetTimestepRange", conditioning=[text, 0], start=start, end=end)
        for index, (text, start, end) in enumerate((("text", 0.0, 0.9), ("other", 0.9, 1.0)))
    ]
    graph.change(
        "sample", positive=graph.add("both", "ConditioningCombine", conditioning_1=parts[0], conditioning_2=parts[1])
    )


def again(graph):
    """A second, weaker pass over the clip."""
    inputs = graph.nodes["sample"]["inputs"]
    graph.nodes["first"] = {"class_type": "KSampler", "inputs": dict(inputs)}
    graph.change("sample", latent_image=["first", 0], denoise=0.5, seed=2)


def repeated(graph):
    graph.change("latent", frames=8)
    graph.change("sample", latent_image=graph.add("longer", "RepeatLatentBatch", samples=["latent", 0], amount=2))


CONDITIONS = {
    "prompt weight": weighted,
    "ConditioningAverage": averaged,
    "ConditioningSetTimestepRange": in_turn,
    "denoise 0.5": again,
    "RepeatLatentBatch": repeated,
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditioned_clips_follow_the_prompt(server, graph, name):
    CONDITIONS[name](graph)
    clip = graph.run(server)
    assert len(clip) == 16
    assert_shows(clip)


def test_frames_follow_their_own_prompt(server, graph):
    """Red first, then blue, by texts per frame and with FreeNoise, as a story is made."""
    graph.change("other", text="a blue square moves to the left")
    graph.change("latent", frames=40)
    story = graph.add(
        "story", "VideoCrafterPromptsOverTime", first=["text", 0], second=["other", 0], latent_image=["latent", 0]
    )
    graph.patch("VideoCrafterFreeNoise")
    graph.change("sample", positive=story, steps=6)
    clip = graph.run(server)
    assert_shows(clip[:12])
    assert_shows(clip[-12:], "blue")


def test_a_mask_keeps_frames(server, graph):
    """The first half of a red clip is kept while the second is made anew, from a prompt about blue."""
    first = {"class_type": "KSampler", "inputs": dict(graph.nodes["sample"]["inputs"])}
    graph.nodes["first"] = first
    dark = graph.add("dark", "SolidMask", value=0.0, width=64, height=64)
    light = graph.add("light", "SolidMask", value=1.0, width=64, height=64)
    images = [graph.add(f"image{index}", "MaskToImage", mask=mask) for index, mask in enumerate((dark, light))]
    halves = [
        graph.add(f"half{index}", "RepeatImageBatch", image=image, amount=8) for index, image in enumerate(images)
    ]
    both = graph.add("halves", "ImageBatch", image1=halves[0], image2=halves[1])
    mask = graph.add("mask", "ImageToMask", image=both, channel="red")
    masked = graph.add("masked", "SetLatentNoiseMask", samples=["first", 0], mask=mask)
    graph.change("sample", positive=["other", 0], latent_image=masked, seed=2)
    clip = graph.run(server)
    whole = Graph(server).run(server)
    assert np.abs(clip[:8] - whole[:8]).mean() < 0.02
    assert np.abs(clip[8:] - whole[8:]).mean() > 0.02


# --- pictures and videos ----------------------------------------------------------------------------------------------


def test_encoded_images_reach_the_video(server, graph):
    """Core's CLIP Vision Encode into our image conditioning: the picture's colour, without a word."""
    name = server.upload(_picture("blue"), "matrix_blue.png")
    graph.change("load", ckpt_name=IMAGE_MODEL)
    graph.change("text", text="")
    picture = graph.add("picture", "LoadImage", image=name)
    seen = graph.add("seen", "CLIPVisionEncode", clip_vision=["load", 3], image=picture, crop="none")
    graph.add(
        "shown", "VideoCrafterImageConditioning", positive=["text", 0], negative=["empty", 0], model=["load", 0],
        clip_vision=["load", 3], clip_vision_output=seen,
    )  # fmt: skip
    graph.change("sample", positive=["shown", 0], negative=["shown", 1])
    assert_shows(graph.run(server), "blue")


def _picture(colour: str) -> bytes:
    from worlds.shapes.world import BACKGROUNDS, COLOURS

    pixels = np.broadcast_to(np.array(BACKGROUNDS["grey"]), (64, 64, 3)).copy()
    pixels[18:46, 18:46] = COLOURS[colour]
    file = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(file, "png")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["SaveWEBM", "SaveVideo", "SaveAnimatedPNG"])
def test_files_of_core_hold_the_frames(server, graph, kind):
    frames = graph.run(server)
    if kind == "SaveWEBM":
        graph.add("save", kind, images=["decode", 0], filename_prefix="matrix", codec="vp9", fps=8.0, crf=4)
    elif kind == "SaveVideo":
        video = graph.add("video", "CreateVideo", images=["decode", 0], fps=8.0)
        graph.add("save", kind, video=video, filename_prefix="matrix", format="mp4", codec="h264")
    else:
        graph.add("save", kind, images=["decode", 0], filename_prefix="matrix", fps=8.0)
    run = server.run(graph.nodes)
    assert run.status == "success", run.error
    (file,) = run.files
    data = server.view(file)
    if kind == "SaveAnimatedPNG":
        found = frames_of(data)
    else:
        video = stand_ins.decode(data)
        assert video.rate == 8
        found = video.frames.astype(np.float32) / 255
    assert found.shape == frames.shape == (16, 64, 64, 3)
    assert np.abs(found - frames).mean() < 0.03
    assert_shows(found)


def test_a_video_gives_its_parts_back(server, graph):
    """CreateVideo, GetVideoComponents, and the interpolated, enlarged frames of what comes out."""
    skip_without("FrameInterpolate")
    stand_ins.put(server.base)
    video = graph.add("video", "CreateVideo", images=["decode", 0], fps=8.0)
    parts = graph.add("parts", "GetVideoComponents", video=video)
    wide = graph.add(
        "wide", "ImageScale", image=parts, upscale_method="nearest-exact", width=128, height=128, crop="disabled"
    )
    between = graph.add(
        "between", "FrameInterpolate", images=wide, multiplier=2,
        interp_model=graph.add("net", "FrameInterpolationModelLoader", model_name="film_net_fp16.safetensors"),
    )  # fmt: skip
    whole = Graph(server).run(server)
    graph.save(between[0])
    clip = graph.run(server)
    assert clip.shape == (31, 128, 128, 3)
    assert np.abs(clip[::2, ::2, ::2] - whole).mean() < 0.02
    assert_shows(clip)
