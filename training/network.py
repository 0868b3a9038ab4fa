"""The small models: their specs, the networks to train, and their initialisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from vc_core.conditioning.text_encoder import TextEncoder
from vc_core.conditions import Conditioning
from vc_core.network.call import PLAIN, Pass
from vc_core.network.transformers import TemporalTransformer
from vc_core.network.unet import VideoUNet
from vc_core.specs import (
    AutoencoderSpec,
    ImageEncoderSpec,
    ModelSpec,
    ResamplerSpec,
    SamplingDefaults,
    TextEncoderSpec,
    UNetSpec,
)
from worlds.shapes.world import FRAMES, SIZE

from .image_branch import ImageBranch
from .layers import FastOperations, short_attention
from .words import Words

TEXT_WIDTH = 40
IMAGE_WIDTH = 64

TEXT_TO_VIDEO = ModelSpec(
    name="videocrafter_small_t2v",
    unet=UNetSpec(
        model_channels=32,
        channel_mult=(1, 2, 2),
        num_res_blocks=1,
        attention_levels=(1,),
        head_channels=8,
        context_dim=TEXT_WIDTH,
        norm_groups=8,
        default_fps=8,
    ),
    autoencoder=AutoencoderSpec(channels=16, channel_mult=(1, 2, 4, 4), num_res_blocks=1, norm_groups=8),
    text_encoder=TextEncoderSpec(width=TEXT_WIDTH, heads=4, layers=3, embed_dim=TEXT_WIDTH),
    defaults=SamplingDefaults(width=SIZE, height=SIZE, frames=FRAMES, fps=8, steps=50, cfg=4.0, eta=0.0, save_fps=8.0),
)
IMAGE_TO_VIDEO = replace(
    TEXT_TO_VIDEO,
    name="videocrafter_small_i2v",
    unet=replace(TEXT_TO_VIDEO.unet, image_attention=True),
    image_encoder=ImageEncoderSpec(
        image_size=SIZE, patch_size=8, width=IMAGE_WIDTH, head_width=32, layers=3, embed_dim=32, text_width=32
    ),
    image_tokens=ResamplerSpec(
        dim=64, depth=2, head_channels=32, heads=2, queries=16, embedding_dim=IMAGE_WIDTH, output_dim=TEXT_WIDTH
    ),
)


class Network(nn.Module):
    """The video UNet and its text encoder with a reduced vocabulary. `still` omits all temporal layers, for training on
    single frames: the parameters are a subset of those of the full network."""

    def __init__(self, spec: ModelSpec, *, still: bool = False) -> None:
        super().__init__()
        self.spec = spec
        self.words = Words(spec.text_encoder.vocab_size, spec.text_encoder.context_length)
        unet = replace(spec.unet, temporal_conv=False) if still else spec.unet
        self.unet = VideoUNet(unet, operations=FastOperations, attention=short_attention)
        self.text = TextEncoder(replace(spec.text_encoder, vocab_size=self.words.size))
        zero_outputs(self.unet)
        if still:
            leave_out_time(self.unet)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        rows: Tensor,
        fps: Tensor,
        image: Tensor | None = None,
        concat: Tensor | None = None,
        run: Pass = PLAIN,
    ) -> Tensor:
        """The prediction b c f h w; `rows` are words b n, `image` image tokens, `concat` the latents to concatenate.
        `run` says how the UNet computes it."""
        with torch.autocast(x.device.type, enabled=False):  # in such a narrow encoder, 16 bits are slower than 32
            text = self.text.encode(rows)
        out: Tensor = self.unet(x, timesteps, Conditioning(text, image, fps, concat), run)
        return out


class PictureNetwork(nn.Module):
    """A network with attention over image tokens, and the branch that computes them."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.network = Network(spec)
        self.words = self.network.words
        self.branch = ImageBranch(spec)
        for name, parameter in self.network.named_parameters():
            if name.endswith("to_v_ip.weight"):
                nn.init.zeros_(parameter)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        rows: Tensor,
        fps: Tensor,
        pictures: Tensor | None = None,
        concat: Tensor | None = None,
    ) -> Tensor:
        """The prediction b c f h w; `pictures` are images b 3 h w in -1..1, or None for text-to-video."""
        image = None if pictures is None else self.branch(pictures)
        out: Tensor = self.network(x, timesteps, rows, fps, image, concat)
        return out


def zero_outputs(unet: VideoUNet) -> None:
    """Initialises the last layer of every residual branch, and of the network, to zero, as in the published
    training."""
    endings = ("out_layers.3", "proj_out", "conv4.3", "out.2")
    for name, module in unet.named_modules():
        if name.endswith(endings):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)


class _Pass(nn.Module):
    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


def leave_out_time(unet: VideoUNet) -> None:
    """Removes the temporal transformers. With their zero-initialised outputs the function is the same."""
    for module in list(unet.modules()):
        if isinstance(module, nn.ModuleList):
            for index, child in enumerate(module):
                if isinstance(child, TemporalTransformer):
                    module[index] = _Pass()


def take_over(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads the weights of a smaller network into a larger one. Raises KeyError for unknown names."""
    unknown = sorted(set(weights) - set(module.state_dict()))
    if unknown:
        raise KeyError(f"The network has no parameters {unknown[:5]}")
    module.load_state_dict(dict(weights), strict=False)


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix, with the prefix removed."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def published_names(network: PictureNetwork, *, pictured: bool) -> dict[str, Tensor]:
    """All weights except the autoencoder's under published names, with the full vocabulary: of the image-to-video
    model, or, without the image branch, of the text-to-video model."""
    video = network.network
    tensors = {f"model.diffusion_model.{key}": value for key, value in video.unet.state_dict().items()}
    text = video.text.state_dict()
    table = "model.token_embedding.weight"
    text[table] = video.words.spread(text[table])
    tensors |= {f"cond_stage_model.{key}": value for key, value in text.items()}
    if pictured:
        return tensors | network.branch.published_names()
    return {key: value for key, value in tensors.items() if not key.endswith(("to_k_ip.weight", "to_v_ip.weight"))}


def seeded(spec: ModelSpec, seed: int, *, still: bool = False) -> Network:
    """A network whose initialisation is determined by the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(spec, still=still)


def seeded_with_pictures(spec: ModelSpec, seed: int) -> PictureNetwork:
    """Like `seeded`, with the image branch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return PictureNetwork(spec)
