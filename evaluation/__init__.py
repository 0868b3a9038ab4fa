"""Measures of generated videos that need no network: a detector for the synthetic world, and measures for any video."""
