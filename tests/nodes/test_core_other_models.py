"""Core nodes for other models with our MODEL, LATENT, CONDITIONING and VAE, filled in by the types of their inputs.

None of them has to be of use. Each does what `docs/compatibility.md` says: nothing, an error of its own, or a latent
that the samplers refuse.
"""

from __future__ import annotations

import pytest
import torch

from comfyui.limits import skip_without_node
from vc_core.errors import UserError

from .test_core_patches import NOTHING, made, patched, relative

IGNORED = [
    "ARVideoI2V", "BerniniConditioning", "ConditioningSetAreaPercentageVideo", "ConditioningStableAudio",
    "FluxKontextMultiReferenceLatentMethod", "HiDreamO1ReferenceImages", "HunyuanImageToVideo", "HunyuanRefinerLatent",
    "InstructPixToPixConditioning", "Kandinsky5ImageToVideo", "LTXVConditioning", "PiDConditioning",
    "ReferenceTimbreAudio", "SD_4XUpscale_Conditioning", "StableCascade_StageB_Conditioning", "VOIDInpaintConditioning",
    "WanAnimateToVideo", "WanDancerVideo", "WanFirstLastFrameToVideo", "WanFunInpaintToVideo", "WanHuMoImageToVideo",
    "WanImageToVideo", "WanMoveTrackToVideo", "WanPhantomSubjectToVideo", "WanTrackToVideo", "unCLIPConditioning",
]  # fmt: skip
"""Their MODEL and CONDITIONING have what this network does not read."""

REFUSED = [
    "ARVideoI2V", "BerniniConditioning", "HunyuanImageToVideo", "HunyuanRefinerLatent", "Kandinsky5ImageToVideo",
    "LTXVConcatAVLatent", "LTXVSeparateAVLatent", "VOIDInpaintConditioning", "WanAnimateToVideo", "WanDancerVideo",
    "WanFirstLastFrameToVideo", "WanFunInpaintToVideo", "WanHuMoImageToVideo", "WanImageToVideo", "WanMoveTrackToVideo",
    "WanPhantomSubjectToVideo", "WanTrackToVideo",
]  # fmt: skip
"""Their LATENT has another number of axes."""

STOPPED = [
    "HunyuanVideo15ImageToVideo", "HunyuanVideo15SuperResolution", "LTXVAddGuide", "LTXVCropGuides", "LTXVImgToVideo",
    "LTXVImgToVideoInplace", "LTXVReferenceAudio", "NormalizeVideoLatentStart", "RTDETR_detect", "SAM3_Detect",
    "SAM3_VideoTrack", "SDPoseKeypointExtractor", "SeedVR2Conditioning", "SeedVR2TemporalChunk", "SeedVR2TemporalMerge",
    "TripoSplatSamplingPreview", "VAEDecodeHunyuan3D", "VAEDecodeTripoSplat", "LTXVAudioVAEDecode",
    "Wan22FunControlToVideo", "WanCameraImageToVideo", "WanFunControlToVideo", "WanSCAILToVideo",
    "WanSoundImageToVideo", "WanSoundImageToVideoExtend", "WanVaceToVideo",
]  # fmt: skip
"""They stop by themselves: our latents lack the axis, or our network the method, that they ask for."""

MERGES = [
    "ModelMergeAuraflow", "ModelMergeCosmos14B", "ModelMergeCosmos7B", "ModelMergeCosmosPredict2_14B",
    "ModelMergeCosmosPredict2_2B", "ModelMergeFlux1", "ModelMergeKrea2", "ModelMergeLTXV", "ModelMergeMochiPreview",
    "ModelMergeQwenImage", "ModelMergeSD35_Large", "ModelMergeSD3_2B", "ModelMergeWAN2_1",
]  # fmt: skip
LISTS = {
    "SeedVR2TemporalChunk": {"chunking_mode": {"chunking_mode": "auto"}},
    "SeedVR2TemporalMerge": {"latents": [{"samples": torch.ones(3, 4, 8, 8)}], "temporal_overlap": [0]},
}
"""Inputs that are not filled in by their type."""

OWN_ERRORS = (ValueError, RuntimeError, TypeError, AttributeError, IndexError)


