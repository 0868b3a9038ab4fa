"""What a host may do inside the network while it runs.

The network calls these methods at fixed places; here they do nothing of their own. A host derives from `Hooks` to offer
its users patches, ControlNet residuals, another attention for a block, or a way to stop. Feature maps are
`(b f) c h w`, tokens `(b f) n d`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from .attention import Attention
    from .attentions import CrossAttention, SelfAttention

Stage = Literal["input", "middle", "output"]


class Hooks:
    """Does nothing: every method returns what the plain network would use.

    `whole` asks for all frames in each call; otherwise the frames of a large clip may come in parts.
    """

    whole = False
    attention: Attention | None = None
    """Takes the place of the network's own attention over time and over image tokens."""

    def enter(self, stage: Stage, index: int) -> None:
        """A block is about to run. Raise here to stop."""

    def embedding(self, emb: Tensor) -> Tensor:
        """The embedding of timestep and fps, b d, on its way to the blocks."""
        return emb

    def after_input(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """An input block's result -> what goes on, and what is kept for the skip connection."""
        return h, h

    def after_middle(self, h: Tensor) -> Tensor:
        """The middle block's result -> what goes on."""
        return h

    def before_output(self, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """What an output block is about to join."""
        return h, skip

    def self_attention(self, attention: SelfAttention, x: Tensor) -> Tensor:
        """Spatial self-attention over the tokens of one frame."""
        out: Tensor = attention(x)
        return out

    def between_attentions(self, x: Tensor) -> Tensor:
        """The tokens between self-attention and cross-attention of a spatial transformer block."""
        return x

    def cross_attention(self, attention: CrossAttention, x: Tensor, text: Tensor, image: Tensor | None) -> Tensor:
        """Spatial cross-attention. `text` and `image` are b n d, or (b f) n d where every frame has its own."""
        out: Tensor = attention(x, text, image)
        return out


NO_HOOKS = Hooks()
