"""A LoRA that lets the small text-to-video network make clips in 4 steps, as T2V-Turbo does for VideoCrafter2.

Latent consistency distillation (arXiv:2310.04378): from a noised clip the student guesses the end of the guided
teacher's path. The teacher walks from one of the timesteps of an 8-step run to the next, and the student's own guess
from there is the target; from the last one the teacher walks to the end. The student reads the guidance scale and sees
no negative prompt. As T2V-Turbo it lives under the schedule without rescale.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from vc_core.checkpoint.lora import GUIDANCE
from vc_core.checkpoint.saving import save_tensors
from vc_core.denoising.schedule import NoiseSchedule
from vc_core.network.unet import VideoUNet
from vc_core.specs import T2V_TURBO

from .captions import caption
from .layers import FastOperations, short_attention
from .network import Network
from .pool import Pool
from .trainer import rank

FILE = "videocrafter_small_turbo_lora.safetensors"
RANK = 4
STEPS = 8
"""The timesteps that the student learns are those of a run of so many steps; runs of 1, 2 and 4 take some of them."""
SUBSTEPS = 2
"""Steps of the teacher between two of them."""
SCALES = (1.0, 8.0)
SOFTNESS = 0.03
"""Errors below this count by their square, larger ones by their size (the pseudo-Huber loss of arXiv:2310.14189)."""


class Student(nn.Module):
    """The frozen network, a guidance embedding that starts at zero, and the low-rank changes, which alone learn."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        width = T2V_TURBO.unet.guidance_width
        self.unet = VideoUNet(
            replace(network.spec.unet, guidance_width=width), operations=FastOperations, attention=short_attention
        )
        nothing = torch.zeros(network.spec.unet.model_channels, width)
        self.unet.load_state_dict({**network.unet.state_dict(), GUIDANCE: nothing})
        self.unet.requires_grad_(False)
        self.places = [
            name
            for name, value in self.unet.state_dict().items()
            if name.endswith(".weight") and value.ndim in (2, 4, 5)
        ]
        self.ups, self.downs = nn.ParameterList(), nn.ParameterList()
        for name in self.places:
            shape = self.unet.get_parameter(name).shape
            inside = math.prod(shape[1:])
            width = min(RANK, shape[0], shape[1])
            self.ups.append(nn.Parameter(torch.zeros(shape[0], width)))
            self.downs.append(nn.Parameter(torch.randn(width, inside) / math.sqrt(inside)))

    def forward(self, x: Tensor, timesteps: Tensor, text: Tensor, fps: Tensor, scale: Tensor) -> Tensor:
        """The predicted noise b c f h w; `scale` is b, the guidance scale."""
        weights = {}
        for name, up, down in zip(self.places, self.ups, self.downs, strict=True):
            weight = self.unet.get_parameter(name)
            weights[name] = weight + (up @ down).view_as(weight)
        out: Tensor = functional_call(
            self.unet, weights, (x, timesteps, text, None, fps), {"guidance": scale}, strict=False
        )
        return out

    def tensors(self) -> dict[str, Tensor]:
        """The changes by the names of a LoRA file with published names."""
        named = {}
        for name, up, down in zip(self.places, self.ups, self.downs, strict=True):
            shape = self.unet.get_parameter(name).shape
            module = "diffusion_model." + name.removesuffix(".weight")
            named[f"{module}.lora_up.weight"] = up.detach().view(*up.shape, *(1 for _ in shape[2:]))
            named[f"{module}.lora_down.weight"] = down.detach().view(-1, *shape[1:])
        return named


