"""Times and numbers of things as text."""


def clock_time(seconds: float, decimals: bool = False) -> str:
    """`65.25` as `"1:05"`, or with decimals as `"01:05.2"`; from an hour on as `"1:01:05"`."""
    # Tenths are cut off, not rounded: no frame is shown later than it begins.
    tenths = int(seconds * 10 + 1e-6)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 10:02d}" + (f".{rest % 10}" if decimals else "")
    if hours:
        return f"{hours}:{minutes:02d}:{tail}"
    return f"{minutes:02d}:{tail}" if decimals else f"{minutes}:{tail}"


def counted(number: int, thing: str) -> str:
    """`1` and `"frame"` as `"1 frame"`, any other number as `"3 frames"` or `"1,024 frames"`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def percent(part: float, whole: float) -> str:
    """A share without its sign, such as `"17"`; below 1 with one digit that is not zero, such as `"0.04"`."""
    share = 100 * part / whole
    return f"{share:.0f}" if share >= 1 or not part else f"{max(share, 1e-4):.1g}"


__all__ = ["clock_time", "counted", "percent"]
