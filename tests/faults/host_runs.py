"""Runs in ComfyUI in which faults are tried: samplers, long-video methods, controls and other nodes of this pack, read
from the records and from the tables of `control/combining.py` and `combined_nodes.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import small_models as small
import torch
from combined_nodes import COMPANIONS, LONG, Host, started
from control.combining import COMPANIONS as CORE_COMPANIONS
from control.combining import END, EXAMPLES, FRAMES, IMAGE, bases_of, method_of
from loaded_models import Loaded
from torch import Tensor, nn

from comfyui.base import Base
from comfyui.inprocess import Comfy
from vc_core.long import METHODS
from vc_core.long.video import OnStep

STEPS = {"steps": 4}
CORE_SAMPLERS = ("euler", "dpmpp_2m", "uni_pc", "lcm")
Made = Callable[["OnStep | None"], Tensor]
TOON = "faults_toon.safetensors"


class HostRuns:
    """Runs of the small models, by name. `fresh` forgets the loaded models, so that the next run loads its own."""

    def __init__(self, comfy: Comfy, base: Base) -> None:
        self.comfy, self.base = comfy, base
        self.fresh()
        made: dict[str, Callable[[], Tensor]] = {
            "sampler of this pack": lambda: self._sampled("text"),
            **{f"sampler {name}": self._core_sampler(name) for name in CORE_SAMPLERS},
            **{f"method {name}": self._method(name) for name in METHODS if name != "off"},
            "with FreeInit": lambda: self._sampled("text", free_init=1),
            **{f"node {name}": self._node(name) for name in COMPANIONS},
            **{f"control {name}": self._control(name) for name in EXAMPLES},
            "key frames": self._key_frames,
            "decoding": self._decoded,
            "decoding of ToonCrafter": self._tooncrafter,
        }
        self.made: dict[str, Made] = {name: self._watched(each) for name, each in made.items()}

    def fresh(self) -> None:
        """The models are loaded again when they are needed next."""
        self.host = Host(self.comfy, self.base)
        self.models: dict[str, Any] = {}
        self.toon: Loaded | None = None

    def networks(self) -> list[nn.Module]:
        """The networks that are loaded."""
        loaded = [each for each in (*self.host.models.values(), self.toon) if isinstance(each, Loaded)]
        return [network for each in loaded for network in (each.model.model, each.vae.first_stage_model)]

    def _watched(self, run: Callable[[], Tensor]) -> Made:
        """A run that asks `on_step` after each step, and is cancelled as a user does it where that raises ComfyUI's own
        exception."""

        def made(on_step: OnStep | None) -> Tensor:
            import comfy.model_management as management
            import comfy.utils

            last: list[int] = [0]

            def tell(value: int, total: int) -> None:
                is_new, last[:] = value not in (0, *last), [value]  # a step is reported again with further previews
                try:
                    if on_step is not None and is_new:
                        on_step(None)  # type: ignore[arg-type]
                except management.InterruptProcessingException:
                    management.interrupt_current_processing()

            unthrottled = patch.object(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0, create=True)
            with unthrottled, self.comfy.progress(tell):
                return run()

        return made

    def _model(self, name: str, make: Callable[[], Any]) -> Any:
        """A MODEL that all runs of a name have in common, as in a workflow that is queued again."""
        if name not in self.models:
            self.models[name] = make()
        return self.models[name]

    def _sampled(self, base: str, model: Any = None, **settings: Any) -> Tensor:
        out: Tensor = self.host.sampled(base, model or self.host.model(base).model, **{**STEPS, **settings})
        return out

    def _core_sampler(self, name: str) -> Callable[[], Tensor]:
        return lambda: self._sampled("text", sampler="KSampler", sampler_name=name)

    def _method(self, name: str) -> Callable[[], Tensor]:
        steps = CORE_COMPANIONS[name].setting.get("sampling")
        settings = {} if steps is None else {"steps": steps.steps, "eta": steps.eta}
        method = method_of(CORE_COMPANIONS[name])
        return lambda: self._sampled("text", frames=LONG, long_video_settings=method, **settings)

    def _node(self, name: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            model = self._model(name, lambda: self.host.through("text", name, self.host.model("text").model))
            return self._sampled("text", model, **COMPANIONS[name][2])

        return run

    def _control(self, name: str) -> Callable[[], Tensor]:
        base = bases_of(name)[0]

        def run() -> Tensor:
            model = self._model(name, lambda: self.host.with_control(base, name, self.host.model(base).model))
            return self._sampled(base, model, **started(name))

        return run

    def _key_frames(self) -> Tensor:
        loaded = self.host.model("continuing")
        row = torch.stack([IMAGE, END, IMAGE.flip(0)])
        positive, negative, _, latent = loaded.continued(row, width=64, height=64, frames=FRAMES)
        given = {"positive": positive, "negative": negative, "latent_image": latent, "scheduler": "trailing"}
        out: Tensor = loaded.sample(**given, **STEPS, eta=0.0)
        return out

    def _decoded(self) -> Tensor:
        latent = {"samples": torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(1))}
        out: Tensor = self.comfy.call("VideoCrafterDecode", samples=latent, vae=self.host.model("text").vae).values[0]
        return out

    def _tooncrafter(self) -> Tensor:
        if self.toon is None:
            path = self.base.model("checkpoints", TOON)
            if not path.exists():
                small.save(small.TOON_MODEL, path)
            self.toon = Loaded(self.comfy, TOON, weight_dtype="fp32")
        *_, latent = self.toon.continued(IMAGE[None], end_image=END[None])
        latent = {**latent, "samples": torch.randn(3, 4, 3, 2, generator=torch.Generator().manual_seed(1))}
        out: Tensor = self.comfy.call("VideoCrafterDecode", samples=latent, vae=self.toon.vae).values[0]
        return out
