"""The lessons of the video networks: batches of noised clips, and the error of the predicted velocity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vc_core.conditioning.image_encoder import preprocess
from vc_core.denoising.schedule import NoiseSchedule
from vc_core.network.transformers import SpatialTransformer
from worlds.storybook.world import FRAMES

from .fitting import Batch
from .forward import Blocks
from .gallery import Gallery, to_network
from .networks import ImageBranch, Network

DROPPED = 0.12
"""Share of captions that become the empty prompt, so that guidance has an unconditional prediction to use."""
BOTH_DROPPED, ONE_DROPPED = 0.06, 0.05
"""With images: shares without caption and image, and without one of the two."""
UNKNOWN_SHARE = 0.01
"""Share of words that the row of unknown words replaces."""
SKEW = 0.85
"""Timesteps are 1000 * u ** SKEW for even u: the noisy half of the process, where content is decided, comes up more
often than the other. 1 would be the even choice of the published training."""
HINT_UNTIL, HINT_WEIGHT = 0.5, 0.15
"""The hints count until this share of the run, less and less, and so much at its start."""
ACTOR_WEIGHT, ACTOR_REACH = 3.0, 1.1
"""How much more the places of actors count than the scenery, and the radius of these in half heights."""
CLEAR = 0.1
"""The ratio of signal to noise at which half of that weight is given."""
TWO_ENDS, LOOP = 0.4, 0.15
"""Shares of the clips of which both ends are shown, and of those that run to their end and back again."""
TURN = [*range(0, FRAMES, 2), *range(FRAMES - 2, -1, -2)]
"""Frames of a clip that is run to its end at twice its speed and back."""

TRAVEL_UNIT, GROWTH_UNIT, ANGLE_UNIT = 0.15, 0.3, 0.3
"""What counts as 1 in the targets of the hints: lengths of the frame, a logarithm, radians."""


class MotionHints(nn.Module):
    """Linear maps, not kept afterwards, that must read from what the spatial transformers give where the actors and
    the camera are in each frame, against the middle of the clip. They make the network use words for motion early."""

    def __init__(self, network: Network, targets: int = 12) -> None:
        super().__init__()
        found = [layer for layer in network.unet.modules() if isinstance(layer, SpatialTransformer)]
        self.maps = nn.ModuleList(nn.Linear(layer.proj_out.out_features, targets) for layer in found)  # type: ignore[arg-type]

    def error(self, features: Sequence[Tensor], targets: Tensor, mask: Tensor) -> Tensor:
        """The mean squared error over transformers; features' means (b f) c, targets and mask b f 12."""
        total = targets.new_zeros(())
        for reader, out in zip(self.maps, features, strict=True):
            mean = out.unflatten(0, (len(targets), -1))
            evened = mean / (mean.float().square().mean((1, 2), keepdim=True).sqrt() + 1e-6).to(mean.dtype)
            total = total + ((reader(evened).float() - targets) * mask).square().mean()
        return total / len(self.maps)


class VideoLesson(nn.Module):
    """A network, perhaps with an image branch and with hints. Its call gives the loss of a batch.

    Arguments: noised latents and the velocity, b c f h w; weights of their errors, b 1 f h w; timesteps, b or b f; fps,
    b; rows, b n; then with a branch the prepared images, b 3 h w; where the network reads latents beside the clip
    those, b c f h w; and with hints their targets and mask, b f 12, and their weight.
    """

    def __init__(self, network: Network, branch: ImageBranch | None = None, *, hinted: bool = False) -> None:
        super().__init__()
        self.network, self.branch = network, branch
        self.beside = network.spec.continues_images
        self.hints = MotionHints(network) if hinted else None
        plain = Blocks()
        self.simpler = [] if network.blocks == plain else [plain]
        """Blocks to fall back on, the last one first."""

    def retreat(self) -> bool:
        """Compute the network with simpler blocks from now on; whether there were any."""
        if not self.simpler:
            return False
        self.network.blocks = self.simpler.pop()
        return True

    def advance(self, blocks: Blocks) -> None:
        """Compute the network with other blocks from now on, and fall back on the present ones."""
        self.simpler.append(self.network.blocks)
        self.network.blocks = blocks

    def forward(self, x: Tensor, velocity: Tensor, weights: Tensor, timesteps: Tensor, *more: Tensor) -> Tensor:
        fps, rows, *rest = more
        image = None if self.branch is None else self.branch(rest.pop(0))
        concat = rest.pop(0) if self.beside else None
        out, features = self.network(x, timesteps, rows, fps, image, concat)
        loss = ((out.float() - velocity).square() * weights).mean()
        if self.hints is None:
            return loss
        targets, mask, weight = rest
        return loss + weight * self.hints.error(features, targets, mask)


