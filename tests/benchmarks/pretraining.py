"""What pre-training is worth on the synthetic corpus: the same fine-tuning with and without it."""

from __future__ import annotations

from collections.abc import Callable

from components.metrics import Outcomes, bootstrap_by_speaker, paired_bootstrap
from components.params import Choices, with_setting
from tests.benchmarks.pipeline import build, one_ray, outcomes, pooled
from tests.benchmarks.run import Result, runs_of

SEEDS = (0, 1, 2)
LABEL_SHARES = (1.0, 0.1)


def measure(tell: Callable[[str], None]) -> list[Result]:
    """Macro-F1 on held-out synthetic speakers, pre-trained minus from scratch, at all and at a tenth of the labels."""
    results = []
    with one_ray() as settings:
        for share in LABEL_SHARES:
            answers: dict[bool, list[Outcomes]] = {True: [], False: []}
            for seed in SEEDS:
                for pretrained in (True, False):
                    choices = Choices(seed=seed)
                    for setting in (f"pretrain.enabled={str(pretrained).lower()}", f"finetune.label_share={share}"):
                        choices = with_setting(choices, setting)
                    answers[pretrained].append(outcomes(build(choices, settings, until="evaluate")))
                    figure = bootstrap_by_speaker(answers[pretrained][-1])
                    tell(f"labels {share:.0%}, seed {seed}, {'pre-trained' if pretrained else 'scratch'}: {figure}")
            results += _compare(share, answers[True], answers[False])
    return results


def _compare(share: float, pretrained: list[Outcomes], scratch: list[Outcomes]) -> list[Result]:
    how = (
        f"synthetic corpus, recipe quick, {share:.0%} of the labels, seeds {', '.join(map(str, SEEDS))}, held-out "
        "speakers, epoch chosen on validation speakers, interval by bootstrap over speakers"
    )
    name = f"pretraining.synthetic.labels_{share * 100:.0f}"
    results = []
    for system, parts in (("pretrained", pretrained), ("scratch", scratch)):
        figure = bootstrap_by_speaker(pooled(parts))
        runs = runs_of([bootstrap_by_speaker(part).value for part in parts])
        results.append(
            Result(f"{name}.{system}", figure.value, "macro-F1", "higher", None, runs, how, figure.low, figure.high)
        )
    gain = paired_bootstrap(pooled(pretrained), pooled(scratch))
    gains = [paired_bootstrap(one, two).value for one, two in zip(pretrained, scratch, strict=True)]
    results.append(
        Result(f"{name}.gain", gain.value, "macro-F1", "higher", 0.0, runs_of(gains), how, gain.low, gain.high)
    )
    return results
