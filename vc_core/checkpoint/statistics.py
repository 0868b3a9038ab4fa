"""A FILE OF STATISTICS -> where sampling starts: the mean and the variance of videos' latents (arXiv:2406.15735)."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike

from torch import Tensor

from ..denoising.start import AnalyticInit
from ..errors import UserError
from .reading import read

MEAN, VARIANCE = "Expectation_X0", "Tr_Cov_d"
"""The names in the files of DynamiCrafter-CIL. Capitals and underscores do not matter."""
AXES = 5


def read_statistics(path: str | PathLike[str]) -> AnalyticInit:
    """The statistics of one size and length of videos, from a .pt or .safetensors file that holds E[x0], b c f h w or
    c f h w, and tr Cov[x0] / d, one number. Raises UserError for every other file."""
    tensors = read(path).tensors
    mean, variance = _found(path, tensors, MEAN), _found(path, tensors, VARIANCE)
    if variance.numel() != 1:
        raise UserError(f"{path}: {VARIANCE} has the shape {tuple(variance.shape)}; it should be one number.")
    if mean.ndim == AXES - 1:
        mean = mean[None]
    if mean.ndim != AXES or len(mean) != 1:
        raise UserError(
            f"{path}: {MEAN} has the shape {tuple(mean.shape)}; it should be one clip's, (1, 4, frames, height / 8, "
            "width / 8)."
        )
    return AnalyticInit(mean.float(), float(variance))


def _found(path: str | PathLike[str], tensors: Mapping[str, Tensor], name: str) -> Tensor:
    plain = {_plain(key): value for key, value in tensors.items()}
    if _plain(name) not in plain:
        raise UserError(
            f"{path} holds no {name}, so it is not a file of statistics for the start of sampling. Give the initial "
            "noise that is published with DynamiCrafter-CIL, for example initial_noise_512.pt."
        )
    return plain[_plain(name)]


def _plain(name: str) -> str:
    return name.lower().replace("_", "")
