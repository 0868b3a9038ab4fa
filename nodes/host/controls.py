"""Controls in the host: a MODEL knows its controls and holds their weights; each run of any sampler attaches them.

The weights are an additional model of the MODEL's patcher, so that ComfyUI loads, offloads and counts them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.sd1_clip
import torch
from torch import Tensor, nn

from ...vc_core.checkpoint.building import Checkpoint
from ...vc_core.conditions import Conditioning
from ...vc_core.control.attachment import Attachment, Encoders, Scene
from ...vc_core.control.control import Control
from ...vc_core.control.networks import no_weights
from ...vc_core.control.table import Prepared, attached, check
from ...vc_core.denoising.draft import Opening
from ...vc_core.denoising.windows import ContextWindows
from ...vc_core.errors import UserError
from ...vc_core.features import Feature, Use, uses_of_model, uses_of_windows
from ...vc_core.frames.pixels import to_network
from ...vc_core.network.layers import to_clips, to_frames
from .caching import GUIDANCE_CACHE
from .clip_vision import encode_images, normed
from .compat import remember_types
from .deep import STEP_CACHE
from .guidance import after_cfg
from .long import check_own, reused
from .model import patcher_class
from .reading import open_file
from .sampling import first_level, host_denoiser, schedule_of
from .unet import ATTACHED, CONTEXT, HANDLER, WINDOWS, Acting

CONTROLS = "videocrafter_controls"
"""The controls of a MODEL (`Given`), among its `transformer_options`."""
NOISE_GIVEN = "videocrafter_noise_given"
"""Set in `transformer_options` for runs whose first noise is used as it is."""
WEIGHTS = "videocrafter_weights_of_"
"""What the keys of the additional models begin with; the name of the control follows."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Given:
    """A control of a MODEL, and what it has taken from encoders."""

    control: Control
    encoded: Mapping[str, Tensor] = field(default_factory=dict)


def with_control(model: Any, control: Control, file: Path | None, encoders: Encoders) -> Any:
    """A copy of the MODEL with a further control, for any sampler.

    file: that of its weights; None for those in the model's own. Raises UserError for models that are not
    VideoCrafter's, for a control that the others do not support, and for a file without the weights.
    """
    check_own(model)
    given = controls_of(model.model_options)
    for other in given:
        if other.control.name in control.conflicts or control.name in other.control.conflicts:
            reasons = {**other.control.conflicts, **control.conflicts}
            reason = reasons.get(other.control.name) or reasons.get(control.name)
            raise UserError(
                f"{control.title} is not supported with {other.control.title}: {reason}. Leave one of the two out."
            )
    network = None if control.part is None else _network(model, control, file)
    model = model.clone()
    options = model.model_options.setdefault("transformer_options", {})
    options[CONTROLS] = (*given, Given(control=control, encoded=control.encode(encoders)))
    if network is not None:
        model.set_additional_models(WEIGHTS + control.name, [network])
    replaced = control.replaced(None if network is None else network.model)
    if replaced:
        model.add_patches({f"diffusion_model.{name}": ("set", (tensor,)) for name, tensor in replaced.items()})
    kind = comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE
    model.remove_wrappers_with_key(kind, CONTROLS)
    model.add_wrapper_with_key(kind, CONTROLS, _sample)
    return model


def controls_of(model_options: Mapping[str, Any]) -> tuple[Given, ...]:
    """The controls of a MODEL."""
    found: tuple[Given, ...] = model_options.get("transformer_options", {}).get(CONTROLS, ())
    return found


def with_given_noise(model: Any) -> Any:
    """A copy of the MODEL whose runs use their first noise as it is."""
    model = model.clone()
    model.model_options.setdefault("transformer_options", {})[NOISE_GIVEN] = True
    return model


def _network(model: Any, control: Control, file: Path | None) -> Any:
    """A patcher of the network of a control's part."""
    assert control.part is not None
    opened: Checkpoint | None = getattr(model.model, "checkpoint", None) if file is None else open_file(file)
    if opened is None or (file is None and control.part not in opened.parts):
        raise UserError(no_weights(control))
    module = opened.build(control.part, operations=comfy.ops.manual_cast)
    remember_types(module)
    return patcher_class()(module, load_device=model.load_device, offload_device=model.offload_device)


def _sample(
    executor: Any,
    guider: Any,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    callback: Any,
    noise: Tensor,
    *others: Any,
    **more: Any,
) -> Any:
    """ComfyUI's entry around the sampler of a run, whose models are in memory. noise: f c h w. others: the latents
    to start from, f c h w, and more."""
    options = extra_args["model_options"]
    given = controls_of(options)
    video = _video(others[0] if others else None)
    uses = {} if video is None else {Feature.SOURCE: Use(given="A video to start from", cure="Leave it out")}
    attachment = _attachment(guider, given, sigmas, extra_args.get("seed") or 0, noise, uses)
    options = comfy.model_patcher.create_model_options_clone(options)
    passed = options["transformer_options"]
    wants_step = any(each.control.wants_step for each in given)
    passed[ATTACHED] = Acting(adapters=attachment.adapters, wants_step=wants_step)
    functions = options.get("sampler_post_cfg_function", [])
    before = [partial(after_cfg, terms=attachment.terms, rules=())] if attachment.terms else []
    behind = [partial(after_cfg, terms=(), rules=attachment.rules)] if attachment.rules else []
    options["sampler_post_cfg_function"] = [*before, *functions, *behind]
    begin = attachment.begin(extra_args.get("seed") or 0)
    if begin is not None and not passed.get(NOISE_GIVEN):
        noise = to_frames(begin(to_clips(noise, len(noise)), partial(_opening, guider, options, sigmas, video)))
    return executor(guider, sigmas, {**extra_args, "model_options": options}, callback, noise, *others, **more)


