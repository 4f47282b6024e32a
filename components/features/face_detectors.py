"""What finds faces in one picture: OpenCV's bundled cascade, or a YuNet network in an ONNX file.

YuNet (Wu, Peng and Yu 2023) is read by OpenCV itself. It sees faces that the cascade does not, from the side and in
poor light; pictures are grey here, and it is given the same grey in its three colours.

H and W pixels of a picture.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from pathlib import Path
from typing import Final, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from components.params import Features, VideoFeatures

Box = tuple[float, float, float]  # centre x, centre y, side, in pixels

# From which score on a find counts, as OpenCV presets it.
_YUNET_SCORE: Final = 0.9
_TRIAL_SIZE: Final = 64
FACE_MODEL: Final = "face_model.onnx"  # what the file is called beside the settings that were used with it
_REMEDY: Final = "name a file such as face_detection_yunet_2023mar.onnx of OpenCV's model zoo"


class FaceDetector(Protocol):
    """Finds the faces of a grey picture."""

    def find(self, picture_HW: NDArray[np.uint8], smallest: int, largest: int, *, size_step: float) -> list[Box]:
        """Faces with a side between two lengths (largest 0: any), in order; sizes are tried in steps of a factor."""
        ...


class Cascade:
    """OpenCV's frontal face cascade."""

    def __init__(self) -> None:
        folder = Path(cv2.__file__).parent / "data"
        self._cascade = cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))

    def find(self, picture_HW: NDArray[np.uint8], smallest: int, largest: int, *, size_step: float) -> list[Box]:
        if min(picture_HW.shape) < smallest:
            return []
        corners = self._cascade.detectMultiScale(
            np.ascontiguousarray(picture_HW),
            scaleFactor=size_step,
            minNeighbors=4,
            minSize=(smallest, smallest),
            maxSize=(largest, largest),
        )
        return sorted((x + side / 2, y + side / 2, float(side)) for x, y, side, _ in np.asarray(corners).tolist())


class YuNet:
    """A YuNet network.

    Args:
        content: of its ONNX file.

    Raises:
        ValueError: it is no ONNX file, or one of another network.
    """

    def __init__(self, content: bytes) -> None:
        nothing = np.zeros(0, np.uint8)
        side = (_TRIAL_SIZE, _TRIAL_SIZE)
        try:
            network = cv2.FaceDetectorYN.create("onnx", np.frombuffer(content, np.uint8), nothing, side, _YUNET_SCORE)
            network.detect(np.zeros((*side, 3), np.uint8))
        except cv2.error as error:
            raise ValueError(f"no YuNet network ({' '.join(str(error.err or error).split())})") from error
        self._network = network

    def find(self, picture_HW: NDArray[np.uint8], smallest: int, largest: int, *, size_step: float) -> list[Box]:
        del size_step  # One pass sees all sizes.
        height, width = picture_HW.shape
        if not picture_HW.size:
            return []
        self._network.setInputSize((width, height))
        _, rows = self._network.detect(cv2.cvtColor(picture_HW, cv2.COLOR_GRAY2BGR))
        found = [] if rows is None else np.asarray(rows, np.float64)[:, :4].tolist()
        # A face is higher than wide; what follows it is a square of as many pixels.
        boxes = [(x + wide / 2, y + high / 2, float(np.sqrt(wide * high))) for x, y, wide, high in found]
        return sorted(box for box in boxes if smallest <= box[2] and (not largest or box[2] <= largest))


class _Detectors(threading.local):
    """The detectors of a thread: they keep their working memory inside."""

    @functools.cached_property
    def cascade(self) -> Cascade:
        # More threads find the same faces in another order, and Ray and the server have one process a core.
        cv2.setNumThreads(1)
        return Cascade()

    @functools.cached_property
    def networks(self) -> dict[str, YuNet]:
        cv2.setNumThreads(1)
        return {}


_detectors = _Detectors()


def detector_of(config: VideoFeatures) -> FaceDetector:
    """This thread's detector of these settings.

    Raises:
        ValueError: the file that they name is missing or damaged, or is another one than the features were made with.
    """
    if config.face_model is None:
        return _detectors.cascade
    networks, key = _detectors.networks, f"{config.face_model} {config.face_model_digest}"
    if key not in networks:
        content = read_face_model(config)
        networks[key] = _yunet(content, config.face_model)
    return networks[key]


def read_face_model(config: VideoFeatures) -> bytes:
    """The content of the file that the settings name.

    Raises:
        ValueError: it cannot be read, or its digest is not the one that the settings hold.
    """
    assert config.face_model is not None
    try:
        content = Path(config.face_model).read_bytes()
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise ValueError(f"features.video.face_model {config.face_model}: {reason}; {_REMEDY}") from error
    digest = _digest(content)
    if config.face_model_digest not in (None, digest):
        raise ValueError(
            f"features.video.face_model {config.face_model} is another file than the features were made with "
            f"({digest}, not {config.face_model_digest}): bring that one back, or start the run again"
        )
    return content


def identified(config: VideoFeatures) -> VideoFeatures:
    """The settings with the digest of the file that they name, which was tried on a picture.

    Raises:
        ValueError: the file is missing, is no YuNet network, or is another one than the settings say.
    """
    if config.face_model is None:
        return config
    content = read_face_model(config)
    _yunet(content, config.face_model)
    return config.model_copy(update={"face_model_digest": _digest(content)})


def placed(config: Features, folder: Path) -> Features:
    """The settings with the face model's file in a folder of features or of a bundle; without one, as they are."""
    if config.video.face_model is None:
        return config
    video = config.video.model_copy(update={"face_model": str(folder.absolute() / FACE_MODEL)})
    return config.model_copy(update={"video": video})


def _yunet(content: bytes, name: str) -> YuNet:
    try:
        return YuNet(content)
    except ValueError as error:
        raise ValueError(f"features.video.face_model {name} is {error}: {_REMEDY}") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
