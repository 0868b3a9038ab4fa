"""Sizes, numbers and weights that the makers share, and how a case is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from golden_cases import digest, recipe_tensor

RECIPE = {"seed": 7, "profile": "normal"}
SIZES: dict[str, Any] = {
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [2],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_head_channels": 8,
    "context_dim": 16,
    "temporal_length": 6,
}
OURS: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": (1, 2),
    "attention_levels": (1,),
    "num_res_blocks": 1,
    "head_channels": 8,
    "context_dim": 16,
    "temporal_length": 6,
}
PLAIN = {"in_channels": 4, "temporal_conv": True, "use_relative_position": False, "fps_cond": True}
RELATIVE = {"in_channels": 4, "temporal_conv": False, "use_relative_position": True, "fps_cond": True}
CONTINUING = {
    "in_channels": 8,
    "temporal_conv": True,
    "use_relative_position": False,
    "image_cross_attention": True,
    "fs_condition": True,
    "default_fs": 11,
}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VISION = {"image_size": 224, "patch_size": 32, "width": 24, "head_width": 8, "layers": 1}
VAE = {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "z_channels": 4}
TOKENS = {"dim": 24, "depth": 1, "dim_head": 8, "heads": 2, "embedding_dim": 24, "output_dim": 16, "ff_mult": 3}
OUR_TOKENS: dict[str, Any] = {
    "dim": 24,
    "depth": 1,
    "head_channels": 8,
    "heads": 2,
    "embedding_dim": 24,
    "output_dim": 16,
    "ff_mult": 3,
}


class Draws:
    """Normal numbers of a seed of their own."""

    def __init__(self, seed: int = 1) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def picture(self, height: int, width: int) -> Tensor:
        return torch.randint(0, 256, (height, width, 3), generator=self.generator, dtype=torch.uint8)


def write(
    folder: Path, kind: str, info: dict[str, Any], tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor] = {}
) -> Path:
    name = f"{kind}_made"
    described = {"case": name, "kind": kind, "file": f"{name}.safetensors", **info}
    if weights:
        keys = {key: list(value.shape) for key, value in weights.items()}
        described["weights"] = {**RECIPE, "storage": "recipe", "keys": keys, "sha256": digest(weights)}
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, folder / described["file"])
    path = folder / f"{name}.json"
    path.write_text(json.dumps(described), encoding="utf-8")
    return path


def by_recipe(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {
        prefix + key: recipe_tensor(prefix + key, value.shape, RECIPE) for key, value in module.state_dict().items()
    }


def filled(module: nn.Module) -> tuple[Any, dict[str, Tensor]]:
    """A module built on meta, with weights of the recipe; and those."""
    weights = by_recipe(module)
    module.load_state_dict(weights, assign=True)
    return module.eval(), weights