def _video(latent: Tensor | None) -> Tensor | None:
    """The latents f c h w that a run starts from; None where they are empty."""
    return latent if latent is not None and bool(latent.any()) else None


def _opening(guider: Any, options: dict[str, Any], sigmas: Tensor, video: Tensor | None) -> Opening:
    """The run that is about to begin, without caches, and without what belongs to some steps. video: f c h w."""
    options = comfy.model_patcher.create_model_options_clone(options)
    passed = options["transformer_options"]
    for cache in (STEP_CACHE, GUIDANCE_CACHE):
        passed.pop(cache, None)
    always = tuple(adapter for adapter in passed[ATTACHED].adapters if adapter.steps is None)
    passed[ATTACHED] = replace(passed[ATTACHED], adapters=always)

    denoise = host_denoiser(guider, {"model_options": options, "seed": None})
    return Opening(
        denoise=denoise,
        schedule=schedule_of(guider.model_patcher),
        first=first_level(guider.model_patcher, sigmas),
        video=None if video is None else to_clips(video, len(video)),
    )


def _attachment(
    guider: Any, given: Sequence[Given], sigmas: Tensor, seed: int, noise: Tensor, uses: Mapping[Feature, Use]
) -> Attachment:
    """What the controls add to a run. uses: what it starts from. Raises UserError where they cannot act on it."""
    base, patcher = guider.inner_model, guider.model_patcher
    multiple = base.spec.size_multiple
    scene = Scene(
        spec=base.spec,
        frames=len(noise),
        width=noise.shape[3] * multiple,
        height=noise.shape[2] * multiple,
        steps=len(sigmas) - 1,
        cfg=float(getattr(guider, "cfg", 1.0)),
        seed=seed,
        device=noise.device,
        dtype=base.manual_cast_dtype or base.get_dtype(),
        conditionings=_conditionings(guider),
        tokenize=tokenize,
    )
    scene = replace(scene, passing=_passing(guider.model_options))
    windows = guider.model_options.get("transformer_options", {}).get(WINDOWS)
    used = {**uses_of_model(base.spec), **uses_of_windows(windows, reused(guider.model_options), len(noise)), **uses}
    check([each.control for each in given], scene, used)
    prepared = [
        Prepared(control=each.control, network=_loaded(patcher, each.control), encoded=each.encoded) for each in given
    ]
    with torch.inference_mode():
        return attached(prepared, scene)


def tokenize(prompts: Sequence[str]) -> Tensor:
    """Prompts -> tokens b n, by the tokenizer that ComfyUI has; shorter ones end in zeros."""
    read = comfy.sd1_clip.SDTokenizer().tokenizer
    rows = [torch.tensor(read(prompt)["input_ids"]) for prompt in prompts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _passing(model_options: Mapping[str, Any]) -> int | None:
    """The frames of a window of whole passes; None without such windows."""
    own: ContextWindows | None = model_options.get("transformer_options", {}).get(CONTEXT)
    length: int | None = getattr(model_options.get(HANDLER), "context_length", None) if own is None else own.size
    return length


def _loaded(patcher: Any, control: Control) -> nn.Module | None:
    """The network of a control, which ComfyUI has loaded with the model."""
    if control.part is None:
        return None
    module: nn.Module = patcher.get_additional_models_with_key(WEIGHTS + control.name)[0].model
    return module


def _conditionings(guider: Any) -> dict[str, Conditioning]:
    """The texts of a run, by name; those of which several are combined are left out."""
    found = {}
    for name, entries in guider.conds.items():
        texts = [entry["cross_attn"] for entry in entries or () if entry.get("cross_attn") is not None]
        if len(texts) == 1:
            found[name] = Conditioning(text=texts[0])
    return found


def encoders_of(clip: Any = None, clip_vision: Any = None) -> Encoders:
    """The encoders that a node has been given."""
    out = Encoders()
    if clip_vision is not None:
        out = replace(
            out,
            image=lambda images: encode_images(clip_vision, to_network(images)),
            image_norm=lambda tokens: normed(clip_vision, tokens),
        )
    if clip is not None:
        out = replace(out, text=lambda prompts: torch.cat([_text(clip, prompt) for prompt in prompts]))
    return out


def _text(clip: Any, prompt: str) -> Tensor:
    out: Tensor = clip.encode_from_tokens(clip.tokenize(prompt))
    return out
