"""The report as a process: read what a run left, and write its page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from components import run_record
from components.registry import Release
from components.run_report import build, gather
from components.stage import run_stage
from components.storage import write_atomically


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report of a run."""
    parser = argparse.ArgumentParser(prog="python -m components.run_report", description=main.__doc__)
    parser.add_argument("--record", type=Path, required=True, help="what became of the run, as JSON")
    parser.add_argument("--champion", type=Path, help="record of the release that was live, as JSON")
    parser.add_argument("--build", type=Path, default=Path("build"), help="folder of the stages' outputs")
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args(arguments)
    record = run_record.parse(asked.record.read_bytes())
    champion = TypeAdapter(Release).validate_json(asked.champion.read_bytes()) if asked.champion else None
    write_atomically(asked.output, build(gather(record, champion, asked.build)).encode())


if __name__ == "__main__":
    run_stage(main)
