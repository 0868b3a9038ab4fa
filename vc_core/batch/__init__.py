"""Many videos from the lines of a file: FILE -> lines -> tasks, all checked -> videos, a manifest, a page of results.

A line has the options of the commands that make videos, by their names, and is read by their parsers. A task is a line,
or one of the combinations that a line asks for.
"""

from .command import add_batch_options, run_batch

__all__ = ["add_batch_options", "run_batch"]
