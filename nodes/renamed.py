"""Nodes whose id has changed, so that workflows saved with the old id keep working."""

from __future__ import annotations

from .host.replacing import Replacement

RENAMED: tuple[Replacement, ...] = ()
"""None yet. A published id must never be removed from here."""
