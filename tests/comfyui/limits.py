"""What ComfyUI has added since the oldest release that the pack runs on, and which tests need it.

A test calls `skip_without("...")`; the host is asked by its source, before it is imported, so that tests of a server
can ask as well. `docs/compatibility.md` names every limit.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from .base import comfy_path


class Limit(NamedTuple):
    """`sign` is in `file`, a path below ComfyUI's folder, of hosts that can."""

    file: str
    sign: str


NODES = {
    "ARVideoI2V": "comfy_extras/nodes_ar_video.py",
    "BerniniConditioning": "comfy_extras/nodes_bernini.py",
    "CFGOverride": "comfy_extras/nodes_custom_sampler.py",
    "ConditioningMultiply": "nodes.py",
    "DualModelGuider": "comfy_extras/nodes_custom_sampler.py",
    "EmptyAceStep1.5LatentAudio": "comfy_extras/nodes_ace.py",
    "EmptyARVideoLatent": "comfy_extras/nodes_ar_video.py",
    "EmptyFlux2LatentImage": "comfy_extras/nodes_flux.py",
    "EmptyHiDreamO1LatentImage": "comfy_extras/nodes_hidream_o1.py",
    "EmptyHunyuanVideo15Latent": "comfy_extras/nodes_hunyuan.py",
    "EmptyMiniMaxH3LatentAV": "comfy_extras/nodes_minimax_h3.py",
    "EmptyQwenImageLayeredLatentImage": "comfy_extras/nodes_qwen.py",
    "FluxKVCache": "comfy_extras/nodes_flux.py",
    "FrameInterpolate": "comfy_extras/nodes_frame_interpolation.py",
    "GetICLoRAParameters": "comfy_extras/nodes_lt.py",
    "HiDreamO1PatchSeamSmoothing": "comfy_extras/nodes_hidream_o1.py",
    "HiDreamO1ReferenceImages": "comfy_extras/nodes_hidream_o1.py",
    "HunyuanVideo15ImageToVideo": "comfy_extras/nodes_hunyuan.py",
    "HunyuanVideo15SuperResolution": "comfy_extras/nodes_hunyuan.py",
    "Kandinsky5ImageToVideo": "comfy_extras/nodes_kandinsky5.py",
    "LatentCutToBatch": "comfy_extras/nodes_latent.py",
    "LoadTrainingDataset": "comfy_extras/nodes_dataset.py",
    "LoraLoaderBypass": "comfy_extras/nodes_lora_debug.py",
    "LoraLoaderBypassModelOnly": "comfy_extras/nodes_lora_debug.py",
    "LTXVAudioVAEDecode": "comfy_extras/nodes_lt_audio.py",
    "LTXVConcatAVLatent": "comfy_extras/nodes_lt.py",
    "LTXVContextWindows": "comfy_extras/nodes_context_windows.py",
    "LTXVImgToVideoInplace": "comfy_extras/nodes_lt.py",
    "LTXVReferenceAudio": "comfy_extras/nodes_lt.py",
    "LTXVSeparateAVLatent": "comfy_extras/nodes_lt.py",
    "MiniMaxH3SigmaShift": "comfy_extras/nodes_minimax_h3.py",
    "ModelMergeKrea2": "comfy_extras/nodes_model_merging_model_specific.py",
    "ModelNoiseScale": "comfy_extras/nodes_model_advanced.py",
    "NAGuidance": "comfy_extras/nodes_nag.py",
    "NormalizeVideoLatentStart": "comfy_extras/nodes_kandinsky5.py",
    "PiDConditioning": "comfy_extras/nodes_pid.py",
    "ReferenceTimbreAudio": "comfy_extras/nodes_ace.py",
    "ReplaceVideoLatentFrames": "comfy_extras/nodes_latent.py",
    "ResolutionBucket": "comfy_extras/nodes_dataset.py",
    "RTDETR_detect": "comfy_extras/nodes_rtdetr.py",
    "SAM3_Detect": "comfy_extras/nodes_sam3.py",
    "SAM3_VideoTrack": "comfy_extras/nodes_sam3.py",
    "SaveTrainingDataset": "comfy_extras/nodes_dataset.py",
    "ScaleROPE": "comfy_extras/nodes_rope.py",
    "SDPoseKeypointExtractor": "comfy_extras/nodes_sdpose.py",
    "SeedVR2Conditioning": "comfy_extras/nodes_seedvr.py",
    "SeedVR2TemporalChunk": "comfy_extras/nodes_seedvr.py",
    "SeedVR2TemporalMerge": "comfy_extras/nodes_seedvr.py",
    "SelectModelDevice": "comfy_extras/nodes_multigpu.py",
    "TemporalScoreRescaling": "comfy_extras/nodes_eps.py",
    "TripoSplatSamplingPreview": "comfy_extras/nodes_triposplat.py",
    "VAEDecodeAudioTiled": "comfy_extras/nodes_audio.py",
    "VAEDecodeTripoSplat": "comfy_extras/nodes_triposplat.py",
    "VOIDInpaintConditioning": "comfy_extras/nodes_void.py",
    "VOIDWarpedNoiseSource": "comfy_extras/nodes_void.py",
    "wanBlockSwap": "comfy_extras/nodes_nop.py",
    "WanDancerVideo": "comfy_extras/nodes_wandancer.py",
    "WanMoveTrackToVideo": "comfy_extras/nodes_wanmove.py",
    "WanSCAILToVideo": "comfy_extras/nodes_scail.py",
}
"""Core nodes that the oldest release lacks -> the file in which newer ones have them."""

LIMITS = {
    "core's context windows over our frames": Limit("comfy/context_windows.py", "timestep[0]"),
    "EasyCache on a batch": Limit("comfy_extras/nodes_easycache.py", "batch_slice"),
    "previews of the small models": Limit("comfy/latent_formats.py", "latent_rgb_factors_reshape"),
    "fresh noise of a seed of its own on the CPU": Limit("comfy/k_diffusion/sampling.py", "seed += 1"),
    "passes on several GPUs": Limit("comfy/model_patcher.py", "deepclone_multigpu"),
    "choices checked before the run": Limit("execution.py", "io.Combo.io_type"),
    "bounding boxes and tracks": Limit("comfy_extras/nodes_images.py", '"PrimitiveBoundingBox"'),
    "blueprints": Limit("app/subgraph_manager.py", "global_subgraphs"),
    "combos with inputs of their own": Limit("comfy_api/latest/_io.py", "class DynamicCombo("),
    "replacement of renamed nodes": Limit("app/node_replace_manager.py", "class NodeReplaceManager"),
    **{node: Limit(file, f'"{node}"') for node, file in NODES.items()},
}


def has(name: str) -> bool:
    """Whether the host at hand can do what `LIMITS` names."""
    limit = LIMITS[name]
    file = comfy_path() / limit.file
    return file.is_file() and limit.sign in file.read_text(encoding="utf-8")


def skip_without(name: str) -> None:
    """Skips the test that runs unless the host can do this."""
    if not has(name):
        pytest.skip(f"this ComfyUI is too old for: {name}")


def skip_without_node(node: str) -> None:
    """Skips the test that runs if the host lacks a core node that not every release has."""
    if node in NODES:
        skip_without(node)