class VideoBatches:
    """Draws the batches of a `VideoLesson` from the gallery, on its device.

    A clip's weight makes the squared error of the velocity the sum of those of the noise and of the clean latents: with
    the noised latents a * s * x0 + b * noise it is a^2 + (b / s)^2. Without it a signal that falls to s = 0.3 would
    make the content of noisy clips count a tenth. Places of actors have more weight where little noise is left, so
    that it is clear where they are.

    `stills`: instead of all frames in their order, so many random ones of each clip, each with a timestep of its own.
    """

    def __init__(self, gallery: Gallery, lesson: VideoLesson, size: int, *, stills: int = 0) -> None:
        self.gallery, self.size, self.stills = gallery, size, stills
        self.with_image, self.beside, self.hinted = lesson.branch is not None, lesson.beside, lesson.hints is not None
        schedule = NoiseSchedule.from_spec(lesson.network.spec.diffusion)
        alpha = schedule.alphas_cumprod
        tables = (alpha.sqrt(), schedule.scale, (1 - alpha).sqrt())
        self.alpha, self.scale, self.sigma = (table.float().to(gallery.device) for table in tables)
        self.weights = self.alpha.square() + (self.sigma / self.scale).square()
        self.device = gallery.device
        self.turn = torch.tensor(TURN, device=self.device)
        self.chosen = torch.empty(0)
        """The clips of the last batch."""

    def __call__(self, progress: float) -> Batch:
        gallery, size = self.gallery, self.size
        chosen = self.chosen = torch.randint(len(gallery), (size,), device=self.device)
        clips, poses = gallery["latents"][chosen].float(), gallery["poses"][chosen]  # b f c h w, b f 2 4
        fps = gallery["around"][chosen, 4]
        concat = None
        if self.beside:
            clips, poses, fps, concat = self._ends(clips, poses, fps)
        if self.stills:
            clips, poses = self._some_frames(clips, poses)
        clips = clips.transpose(1, 2)
        timesteps = self._timesteps()
        wide = (size, 1, self.stills or 1, 1, 1)
        alpha, scale, sigma = (t[timesteps].view(wide) for t in (self.alpha, self.scale, self.sigma))
        noise = torch.randn_like(clips)
        x = alpha * scale * clips + sigma * noise
        velocity = alpha * noise - sigma * scale * clips
        rows, dropped = self._rows(chosen)
        weights = self.weights[timesteps].view(wide) * self._at_actors(poses, (alpha * scale / sigma).square())
        batch: list[Tensor] = [x, velocity, weights, timesteps, fps, rows]
        if self.with_image:
            batch.append(self._images(chosen, dropped))
        if concat is not None:
            batch.append(concat)
        if self.hinted:
            batch += self._hints(chosen, rows, progress)
        return tuple(batch)

    def _timesteps(self) -> Tensor:
        """One timestep from each of as many equal shares of the range as are needed, in random order: b, or b f for
        stills."""
        count, several = len(self.alpha), self.size * (self.stills or 1)
        even = (torch.randperm(several, device=self.device) + torch.rand(several, device=self.device)) / several
        timesteps = (count * even**SKEW).long().clamp(max=count - 1)
        return timesteps.view(self.size, -1) if self.stills else timesteps

    def _some_frames(self, clips: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
        """`stills` frames of each clip, b n ..."""
        frames = torch.rand(self.size, FRAMES, device=self.device).argsort(1)[:, : self.stills]
        index = torch.arange(self.size, device=self.device)[:, None]
        return clips[index, frames], poses[index, frames]

    def _at_actors(self, poses: Tensor, signal: Tensor) -> Tensor:
        """Weights b 1 f h w, for poses b f 2 4 and the ratio of signal to noise."""
        side = self.gallery["latents"].shape[-1]
        place = (torch.arange(side, device=self.device) + 0.5) / side
        x, y, reach = (poses[..., index, None, None] for index in range(3))  # b f 2 1 1
        reach = (ACTOR_REACH * reach).clamp_min(1e-4)
        far = ((place - x) / reach).square() + ((place[:, None] - y) / reach).square()
        inside = (far < 1).any(2)[:, None].float()  # b 1 f h w
        return 1 + ACTOR_WEIGHT * signal / (signal + CLEAR) * inside

    def _rows(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Words b n, some left out; and by clip a chance in 0..1 that decided it."""
        words = self.gallery.words
        table = self.gallery["rows"]
        rows = table[chosen, torch.randint(table.shape[1], (self.size,), device=self.device)].long()
        place = torch.arange(rows.shape[1], device=self.device)
        length = (rows == words.end).long().argmax(1, keepdim=True)
        inside = (place > 0) & (place < length)
        hidden = (torch.rand(rows.shape, device=self.device) < UNKNOWN_SHARE) & inside
        rows = rows.masked_fill(hidden, words.unknown)
        chance = torch.rand(self.size, device=self.device)
        share = BOTH_DROPPED + ONE_DROPPED if self.with_image else DROPPED
        empty = torch.full_like(rows[0], words.padding)
        empty[0].fill_(words.start)
        empty[1].fill_(words.end)
        return torch.where((chance < share)[:, None], empty, rows), chance

    def _images(self, chosen: Tensor, chance: Tensor) -> Tensor:
        """First frames, prepared for the image tower; grey where they are left out."""
        images = to_network(self.gallery["firsts"][chosen])
        hidden = (chance < BOTH_DROPPED) | (chance > 1 - ONE_DROPPED)
        return preprocess(images.masked_fill(hidden[:, None, None, None], 0.0), images.shape[-1])

    def _ends(self, clips: Tensor, poses: Tensor, fps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clips, some of them run to their end and back; their poses and fps; and the latents beside them, b c f h
        w."""
        chance = torch.rand(self.size, device=self.device)
        wide = (-1, 1, 1, 1, 1)
        loops, both = chance < LOOP, chance < LOOP + TWO_ENDS
        clips = torch.where(loops.view(wide), clips[:, self.turn], clips)
        poses = torch.where(loops.view(wide[:-1]), poses[:, self.turn], poses)
        fps = torch.where(loops, fps // 2, fps)
        ends = torch.zeros_like(clips)
        ends[:, 0], ends[:, -1] = clips[:, 0], clips[:, -1]
        beside = torch.where(both.view(wide), ends, clips[:, :1].expand_as(clips))
        return clips, poses, fps, beside.transpose(1, 2).contiguous()

    def _hints(self, chosen: Tensor, rows: Tensor, progress: float) -> list[Tensor]:
        """Targets and mask b f 12, and the weight."""
        poses, camera = self.gallery["poses"][chosen], self.gallery["camera"][chosen]
        there = self.gallery["names"][chosen, :, 0] >= 0  # b 2
        x, y, size, angle = poses.unbind(-1)
        actors = torch.stack(
            [x / TRAVEL_UNIT, y / TRAVEL_UNIT, size.clamp_min(1e-3).log() / GROWTH_UNIT, angle / ANGLE_UNIT], -1
        )
        units = (TRAVEL_UNIT, TRAVEL_UNIT, GROWTH_UNIT, ANGLE_UNIT)
        views = torch.stack([part / unit for part, unit in zip(camera.unbind(-1), units, strict=True)], -1)
        targets = torch.cat([actors.flatten(2), views], dim=-1)
        targets = targets - targets.mean(1, keepdim=True)
        read = rows[:, 1] != self.gallery.words.end
        mask = torch.cat([there.repeat_interleave(4, 1), torch.ones_like(there[:, :1]).expand(-1, 4)], dim=1)
        mask = (mask & read[:, None])[:, None].expand(-1, FRAMES, -1).float()
        weight = torch.full((), HINT_WEIGHT * max(0.0, 1 - progress / HINT_UNTIL), device=self.device)
        return [targets, mask, weight]


class ReadingBatches:
    """Draws prepared images and their latents for a `ReadingLesson`."""

    def __init__(self, gallery: Gallery, size: int) -> None:
        self.gallery, self.size = gallery, size

    def __call__(self, progress: float) -> Batch:
        chosen = torch.randint(len(self.gallery), (self.size,), device=self.gallery.device)
        images = to_network(self.gallery["firsts"][chosen])
        return preprocess(images, images.shape[-1]), self.gallery["latents"][chosen, 0].float()
