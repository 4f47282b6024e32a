"""The bundle answers its golden requests as it did when it was made, read from its files and served over HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from components import params
from components.bundle_files import GOLDEN_TOLERANCE
from components.gates.evidence import Evidence, Gate
from components.gates.verdict import GateResult


@dataclass(frozen=True)
class GoldenReproduced:
    """The bundle answers its golden requests as it did when it was made."""

    tolerance: float = GOLDEN_TOLERANCE
    name: str = "golden_reproduced"

    def judge(self, evidence: Evidence) -> GateResult:
        package = evidence.package
        error, where = evidence.golden_error, "read from its files"
        if package is not None and package.golden_error > error:
            error, where = package.golden_error, "asked over HTTP"
        passed = error <= self.tolerance
        what = "values, in lengths of the scale," if evidence.kind == "values" else "probabilities"
        message = f"golden {what} differ by at most {error:.1e} ({where}), allowed {self.tolerance:.1e}"
        if not passed:
            message += f": {error - self.tolerance:.1e} too much"
        return GateResult(self.name, passed, error, self.tolerance, None, None, message)


def gates(_settings: params.Gates, _evidence: Evidence) -> tuple[Gate, ...]:
    """The one comparison with the recorded answers."""
    return (GoldenReproduced(),)
