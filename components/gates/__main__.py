"""The gates as a process: judge a bundle, and write the verdict.

The status is 0 whatever the verdict: the caller reads it from the file and decides.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from components import params
from components.gates import gates_of, judge, to_json
from components.gates.gathering import gather
from components.stage import run_stage
from components.storage import write_atomically


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge a bundle and write the verdict."""
    parser = argparse.ArgumentParser(prog="python -m components.gates", description=main.__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("build/bundle"), help="the candidate")
    parser.add_argument("--champion", default="none", help="folder of the champion's bundle, or none")
    parser.add_argument("--package", type=Path, help="what serving.package_check measured of the candidate")
    parser.add_argument("--build", type=Path, default=Path("build"), help="folder of the stages' outputs")
    parser.add_argument("--output", type=Path, default=Path("build/gates.json"))
    asked = parser.parse_args(arguments)
    champion = None if asked.champion == "none" else Path(asked.champion)
    settings = params.load_params(asked.build / "params.yaml").gates
    evidence = gather(asked.bundle, champion, settings=settings, build=asked.build, package=asked.package)
    verdict = judge(gates_of(settings, evidence), evidence)
    write_atomically(asked.output, to_json(verdict).encode())
    for result in verdict.gates:
        print(f"{'passed' if result.passed else 'FAILED'}  {result.name}: {result.message}")


if __name__ == "__main__":
    run_stage(main)
