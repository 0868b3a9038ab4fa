"""Adapters for tests: one that notes all sites, and one that changes a single site."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vc_core.conditions import Conditioning
from vc_core.network.adapter import Adapter, Attend, Place, Site
from vc_core.network.attention import Attention


class Everywhere(Adapter):
    """Uses all sites, in such a way that nothing changes, and lists where it was called."""

    def __init__(self) -> None:
        self.seen: list[tuple[Site, Place]] = []

    def noted(self, site: Site, at: Place) -> None:
        self.seen.append((site, at))

    def on_pass(self, at: Place, x: Tensor, conditioning: Conditioning) -> None:
        self.noted("on_pass", at)

    def on_embedding(self, at: Place, embedding: Tensor) -> Tensor:
        self.noted("on_embedding", at)
        return embedding

    def on_block(self, at: Place) -> None:
        self.noted("on_block", at)

    def after_encoder_block(self, at: Place, h: Tensor) -> Tensor:
        self.noted("after_encoder_block", at)
        return h

    def after_skip(self, at: Place, h: Tensor) -> Tensor:
        self.noted("after_skip", at)
        return h

    def after_middle_block(self, at: Place, h: Tensor) -> Tensor:
        self.noted("after_middle_block", at)
        return h

    def before_decoder_block(self, at: Place, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        self.noted("before_decoder_block", at)
        return h, skip

    def convolution(self, at: Place, convolve: Callable[..., Tensor], x: Tensor) -> Tensor:
        self.noted("convolution", at)
        return convolve(x)

    def temporal_transformer(self, at: Place, transformer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self.noted("temporal_transformer", at)
        return transformer(x)

    def before_attention(self, at: Place, x: Tensor) -> Tensor:
        self.noted("before_attention", at)
        return x

    def after_attention(self, at: Place, x: Tensor) -> Tensor:
        self.noted("after_attention", at)
        return x

    def around_attention(self, at: Place, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self.noted("around_attention", at)
        return layer(x)

    def attention_inputs(self, at: Place, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.noted("attention_inputs", at)
        return q, k, v

    def project_context(
        self, at: Place, project: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module, tokens: Tensor
    ) -> Tensor:
        self.noted("project_context", at)
        return project(layer, tokens)

    def attention(
        self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        self.noted("attention", at)
        assert q.shape[0] == k.shape[0] == v.shape[0]
        assert q.shape[-1] == at.heads * at.head_channels
        return attend(q, k, v, mask)

    def attention_logits(self, at: Place, logits: Tensor) -> Tensor:
        self.noted("attention_logits", at)
        assert at.relative
        return logits

    def attention_weights(self, at: Place, weights: Tensor) -> Tensor:
        self.noted("attention_weights", at)
        assert weights.shape[-1] == weights.shape[-2]
        return weights

    def attention_backend(self, at: Place, function: Attention) -> Attention:
        self.noted("attention_backend", at)
        return function


class Scaled(Adapter):
    """Multiplies what passes one site by a factor."""

    def __init__(self, site: Site, factor: float = 0.5) -> None:
        self.sites, self.factor = frozenset({site}), factor

    def on_embedding(self, at: Place, embedding: Tensor) -> Tensor:
        return self.factor * embedding

    def after_encoder_block(self, at: Place, h: Tensor) -> Tensor:
        return self.factor * h

    def after_skip(self, at: Place, h: Tensor) -> Tensor:
        return self.factor * h

    def after_middle_block(self, at: Place, h: Tensor) -> Tensor:
        return self.factor * h

    def before_decoder_block(self, at: Place, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        return h, self.factor * skip

    def convolution(self, at: Place, convolve: Callable[..., Tensor], x: Tensor) -> Tensor:
        return self.factor * convolve(x)

    def temporal_transformer(self, at: Place, transformer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return self.factor * transformer(x)

    def before_attention(self, at: Place, x: Tensor) -> Tensor:
        return self.factor * x

    def after_attention(self, at: Place, x: Tensor) -> Tensor:
        return self.factor * x

    def around_attention(self, at: Place, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return self.factor * layer(x)

    def attention_inputs(self, at: Place, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q, k, self.factor * v

    def project_context(
        self, at: Place, project: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module, tokens: Tensor
    ) -> Tensor:
        return self.factor * project(layer, tokens)

    def attention(
        self, at: Place, attend: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return attend(q, k if self.factor == 1 else self.factor * k, v, mask)

    def attention_logits(self, at: Place, logits: Tensor) -> Tensor:
        return self.factor * logits

    def attention_weights(self, at: Place, weights: Tensor) -> Tensor:
        return self.factor * weights

    def attention_backend(self, at: Place, function: Attention) -> Attention:
        def scaled(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
            return function(q, k, self.factor * v, heads, mask)

        return scaled
