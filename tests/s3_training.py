"""A small training whose states go to an object store: run by `tests.test_training_on_s3`, which kills parts of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from components import cluster
from components.cluster import Job
from components.masking import MaskSettings
from components.objectives import MaskedModelling
from components.stage import one_line_errors
from components.training import FitSettings
from tests.toy_clips import SlowClips, toy_model

NAME: Final = "killed"
SETTINGS: Final = FitSettings(num_epochs=8, batch_size=8, learning_rate=3e-3, seed=1, checkpoint_every_steps=1)
OBJECTIVE: Final = MaskedModelling(MaskSettings(0.3, 2, 0.3))


def main(folder: Path) -> None:
    """Go on with the training; each worker leaves its number in the folder."""
    with one_line_errors():
        clips = SlowClips(folder, read_s=0.02)
        job = Job(NAME, "pretrain", toy_model(), clips, None, OBJECTIVE, SETTINGS, num_workers=1)
        cluster.train(job)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
