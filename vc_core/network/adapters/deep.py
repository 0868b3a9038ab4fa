"""The deep features of a pass, for later passes that resemble it (DeepCache, arXiv:2312.00858)."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor

from ..adapter import Adapter, Place, Recording, Site


class KeepDeep(Adapter):
    """Keeps what the first of the last `shallow` decoder blocks receives from the blocks below it. See `Deep`, with
    which another pass continues from there. `result` is (b f) c h w, of the last whole pass; it includes what adapters
    before this one change."""

    recording = Recording.INCLUDED

    def __init__(self, shallow: int) -> None:
        self.shallow = shallow

    @property
    def recorded_as(self) -> Hashable:
        return super().recorded_as, self.shallow

    def uses(self, site: Site, at: Place) -> bool:
        return at.index == at.count - self.shallow

    def before_decoder_block(self, at: Place, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        self.result = h
        return h, skip
