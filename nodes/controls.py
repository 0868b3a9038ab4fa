"""MODEL -> MODEL with a control: one node for each record of `vc_core.control`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..vc_core.control import CONTROLS, Control
from ..vc_core.control.control import FILE
from ..vc_core.parameters import Kind, Parameter
from .conditioning import checked_images
from .host import files
from .host.compat import aliases, either
from .host.controls import encoders_of, with_control

CATEGORY = "VideoCrafter/control"
OWN = "in the model's file"
"""The choice of weights that the model's own file holds."""
NONE = "none"
"""The choice of no file."""
STEP = 0.05


class ControlNode(io.ComfyNode):
    """The node of a control, made of its record by `node_of`."""

    control: type[Control]

    @classmethod
    def define_schema(cls) -> io.Schema:
        control = cls.control
        return io.Schema(
            node_id=cls.__name__,
            display_name=f"VideoCrafter {control.node_title or control.title}",
            category=CATEGORY,
            description=f"{_sentence(control.summary)} Use it for {control.use}. Works with {control.models}.",
            inputs=[
                io.Model.Input("model", tooltip="The video model."),
                *([_file(control)] if control.part is not None else []),
                *(_encoder(name) for name in control.encoders),
                *(_input(item, control) for item in control.parameters()),
            ],
            outputs=[io.Model.Output(tooltip="The model with this control, for any sampler.")],
            **aliases("videocrafter", *control.search),
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        return file == OWN or files.check(cls.control.folder, file, cls.control.name)

    @classmethod
    def fingerprint_inputs(cls, **given: Any) -> str:
        chosen = [FILE, *(item.name for item in cls.control.parameters() if item.kind is Kind.FILE)]
        names = [given.get(each, NONE) for each in chosen]
        folder, control = cls.control.folder, cls.control.name
        return " ".join(name if name in (OWN, NONE) else files.fingerprint(folder, name, control) for name in names)

    @classmethod
    def execute(cls, model: Any, **given: Any) -> io.NodeOutput:
        control, name = cls.control, given.pop(FILE, OWN)
        encoders = encoders_of(clip=given.pop("clip", None), clip_vision=given.pop("clip_vision", None))
        values = {
            item.name: _value(item, given[item.name], control) for item in control.parameters() if item.name in given
        }
        file = None if control.part is None or name == OWN else files.resolve(control.folder, name, control.name)
        return io.NodeOutput(with_control(model, control(**values), file, encoders))


def node_of(control: type[Control]) -> type[io.ComfyNode]:
    """The node of a control. Its id is VideoCrafter, the title without spaces, and Control."""
    name = f"VideoCrafter{control.title.replace(' ', '').replace('-', '')}Control"
    return type(name, (ControlNode,), {"control": control, "__doc__": f"{_sentence(control.summary)}"})


def _file(control: type[Control]) -> Any:
    return io.Combo.Input(
        FILE,
        options=[OWN, *files.choices(control.folder, control.name)],
        default=OWN,
        tooltip=f"The file with the weights of {control.title}, from ComfyUI's models/{control.folder} folder; or "
        f"'{OWN}', where that holds them.",
    )


def _encoder(name: str) -> Any:
    if name == "image":
        return io.ClipVision.Input("clip_vision", tooltip="The image encoder: OpenCLIP ViT-H-14.")
    return io.Clip.Input("clip", tooltip="The text encoder of the model.")


def _input(item: Parameter, control: type[Control]) -> Any:
    """The widget or the socket of a parameter."""
    tooltip = _sentence(item.help)
    if item.kind is Kind.FILE:
        return io.Combo.Input(item.name, options=[NONE, *files.own(control.folder)], default=NONE, tooltip=tooltip)
    if item.kind in (Kind.NUMBER, Kind.INTEGER):
        return _number(item, tooltip)
    if item.kind is Kind.CHOICE:
        return io.Combo.Input(item.name, options=list(item.choices), default=item.default, tooltip=tooltip)
    if item.kind is Kind.SWITCH:
        return io.Boolean.Input(item.name, default=item.default, tooltip=tooltip)
    if item.kind in (Kind.IMAGES, Kind.VIDEO):
        return io.Image.Input(item.name, optional=not item.required, tooltip=tooltip)
    if item.kind is Kind.MASK:
        return io.Mask.Input(item.name, optional=not item.required, tooltip=tooltip)
    text = io.String.Input(item.name, default=item.default, multiline=item.kind is not Kind.TEXT, tooltip=tooltip)
    sockets = {Kind.TRACKS: ("TRACKS",), Kind.BOXES: ("BOUNDING_BOX", "TRACKS")}.get(item.kind)
    return either(text, *sockets) if sockets else text


def _number(item: Parameter, tooltip: str) -> Any:
    """The widget of a number."""
    low, high = (limit if limit is not None else end for limit, end in ((item.low, -1e6), (item.high, 1e6)))
    if item.kind is Kind.INTEGER:
        return io.Int.Input(item.name, default=item.default, min=int(low), max=int(high), tooltip=tooltip)
    return io.Float.Input(item.name, default=item.default, min=low, max=high, step=STEP, tooltip=tooltip)


def _value(item: Parameter, value: Any, control: type[Control]) -> Any:
    """The value of a parameter in Python."""
    if item.kind is Kind.FILE:
        return "" if value == NONE else files.resolve(control.folder, value)
    if item.kind is Kind.IMAGES:
        return () if value is None else tuple(checked_images(value))
    if item.kind is Kind.VIDEO and value is not None:
        return value[..., :3]
    return _written(value) if item.kind in (Kind.TRACKS, Kind.BOXES) else value


def _written(value: Any) -> Any:
    """Tracks or boxes of other nodes as text."""
    if isinstance(value, Mapping) and "track_path" in value:
        return points_of(value)
    return value if isinstance(value, str) else json.dumps(value, default=float)


def points_of(tracks: Mapping[str, Any]) -> str:
    """ComfyUI's TRACKS as JSON: frames tracks 2 -> a list of points for each track."""
    paths: Tensor = tracks["track_path"]
    return json.dumps([[{"x": x, "y": y} for x, y in track] for track in paths.transpose(0, 1).tolist()])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


NODES: list[type[io.ComfyNode]] = [node_of(control) for control in CONTROLS.values()]
