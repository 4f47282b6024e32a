"""The speaker's face as gradient histograms, or as a frozen encoder sees it: one descriptor a frame.

Steps in which `faces` does not see the face are zeros, and a clip without any face has no steps at all.

Shapes: T frames, H and W pixels, S side of the face crop, R and C rows and columns of cells, O orientations,
F features: R * C * O of histograms.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from components.features import encoders
from components.features.faces import track_face
from components.params import VideoFeatures

# Mean and deviation of the normalised histograms' values over talking faces; fixed, as in `audio`.
HISTOGRAM_CENTRE = 0.26
HISTOGRAM_SCALE = 0.25

_CROP_DROP = 0.06  # share of its side by which the cascade's box is lowered: an opened mouth needs room below
_BLOCK_FRAMES = 32


def video_width(config: VideoFeatures) -> int:
    """Features F of one step."""
    if config.precomputed is not None:
        return config.precomputed.width
    if config.kind == "encoder":
        return encoders.picture_width(config.path or "")
    return _cells_a_side(config) ** 2 * config.num_orientations


def video_step_s(config: VideoFeatures) -> float:
    """Seconds from one step to the next."""
    if config.precomputed is not None:
        return config.precomputed.step_s
    return 1.0 / config.frame_rate_hz


def describe(
    frames_THW: NDArray[np.uint8], frame_times_s: NDArray[np.float64], config: VideoFeatures
) -> tuple[NDArray[np.float16], float]:
    """Describe the speaker's face in each frame: (T, F) float16, and the share of frames in which it is seen.

    Without a face anywhere the result has no steps and the share is 0. Frames in which the face is out of sight
    are rows of zeros.
    """
    track = track_face(frames_THW, frame_times_s, config)
    if track is None:
        return np.zeros((0, video_width(config)), np.float16), 0.0
    side = crop_side(config)
    features_TF = np.zeros((len(frames_THW), video_width(config)), np.float16)
    for first in range(0, len(frames_THW), _BLOCK_FRAMES):
        steps = slice(first, first + _BLOCK_FRAMES)
        faces_TSS = np.stack(
            [crop(frame_HW, box, side) for frame_HW, box in zip(frames_THW[steps], track.boxes_T3[steps], strict=True)]
        )
        features_TF[steps] = describe_faces(faces_TSS, config) * track.is_seen_T[steps, None]
    return features_TF, float(track.is_seen_T.mean())


def describe_faces(faces_TSS: NDArray[np.uint8], config: VideoFeatures) -> NDArray[np.floating]:
    """(T, F) of face crops; histograms are contrast-normalised (see `histograms`) and mapped by a fixed affine map."""
    if config.kind == "encoder":
        return encoders.encode_pictures(faces_TSS, config.path or "")
    return (histograms(faces_TSS, config) - HISTOGRAM_CENTRE) / HISTOGRAM_SCALE


def crop(frame_HW: NDArray[np.uint8], box: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    """The face as a (side, side) picture; beyond the frame its border goes on.

    Larger faces are sampled at a whole multiple of `side` and averaged, so that nothing aliases.
    """
    centre_x, centre_y, face_side = box
    centre_y += face_side * _CROP_DROP
    factor = max(1, round(face_side / side))
    scale = face_side / (side * factor)
    centre = (side * factor - 1) / 2
    matrix = np.array([[scale, 0, centre_x - centre * scale], [0, scale, centre_y - centre * scale]])
    sampled = cv2.warpAffine(
        frame_HW,
        matrix,
        (side * factor, side * factor),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if factor > 1:
        sampled = cv2.resize(sampled, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(sampled, np.uint8)


def histograms(faces_TSS: NDArray[np.uint8], config: VideoFeatures) -> NDArray[np.float32]:
    """Histograms of oriented gradients of face crops: (T, F) in [0, 1] (Dalal and Triggs 2005).

    Central differences; unsigned orientation shared linearly between its two nearest bins; sums over cells. Each
    cell is divided by the root mean energy of the cells around it plus a hundredth of the face's, and cut at one:
    neither light nor contrast matters, and bare skin stays near zero.
    """
    num_frames, cells, size = len(faces_TSS), _cells_a_side(config), config.cell_size
    pixels_TSS = np.pad(faces_TSS, ((0, 0), (1, 1), (1, 1)), mode="edge").astype(np.float32)
    along_x = pixels_TSS[:, 1:-1, 2:] - pixels_TSS[:, 1:-1, :-2]
    along_y = pixels_TSS[:, 2:, 1:-1] - pixels_TSS[:, :-2, 1:-1]
    magnitude = np.sqrt(along_x * along_x + along_y * along_y)
    position = np.arctan2(along_y, along_x) * np.float32(config.num_orientations / np.pi)
    position[position < 0] += config.num_orientations
    cells_TRCO = np.empty((num_frames, cells, cells, config.num_orientations), np.float32)
    for orientation in range(config.num_orientations):
        distance = np.abs(position - np.float32(orientation))
        distance = np.minimum(distance, config.num_orientations - distance)
        share = magnitude * np.maximum(1 - distance, 0)
        cells_TRCO[..., orientation] = share.reshape(num_frames, cells, size, cells, size).sum(axis=(2, 4))
    energy_TRC = np.square(cells_TRCO).sum(axis=-1)
    face_energy_T11 = energy_TRC.mean(axis=(1, 2), keepdims=True)
    norm_TRC = np.sqrt(_mean_around(energy_TRC) + np.float32(0.01) * face_energy_T11 + np.float32(1e-6))
    values_TRCO: NDArray[np.float32] = np.minimum(cells_TRCO / norm_TRC[..., None], 1)
    return values_TRCO.reshape(num_frames, -1)


def _mean_around(energy_TRC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over each cell's 3 x 3 neighbourhood, the border cells repeated beyond the border."""
    rows, columns = energy_TRC.shape[1:]
    padded = np.pad(energy_TRC, ((0, 0), (1, 1), (1, 1)), mode="edge")
    total = np.zeros_like(energy_TRC)
    for row in range(3):
        for column in range(3):
            total += padded[:, row : row + rows, column : column + columns]
    return total / np.float32(9)


def crop_side(config: VideoFeatures) -> int:
    """Side of the face crops in pixels."""
    if config.kind == "encoder":
        return encoders.picture_side(config.path or "")
    return _cells_a_side(config) * config.cell_size


def _cells_a_side(config: VideoFeatures) -> int:
    cells = config.face_size // config.cell_size
    if cells == 0:
        raise ValueError(
            f"features.video.cell_size {config.cell_size} is larger than face_size {config.face_size}: make it smaller"
        )
    return cells
