"""Many videos on a running ComfyUI: lines of a file -> workflows in the API format -> its queue -> results here."""

from .command import add_submit_options, run_submit

__all__ = ["add_submit_options", "run_submit"]
