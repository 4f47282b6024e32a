"""Gates: what a new bundle must show before it may be served. Every gate judges, and every verdict is shown.

    python -m components.gates --champion FOLDER --package build/package.json --output build/gates.json

A module of this folder is a kind of gate, with its settings in `params.Gates`. It makes its gates from the settings
and from what there is to judge: as many as there are groups of speakers, modalities or disturbances.
"""

from __future__ import annotations

from collections.abc import Sequence

from components import params
from components.gates import (
    calibration,
    champion,
    floor,
    golden,
    missing_modality,
    package,
    robustness,
    slices,
)
from components.gates.evidence import Evidence, Gate
from components.gates.verdict import GateResult, Verdict, read_verdict, to_json

__all__ = ["Evidence", "Gate", "GateResult", "Verdict", "gates_of", "judge", "read_verdict", "to_json"]

# In the order in which they are shown.
_KINDS = (floor, champion, slices, missing_modality, robustness, calibration, package, golden)


def gates_of(settings: params.Gates, evidence: Evidence) -> tuple[Gate, ...]:
    """The gates of a run, as its parameters set them for what there is to judge."""
    return tuple(gate for kind in _KINDS for gate in kind.gates(settings, evidence))


def judge(gates: Sequence[Gate], evidence: Evidence) -> Verdict:
    """Let every gate judge, also after one has failed: whoever reads it wants to know all that is wrong."""
    results = tuple(gate.judge(evidence) for gate in gates)
    return Verdict(evidence.candidate_version, evidence.champion_version, results)
