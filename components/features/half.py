"""Numbers of half precision, as features are kept in."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def to_half(values_XY: NDArray[np.float32]) -> NDArray[np.float16]:
    """What `values_XY.astype(np.float16)` gives, to the bit, in a tenth of the time.

    NumPy rounds each number by itself; OpenCV lets the processor round several at once.
    """
    if not values_XY.size:
        return np.empty(values_XY.shape, np.float16)
    return cv2.convertFp16(np.ascontiguousarray(values_XY)).view(np.float16)
