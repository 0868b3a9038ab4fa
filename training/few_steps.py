"""A LoRA with which the small text-to-video network makes clips in 4 steps, as T2V-Turbo does for VideoCrafter2.

The trajectories of the guided teacher from noise to clips are computed once and stored (arXiv:2101.02388). From each
point of a trajectory the student predicts its end, as a consistency model does (arXiv:2303.01469). The student takes
the guidance scale as an input and needs no negative prompt (arXiv:2310.04378). Like T2V-Turbo it uses the schedule
without rescaling.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from vc_core.checkpoint.lora import GUIDANCE
from vc_core.checkpoint.saving import save_tensors
from vc_core.conditions import Conditioning
from vc_core.denoising.schedule import NoiseSchedule
from vc_core.network.unet import VideoUNet
from vc_core.specs import T2V_TURBO
from worlds.shapes.captions import caption
from worlds.shapes.world import FRAMES, SIZE, random_scene

from .layers import FastOperations, short_attention
from .network import Network
from .trainer import rank

FILE = "videocrafter_small_turbo_lora.safetensors"
RANK = 4
STEPS = 8
"""The student is trained on the timesteps of a run of this many steps; runs of 1, 2 and 4 steps use a subset of
them."""
SUBSTEPS = (2,) * (STEPS - 1) + (4,)
"""Steps of the teacher between these timesteps; the last interval is the longest in log sigma."""
LARGEST_STRETCH = 0.65
"""Upper limit of the second-order coefficient if a step is longer than the previous one; 0.5 for equal steps."""
SCALES = (1.0, 8.0)
SOFTNESS = 0.03
"""Threshold of the pseudo-Huber loss (arXiv:2310.14189): quadratic below, linear above."""


class Student(nn.Module):
    """The frozen network, a guidance embedding that starts at zero, and the low-rank updates, which are the only
    trained parameters."""

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
        conditioning = Conditioning(text, fps=fps, guidance=scale)
        out: Tensor = functional_call(self.unet, weights, (x, timesteps, conditioning), strict=False)
        return out

    def tensors(self) -> dict[str, Tensor]:
        """The updates under the names of a published LoRA file."""
        named = {}
        for name, up, down in zip(self.places, self.ups, self.downs, strict=True):
            shape = self.unet.get_parameter(name).shape
            module = "diffusion_model." + name.removesuffix(".weight")
            named[f"{module}.lora_up.weight"] = up.detach().view(*up.shape, *(1 for _ in shape[2:]))
            named[f"{module}.lora_down.weight"] = down.detach().view(-1, *shape[1:])
        return named


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Trajectories of the teacher. inputs: the network's input at each of the `STEPS` timesteps, n STEPS c f h w;
    ends: the clean latents, n c f h w, both in half precision; rows: words, n 77; fps and scale: n."""

    inputs: Tensor
    ends: Tensor
    rows: Tensor
    fps: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.ends)

    def save(self, path: Path) -> None:
        """Saves the trajectories atomically."""
        part = path.with_suffix(".part")
        torch.save({field.name: getattr(self, field.name) for field in fields(self)}, part)
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Paths:
        return cls(**torch.load(path, weights_only=True))

    @classmethod
    def join(cls, parts: Sequence[Paths]) -> Paths:
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})


