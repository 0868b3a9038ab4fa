"""Nodes that had another id in an earlier version, so that workflows saved with it keep working."""

from __future__ import annotations

from .host.replacing import Replacement

RENAMED: tuple[Replacement, ...] = ()
"""None yet. An id that has been published stays here for good once it is given up."""
