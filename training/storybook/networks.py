"""What is trained: the video UNet with its text tower, and for images the branch that makes their tokens."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training import image_branch
from training.image_branch import Reader
from training.network import zero_outputs
from vc_core.conditioning.openclip import run_blocks
from vc_core.conditioning.text_encoder import TextEncoder
from vc_core.conditions import Conditioning
from vc_core.network.attention import causal_mask, sdpa_attention
from vc_core.network.unet import VideoUNet
from vc_core.specs import ModelSpec

from .forward import Blocks, Camera, Forward
from .vocabulary import Vocabulary


class Network(nn.Module):
    """The video UNet and its text tower with the small table of words.

    `blocks` computes the UNet. Without `over_time`, temporal transformers are left out, for training on stills."""

    def __init__(self, spec: ModelSpec, words: int, blocks: Blocks | None = None, *, over_time: bool = True) -> None:
        super().__init__()
        self.spec, self.blocks, self.over_time = spec, blocks or Blocks(), over_time
        self.unet = VideoUNet(spec.unet)
        self.text = TextEncoder(replace(spec.text_encoder, vocab_size=words))
        zero_outputs(self.unet)
        for name, parameter in self.unet.named_parameters():
            if name.endswith("to_v_ip.weight"):
                nn.init.zeros_(parameter)

    def read(self, rows: Tensor) -> Tensor:
        """Rows b n -> b n d, as `TextEncoder.encode`, without its checks, which wait for the device."""
        model = self.text.model
        table = model.token_embedding.weight
        places = torch.arange(len(table), device=rows.device)
        x = (rows[..., None] == places).to(table.dtype) @ table + model.positional_embedding
        blocks = list(model.transformer.resblocks.children())  # type: ignore[union-attr]
        out: Tensor = model.ln_final(run_blocks(blocks[:-1], x, causal_mask(rows.shape[1], like=x)))
        return out

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        rows: Tensor,
        fps: Tensor,
        image: Tensor | None = None,
        concat: Tensor | None = None,
        camera: Camera | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """The prediction b c f h w; `rows` are words, b n; `image` are tokens, `concat` the latents beside the clip.
        Also the means of features over pixels that `Forward` gives."""
        dtype = next(self.parameters()).dtype
        concat = None if concat is None else concat.to(dtype)
        text = self.blocks.read(self, rows)
        return Forward(self.unet, self.blocks, self.over_time, camera)(
            x.to(dtype), timesteps, Conditioning(text, image, fps, concat)
        )


class ImageBranch(image_branch.ImageBranch):
    """Images b 3 h w, prepared by `image_encoder.preprocess` -> tokens b m d or b f m d."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, sdpa_attention)

    def forward(self, prepared: Tensor) -> Tensor:
        visual = self.encoder.model.visual
        x = visual.conv1(prepared.to(visual.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(x.shape[0], 1, -1)
        x = visual.ln_pre(torch.cat([first, x], dim=1) + visual.positional_embedding)
        out: Tensor = self.tokens(run_blocks(visual.transformer.resblocks, x))
        return out


class ReadingLesson(nn.Module):
    """The image branch alone: a small reader must rebuild an image's latents from its tokens. The loss is their
    squared error."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.branch = ImageBranch(spec)
        side = spec.defaults.width // spec.autoencoder.downscale
        self.reader = Reader(spec.unet.context_dim, spec.autoencoder.latent_channels, side, sdpa_attention)

    def forward(self, prepared: Tensor, latents: Tensor) -> Tensor:
        tokens = self.branch(prepared)
        return F.mse_loss(self.reader(tokens if tokens.ndim == 3 else tokens[:, 0]).float(), latents)


def published_names(network: Network, words: Vocabulary, branch: ImageBranch | None = None) -> dict[str, Tensor]:
    """The weights of everything but the autoencoder by the names of published files, with the full vocabulary."""
    tensors = {f"model.diffusion_model.{key}": value for key, value in network.unet.state_dict().items()}
    text = network.text.state_dict()
    table = "model.token_embedding.weight"
    text[table] = words.spread(text[table])
    tensors |= {f"cond_stage_model.{key}": value for key, value in text.items()}
    return tensors if branch is None else tensors | branch.published_names()
