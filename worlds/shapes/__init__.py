"""Coloured shapes that move over plain backgrounds."""
