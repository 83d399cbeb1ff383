"""Limits on videos: bytes and time of a download or pipe, pixels and frames to decode."""

import os
from dataclasses import dataclass, field
from threading import Event

_ALLOW_PRIVATE = "DYNFOCUS_ALLOW_PRIVATE_ADDRESSES"


@dataclass(frozen=True)
class ReadingLimits:
    """Limits that are checked before anything of that size is allocated or written.

    Attributes:
        max_bytes: of a download, a pipe or another object that cannot be read like a file; default 8 GiB.
        max_seconds: time that such a copy may take; default 30 minutes.
        min_bytes_per_minute: a copy that is slower than this for a whole minute counts as stalled; default 64 KiB.
        allow_private_addresses: whether http(s) and other addresses may lead to this machine or its local networks.
            By default they may not, so that a server can be given the URLs of its users; the command line allows it.
        max_pixels: of one frame; default 2^26, such as 8192 × 8192.
        max_frames: of one video; default 2^22, 38 hours at 30 frames a second.
        max_duration: seconds that one video may claim to last; default 366 days.
        given_up: ends a copy once it is set, because nobody waits for it any more.
    """

    max_bytes: int = 8 << 30
    max_seconds: float = 30 * 60.0
    min_bytes_per_minute: int = 64 << 10
    allow_private_addresses: bool = False
    max_pixels: int = 1 << 26
    max_frames: int = 1 << 22
    max_duration: float = 366 * 86400.0
    given_up: Event | None = field(default=None, compare=False)


_default: ReadingLimits | None = None


def default_limits() -> ReadingLimits:
    """
    The limits of this process for calls without `limits`.

    The command line sets the environment variable `DYNFOCUS_ALLOW_PRIVATE_ADDRESSES=1`, which its worker processes
    inherit.
    """
    return _default or ReadingLimits(allow_private_addresses=os.environ.get(_ALLOW_PRIVATE) == "1")


def set_default_limits(limits: ReadingLimits) -> None:
    """Sets the value of [`default_limits`] in this process and in its forks."""
    global _default
    _default = limits


__all__ = ["ReadingLimits", "default_limits", "set_default_limits"]
