"""Model files by the names that users choose: ComfyUI's folders, and the small models that come with this pack."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import folder_paths

from ...vc_core import bundled
from ...vc_core.errors import UserError

BUNDLED = bundled.FOLDER
"""The folder of the small models of this pack; they are listed among the checkpoints, the LoRA files and the files of
controls."""

BUNDLED_FOLDERS = ("checkpoints", "loras")
LORA = "_lora.safetensors"
SHOWN = 5
"""The number of names, those most like it, in a message about a file that does not exist."""


def bundled_names(folder: str, control: str | None = None) -> list[str]:
    """The files of this pack for a folder of ComfyUI, by name, with the weights of a control where it is named."""
    if folder not in BUNDLED_FOLDERS or not BUNDLED.is_dir():
        return []
    is_lora = folder == "loras"
    names = {path.name for path in BUNDLED.glob("*.safetensors")}
    of_controls = {name: path.name for name, path in bundled.CONTROLS.items()}
    shown = {name for name in names.difference(of_controls.values()) if name.endswith(LORA) == is_lora}
    return sorted(shown | names.intersection([of_controls.get(control or "", "")]))


def own(folder: str) -> list[str]:
    """The user's files in a folder of ComfyUI."""
    names: list[str] = folder_paths.get_filename_list(folder)
    return names


def choices(folder: str, control: str | None = None) -> list[str]:
    """What a list of files shows for a folder of ComfyUI: the user's files, then those of this pack, with the weights
    of a control where it is named."""
    there = own(folder)
    return there + [name for name in bundled_names(folder, control) if name not in there]


def with_slashes(name: str) -> str:
    """A name with the separators that every system understands: workflows that were saved on Windows have others."""
    return name.replace("\\", "/")


def check(folder: str, name: str | None, control: str | None = None) -> bool | str:
    """Whether a list of files has a name, in which folders may be separated as on another system; else what is wrong.
    A name that comes from another node is None here, and checked when it is there."""
    if name is None or with_slashes(str(name)) in map(with_slashes, choices(folder, control)):
        return True
    try:
        path = resolve(folder, str(name), control)
    except UserError as error:
        return str(error)
    return f"{path} is not in the list of models. Press R in the page to refresh the list, and choose it."


def resolve(folder: str, name: str, control: str | None = None) -> Path:
    """The path of a chosen file, perhaps for a control. Of a user's file and a bundled one of the same name it is the
    user's.

    Raises UserError when there is none, naming what there is.
    """
    for given in dict.fromkeys((name, with_slashes(name))):
        path = folder_paths.get_full_path(folder, given)
        if path is not None:
            return Path(path)
    if name in bundled_names(folder, control):
        return BUNDLED / name
    there = choices(folder, control)
    places = ", ".join(folder_paths.get_folder_paths(folder))
    near = get_close_matches(name, there, SHOWN, cutoff=0.0)
    more = len(there) - len(near)
    shown = ", ".join(near) + (f" and {more} more" if more else "") if there else "no file at all"
    raise UserError(
        f"There is no model file {name!r} in {places}; there is {shown}. Put the file there (see the README for "
        "where to get it), press R in the page to refresh the lists, and choose it."
    )


def fingerprint(folder: str, name: str | None, control: str | None = None) -> str:
    """Changes when the file of that name does, so that a replaced file is read again. A name that comes from another
    node is None here, and always the same."""
    if name is None:
        return ""
    try:
        state = resolve(folder, name, control).stat()
    except (UserError, OSError):
        return name
    return f"{name}:{state.st_size}:{state.st_mtime_ns}"


def embedding_folders() -> list[str]:
    """The folders of textual inversion embeddings."""
    folders: list[str] = folder_paths.get_folder_paths("embeddings")
    return folders
