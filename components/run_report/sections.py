"""The sections of a run's report, each told from what the run left; one that has nothing to tell is left out."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime

import numpy as np

from components import datasets, drawing, metrics, params, pictures
from components.markup import Html, details, element, facts, joined, picture, section, table
from components.metrics import Interval
from components.metrics_calibration import reliability as reliability_of
from components.report import HEADLINES, ClassReport
from components.run_record import StageResult
from components.run_report import changes as found_changes
from components.run_report.answers import groups
from components.run_report.changes import Change
from components.run_report.drawings import reliability_diagram
from components.run_report.gathering import Run

_NONE = "–"
_TITLES = {"macro_f1": "macro-F1", "ua": "UA, the mean recall", "wa": "WA, the share that is right"}


def summary(run: Run) -> Html:
    """How it ended, and its names."""
    record = run.record
    parts: list[object] = []
    if record.outcome == "failed":
        parts.append(element("p", element("b", "Failed: "), record.error, kind="notice failure"))
    else:
        told = {
            "promoted": f"Promoted: release {record.release} is live.",
            "unchanged": f"Unchanged: release {record.release} is this very model, and stays live.",
        }
        parts.append(element("p", told.get(record.outcome, record.outcome), kind="lead"))
    if run.params and isinstance(datasets.load(run.params.finetune_on.dataset), datasets.GeneratedModule):
        parts.append(
            element("p", "The recordings are synthetic: no figure here says anything about people.", kind="notice")
        )
    if run.figures and run.figures.selected_on == "test":
        parts.append(element("p", "The epoch was chosen on the test speakers: figures are too good.", kind="notice"))
    known = {
        "run": joined([element("code", record.digest), ", in Prefect ", element("code", record.run_id)]),
        "began": f"{_moment(record.started_at)}{_lasted(record.started_at, record.ended_at)}",
        "code": element("code", record.commit or "commit unknown"),
    }
    return joined([*parts, facts(known)])


def gates(run: Run) -> Html:
    """Every gate with what it measured."""
    if not run.record.gates:
        return Html("")
    rows: list[tuple[str, Sequence[object]]] = [
        (
            "" if gate.passed else "failed",
            [
                gate.name,
                "passed" if gate.passed else element("b", "FAILED"),
                _NONE if gate.value is None else _number(gate.value),
                gate.interval or _NONE,
                _number(gate.threshold),
                element("div", gate.message, kind="told"),
            ],
        )
        for gate in run.record.gates
    ]
    failed = sum(not gate.passed for gate in run.record.gates)
    told = f"{failed} of {len(rows)} gates did not let it pass." if failed else f"It passed all {len(rows)} gates."
    head = ["gate", "verdict", "#value", "#95 % interval", "#threshold", "what it says"]
    return section("Gates", element("p", told), table(head, rows), name="gates")


def changes(run: Run) -> Html:
    """What differs from the release that was live."""
    champion, record = run.champion, run.record
    title = "What changed since the champion"
    if champion is None:
        return section(title, element("p", "Nothing was live: this is the first model."), name="changes")
    told = f"Against release {champion.number}, version {champion.version}, made {_moment(champion.created_at)}."
    parts: list[object] = [element("p", told)]
    if champion.run == record.digest:
        parts.append(element("p", "It is the same run: data, code and parameters are equal."))
        return section(title, *parts, name="changes")
    if champion.commit == record.commit and record.commit.endswith("+"):
        told = f"code: commit {record.commit[:-1]} in both, each with changes that were not committed."
        parts.append(element("p", told, kind="soft"))
    else:
        code = [] if champion.commit == record.commit else [Change("commit", champion.commit, record.commit)]
        parts.append(_changed("code", code))
    parts.append(_changed("data, by md5", found_changes.of_data(champion.data, run.data) if run.data else []))
    if not champion.params:
        parts.append(element("p", "The release does not tell its parameters: it was made before they were kept."))
    elif run.params is not None:
        now = run.params.model_dump(mode="json")
        parts.append(_changed("parameters", found_changes.of_params(champion.params, now)))
    return section(title, *parts, name="changes")


def _changed(what: str, found: Sequence[Change]) -> Html:
    if not found:
        return element("p", f"{what}: the same.", kind="soft")
    rows = [("", [each.name, _code(each.before), _code(each.now)]) for each in found]
    return table([what, "champion", "this run"], rows)


def _code(value: str) -> object:
    return element("code", value) if value else _NONE


def figures(run: Run) -> Html:
    """The figures on test speakers, beside those with which the champion was released."""
    if run.figures is None:
        return Html("")
    headline = HEADLINES[run.figures.kind]
    before = run.champion.metrics if run.champion else {}
    compared = next((gate for gate in run.record.gates if gate.name == "not_worse_than_champion"), None)
    rows = []
    for name, figure in run.figures.figures.items():
        paired: object = _NONE
        if name == headline.name and compared and compared.value is not None:
            paired = f"{compared.value:+.3f} [{compared.low:+.3f}, {compared.high:+.3f}]"
        title = _TITLES.get(name, name.replace("_", " "))
        rows.append(("", [title, _interval(figure), _interval(before.get(name)), paired]))
    head = ["figure", "#this run", "#the champion, when released", "#difference on the same clips"]
    caption = (
        f"On {run.figures.num_clips} clips of {run.figures.num_speakers} held-out speakers; 95 % intervals by "
        "bootstrap over speakers. The difference is paired: both models on this run's test clips."
    )
    subsets = [("", [name, f"{value:.3f}"]) for name, value in run.figures.subsets.items()]
    return section(
        "Figures",
        table(head, rows, caption=caption),
        table(["from these modalities alone", f"#{headline.words}"], subsets),
        name="figures",
    )


def curves(run: Run) -> Html:
    """The losses of the trainings by epoch."""
    if not run.curves:
        return Html("")
    drawn = drawing.losses({stage: [curve] for stage, curve in run.curves.items()})
    shown = picture(drawing.svg(drawn), alt="Losses by epoch", caption="The epoch is chosen on validation speakers.")
    return section("Loss curves", shown, name="curves")


def answers(run: Run) -> Html:
    """What was answered: of classes the confusion matrix; and each label's own figures."""
    if run.figures is None:
        return Html("")
    file = run.build / "evaluation" / pictures.FILES[run.figures.kind]
    address = f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
    if isinstance(run.figures, ClassReport):
        rows = [("", [label, f"{value:.3f}"]) for label, value in run.figures.per_class_f1.items()]
        shown = picture(address, alt="Confusion matrix", caption="Clips by what they are and what was answered.")
        return section("Confusion matrix", shown, table(["label", "#F1"], rows), name="answers")
    names = list(dict.fromkeys(name for each in run.figures.by_label.values() for name in each))
    by_label = [
        ("", [label, *(_interval(found.get(name)) for name in names)]) for label, found in run.figures.by_label.items()
    ]
    head = ["label", *(f"#{name.replace('_', ' ')}" for name in names)]
    shown = picture(address, alt="Answers by label", caption="Label by label, on held-out speakers.")
    return section("Answers", shown, table(head, by_label), name="answers")


