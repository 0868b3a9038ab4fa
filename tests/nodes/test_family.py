"""DynamiCrafter and T2V-Turbo: the way through ComfyUI gives the numbers of vc_core, and says what does not go."""

from __future__ import annotations

import pytest
import small_models
import torch
from safetensors.torch import save_file

from comfyui.limits import skip_without
from vc_core.denoising import Sampling
from vc_core.network.layers import to_frames
from vc_core.network.unet import VideoUNet
from vc_core.pipeline import Request, VideoCrafter

SCALE = 0.18215
WIDTH, HEIGHT, FRAMES = 16, 24, 3
EXACT = 1e-4
SIZE = {"width": WIDTH, "height": HEIGHT, "frames": FRAMES}


def relative(a, b):
    return float((a - b).norm() / b.norm())


def expected(base, name, picture=None, end=None, **request):
    core = VideoCrafter.load(base.model("checkpoints", name))
    wanted = Request(**{"seed": 7, "cfg": 3.0, "sharp": True, **SIZE, **request})
    steps = list(core.steps("a red square", picture, request=wanted, end_image=end))
    return to_frames(steps[-1].x) / SCALE


@pytest.fixture(scope="module")
def picture():
    return torch.rand(23, 37, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def end_picture():
    return torch.rand(31, 17, 3, generator=torch.Generator().manual_seed(2))


@pytest.mark.weightless
@pytest.mark.parametrize("spacing", ["trailing", "uniform"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_a_continued_picture_is_that_of_vc_core(base, continuing_model, picture, spacing, eta, rescale):
    sampling = Sampling(steps=5, eta=eta, spacing=spacing)
    wanted = expected(base, continuing_model.name, picture, sampling=sampling, guidance_rescale=rescale)
    positive, negative, _, latent = continuing_model.continued(picture[None])
    settings = {"steps": 5, "eta": eta, "scheduler": spacing, "guidance_rescale": rescale}
    out = continuing_model.sample(positive=positive, negative=negative, latent_image=latent, **settings)
    assert relative(out, wanted) < EXACT


@pytest.mark.parametrize("fit", ["crop", "pad", "published"])
def test_two_pictures_and_all_fits_are_those_of_vc_core(base, continuing_model, picture, end_picture, fit):
    sampling = Sampling(steps=5, eta=0.0, spacing="trailing")
    wanted = expected(
        base, continuing_model.name, picture, end_picture, sampling=sampling, fit=fit, guidance_rescale=0.0
    )
    positive, negative, _, latent = continuing_model.continued(picture[None], end_image=end_picture[None], fit=fit)
    settings = {"steps": 5, "eta": 0.0, "scheduler": "trailing"}
    out = continuing_model.sample(positive=positive, negative=negative, latent_image=latent, **settings)
    assert relative(out, wanted) < EXACT


def test_a_loop_is_that_of_vc_core_and_one_frame_longer(base, continuing_model, picture):
    sampling = Sampling(steps=5, eta=0.0, spacing="trailing")
    wanted = expected(
        base, continuing_model.name, picture, loop=True, frames=FRAMES + 1, sampling=sampling, guidance_rescale=0.0
    )
    positive, negative, _, latent = continuing_model.continued(picture[None], loop=True)
    assert latent["samples"].shape[0] == FRAMES + 1
    settings = {"steps": 5, "eta": 0.0, "scheduler": "trailing"}
    out = continuing_model.sample(positive=positive, negative=negative, latent_image=latent, **settings)
    assert relative(out, wanted) < EXACT


@pytest.mark.weightless
@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("scales", [(3.0, 1.5), (1.0, 2.0), (4.0, 1.0)])
def test_two_scales_are_those_of_vc_core(base, continuing_model, picture, scales, rescale):
    cfg, image_cfg = scales
    sampling = Sampling(steps=5, eta=0.0, spacing="trailing")
    wanted = expected(
        base,
        continuing_model.name,
        picture,
        sampling=sampling,
        cfg=cfg,
        image_cfg=image_cfg,
        guidance_rescale=rescale,
    )
    positive, negative, picture_only, latent = continuing_model.continued(picture[None])
    out = continuing_model.sample(
        positive=positive,
        negative=negative,
        picture_only=picture_only,
        latent_image=latent,
        cfg=cfg,
        image_cfg=image_cfg,
        guidance_rescale=rescale,
        steps=5,
        eta=0.0,
        scheduler="trailing",
    )
    assert relative(out, wanted) < EXACT


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddim"])
def test_core_samplers_end_finite_from_no_signal_at_all(comfy, continuing_model, picture, sampler):
    positive, negative, _, latent = continuing_model.continued(picture[None])
    conditioning = {"positive": positive, "negative": negative, "latent_image": latent, "model": continuing_model.model}
    settings = {"seed": 1, "steps": 5, "cfg": 3.0, "sampler_name": sampler, "scheduler": "normal", "denoise": 1.0}
    (out,) = comfy.call("KSampler", **settings, **conditioning).values
    assert bool(out["samples"].isfinite().all())
    assert 0.01 < float(out["samples"].std()) < 100


def test_context_windows_cut_the_pictures_latent_as_the_clip(comfy, continuing_model, picture, end_picture):
    """Frames beside zeros see nothing of the pictures, so a window in the middle differs from one at the ends."""
    skip_without("core's context windows over our frames")
    positive, negative, _, latent = continuing_model.continued(picture[None], end_image=end_picture[None], frames=9)
    windows = {"context_length": 5, "context_overlap": 2, "context_schedule": "standard_static", "context_stride": 1}
    windows |= {"closed_loop": False, "fuse_method": "pyramid", "dim": 0, "freenoise": False}
    (model,) = comfy.call("ContextWindowsManual", model=continuing_model.model, **windows).values
    conditioning = {"positive": positive, "negative": negative, "latent_image": latent}
    out = continuing_model.sample(model=model, steps=3, scheduler="trailing", **conditioning)
    plain = continuing_model.sample(steps=3, scheduler="trailing", **conditioning)
    assert out.shape == plain.shape
    assert bool(out.isfinite().all())
    assert relative(out, plain) > 1e-3


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_lcm_is_that_of_vc_core(base, turbo_model, steps):
    sampling = Sampling(steps=steps, sampler="lcm", spacing="lcm")
    wanted = expected(base, turbo_model.name, sampling=sampling, cfg=7.5)
    settings = {"steps": steps, "cfg": 7.5, "sampler_name": "lcm_exact", "scheduler": "lcm"}
    out = turbo_model.sample(latent_image=turbo_model.latent(WIDTH, HEIGHT, FRAMES), **settings)
    assert relative(out, wanted) < EXACT
    other = turbo_model.sample(negative=turbo_model.text("a blue ring"), **settings)
    assert torch.equal(out, other)  # the negative prompt has no effect


def test_guidance_scale_and_motion_reach_the_network(base, turbo_model):
    sampling = Sampling(steps=4, sampler="lcm", spacing="lcm")
    wanted = expected(base, turbo_model.name, sampling=sampling, cfg=5.0, motion=0.4)
    settings = {"steps": 4, "sampler_name": "lcm_exact", "scheduler": "lcm"}
    out = turbo_model.sample(cfg=5.0, motion=0.4, **settings)
    assert relative(out, wanted) < EXACT
    for other in ({"cfg": 7.5, "motion": 0.4}, {"cfg": 5.0, "motion": 0.0}):
        assert relative(turbo_model.sample(**other, **settings), out) > EXACT


def test_core_ksampler_runs_turbo_with_its_own_scale(comfy, turbo_model):
    conditioning = {"positive": turbo_model.text("a red square"), "negative": turbo_model.text("")}
    latent = turbo_model.latent(WIDTH, HEIGHT, FRAMES)
    settings = {"seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "lcm", "scheduler": "normal", "denoise": 1.0}
    (out,) = comfy.call("KSampler", model=turbo_model.model, latent_image=latent, **settings, **conditioning).values
    assert bool(out["samples"].isfinite().all())


def test_what_is_not_supported_is_refused(comfy, continuing_model, image_model, text_model, picture, end_picture):
    def refused(node, *says, **inputs):
        with pytest.raises(Exception, match=".*".join(says)):
            comfy.call(node, **inputs)

    with pytest.raises(Exception, match=r"continues an image.*Image to Video"):
        continuing_model.sample()
    for other in (text_model, image_model):
        with pytest.raises(Exception, match="is not supported by VideoCrafter Image to Video"):
            other.continued(picture[None])
    with pytest.raises(Exception, match="frames is 1"):
        continuing_model.continued(picture[None], end_image=end_picture[None], frames=1)
    with pytest.raises(Exception, match="multiple of 8"):
        continuing_model.continued(picture[None], width=20)
    positive, negative, _, _ = continuing_model.continued(picture[None])
    with pytest.raises(Exception, match=r"clips of 16 x 24 pixels.* 32 x 24"):
        continuing_model.sample(positive=positive, negative=negative, latent_image=text_model.latent(32, 24, FRAMES))
    with pytest.raises(Exception, match="does not continue images"):
        image_model.sample(positive=positive, negative=negative)
    refused(
        "VideoCrafterImageConditioning",
        "3 images",
        positive=positive,
        negative=negative,
        model=image_model.model,
        clip_vision=image_model.clip_vision,
        image=torch.rand(3, 8, 8, 3),
        strength=1.0,
    )


@pytest.fixture(scope="module")
def loras(base):
    """A nameless list as T2V-Turbo's, with a guidance embedding of 12; a file with kohya's names; one of another
    model."""
    unet = small_models.TEXT_MODEL.unet
    shapes = {name: tuple(value.shape) for name, value in VideoUNet(unet, device="meta").state_dict().items()}
    generator = torch.Generator().manual_seed(4)
    torch.save(
        [torch.nn.Parameter(item) for item in small_models.turbo_list(unet)], base.model("loras", "turbo_list.pt")
    )
    tensors = {}
    for name in ("input_blocks.1.1.transformer_blocks.0.attn2.to_k", "out.2", "init_attn.0.proj_in"):
        up, down = small_models.low_rank(shapes[f"{name}.weight"], generator)
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{stem}.lora_up.weight": up, f"{stem}.lora_down.weight": down, f"{stem}.alpha": torch.tensor(4.0)}
    save_file(tensors, base.model("loras", "kohya_ours.safetensors"))
    other = {"lora_unet_down_blocks_0_x.lora_up.weight": torch.ones(4, 2)}
    other["lora_unet_down_blocks_0_x.lora_down.weight"] = torch.ones(2, 4)
    save_file(other, base.model("loras", "other.safetensors"))


def with_file(comfy, model, name, strength=1.0):
    return comfy.call("VideoCrafterLoraLoader", model=model, lora_name=name, strength=strength).values[0]


def of_vc_core(base, name, files, **request):
    places = [(base.model("loras", file), strength) for file, strength in files]
    core = VideoCrafter.load(base.model("checkpoints", name), loras=places)
    steps = list(core.steps("a red square", request=Request(**{"seed": 7, "cfg": 3.0, **SIZE, **request})))
    return to_frames(steps[-1].x) / SCALE


@pytest.mark.usefixtures("loras")
@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_a_lora_is_that_of_vc_core_and_leaves_the_model_as_it_was(base, comfy, text_model, strength):
    plain = text_model.sample()
    wanted = of_vc_core(base, text_model.name, [("kohya_ours.safetensors", strength)], sampling=Sampling(steps=4))
    out = text_model.sample(model=with_file(comfy, text_model.model, "kohya_ours.safetensors", strength))
    assert relative(out, wanted) < EXACT
    assert relative(out, plain) > 1e-3
    assert torch.equal(text_model.sample(), plain)


@pytest.mark.usefixtures("loras")
def test_turbos_nameless_list_makes_a_few_step_model_of_a_text_model(base, comfy, text_model):
    plain = text_model.sample()
    sampling = Sampling(steps=4, sampler="lcm", spacing="lcm")
    settings = {"steps": 4, "cfg": 7.5, "sampler_name": "lcm_exact", "scheduler": "lcm"}
    files = [("turbo_list.pt", 1.0)]
    turbo = with_file(comfy, text_model.model, "turbo_list.pt")
    out = text_model.sample(model=turbo, **settings)
    assert relative(out, of_vc_core(base, text_model.name, files, sampling=sampling, cfg=7.5)) < EXACT
    assert relative(text_model.sample(model=turbo, **{**settings, "cfg": 2.0}), out) > EXACT  # the scale is read

    files.append(("kohya_ours.safetensors", 0.7))
    both = with_file(comfy, turbo, "kohya_ours.safetensors", 0.7)
    stacked = text_model.sample(model=both, **settings)
    assert relative(stacked, of_vc_core(base, text_model.name, files, sampling=sampling, cfg=7.5)) < EXACT
    earlier = with_file(comfy, with_file(comfy, text_model.model, "kohya_ours.safetensors", 0.7), "turbo_list.pt")
    assert relative(text_model.sample(model=earlier, **settings), stacked) < EXACT
    assert torch.equal(text_model.sample(), plain)


@pytest.mark.usefixtures("loras")
def test_a_lora_list_keeps_what_earlier_nodes_set(comfy, text_model):
    (long,) = comfy.call("VideoCrafterFreeNoise", model=text_model.model).values
    (long,) = comfy.call("ModelSamplingDiscrete", model=long, sampling="lcm", zsnr=False).values
    grown = with_file(comfy, long, "turbo_list.pt")
    assert grown.get_model_object("model_sampling") is long.get_model_object("model_sampling")
    assert grown.wrappers == long.wrappers
    assert grown.wrappers is not long.wrappers
    assert grown.model.latent_format is long.model.latent_format


@pytest.mark.usefixtures("loras")
def test_loras_of_other_models_are_refused(comfy, text_model, image_model):
    with pytest.raises(Exception, match="LoRA of another model"):
        with_file(comfy, text_model.model, "other.safetensors")
    with pytest.raises(Exception, match=r"LoRA list of .* another model"):
        with_file(comfy, image_model.model, "turbo_list.pt")
    with pytest.raises(Exception, match="finite number"):
        with_file(comfy, text_model.model, "kohya_ours.safetensors", float("nan"))
    assert with_file(comfy, text_model.model, "kohya_ours.safetensors", 0.0) is text_model.model
