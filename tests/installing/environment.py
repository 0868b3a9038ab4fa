"""Which of the installed packages a plain ComfyUI installation has, and a Python process that has no others."""

from __future__ import annotations

import importlib.machinery
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from comfyui.base import comfy_path

HOST_IMPORTS = ("requests",)
"""What ComfyUI 0.3.64 imports without naming it: it relies on a package that another one used to bring."""


def read(file: Path) -> list[Requirement]:
    """The requirements in a file, comments and empty lines left out."""
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def requirements_of(name: str, extras: Iterable[str] = ()) -> list[Requirement]:
    """What an installed package asks for on this machine. Raises PackageNotFoundError if it is not installed."""
    found = map(Requirement, metadata.requires(name) or ())
    contexts = [{"extra": extra} for extra in ("", *extras)]
    return [item for item in found if item.marker is None or any(item.marker.evaluate(one) for one in contexts)]


def closure(requirements: Iterable[Requirement]) -> dict[str, set[str]]:
    """Canonical name of every package that these bring -> the packages that ask for it. Packages that are not
    installed here are included without their own requirements."""
    found: dict[str, set[str]] = {}
    visited: set[tuple[str, frozenset[str]]] = set()
    waiting = [(item, "") for item in requirements]
    while waiting:
        item, asked_by = waiting.pop()
        name = canonicalize_name(item.name)
        found.setdefault(name, set()).add(asked_by)
        if (name, key := frozenset(item.extras)) in visited:
            continue
        visited.add((name, key))
        try:
            waiting += [(inner, name) for inner in requirements_of(name, item.extras)]
        except metadata.PackageNotFoundError:
            continue
    return found


def host_packages() -> set[str]:
    """The packages of a ComfyUI installation without any custom node."""
    requirements = read(comfy_path() / "requirements.txt")
    return set(closure([*requirements, *map(Requirement, HOST_IMPORTS)])) | {"pip", "setuptools"}


def other_packages() -> set[str]:
    """What is installed beside those."""
    return {canonicalize_name(item.name) for item in metadata.distributions()} - host_packages()


def modules_of(packages: Iterable[str]) -> set[str]:
    """The top-level modules that only these packages contain."""
    chosen = set(packages)
    return {
        module
        for module, owners in metadata.packages_distributions().items()
        if {canonicalize_name(owner) for owner in owners} <= chosen and re.fullmatch(r"\w+", module)
    }


class WithoutPackages:
    """In place of Python's path finder: these modules and packages are not found, as if they were not installed."""

    def __init__(self, packages: Iterable[str]) -> None:
        self.packages = set(packages)
        self.modules = modules_of(self.packages)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] in self.modules:
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, path, target)

    def find_distributions(self, *arguments: Any, **keywords: Any) -> Iterator[metadata.Distribution]:
        for found in importlib.machinery.PathFinder.find_distributions(*arguments, **keywords):
            if canonicalize_name(found.name) not in self.packages:
                yield found

    def invalidate_caches(self) -> None:
        importlib.machinery.PathFinder.invalidate_caches()


def leave_out(packages: Iterable[str]) -> None:
    """From now on these packages cannot be found in this process. Raises RuntimeError if one is already imported."""
    finder = WithoutPackages(packages)
    imported = finder.modules & set(sys.modules)
    if imported:
        raise RuntimeError(f"{', '.join(sorted(imported))} were imported before they could be left out")
    place = sys.meta_path.index(importlib.machinery.PathFinder)  # type: ignore[arg-type]
    sys.meta_path[place] = finder  # type: ignore[call-overload]