def reliability(run: Run) -> Html:
    """How often the model is right when it says how sure it is."""
    calibration = run.answers.calibration() if run.answers else None
    if calibration is None:
        return Html("")
    mean_Q, share_Q, num_Q = reliability_of(calibration)
    drawn = reliability_diagram(mean_Q, share_Q, num_Q)
    error = float(np.abs(mean_Q - share_Q) @ num_Q / num_Q.sum())
    caption = (
        f"A dot a range of probability, larger the more clips it has; on the line, what is said with 80 % is so in 80 "
        f"of 100 clips. Expected calibration error {error:.3f}."
    )
    return section(
        "Reliability", picture(drawing.svg(drawn), alt="Reliability diagram", caption=caption), name="reliability"
    )


def slices(run: Run) -> Html:
    """The headline figure of each group of speakers and recordings that is large enough."""
    if run.answers is None or run.figures is None or run.params is None:
        return Html("")
    settings, headline = run.params.gates, HEADLINES[run.figures.kind]
    judged = {gate.name: gate for gate in run.record.gates}
    rows: list[tuple[str, Sequence[object]]] = []
    for name, is_in_N in groups(run.answers, run.build, min_clips=settings.min_slice_clips).items():
        scored = run.answers.outcomes(is_in_N)
        if not np.isfinite(metrics.figure(scored, headline.metric)):
            continue
        own = metrics.bootstrap_by_speaker(scored, metric=headline.metric, num_resamples=settings.num_resamples)
        gate = judged.get(f"slice/{name}")
        group = name.replace("_", " ").replace("=", ": ")
        told = element("div", gate.message if gate else "not judged", kind="told")
        cells = [group, int(is_in_N.sum()), _interval(own), told]
        rows.append(("failed" if gate and not gate.passed else "", cells))
    if not rows:
        none = f"No group that is known has {settings.min_slice_clips} test clips of two speakers."
        return section("Groups of speakers and recordings", element("p", none), name="slices")
    head = ["group", "#test clips", f"#{headline.words}", "what its gate says"]
    return section("Groups of speakers and recordings", table(head, rows), name="slices")


def cost(run: Run) -> Html:
    """The time of each stage, and what it used."""
    done = (*run.record.stages, *run.record.checks)
    if not done:
        return Html("")
    has_gpu = any(each.gpu_s for each in done)
    total = StageResult(
        "all",
        "ran",
        sum(each.duration_s for each in done),
        sum(each.cpu_s for each in done),
        sum(each.gpu_s for each in done),
    )
    rows = [("", [each.stage, each.outcome, *_used(each, has_gpu)]) for each in done]
    rows.append(("group", ["all", "", *_used(total, has_gpu)]))
    head = ["stage", "what was done", "#time", "#processors", *(["#GPUs"] if has_gpu else [])]
    used = f"{total.cpu_s / 3600:.3f} CPU hours" + (f" and {total.gpu_s / 3600:.3f} GPU hours" if has_gpu else "")
    caption = (
        "Processor time is that of the stage's own processes and its workers on Ray; what an earlier, interrupted try "
        "used is not in it. A stage that was unchanged or restored cost what it took to see that."
    )
    return section("Cost", element("p", f"{used}."), table(head, rows, caption=caption), name="cost")


def _used(each: StageResult, has_gpu: bool) -> list[object]:
    return [_time(each.duration_s), _time(each.cpu_s), *([_time(each.gpu_s)] if has_gpu else [])]


def parameters(run: Run) -> Html:
    """All parameters and data, for whoever wants to build it again."""
    if run.params is None:
        return Html("")
    data = [("", [name, element("code", md5)]) for name, md5 in run.data.items()]
    return section(
        "What it was made from",
        table(["data", "md5"], data) if data else "",
        details("all parameters", element("pre", params.to_yaml(run.params))),
        name="parameters",
    )


def _interval(figure: Interval | None) -> object:
    if figure is None:
        return _NONE
    ends = element("span", f"[{figure.low:.3f}, {figure.high:.3f}]", kind="interval")
    return joined([f"{figure.value:.3f} ", ends])


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _moment(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M} UTC"


def _lasted(began: str, ended: str) -> str:
    if not ended:
        return ""
    return f", and took {_time((datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds())}"
