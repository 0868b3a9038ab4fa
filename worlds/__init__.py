"""Drawn worlds in which models are trained and judged: each says what a clip shows, in numbers and in words."""
