"""The rows of a batch that tells what each modality contributes: each clip, and the clip less one modality.

Shapes: N clips, B rows (clips and clips less one modality), M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from components.clip import MODALITIES, Modality
from components.features import ClipFeatures


@dataclass(frozen=True)
class Rows:
    """The rows of one batch: of which clip each is, what it keeps of it, and where each clip's rows lie.

    Attributes:
        clip_B: position of the clip.
        present_BM: modalities that the row keeps.
        from_B: the row of the same clip that has the same time base and all that this one has; itself if there is none.
        whole_N: row of each whole clip.
        without_N: by clip and present modality, the row that lacks it; the whole one where it is the only modality.
    """

    clip_B: list[int] = field(default_factory=list)
    present_BM: list[list[bool]] = field(default_factory=list)
    whole_N: list[int] = field(default_factory=list)
    without_N: list[dict[Modality, int]] = field(default_factory=list)
    from_B: list[int] = field(default_factory=list)

    def add(self, clip: int, present_M: list[bool], whole: int | None = None) -> int:
        """Add a row, made of the whole clip's where that is given and its first modality is left."""
        row = len(self.clip_B)
        self.clip_B.append(clip)
        self.present_BM.append(present_M)
        shares_time = whole is not None and self.present_BM[whole].index(True) == present_M.index(True)
        self.from_B.append(whole if whole is not None and shares_time else row)
        return row


def num_steps(features: ClipFeatures) -> tuple[int, int, int]:
    """Steps of audio, video and text."""
    return len(features.audio_TF), len(features.video_TF), len(features.word_ids_T)


def rows_of(clips: Sequence[ClipFeatures]) -> Rows:
    """Each clip as it is, and less each of its modalities where another one is left."""
    rows = Rows()
    for number, clip in enumerate(clips):
        present_M = [steps > 0 for steps in num_steps(clip)]
        whole = rows.add(number, present_M)
        without: dict[Modality, int] = {}
        for m, name in enumerate(MODALITIES):
            if present_M[m]:
                rest_M = [kept and other != m for other, kept in enumerate(present_M)]
                without[name] = rows.add(number, rest_M, whole) if any(rest_M) else whole
        rows.whole_N.append(whole)
        rows.without_N.append(without)
    return rows
