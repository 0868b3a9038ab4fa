"""Frame rates as exact fractions."""

from __future__ import annotations

from fractions import Fraction

from ..errors import UserError

_NTSC = tuple(Fraction(whole * 1000, 1001) for whole in (12, 15, 24, 30, 48, 60, 90, 120, 240))


def frame_rate(fps: float | str | Fraction) -> Fraction:
    """Frames per second as a fraction: 23.976, "23.976" and "24000/1001" all give 24000/1001.

    Raises UserError unless it is a number above 0 and at most 1000.
    """
    try:
        rate = Fraction(fps) if isinstance(fps, Fraction) else Fraction(str(fps).strip())
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"The frame rate {fps!r} is not a number. Use, for example, 8, 23.976 or 24000/1001."
        ) from error
    if not 0 < rate <= 1000:
        raise UserError(f"The frame rate is {fps} per second; it must be above 0 and at most 1000.")
    if not isinstance(fps, Fraction):
        rate = next((ntsc for ntsc in _NTSC if abs(ntsc - rate) * 1000 < 6 and rate.denominator != 1), rate)
    return rate.limit_denominator(10**4 if rate >= 1 else 10**5)