class Filled:
    """A node's outputs by their types, its inputs filled in: frames of 64 x 64, latents of three of them."""

    def __init__(self, loaded, vision, node):
        skip_without_node(node)
        generator = torch.Generator().manual_seed(1)
        frames = torch.rand(5, 64, 64, 3, generator=generator)
        if node == "SD_4XUpscale_Conditioning":
            frames = frames[:, :8, :8]
        self.values = {
            "MODEL": loaded.model, "VAE": loaded.vae, "IMAGE": frames, "MASK": frames[..., 0],
            "LATENT": {"samples": torch.randn(3, 4, 8, 8, generator=generator)},
            "CONDITIONING": loaded.text("a red square"), "CLIP_VISION_OUTPUT": vision,
            "AUDIO": {"waveform": torch.zeros(1, 1, 1000), "sample_rate": 1000},
            "COMFY_AUTOGROW_V3": {"image_1": frames[:1]},
        }  # fmt: skip
        self.negative = loaded.text("")
        kind = loaded.comfy.classes[node]
        inputs = kind.INPUT_TYPES()
        names = {**inputs["required"], **inputs.get("optional", {})}
        given = {name: value for name, spec in names.items() if (value := self.value(name, spec[0])) is not None}
        outputs = loaded.comfy.call(node, **given | LISTS.get(node, {})).values
        self.outputs = list(zip(kind.RETURN_TYPES, outputs, strict=False))

    def value(self, name, kind):
        sizes = {"width": 64, "height": 64, "length": 5}
        if name in sizes:
            return sizes[name]
        if kind == "CONDITIONING" and name.startswith("neg"):
            return self.negative
        return self.values.get(kind) if isinstance(kind, str) else None

    def all(self, kind):
        return [value for name, value in self.outputs if name == kind]

    def prompts(self):
        return dict(zip(("positive", "negative"), self.all("CONDITIONING"), strict=False))


@pytest.fixture(scope="module")
def vision(comfy, image_model):
    picture = torch.rand(1, 16, 16, 3)
    return comfy.call("CLIPVisionEncode", clip_vision=image_model.clip_vision, image=picture, crop="none").values[0]


@pytest.mark.weightless
@pytest.mark.parametrize("node", IGNORED)
def test_what_other_models_read_changes_nothing(text_model, vision, node):
    filled = Filled(text_model, vision, node)
    model = next(iter(filled.all("MODEL")), None)
    assert relative(made(text_model, model, **filled.prompts()), made(text_model)) < NOTHING


@pytest.mark.weightless
@pytest.mark.parametrize("node", REFUSED)
def test_latents_of_nodes_for_other_models_are_refused(text_model, vision, node):
    filled = Filled(text_model, vision, node)
    with pytest.raises(UserError, match=r"takes \(frames, 4, .*VideoCrafter Empty Latent"):
        made(text_model, **filled.prompts(), latent_image=filled.all("LATENT")[0])


@pytest.mark.weightless
@pytest.mark.parametrize("node", STOPPED)
def test_nodes_for_other_models_stop_by_themselves(text_model, vision, node):
    skip_without_node(node)
    with pytest.raises(OWN_ERRORS) as caught:
        Filled(text_model, vision, node)
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize(("node", "shape"), [("InstructPixToPixConditioning", (5, 4, 8, 8)),
                                             ("SD_4XUpscale_Conditioning", (5, 4, 8, 8))])  # fmt: skip
def test_their_latents_with_four_channels_are_a_clip(text_model, vision, node, shape):
    filled = Filled(text_model, vision, node)
    (latent,) = filled.all("LATENT")
    out = made(text_model, **filled.prompts(), latent_image=latent)
    assert out.shape == shape
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("node", ["WanContextWindowsManual", "LTXVContextWindows"])
def test_context_windows_of_other_models_count_rows(text_model, node):
    """Where the length in their frames covers all rows of the latent they do nothing, else core stops."""
    skip_without_node(node)
    assert torch.equal(made(text_model, patched(text_model, node)), made(text_model))
    with pytest.raises(RuntimeError, match="size of tensor"):
        made(text_model, patched(text_model, node, context_length=1, context_overlap=0), frames=12)


@pytest.mark.parametrize(
    ("node", "settings"),
    [("ModelSamplingFlux", {}), ("ModelSamplingSD3", {}), ("ModelSamplingDiscrete", {"sampling": "x0"}),
     ("ModelSamplingDiscrete", {"sampling": "img_to_img"})],
)  # fmt: skip
def test_models_that_predict_something_else_give_another_clip(text_model, node, settings):
    out = made(text_model, patched(text_model, node, **settings))
    assert torch.isfinite(out).all()
    assert relative(out, made(text_model)) > 0.5


