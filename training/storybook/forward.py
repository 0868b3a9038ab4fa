"""The forward pass of the storybook models' `VideoUNet`, arranged for training on a GPU.

It computes what `VideoUNet.forward` computes, from the same parameters. Maps stay in channels-last memory throughout,
queries, keys and values come from one product, and each block is a function of tensors alone, so that `torch.compile`
fuses what lies between the products and compiles every kind of block only once. Relative positions take one product
with the table of vectors for all pairs of frames (the skewing of arXiv:1809.04281), whose gradient is one product too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vc_core.conditions import Conditioning
from vc_core.network.layers import NORM_EPS, Downsample, ResBlock, Upsample
from vc_core.network.transformers import TRANSFORMER_NORM_EPS, SpatialTransformer, TemporalTransformer
from vc_core.network.unet import INIT_ATTENTION_HEADS, VideoUNet

Weights = Mapping[str, Tensor]
"""The parameters of one module, by their names in it."""


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module by name."""
    return dict(module.named_parameters())


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, rows: int = 1) -> Tensor:
    """The norm of maps m h w c, with statistics of `rows` maps together."""
    m, h, w, c = x.shape
    parts = x.reshape(m // rows, rows * h * w, groups, c // groups).float()
    variance, mean = torch.var_mean(parts, dim=(1, 3), correction=0, keepdim=True)
    normed = ((parts - mean) * torch.rsqrt(variance + eps)).view(m, h, w, c)
    return (normed * weight.float() + bias.float()).to(x.dtype)


def gated(x: Tensor) -> Tensor:
    """... 2d -> ... d: the first half times the GELU of the second."""
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


OverFrames = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""softmax(q (k + r)^T / sqrt(d)) (v + s), for qkv b f p (3 heads d), r and s for each distance, 2f d, and the number of
heads -> b f p (heads d)"""


class Ops(NamedTuple):
    """How operations that torch has no single kernel for are computed. With `fused`, norms take SiLU themselves."""

    norm: Callable[..., Tensor] = group_norm
    gated: Callable[[Tensor], Tensor] = gated
    attend: OverFrames | None = None
    """None is `over_frames`."""
    fused: bool = False


OPS = Ops()


def activated(x: Tensor, weight: Tensor, bias: Tensor, groups: int, ops: Ops = OPS) -> Tensor:
    """A norm and SiLU of maps m h w c."""
    if ops.fused:
        return ops.norm(x, weight, bias, groups, NORM_EPS, silu=True)
    return F.silu(ops.norm(x, weight, bias, groups, NORM_EPS))


def convolved(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1) -> Tensor:
    """A convolution of 3 x 3 of maps m h w c."""
    out = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=stride, padding=1)
    return out.permute(0, 2, 3, 1).contiguous()


def res_block(p: Weights, x: Tensor, emb: Tensor, groups: int, ops: Ops = OPS) -> Tensor:
    """`ResBlock`. Maps m h w c, and for each the embedding behind its SiLU, m d"""
    h = activated(x, p["in_layers.0.weight"], p["in_layers.0.bias"], groups, ops)
    h = convolved(h, p["in_layers.2.weight"], p["in_layers.2.bias"])
    e = F.linear(emb, p["emb_layers.1.weight"], p["emb_layers.1.bias"])
    h = activated(h + e[:, None, None], p["out_layers.0.weight"], p["out_layers.0.bias"], groups, ops)
    h = convolved(h, p["out_layers.3.weight"], p["out_layers.3.bias"])
    if "skip_connection.weight" in p:
        x = F.linear(x, p["skip_connection.weight"].flatten(1), p["skip_connection.bias"])
    return x + h


def _layer_norm(p: Weights, name: str, x: Tensor) -> Tensor:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    return F.layer_norm(x, (x.shape[-1],), weight, bias, NORM_EPS)


def _feed_forward(p: Weights, name: str, x: Tensor, ops: Ops) -> Tensor:
    both = F.linear(x, p[f"{name}.net.0.proj.weight"], p[f"{name}.net.0.proj.bias"])
    return F.linear(ops.gated(both), p[f"{name}.net.2.weight"], p[f"{name}.net.2.bias"])


def _out(p: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, p[f"{name}.to_out.0.weight"], p[f"{name}.to_out.0.bias"])


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of q b n (heads d) over k, v b m (heads d) -> b n (heads d)"""
    q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _over(p: Weights, names: tuple[str, str], q: Tensor, context: Tensor, heads: int) -> Tensor:
    """Cross-attention of queries m n d over a context with a row for each m / b of them, b k e."""
    k, v = F.linear(context, torch.cat([p[name] for name in names])).chunk(2, dim=-1)
    return _attention(q.reshape(len(context), -1, q.shape[-1]), k, v, heads).reshape(q.shape)


def spatial(
    p: Weights, x: Tensor, text: Tensor, image: Tensor | None, heads: int, groups: int, ops: Ops = OPS
) -> Tensor:
    """`SpatialTransformer`. Maps m h w c; text and image with a row for each m / b maps, b n e"""
    block, attn = "transformer_blocks.0", "transformer_blocks.0.attn2"
    h = ops.norm(x, p["norm.weight"], p["norm.bias"], groups, TRANSFORMER_NORM_EPS).flatten(1, 2)
    h = F.linear(h, p["proj_in.weight"], p["proj_in.bias"])
    joined = torch.cat([p[f"{block}.attn1.to_{name}.weight"] for name in "qkv"])
    q, k, v = F.linear(_layer_norm(p, f"{block}.norm1", h), joined).chunk(3, dim=-1)
    h = h + _out(p, f"{block}.attn1", _attention(q, k, v, heads))
    q = F.linear(_layer_norm(p, f"{block}.norm2", h), p[f"{attn}.to_q.weight"])
    found = _over(p, (f"{attn}.to_k.weight", f"{attn}.to_v.weight"), q, text, heads)
    if image is not None:
        found = found + _over(p, (f"{attn}.to_k_ip.weight", f"{attn}.to_v_ip.weight"), q, image, heads)
    h = h + _out(p, attn, found)
    h = h + _feed_forward(p, f"{block}.ff", _layer_norm(p, f"{block}.norm3", h), ops)
    return x + F.linear(h, p["proj_out.weight"], p["proj_out.bias"]).view(x.shape)


def by_pair(x: Tensor) -> Tensor:
    """Values for each distance, ... f 2f, from 1 - f on with one more at the end -> for each pair of frames, ... f f"""
    f = x.shape[-2]
    return x.flatten(-2)[..., f - 1 : f - 1 + f * (2 * f - 1)].unflatten(-1, (f, 2 * f - 1))[..., :f]


def by_distance(x: Tensor) -> Tensor:
    """The transpose of `by_pair`: ... f f -> ... f 2f, each value at its distance and zeros elsewhere."""
    f = x.shape[-1]
    return F.pad(F.pad(x, (0, f - 1)).flatten(-2), (f - 1, 1)).unflatten(-1, (f, 2 * f))


def _table(p: Weights, name: str, frames: int) -> Tensor:
    """The vectors for distances 1 - frames .. frames - 1, and a row of zeros: 2 frames d"""
    table = p[f"{name}.embeddings_table"]
    reach = len(table) // 2
    return F.pad(table[reach + 1 - frames : reach + frames], (0, 0, 0, 1))


def over_frames(qkv: Tensor, by_key: Tensor, by_value: Tensor, heads: int) -> Tensor:
    """An `OverFrames` by torch's own products."""
    b, f, n, width = qkv.shape
    d = width // 3 // heads
    parts = qkv.view(b, f, n, 3, heads, d).permute(3, 0, 2, 4, 1, 5)
    q, k, v = parts.reshape(3, b * n * heads, f, d)  # 3 (b p heads) f d
    q = q * d**-0.5
    logits = torch.bmm(q, k.transpose(1, 2)) + by_pair(q @ by_key.T)
    weights = logits.float().softmax(-1).to(v.dtype)
    h = torch.bmm(weights, v) + by_distance(weights) @ by_value
    return h.view(b, n, heads, f, d).permute(0, 3, 1, 2, 4).reshape(b, f, n, heads * d)


def _temporal_attention(p: Weights, name: str, x: Tensor, heads: int, attend: OverFrames) -> Tensor:
    """`TemporalAttention` of normed tokens b f p d."""
    joined = torch.cat([p[f"{name}.to_{letter}.weight"] for letter in "qkv"])
    by_key, by_value = (_table(p, f"{name}.relative_position_{letter}", x.shape[1]) for letter in "kv")
    return _out(p, name, attend(F.linear(x, joined), by_key, by_value, heads))


Projection = tuple[Tensor, Tensor, Tensor]
"""Weight and bias of a camera layer of MotionCtrl, and poses b f 12."""


def _with_poses(h: Tensor, camera: Projection) -> Tensor:
    """Tokens b f p d with the poses of their frames, as `CameraPoses`."""
    weight, bias, poses = camera
    d = h.shape[-1]
    return F.linear(h, weight[:, :d], bias) + F.linear(poses, weight[:, d:])[:, :, None]


def temporal(
    p: Weights,
    x: Tensor,
    frames: int,
    heads: int,
    groups: int,
    camera: Projection | None = None,
    ops: Ops = OPS,
) -> Tensor:
    """`TemporalTransformer` with relative positions. Maps (b f) h w c"""
    attend = ops.attend or over_frames
    block = "transformer_blocks.0"
    h = ops.norm(x, p["norm.weight"], p["norm.bias"], groups, TRANSFORMER_NORM_EPS, rows=frames)
    h = F.linear(h.flatten(1, 2), p["proj_in.weight"].flatten(1), p["proj_in.bias"]).unflatten(0, (-1, frames))
    h = h + _temporal_attention(p, f"{block}.attn1", _layer_norm(p, f"{block}.norm1", h), heads, attend)
    if camera is not None:
        h = _with_poses(h, camera)
    h = h + _temporal_attention(p, f"{block}.attn2", _layer_norm(p, f"{block}.norm2", h), heads, attend)
    h = h + _feed_forward(p, f"{block}.ff", _layer_norm(p, f"{block}.norm3", h), ops)
    return x + F.linear(h, p["proj_out.weight"].flatten(1), p["proj_out.bias"]).view(x.shape)


def read(network: Any, rows: Tensor) -> Tensor:
    """The text tower: words b n -> b n d"""
    out: Tensor = network.read(rows)
    return out


@dataclass(frozen=True)
class Blocks:
    """The functions of the kinds of blocks, as they are or compiled."""

    res_block: Callable[..., Tensor] = res_block
    spatial: Callable[..., Tensor] = spatial
    temporal: Callable[..., Tensor] = temporal
    activated: Callable[..., Tensor] = activated
    read: Callable[..., Tensor] = read

    @classmethod
    def fused(cls, *, norms: bool = True, frames: bool = True) -> Blocks:
        """As they are, but with the kernels of `training.storybook.fused` and `frames`, which take 16 bits on a GPU."""
        ops = OPS
        if norms:
            from . import fused

            ops = Ops(fused.group_norm, fused.gated, None, True)
        if frames:
            from .frames import over_frames as attend

            ops = ops._replace(attend=attend)
        return cls(
            partial(res_block, ops=ops),
            partial(spatial, ops=ops),
            partial(temporal, ops=ops),
            partial(activated, ops=ops),
        )

    @classmethod
    def compiled(cls, *, kernels: bool = True) -> Blocks:
        """Each compiled for the shapes that it meets, when it first meets them; with `kernels`, attention among the
        frames is that of `training.storybook.frames`, which takes 16 bits on a GPU and a power of two of frames."""
        ops = OPS
        if kernels:
            from .frames import over_frames as attend

            ops = Ops(attend=attend)

        def of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            made: Callable[..., Tensor] = torch.compile(function, dynamic=False, fullgraph=True)
            return made

        return cls(of(res_block), of(spatial), of(partial(temporal, ops=ops)), of(activated), of(read))


@dataclass(frozen=True, eq=False)
class Camera:
    """Camera layers by the names of temporal transformers, and poses b f 12."""

    layers: Mapping[str, nn.Module]
    poses: Tensor


@dataclass(frozen=True, eq=False)
class Forward:
    """A `VideoUNet`, how its blocks are computed, and whether its temporal transformers are (else they are left out,
    which changes nothing while their last layers are zero)."""

    unet: VideoUNet
    blocks: Blocks = Blocks()
    over_time: bool = True
    camera: Camera | None = None

    def projections(self) -> dict[nn.Module, Projection]:
        """The camera layers by the temporal transformers that they are in."""
        if self.camera is None:
            return {}
        return {
            self.unet.get_submodule(name): (*layer.parameters(), self.camera.poses)  # type: ignore[misc]
            for name, layer in self.camera.layers.items()
        }

    def __call__(self, x: Tensor, timesteps: Tensor, given: Conditioning) -> tuple[Tensor, list[Tensor]]:
        """As `VideoUNet.forward`, b c f h w; and the means over pixels of what each spatial transformer gives, (b f)
        c."""
        unet, frames = self.unet, x.shape[2]
        emb = F.silu(unet._embed(x, timesteps, given))
        emb = emb.repeat_interleave(len(x) * frames // len(emb), dim=0)
        joined = x if given.concat is None else torch.cat([x, given.concat], dim=1)
        h = joined.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous()  # (b f) h w c
        image = given.image if given.image is None or given.image.ndim == 3 else given.image.flatten(0, 1)
        call = _Call(self, emb, given.text, image, frames)
        first: Any = unet.input_blocks[0]
        first_attention: Any = unet.init_attn
        h = call.layer(first_attention[0], convolved(h, first[0].weight, first[0].bias), INIT_ATTENTION_HEADS)
        skips = [h]
        for block in unet.input_blocks[1:]:
            h = call.block(block, h)
            skips.append(h)
        h = call.block(unet.middle_block, h)
        for block in unet.output_blocks:
            h = call.block(block, torch.cat([h, skips.pop()], dim=-1))
        norm: Any = unet.out[0]
        last: Any = unet.out[-1]
        h = self.blocks.activated(h, norm.weight, norm.bias, unet.spec.norm_groups)
        h = convolved(h, last.weight, last.bias)
        return h.unflatten(0, (-1, frames)).permute(0, 4, 1, 2, 3), call.means


class _Call:
    """What the blocks of one pass share."""

    def __init__(self, plan: Forward, emb: Tensor, text: Tensor, image: Tensor | None, frames: int) -> None:
        self.plan, self.emb, self.text, self.image, self.frames = plan, emb, text, image, frames
        self.means: list[Tensor] = []
        self.projections = plan.projections()

    def block(self, block: Any, h: Tensor) -> Tensor:
        for layer in block:
            h = self.layer(layer, h, h.shape[-1] // self.plan.unet.spec.head_channels)
        return h

    def layer(self, layer: nn.Module, h: Tensor, heads: int) -> Tensor:
        """One layer of maps (b f) h w c."""
        blocks, groups = self.plan.blocks, self.plan.unet.spec.norm_groups
        if isinstance(layer, ResBlock):
            return blocks.res_block(weights_of(layer), h, self.emb, groups)
        if isinstance(layer, SpatialTransformer):
            h = blocks.spatial(weights_of(layer), h, self.text, self.image, heads, groups)
            self.means.append(h.mean((1, 2)))
            return h
        if isinstance(layer, TemporalTransformer):
            if not self.plan.over_time:
                return h
            return blocks.temporal(weights_of(layer), h, self.frames, heads, groups, self.projections.get(layer))
        if isinstance(layer, Upsample):
            h = h.repeat_interleave(2, 1).repeat_interleave(2, 2)
            return self._convolved(layer.conv, h)
        assert isinstance(layer, Downsample)
        return self._convolved(layer.op, h, stride=2)

    @staticmethod
    def _convolved(layer: Any, h: Tensor, stride: int = 1) -> Tensor:
        return convolved(h, layer.weight, layer.bias, stride)
