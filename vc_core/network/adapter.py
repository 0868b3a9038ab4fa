"""Adapters change what the video UNet computes at named sites, without the UNet knowing them by name.

An adapter is an object with a method for each site that it uses. It may be a module with weights of its own
(`class Camera(Adapter, nn.Module)`) or hold nothing at all. Adapters are given for each pass, in `Pass.adapters`, and
nothing is written into the UNet: a pass without them is the plain network, bit for bit. A site that no adapter uses
costs nothing, and fused kernels compute everything around the sites that are in use.

| method                 | called                                        | receives -> returns                     |
|------------------------|-----------------------------------------------|-----------------------------------------|
| `on_pass`              | once, before everything else                  | latents, conditioning -> nothing        |
| `on_embedding`         | once, before the first block                  | embedding -> embedding                  |
| `on_block`             | before each encoder, middle and decoder block | may raise to stop the pass              |
| `after_encoder_block`  | before the skip connection is stored          | h -> h                                  |
| `after_skip`           | after the skip connection has been stored     | h -> h                                  |
| `after_middle_block`   | after the middle block                        | h -> h                                  |
| `before_decoder_block` | before h and the skip connection are joined   | h, skip -> h, skip                      |
| `convolution`          | for each 3x3 convolution but the very last    | convolve, x -> convolve(x, dilation)    |
| `temporal_transformer` | for each transformer over frames              | transformer, x -> transformer(x)        |
| `before_attention`     | before each attention layer and its norm      | tokens -> tokens                        |
| `after_attention`      | after an attention layer has been added       | tokens -> tokens                        |
| `around_attention`     | for each attention layer with its projections | layer, tokens -> layer(tokens)          |
| `attention_inputs`     | before the projections                        | tokens for q, k, v -> the same          |
| `project_context`      | for keys and values of texts and image tokens | project, layer, tokens -> layer(tokens) |
| `attention`            | for each attention, between its projections   | attend, q, k, v, mask -> attend(...)    |
| `attention_logits`     | before the softmax, with relative positions   | logits -> logits                        |
| `attention_weights`    | after the softmax, over frames                | weights -> weights                      |
| `attention_backend`    | where a plain function computes an attention  | function -> function                    |

Each method first receives the `Place` that it is called at. Several adapters are called in the order in which they are
given: where a site passes a value on, each receives what the one before returned; where a site wraps a function
(`convolution`, `temporal_transformer`, `around_attention`, `project_context`, `attention`), the first adapter is the
outermost, and the function that it receives leads to the next adapter and finally to the network's own.

Feature maps are (b f) c h w. Tokens in spatial transformers are (b f) n d, one for each pixel. Tokens in temporal
transformers have the frames on axis 1: (b p) f d with p pixels, or b f p d where fused kernels are in use; in
`attention` and `attention_backend` they are always (b p) f d, and their logits and weights (b p heads) f f. In
cross-attention, `attention` receives keys and values with a row for each row of queries. b counts all conditionings of
a pass that joins several of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

from torch import Tensor, nn

from ..conditions import Conditioning, Evaluation

if TYPE_CHECKING:
    from .attention import Attention

Stage = Literal["input", "init", "middle", "output"]
"""The encoder, the temporal transformer behind its first convolution, the middle, and the decoder."""

AttentionName = Literal["spatial_self", "text", "image", "temporal_1", "temporal_2"]

Site = Literal[
    "on_pass",
    "on_embedding",
    "on_block",
    "after_encoder_block",
    "after_skip",
    "after_middle_block",
    "before_decoder_block",
    "convolution",
    "temporal_transformer",
    "before_attention",
    "after_attention",
    "around_attention",
    "attention_inputs",
    "project_context",
    "attention",
    "attention_logits",
    "attention_weights",
    "attention_backend",
]
SITES: tuple[Site, ...] = get_args(Site)

CONVOLUTIONS = {"in_layers": ".in_layers.2", "out_layers": ".out_layers.3", "op": ".op", "conv": ".conv", "first": ""}
"""How the published names of 3x3 convolutions end, by `Place.convolution`."""

Function = TypeVar("Function", bound=Callable[..., Any])

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(q, k, v, mask) -> the result, heads side by side as in q."""


class Recording(Enum):
    """What becomes of an adapter when a pass is recorded as a CUDA graph, and replayed without running Python."""

    REFUSED = auto()  # a pass with this adapter is never recorded
    OMITTED = auto()  # a recorded pass computes the same without this adapter
    INCLUDED = auto()  # the adapter is recorded with the pass, and its `result` is replayed


