"""Several prompts in one clip: which share of each text every frame has."""

from __future__ import annotations

import torch
from torch import Tensor


def text_over_time(texts: Tensor, frames: int) -> Tensor:
    """Texts n tokens d, one after the other -> 1 f tokens d, one for each frame (FreeNoise, arXiv:2310.15169).

    Two texts share the frames as published: the first and the last three eighths have one of them alone, and between
    them one is interpolated to the other, both ends included. More texts have equal parts of the clip, and between the
    middles of neighbouring parts, half of each is interpolated in the same way.
    """
    count = len(texts)
    alone = int(3 * frames / 8) if count == 2 else 0
    if count == 2 and frames > 1:
        between = torch.linspace(0, 1, frames - 2 * alone)
        place = torch.cat([torch.zeros(alone), between, torch.ones(alone)])
    else:
        centres = (torch.arange(frames) + 0.5) / frames * count - 0.5
        place = (centres.floor() + ((centres - centres.floor() - 0.25) * 2).clamp(0, 1)).clamp(0, count - 1)
    below = place.floor().long().clamp(0, max(count - 2, 0))
    share = (place - below)[:, None, None].to(texts)
    above = (below + 1).clamp_max(count - 1)
    return (texts[below] * (1 - share) + texts[above] * share)[None]
