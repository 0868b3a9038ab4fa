"""Controls in a run of vc_core's pipeline."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..checkpoint import Parts
from ..conditioning.tokenizer import tokenize
from ..conditions import Conditioning
from ..features import Feature, Use, uses_of_model, uses_of_request
from ..frames.pixels import to_network
from ..network.unet import VideoUNet
from ..request import Request, Settings
from ..specs import ModelSpec
from .attachment import NOTHING, Attachment, Encoders, Scene
from .control import Control
from .networks import Networks, check_weights
from .table import Prepared, attached, check


def scene_of(spec: ModelSpec, request: Request, settings: Settings, prompts: Sequence[str], steps: int) -> Scene:
    """The scene of a request, before anything is encoded. steps: of the run."""
    return Scene(
        spec=spec,
        frames=settings.frames,
        width=settings.width,
        height=settings.height,
        steps=steps,
        cfg=settings.sampling.guidance.scale,
        seed=request.seed,
        passing=request.frames_at_once(settings.frames),
        image=settings.image,
        prompts=tuple(prompts),
    )


def check_controls(request: Request, scene: Scene, uses: Mapping[Feature, Use], parts: tuple[str, ...]) -> None:
    """Raises UserError where the controls of a request do not fit the scene, what else is in use or each other, or have
    no weights. uses: beside the request and the model. parts: those of the model's own file."""
    if not request.controls:
        return
    check(request.controls, scene, {**uses_of_request(request), **uses_of_model(scene.spec), **uses})
    for control in request.controls:
        check_weights(control, parts)


def attach(
    controls: Sequence[Control],
    networks: Networks,
    parts: Parts,
    scene: Scene,
    conditionings: Mapping[str, Conditioning],
) -> Attachment:
    """What the controls add to a run of a loaded model. conditionings: of the run."""
    if not controls:
        return NOTHING
    encoders = encoders_of(parts)
    prepared = [Prepared(control=each, network=networks(each), encoded=each.encode(encoders)) for each in controls]
    placed = replace(scene, device=parts.device, dtype=parts.dtype, conditionings=conditionings)
    return attached(prepared, placed)


def encoders_of(parts: Parts) -> Encoders:
    """The encoders of a loaded model."""
    text, image = parts.text_encoder, parts.image_encoder
    if text is None:
        return Encoders()
    length = text.spec.context_length
    return Encoders(
        text=text,
        tokens=lambda prompts: tokenize(prompts, length),
        image=None if image is None else lambda images: image(to_network(images).to(parts.device)),
        image_norm=None if image is None else image.model.visual.ln_post,
    )


def network_of(unet: VideoUNet, controls: Sequence[Control], networks: Networks) -> VideoUNet:
    """The network of a run: the model's own, with the tensors that controls replace."""
    found: dict[str, Tensor] = {}
    for control in controls:
        found.update(control.replaced(networks(control)))
    return with_tensors(unet, found)


def with_tensors(unet: VideoUNet, tensors: Mapping[str, Tensor]) -> VideoUNet:
    """A network with some of its tensors replaced; it shares all others, and the given one does not change."""
    if not tensors:
        return unet
    shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    out = copy.deepcopy(unet, shared)
    out._compiled_call_impl = None
    own = out.state_dict()
    out.load_state_dict({**own, **{name: tensor.to(own[name]) for name, tensor in tensors.items()}}, assign=True)
    out.fused.arrange(out)
    return out.requires_grad_(False)
