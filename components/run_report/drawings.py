"""The pictures of a run that its stages did not draw.

Q ranges of probability.
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from components import drawing

_LARGEST = 260.0


def reliability_diagram(mean_Q: NDArray[np.float64], share_Q: NDArray[np.float64], num_Q: NDArray[np.int64]) -> Canvas:
    """What was said against what came of it, and the line on which a calibrated model lies."""
    with mpl.rc_context(drawing.STYLE):
        canvas, [axes] = drawing.canvas_of(1, width=4.6, height=4.4)
        axes.plot([0, 1], [0, 1], color=drawing.SECOND, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot(mean_Q, share_Q, color=drawing.ACCENT, linewidth=1, alpha=0.5)
        axes.scatter(mean_Q, share_Q, s=20 + _LARGEST * num_Q / num_Q.max(), color=drawing.ACCENT, alpha=0.75)
        axes.set(xlabel="probability that was given", ylabel="share that was so", xlim=(0, 1.02), ylim=(-0.02, 1.02))
        axes.grid(color=drawing.GRID)
        axes.set_axisbelow(True)
    return canvas