def blocks(loaded, node):
    skip_without_node(node)
    inputs = loaded.comfy.classes[node].INPUT_TYPES()["required"]
    return [name for name in inputs if name not in ("model1", "model2")]


@pytest.mark.parametrize("node", MERGES)
def test_blocks_of_other_models_are_none_of_ours(text_model, node):
    names = tuple(blocks(text_model, node))
    assert "ModelMergeBlocks" in {kind.__name__ for kind in text_model.comfy.classes[node].__mro__}
    weights = dict(text_model.model.model.diffusion_model.named_parameters())
    assert [name for name in weights if name.startswith(names)] == []


class FewWeights:
    """The first weights of a MODEL for a merge: core lists all weights anew for each."""

    def __init__(self, model):
        self.weights = dict(list(model.get_key_patches("diffusion_model.").items())[:5])

    def get_key_patches(self, prefix):
        return self.weights


def test_a_merge_by_blocks_of_another_model_takes_the_first_ratio_for_all(text_model):
    node, few = "ModelMergeSD3_2B", FewWeights(text_model.model)
    names = blocks(text_model, node)
    ratios = dict.fromkeys(names, 0.0) | {names[0]: 0.25}
    (merged,) = text_model.comfy.call(node, model1=text_model.model, model2=few, **ratios).values
    assert set(merged.patches) == set(few.weights)
    assert {(patch[0][0], patch[0][2]) for patch in merged.patches.values()} == {(0.75, 0.25)}


def test_the_blocks_of_sdxl_end_before_ours(text_model):
    names = blocks(text_model, "ModelMergeSDXL")
    assert names[0] == "time_embed."
    for block in ("input_blocks", "output_blocks"):
        assert f"{block}.8" in names
        assert f"{block}.9" not in names


@pytest.mark.parametrize("node", ["TrimVideoLatent", "ReplaceVideoLatentFrames", "LatentCutToBatch"])
def test_nodes_that_count_frames_on_another_axis_take_rows_for_frames(text_model, node):
    skip_without_node(node)
    clip, row = ({"samples": torch.randn(3, 4, rows, 2)} for rows in (4, 1))
    call = text_model.comfy.call
    if node == "TrimVideoLatent":
        (cut,) = call(node, samples=clip, trim_amount=1).values
        assert torch.equal(cut["samples"], clip["samples"][:, :, 1:])
    elif node == "ReplaceVideoLatentFrames":
        (out,) = call(node, destination=clip, source=row, index=2).values
        assert torch.equal(out["samples"][:, :, 2:3], row["samples"])
        assert torch.equal(out["samples"][:, :, :2], clip["samples"][:, :, :2])
    else:
        (same,) = call(node, samples=clip, dim="t", slice_size=1).values
        assert torch.equal(same["samples"], clip["samples"])
        (strips,) = call(node, samples=clip, dim="x", slice_size=1).values
        assert torch.equal(strips["samples"][:2, ..., 0], clip["samples"][0].movedim(2, 0))


