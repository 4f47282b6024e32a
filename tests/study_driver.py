"""A study as a process of its own, without the flow around it, so that a test can kill it.

`python -m tests.study_driver CHOICES_JSON` prints one JSON line for each job that ends and one at the end.
"""

from __future__ import annotations

import json
import sys

from components.settings import load as load_settings
from components.study import StudyChoices
from flows import study_runs
from flows.study import write_report
from flows.study_runs import Ended


def main() -> None:
    settings = load_settings()
    prepared = study_runs.prepare(StudyChoices.model_validate_json(sys.argv[1]), settings)

    def tell(ended: Ended, number: int, total: int) -> None:
        line = {"stage": ended.job.stage, "runs": ended.job.runs, "error": ended.error, "number": number, "of": total}
        print(json.dumps(line), flush=True)

    study_runs.carry_out(prepared, settings, tell)
    built = write_report(prepared, settings)
    print(json.dumps({"study": prepared.digest, "runs": built.summary["runs"]}), flush=True)


if __name__ == "__main__":
    main()
