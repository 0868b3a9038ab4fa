"""VideoCrafter for ComfyUI. Outside ComfyUI (a test run, a packaging tool) there is nothing to register."""

from importlib.util import find_spec

if find_spec("comfy_api") is not None:
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