def test_a_clip_of_noise_is_taken_as_noise(text_model):
    skip_without_node("VOIDWarpedNoiseSource")
    call, latent = text_model.comfy.call, text_model.latent()
    (noise,) = call("RandomNoise", noise_seed=3).values
    (same,) = call("VOIDWarpedNoiseSource", warped_noise={"samples": noise.generate_noise(latent)}).values
    (guider,) = call("BasicGuider", model=text_model.model, conditioning=text_model.text("a red square")).values
    (sampler,) = call("KSamplerSelect", sampler_name="euler").values
    (sigmas,) = call("BasicScheduler", model=text_model.model, scheduler="normal", steps=2).values
    given = {"guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
    outs = [call("SamplerCustomAdvanced", noise=each, **given).values[0]["samples"] for each in (noise, same)]
    assert torch.equal(*outs)


@pytest.mark.parametrize("node", ["VAEDecodeAudio", "VAEDecodeAudioTiled"])
def test_frames_decoded_as_sound_are_no_sound(text_model, vision, node):
    (audio,) = Filled(text_model, vision, node).all("AUDIO")
    assert audio["waveform"].shape[:1] == (3,)


def test_flow_sigmas_are_no_sigmas_of_ours(text_model):
    (sigmas,) = text_model.comfy.call("LTXVScheduler", steps=4, latent={"samples": torch.zeros(3, 4, 8, 8)}).values
    assert float(sigmas[0]) == 1
    (ours,) = text_model.comfy.call("BasicScheduler", model=text_model.model, scheduler="normal", steps=4).values
    assert float(ours[0]) > 10


def test_lora_parameters_of_ltx_are_those_of_no_lora(text_model):
    skip_without_node("GetICLoRAParameters")
    (found,) = text_model.comfy.call("GetICLoRAParameters", iclora_model=text_model.model).values
    assert found == {"reference_downscale_factor": 1}


# --- training and data sets -------------------------------------------------------------------------------------------


def in_lists(loaded, node, **given):
    """Calls a node that takes a list for each input. On an old host the same node may take single values."""
    if not getattr(loaded.comfy.classes[node], "INPUT_IS_LIST", False):
        return loaded.comfy.call(node, **given).values
    values = {name: [value] for name, value in given.items()}
    inputs = loaded.comfy.classes[node].INPUT_TYPES()
    for group in ("required", "optional"):
        for name, spec in inputs.get(group, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            if name not in values and isinstance(options, dict):
                choices = options.get("options") or (spec[0] if isinstance(spec[0], list) else [])
                default = options.get("default", choices[0] if choices else None)
                values[name] = default if isinstance(default, list) else [default]
    return loaded.comfy.call(node, **values).values


def test_a_lora_trained_by_core_loads(text_model):
    latent = {"samples": torch.randn(2, 4, 3, 2, generator=torch.Generator().manual_seed(1))}
    plain = made(text_model)
    settings = {"steps": 1, "rank": 1, "learning_rate": 0.1, "training_dtype": "fp32", "lora_dtype": "fp32"}
    *_, lora, losses, steps = in_lists(
        text_model, "TrainLoraNode", model=text_model.model, latents=latent, positive=text_model.text("a red square"),
        gradient_checkpointing=False, **settings,
    )  # fmt: skip
    assert steps == 1
    assert len(losses["loss"]) == 1
    assert torch.equal(made(text_model), plain), "training is done on a copy"
    changed = made(text_model, patched(text_model, "LoraModelLoader", lora=lora, strength_model=1.0))
    assert torch.isfinite(changed).all()
    assert relative(changed, plain) > 1e-4


def test_the_difference_of_two_models_is_saved_and_loads(comfy, base, text_model, dynamic_vram, request):
    """As full weights. The other kind takes the singular values of every weight, which is slow."""
    if dynamic_vram:
        fault = "core's LoraSave patches the small weights again that dynamic VRAM has patched in place"
        request.applymarker(pytest.mark.xfail(strict=True, reason=fault))
    name = "diffusion_model.out.2.weight"
    other = text_model.model.clone()
    weight = dict(text_model.model.model.named_parameters())[name]
    other.add_patches({name: ("diff", (torch.ones_like(weight) * 0.1,))})
    expected = made(text_model, other)
    difference = other.clone()  # as ModelMergeSubtract makes it, weight by weight
    difference.add_patches(text_model.model.get_key_patches("diffusion_model."), -1.0, 1.0)
    comfy.call("LoraSave", filename_prefix="difference", lora_type="full_diff", bias_diff=True, model_diff=difference)
    (file,) = base.output.glob("difference*")
    file.rename(base.model("loras", "difference.safetensors"))
    loaded = patched(text_model, "LoraLoaderModelOnly", lora_name="difference.safetensors", strength_model=1.0)
    assert relative(made(text_model, loaded), expected) < 1e-2
    assert relative(made(text_model), expected) > 0.1


def test_data_sets_take_frames_for_samples_but_keep_a_clip_whole(text_model):
    skip_without_node("ResolutionBucket")
    clip = {"samples": torch.randn(3, 4, 8, 8)}
    one = text_model.text("a red square")
    ((bucket,), (prompts,)) = text_model.comfy.call("ResolutionBucket", latents=[clip], conditioning=[one * 3]).values
    assert torch.equal(bucket["samples"], clip["samples"])
    assert len(prompts) == 3
    with pytest.raises(IndexError):
        text_model.comfy.call("ResolutionBucket", latents=[clip], conditioning=[one])
    in_lists(text_model, "SaveTrainingDataset", latents=clip, conditioning=one, folder_name="clips")
    ((again,), _) = text_model.comfy.call("LoadTrainingDataset", folder_name="clips").values
    assert torch.equal(again["samples"], clip["samples"])
