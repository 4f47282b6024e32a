"""The speaker's face in each frame of a film: found, and followed.

The face is searched in a small copy of the picture, every `_SEARCH_EVERY_S` and around where it was last; the whole
picture is searched at the start, every `_LOOK_AROUND_EVERY_S`, and whenever no face is found. Of several people,
the speaker is the one whose face fills most of the picture for most of the time (the largest sum of areas), so a
passer-by and a false alarm lose; after a cut, a face of like size takes over. A face that is lost is held for
`_HOLD_S`, and then it is out of sight: a face is never invented.

Shapes: T frames, K sightings, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from components.features.face_detectors import Box, FaceDetector, detector_of
from components.params import VideoFeatures

_SEARCH_WIDTH = 320
_SMALLEST_FACE = 0.2  # of the picture's shorter side
_SEARCH_EVERY_S = 0.4
_LOOK_AROUND_EVERY_S = 2.0
_HOLD_S = 0.5
_SAME_FACE_OVERLAP = 0.3


@dataclass(frozen=True)
class FaceTrack:
    """Where the speaker's face is in each frame.

    Attributes:
        boxes_T3: (T, 3) centre x, centre y and side of the face's square, in pixels of the frame.
        is_seen_T: (T,) whether the face was found within `_HOLD_S` of the frame.
    """

    boxes_T3: NDArray[np.float64]
    is_seen_T: NDArray[np.bool_]


def track_face(
    frames_THW: NDArray[np.uint8], frame_times_s: NDArray[np.float64], config: VideoFeatures
) -> FaceTrack | None:
    """Find the speaker's face and follow it; None when there is no face.

    Between sightings the box moves evenly, and a box that jumps away and back is replaced by its neighbours' median.

    Raises:
        ValueError: the detector that `config` names cannot be read.
    """
    search = FaceSearch(detector_of(config))
    for frame, time_s in enumerate(frame_times_s):
        search.look(frame, float(time_s), frames_THW[frame])
    sightings = search.sightings()
    if not sightings:
        return None
    times_s = frame_times_s[[frame for frame, _ in sightings]]
    boxes_K3 = np.asarray([box for _, box in sightings])
    smooth_K3 = boxes_K3.copy()
    if len(boxes_K3) > 2:
        smooth_K3[1:-1] = np.median([boxes_K3[:-2], boxes_K3[1:-1], boxes_K3[2:]], axis=0)
    boxes_T3 = np.stack([np.interp(frame_times_s, times_s, smooth_K3[:, axis]) for axis in range(3)], axis=1)
    distances_s = np.abs(frame_times_s[:, None] - times_s).min(axis=1)
    return FaceTrack(boxes_T3, distances_s <= _HOLD_S)


@dataclass
class _Path:
    """The sightings of one face."""

    frames: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    area: float = 0.0
    last_s: float = -np.inf

    @property
    def mean_area(self) -> float:
        return self.area / len(self.frames)

    def add(self, frame: int, time_s: float, box: Box) -> None:
        self.last_s = time_s
        self.frames.append(frame)
        self.boxes.append(box)
        self.area += box[2] ** 2


class FaceSearch:
    """Looks for faces frame by frame, as the frames come."""

    def __init__(self, detector: FaceDetector) -> None:
        self._detector = detector
        self._paths: list[_Path] = []
        self._next_search_s = self._next_look_s = -np.inf
        self._num_searches = 0

    def look(self, frame: int, time_s: float, frame_HW: NDArray[np.uint8]) -> None:
        """Look at the next frame; most are passed over, because a face does not move far between two."""
        if time_s < self._next_search_s - 1e-6:
            return
        self._num_searches += 1
        self._next_search_s = time_s + _SEARCH_EVERY_S
        live = [path for path in self._paths if time_s - path.last_s <= _LOOK_AROUND_EVERY_S]
        boxes: list[Box] = []
        if time_s < self._next_look_s - 1e-6:
            boxes = _search(frame_HW, [path.boxes[-1] for path in live], self._detector)
        if not boxes:
            self._next_look_s = time_s + _LOOK_AROUND_EVERY_S
            boxes = _search(frame_HW, None, self._detector)
        for box in boxes:
            path = max(live, key=lambda path: _overlap(path.boxes[-1], box), default=None)
            if path is None or path.frames[-1] == frame or _overlap(path.boxes[-1], box) < _SAME_FACE_OVERLAP:
                path = _Path()
                self._paths.append(path)
            path.add(frame, time_s, box)

    def sightings(self) -> list[tuple[int, Box]]:
        """Where the speaker was seen so far: frames and boxes, in order."""
        return _of_speaker(self._faces())

    def box_at(self, time_s: float) -> Box | None:
        """Where the speaker's face is at the time of the frame that was looked at last; None when out of sight."""
        seen = [path for path in self._faces() if time_s - path.last_s <= _HOLD_S]
        return max(seen, key=lambda path: path.area).boxes[-1] if seen else None

    def _faces(self) -> list[_Path]:
        # A pattern on the wall looks like a face once, a face does so again.
        return [path for path in self._paths if len(path.frames) > 1 or self._num_searches < 3]


def _of_speaker(paths: list[_Path]) -> list[tuple[int, Box]]:
    """Sightings of the speaker in order: the largest path, and those that go on with it after a cut or a jump."""
    chosen: list[_Path] = []
    for path in sorted(paths, key=lambda path: -path.area):
        is_apart = all(path.frames[-1] < other.frames[0] or other.frames[-1] < path.frames[0] for other in chosen)
        if is_apart and (not chosen or path.mean_area > chosen[0].mean_area / 4):
            chosen.append(path)
    return sorted(sighting for path in chosen for sighting in zip(path.frames, path.boxes, strict=True))


def _search(frame_HW: NDArray[np.uint8], around: list[Box] | None, detector: FaceDetector) -> list[Box]:
    """Faces in a frame: everywhere, or one near each of the boxes, of nearly its size."""
    height, width = frame_HW.shape
    scale = min(1.0, _SEARCH_WIDTH / width)
    smallest = max(1, round(_SMALLEST_FACE * min(height, width) * scale))
    if scale < 1:
        small_size = (max(1, round(width * scale)), max(1, round(height * scale)))
        frame_HW = np.asarray(cv2.resize(frame_HW, small_size, interpolation=cv2.INTER_AREA), np.uint8)
    if around is None:
        return [_scaled(box, 1 / scale) for box in detector.find(frame_HW, smallest, 0, size_step=1.1)]
    found: list[Box] = []
    for box in around:
        centre_x, centre_y, side = _scaled(box, scale)
        left, top = max(0, int(centre_x - side)), max(0, int(centre_y - side))
        region_HW = frame_HW[top : int(centre_y + side) + 1, left : int(centre_x + side) + 1]
        near = detector.find(region_HW, int(side * 0.75), int(side * 1.35), size_step=1.15)
        if near:
            here = (centre_x - left, centre_y - top, side)
            x, y, new_side = max(near, key=lambda candidate: _overlap(candidate, here))
            found.append(_scaled((left + x, top + y, new_side), 1 / scale))
    return found


def _scaled(box: Box, factor: float) -> Box:
    return (box[0] * factor, box[1] * factor, box[2] * factor)


def _overlap(first: Box, second: Box) -> float:
    """Intersection over union of two squares."""
    reach = (first[2] + second[2]) / 2
    common = 1.0
    for axis in (0, 1):
        common *= max(0.0, min(reach - abs(first[axis] - second[axis]), first[2], second[2]))
    return common / (first[2] ** 2 + second[2] ** 2 - common)