class ConsistencyObjective:
    """The loss at a step: how far the student's guess is from its target, for a batch that is drawn from the step."""

    def __init__(self, student: Student, teacher: Network, pool: Pool, *, batch: int, seed: int) -> None:
        self.student, self.teacher, self.pool, self.batch, self.seed = student, teacher, pool, batch, seed
        plain = replace(teacher.spec.diffusion, rescale=None)
        self.schedule = NoiseSchedule.from_spec(plain)
        self.rescaled = NoiseSchedule.from_spec(teacher.spec.diffusion)
        self.timesteps = torch.tensor(self.schedule.lcm_timesteps(STEPS))
        sigmas = self.schedule.sigmas[self.timesteps].float()
        self.sigmas = torch.cat([sigmas, self.schedule.sigmas[:1].float()])  # the last way ends at timestep 0

    def __call__(self, step: int) -> Tensor:
        rng = np.random.default_rng([self.seed, step, rank()])
        chosen = rng.integers(len(self.pool), size=self.batch)
        clips = self.pool.latents[torch.from_numpy(chosen)].float().transpose(1, 2)
        scenes = [self.pool.scenes[int(i)] for i in chosen]
        place = torch.from_numpy(rng.permutation(self.batch) % STEPS)
        scale = torch.from_numpy(rng.uniform(*SCALES, self.batch).astype(np.float32))
        noise = torch.from_numpy(rng.standard_normal(clips.shape, dtype=np.float32))
        fps = torch.tensor([scene.fps for scene in scenes])
        words = self.teacher.words
        with torch.no_grad():
            text = self.teacher.text.encode(words.read([caption(scene, rng) for scene in scenes]))
            empty = self.teacher.text.encode(words.read([""])).expand_as(text)
            start = clips + _wide(self.sigmas[place]) * noise
            end = self.walk(start, place, (text, empty), fps, scale)
            ahead = (place + 1).clamp(max=STEPS - 1)
            target = torch.where(_wide(place) == STEPS - 1, end, self.guess(end, ahead, text, fps, scale))
        error = (self.guess(start, place, text, fps, scale) - target).square().mean((1, 2, 3, 4))
        return ((error + SOFTNESS**2).sqrt() - SOFTNESS).mean()

    def guess(self, z: Tensor, place: Tensor, text: Tensor, fps: Tensor, scale: Tensor) -> Tensor:
        """The student's clean latents for z = x0 + sigma * noise at places of the run."""
        sigma = _wide(self.sigmas[place])
        with torch.autocast(z.device.type, torch.bfloat16):
            noise = self.student(z / (1 + sigma**2).sqrt(), self.timesteps[place], text, fps, scale)
        return z - sigma * noise.float()

    def walk(self, z: Tensor, place: Tensor, texts: tuple[Tensor, Tensor], fps: Tensor, scale: Tensor) -> Tensor:
        """Where the guided teacher comes to at the next place: DPM-Solver++ of second order (arXiv:2211.01095), in
        steps that are even in the logarithm of sigma."""
        first, last = self.sigmas[place], self.sigmas[place + 1]
        path = [first * (last / first) ** (step / SUBSTEPS) for step in range(SUBSTEPS + 1)]
        before: Tensor | None = None
        for here, there in itertools.pairwise(path):
            clean = self.guided(z, here, texts, fps, scale)
            ahead = clean if before is None else 1.5 * clean - 0.5 * before
            z = ahead + _wide(there / here) * (z - ahead)
            before = clean
        return z

    def guided(self, z: Tensor, sigma: Tensor, texts: tuple[Tensor, Tensor], fps: Tensor, scale: Tensor) -> Tensor:
        """The teacher's clean latents with classifier-free guidance, under the schedule that it knows."""
        when = self.rescaled.timestep_of(sigma)
        x = z * _wide(self.rescaled.signal_of(sigma))
        with torch.autocast(z.device.type, torch.bfloat16):
            both = self.teacher.unet(x, when, torch.cat(texts), None, fps)
        conditional, other = (z - _wide(sigma) * noise for noise in both.float().chunk(2))
        return other + _wide(scale) * (conditional - other)


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1, 1)


def save_lora(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """The file that ships, in half precision; it replaces an older one."""
    half = {name: value.to("cpu", torch.float16).contiguous() for name, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    return save_tensors(folder / FILE, half, {}, overwrite=True)
