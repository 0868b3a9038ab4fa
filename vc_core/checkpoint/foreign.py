"""What a file seems to be when it is not one of ours, by names and shapes, for the message to the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Rule:
    """`title` completes the sentence "it seems to be ..."; `cure` says where the file belongs."""

    title: str
    cure: str
    test: Callable[[Shapes], bool]


def _has(shapes: Shapes, *fragments: str) -> bool:
    return any(fragment in name for name in shapes for fragment in fragments)


def _starts(shapes: Shapes, *starts: str) -> bool:
    return any(name.startswith(starts) for name in shapes)


def _is_image_unet(shapes: Shapes) -> bool:
    return _has(shapes, "input_blocks.1.0.in_layers") and not _has(shapes, "init_attn.")


def context_width(shapes: Shapes) -> int | None:
    """The width of the text that the first cross-attention of an image UNet reads."""
    return next((shape[1] for name, shape in shapes.items() if "attn2.to_k.weight" in name and len(shape) == 2), None)


_CHECKPOINTS = "Load it with ComfyUI's own Load Checkpoint node"
_LORA = "Load it with a LoRA loader, after the model"

RULES = (
    Rule(
        "a LoRA (small changes to a model, not a model)",
        _LORA,
        lambda s: _has(s, "lora_up.", "lora_down.", "lora_A", "lora_B", ".lora.", "hada_w1", "lokr_w1"),
    ),
    Rule(
        "an AnimateDiff motion module",
        "Load it with an AnimateDiff node",
        lambda s: _has(s, "motion_modules."),
    ),
    Rule(
        "a ControlNet",
        "Load it with ComfyUI's Load ControlNet Model node",
        lambda s: _starts(s, "control_model.", "controlnet_") or _has(s, "zero_convs."),
    ),
    Rule(
        "Stable Video Diffusion",
        "Load it with ComfyUI's Image Only Checkpoint Loader node",
        lambda s: _is_image_unet(s) and _has(s, "time_stack."),
    ),
    Rule(
        "ModelScope text-to-video (temporal convolutions, but no temporal attention after the first convolution)",
        "It needs a pack for ModelScope models",
        lambda s: _is_image_unet(s) and _has(s, "temopral_conv."),
    ),
    Rule(
        "Stable Diffusion XL",
        _CHECKPOINTS,
        lambda s: _is_image_unet(s) and (_has(s, "label_emb.") or context_width(s) == 2048),
    ),
    Rule(
        "Stable Diffusion 1.x (an image model, text of 768 channels)",
        _CHECKPOINTS,
        lambda s: _is_image_unet(s) and context_width(s) == 768,
    ),
    Rule(
        "Stable Diffusion 2.x (an image model, text of 1024 channels)",
        _CHECKPOINTS,
        lambda s: _is_image_unet(s) and context_width(s) == 1024,
    ),
    Rule("an image diffusion UNet without temporal layers", _CHECKPOINTS, _is_image_unet),
    Rule(
        "a model in the layout of the diffusers library",
        "Give the original checkpoint (model.ckpt) instead",
        lambda s: _starts(s, "down_blocks.", "up_blocks.", "encoder.down_blocks.", "decoder.up_blocks."),
    ),
    Rule(
        "a CLIP in the layout of the transformers library",
        "Give VideoCrafter's own text encoder, or OpenCLIP's ViT-H-14 file",
        lambda s: _starts(s, "text_model.", "vision_model."),
    ),
)


def identify(shapes: Shapes) -> Rule | None:
    """The first rule that fits the whole file, or None when nothing is recognised."""
    return next((rule for rule in RULES if rule.test(shapes)), None)


def some(names: Iterable[str], count: int = 5) -> str:
    """A few of the names and how many more there are, for a message."""
    names = list(names)
    shown = ", ".join(names[:count])
    return shown + (f" and {len(names) - count} more" if len(names) > count else "")
