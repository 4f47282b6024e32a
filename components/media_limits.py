"""What a recording may cost, and the error that says which way one is broken."""

from __future__ import annotations

from dataclasses import dataclass


class MediaError(ValueError):
    """A recording that cannot be used.

    Attributes:
        code: stable short name of the reason: missing, unreadable, empty, git-lfs-stub, too-large, not-media,
            truncated, damaged, unknown-codec, no-audio, no-video, no-streams, empty-span, too-long,
            too-many-channels, bad-rate, bad-size, not-finite, too-large-to-decode.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str]]:
        return (MediaError, (self.code, str(self)))


@dataclass(frozen=True)
class Limits:
    """What one recording may cost at most; enforced on what is decoded, not on what the header says."""

    max_bytes: int = 64 * 1024 * 1024
    max_duration_s: float = 600.0
    max_pixels: int = 4096 * 2160
    max_channels: int = 16
    max_decoded_bytes: int = 1024 * 1024 * 1024


def too_many(name: str, num_channels: int, limits: Limits) -> str:
    return f"{name} has {num_channels} audio channels, over the {limits.max_channels} allowed: mix it to mono"


def too_long(name: str, limits: Limits) -> str:
    return f"{name} lasts over {limits.max_duration_s:g} s: cut it, or name a part with start_s and end_s"