@dataclass(frozen=True, eq=False)
class Place:
    """Where in which pass a site is.

    clips: rows of text in the pass, one for each clip and each of its conditionings.
    index, count: the number of the block in its stage, and the number of blocks of the stage.
    layer: the number of the layer in its block. depth: the number of the block inside a transformer.
    convolution: "in_layers" or "out_layers" of a ResBlock, "op" of a Downsample, "conv" of an Upsample, or "first" of
        the encoder.
    grid: height and width of the feature map; (0, 0) at sites of whole blocks.
    part: None where the whole map is present. Otherwise, in spatial transformers, the frames (rows of the batch axis),
        and in temporal transformers, the rows of pixels that are present.
    span: in temporal attention in windows, the frames of the window; otherwise None.
    timesteps: b, or b f for a noise level of each frame.
    evaluation: the sampling step, the branches of guidance that share the pass, and the window of a longer clip.
    positions: of an attention with relative positions: (frames, like) -> what is added to the keys of one head, frames
        frames d, for (query frame, key frame).
    """

    timesteps: Tensor
    frames: int
    evaluation: Evaluation
    clips: int = 1
    stage: Stage = "input"
    index: int = 0
    count: int = 0
    layer: int = 0
    depth: int = 0
    convolution: str | None = None
    attention: AttentionName | None = None
    heads: int = 0
    head_channels: int = 0
    grid: tuple[int, int] = (0, 0)
    part: slice | None = None
    span: slice | None = None
    positions: Callable[[int, Tensor], Tensor] | None = None

    @property
    def relative(self) -> bool:
        """Whether the attention has relative positions."""
        return self.positions is not None

    @property
    def transformer(self) -> str:
        """The published name of the transformer block that this place is in."""
        blocks = {
            "init": "init_attn",
            "input": f"input_blocks.{self.index}",
            "middle": "middle_block",
            "output": f"output_blocks.{self.index}",
        }
        return f"{blocks[self.stage]}.{self.layer}.transformer_blocks.{self.depth}"

    @property
    def convolution_name(self) -> str:
        """The published name of the 3x3 convolution at this place, without ".weight"."""
        block = "middle_block" if self.stage == "middle" else f"{self.stage}_blocks.{self.index}"
        return f"{block}.{self.layer}{CONVOLUTIONS[self.convolution or '']}"

    def for_tokens(self, values: Tensor, tokens: Tensor) -> Tensor:
        """Values b f c of the frames of each clip, expanded for the tokens of a temporal transformer: (b p) f c, or
        b f p c. Where several conditionings share the pass, their clips have the same values."""
        rows = self.grid[0] if self.part is None else self.part.stop - self.part.start
        pixels = rows * self.grid[1]
        clips = len(tokens) if tokens.ndim == 4 else len(tokens) // pixels
        values = values.repeat(clips // len(values), 1, 1)
        if tokens.ndim == 4:
            return values[:, :, None].expand(-1, -1, pixels, -1)
        return values.repeat_interleave(pixels, dim=0)


class Adapter:
    """Base class of all adapters. A subclass implements methods of the sites that it uses; see the table above.

    whole_frames: spatial transformers must not split a clip into parts of some frames.
    whole_pixels: temporal transformers must not split a map into parts of some rows of pixels.
    reads_place: whether it reads where in the network it acts, which takes time to keep track of.
    sites: the sites in use. Derived from the implemented methods; an instance may narrow it down.
    result: what a pass gave this adapter beside its prediction, where it is recorded with the pass.
    owner: the name of the control that it belongs to, see `control.Control`; passes without the control leave it out.
    steps: the number of the first steps that it acts in, and passes of later or unknown steps leave it out; None for
        all passes.
    """

    whole_frames: bool = False
    whole_pixels: bool = False
    reads_place: bool = True
    recording: Recording = Recording.REFUSED
    sites: frozenset[Site] = frozenset()
    result: Tensor | None = None
    owner: str = ""
    steps: int | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.sites = frozenset(site for site in SITES if getattr(cls, site) is not getattr(Adapter, site))

    def acts(self, evaluation: Evaluation) -> bool:
        """Whether it takes part in a pass."""
        if self.owner in evaluation.without:
            return False
        return self.steps is None or (evaluation.step is not None and evaluation.step < self.steps)

    def uses(self, site: Site, at: Place) -> bool:
        """Whether this adapter acts at this place, for a site in `sites`."""
        return True

    @property
    def recorded_as(self) -> Hashable:
        """Equal for adapters whose launches are the same, where they are recorded with a pass."""
        return type(self).__qualname__

    def on_pass(self, at: Place, x: Tensor, conditioning: Conditioning) -> None:
        """A pass is about to run: the noised latents, b c f h w, and the conditioning of all branches that share it."""

    def on_embedding(self, at: Place, embedding: Tensor) -> Tensor:
        """The embedding of timestep and fps, b d or (b f) d, before its SiLU."""
        return embedding

    def on_block(self, at: Place) -> None:
        """A block is about to run."""

    def after_encoder_block(self, at: Place, h: Tensor) -> Tensor:
        """The result of an encoder block, which also becomes the skip connection."""
        return h

    def after_skip(self, at: Place, h: Tensor) -> Tensor:
        """The result of an encoder block, for the next block alone."""
        return h

    def after_middle_block(self, at: Place, h: Tensor) -> Tensor:
        """The result of the middle block."""
        return h

    def before_decoder_block(self, at: Place, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """What a decoder block is about to join along the channels."""
        return h, skip

    def convolution(self, at: Place, convolve: Callable[..., Tensor], x: Tensor) -> Tensor:
        """A 3x3 convolution. `convolve(x, dilation=n)` dilates it, with padding that keeps the size. With a `spread`,
        25 9, its kernels become 5x5 ones, spread @ kernel, both row by row."""
        return convolve(x)

    def temporal_transformer(self, at: Place, transformer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A transformer over frames with its residual connection, (b f) c h w."""
        return transformer(x)

    def before_attention(self, at: Place, x: Tensor) -> Tensor:
        """The stream of tokens before an attention layer and its norm."""
        return x

    def after_attention(self, at: Place, x: Tensor) -> Tensor:
        """The stream of tokens with the result of an attention layer added."""
        return x

    def around_attention(self, at: Place, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """An attention layer with its projections, from normed tokens to what is added to the stream."""
        return layer(x)

    def attention_inputs(self, at: Place, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens that queries, keys and values are projected from."""
        return q, k, v

    def project_context(
        self, at: Place, project: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module, tokens: Tensor
    ) -> Tensor:
        """The keys or the values, layer(tokens), of a text or of image tokens."""
        return project(layer, tokens)

    def attention(
        self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """An attention between its projections; `at.heads` heads lie side by side. `mask` is added to the logits and
        broadcasts to rows heads queries keys. In windows, called for each window; not called where frames attend only
        to themselves (`Evaluation.temporal`)."""
        return attend(q, k, v, mask)

    def attention_logits(self, at: Place, logits: Tensor) -> Tensor:
        """The logits of an attention over frames with relative positions, whose share they include, and without a
        mask. Other attentions hold no logits."""
        return logits

    def attention_weights(self, at: Place, weights: Tensor) -> Tensor:
        """The weights of an attention over frames, (b p heads) f f: queries, then keys. Where it is used, the maps of
        these layers are held in memory, and no backend computes them."""
        return weights

    def attention_backend(self, at: Place, function: Attention) -> Attention:
        """The function that computes softmax(q k^T / sqrt(d) + mask) v. Not called for temporal attention with
        relative positions, which no such function computes."""
        return function


class Adapters:
    """The adapters of one pass, by the sites that they use."""

    def __init__(self, adapters: Sequence[Adapter] = ()) -> None:
        self.by_site: dict[Site, list[Adapter]] = {}
        for adapter in adapters:
            for site in adapter.sites:
                self.by_site.setdefault(site, []).append(adapter)
        self.placed = any(adapter.reads_place for adapter in adapters)
        self.whole_frames = any(adapter.whole_frames for adapter in adapters)
        self.whole_pixels = any(adapter.whole_pixels for adapter in adapters)

    def at(self, site: Site, place: Place, **where: Any) -> list[Callable[..., Any]]:
        """The methods that act at this site, in order, their place already given; `where` completes the place."""
        adapters = self.by_site.get(site)
        if adapters is None:
            return []
        place = replace(place, **where) if where and self.placed else place
        return [partial(getattr(adapter, site), place) for adapter in adapters if adapter.uses(site, place)]


def wrapped(function: Function, wrappers: Sequence[Callable[..., Any]]) -> Function:
    """`function` inside the wrappers, the first of which is the outermost."""
    made: Any = function
    for wrapper in reversed(wrappers):
        made = partial(wrapper, made)
    return cast("Function", made)