class Guide:
    """The frozen teacher with classifier-free guidance, and the timesteps and sigmas of its trajectories."""

    def __init__(self, teacher: Network) -> None:
        self.teacher = teacher
        plain = NoiseSchedule.from_spec(replace(teacher.spec.diffusion, rescale=None))
        self.rescaled = NoiseSchedule.from_spec(teacher.spec.diffusion)
        self.timesteps = torch.tensor(plain.lcm_timesteps(STEPS))
        sigmas = torch.cat([plain.sigmas[self.timesteps], plain.sigmas[:1]])  # the last interval ends at timestep 0
        self.sigmas = sigmas.float()

    @torch.no_grad()
    def paths(self, count: int, rng: np.random.Generator) -> Paths:
        """`count` trajectories from noise, for scenes of the training combinations with captions and guidance
        scales."""
        spec = self.teacher.spec
        scenes = [random_scene(rng) for _ in range(count)]
        rows = self.teacher.words.read([caption(scene, rng) for scene in scenes])
        fps = torch.tensor([scene.fps for scene in scenes])
        scale = torch.from_numpy(rng.uniform(*SCALES, count).astype(np.float32))
        side = SIZE // spec.size_multiple
        shape = (count, spec.autoencoder.latent_channels, FRAMES, side, side)
        noise = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        text = self.teacher.text.encode(rows)
        texts = torch.cat([text, self.teacher.text.encode(self.teacher.words.read([""])).expand_as(text)])
        *places, end = self.walk(noise * (1 + self.sigmas[0] ** 2).sqrt(), texts, fps, scale)
        inputs = [z / (1 + sigma**2).sqrt() for z, sigma in zip(places, self.sigmas[:-1], strict=True)]
        return Paths(inputs=torch.stack(inputs, dim=1).half(), ends=end.half(), rows=rows, fps=fps, scale=scale)

    def walk(self, z: Tensor, texts: Tensor, fps: Tensor, scale: Tensor) -> Iterator[Tensor]:
        """The teacher's trajectory at each timestep, and at the end, where almost no noise is left: second-order
        DPM-Solver++ (arXiv:2211.01095), with steps that are uniform in log sigma between the timesteps."""
        before: tuple[Tensor, Tensor] | None = None
        for (first, last), steps in zip(itertools.pairwise(self.sigmas), SUBSTEPS, strict=True):
            yield z
            for step in range(steps):
                here, there = (first * (last / first) ** (at / steps) for at in (step, step + 1))
                clean = self.clean(z, here, texts, fps, scale)
                ahead = clean
                if before is not None:
                    stretch = (here / there).log() / (before[0] / here).log() / 2
                    ahead = clean + stretch.clamp(max=LARGEST_STRETCH) * (clean - before[1])
                z = ahead + there / here * (z - ahead)
                before = here, clean
        yield z

    def clean(self, z: Tensor, sigma: Tensor, texts: Tensor, fps: Tensor, scale: Tensor) -> Tensor:
        """The teacher's prediction of the clean latents at z = x0 + sigma * noise, under its own schedule."""
        x = (z * self.rescaled.signal_of(sigma)).repeat(2, 1, 1, 1, 1)
        when = self.rescaled.timestep_of(sigma).expand(len(x))
        with torch.autocast(z.device.type, torch.bfloat16):
            both = self.teacher.unet(x, when, Conditioning(texts, fps=fps.repeat(2)))
        conditional, other = (z - sigma * noise for noise in both.float().chunk(2))
        return other + _wide(scale) * (conditional - other)


class ConsistencyObjective:
    """The loss of a training step: the error of the student's predictions of the ends, for a batch determined by the
    step."""

    def __init__(self, student: Student, guide: Guide, paths: Paths, *, batch: int, seed: int) -> None:
        self.student, self.guide, self.paths, self.batch, self.seed = student, guide, paths, batch, seed

    def __call__(self, step: int) -> Tensor:
        rng = np.random.default_rng([self.seed, step, rank()])
        chosen = torch.from_numpy(rng.integers(len(self.paths), size=self.batch))
        place = torch.from_numpy(rng.permutation(self.batch) % STEPS)
        paths, sigma = self.paths, _wide(self.guide.sigmas[place])
        with torch.no_grad():
            text = self.guide.teacher.text.encode(paths.rows[chosen])
        x = paths.inputs[chosen, place].float()
        with torch.autocast(x.device.type, torch.bfloat16):
            noise = self.student(x, self.guide.timesteps[place], text, paths.fps[chosen], paths.scale[chosen])
        guess = x * (1 + sigma**2).sqrt() - sigma * noise.float()
        error = (guess - paths.ends[chosen].float()).square().mean((1, 2, 3, 4))
        return ((error + SOFTNESS**2).sqrt() - SOFTNESS).mean()


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1, 1)


def save_lora(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Writes the LoRA file in half precision, replacing an older one."""
    half = {name: value.to("cpu", torch.float16).contiguous() for name, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    return save_tensors(folder / FILE, half, {}, overwrite=True)
