"""The `affect` command: start the platform, train, predict, and see what is live."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from components.params import Choices, Corpus, load_choices, resolve, with_setting
from components.settings import PROJECT_ROOT, Settings
from components.settings import load as load_settings
from components.stage import one_line
from flows.consoles import plain_console

app = typer.Typer(
    name="affect",
    help="Emotion recognition from audio, video and words: train, gate, serve, and start again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

bento = typer.Typer(help="The champion as one portable archive, which any BentoML serves.", no_args_is_help=True)
app.add_typer(bento, name="bento")
keys = typer.Typer(help="Make, list and remove the endpoint's API keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")

trial = typer.Typer(help="Try a model beside the live one, on a share of the live requests.", no_args_is_help=True)
app.add_typer(trial, name="trial")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else.")]

_messages = plain_console(stderr=True)


@app.command()
def up(as_json: AsJson = False) -> None:
    """Start the platform on this machine: Prefect with its UI, Ray, the deployments and the endpoint."""
    from flows import laptop

    with _told_errors():
        settings = load_settings()
        laptop.up(settings, _tell)
        _show_status(settings, as_json)


@app.command()
def down(as_json: AsJson = False) -> None:
    """End the platform and every process that belongs to it. Data, models and releases stay."""
    from flows import laptop

    with _told_errors():
        count = laptop.down(load_settings())
        _answer({"ended_processes": count}, as_json, lambda: print(f"ended {count} processes"))


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show what runs, where, which release is live, and what the last run changed, measured and used."""
    with _told_errors():
        _show_status(load_settings(), as_json)


@app.command()
def retrain(
    recipe: Annotated[str | None, typer.Option(help="System and settings: a file of components/recipes.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Labelled corpus: synthetic, ravdess, table, ...")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the corpus, or the table's file.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of splits, weights and batches.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, such as finetune.num_epochs=3 or gates.min_macro_f1=0.6."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the retrain deployment as the Run button does, and follow it to its end.

    What is not given comes from params.yaml. Ctrl-C cancels the run; the same command goes on where it stopped.
    """
    from flows import following, summary

    with _told_errors():
        settings = load_settings()
        choices = _choices(recipe, dataset, data_root, seed, setting or [])
        run_id = following.start("retrain/retrain", {"choices": choices.model_dump(mode="json")}, settings)
        _tell(f"run {settings.prefect_url}/runs/flow-run/{run_id}")
        state = following.follow(run_id, settings)
        outcome = summary.of_run(run_id, state, settings)
        _answer(outcome, as_json, lambda: summary.show(outcome))
        if not state.is_completed():
            sys.exit(1)


@app.command()
def study(
    recipe: Annotated[str | None, typer.Option(help="System and settings: a file of components/recipes.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Labelled corpus: synthetic, ravdess, table, ...")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the corpus, or the table's file.")] = None,
    num_folds: Annotated[int | None, typer.Option(help="Folds of speakers instead of a published division.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2.")] = None,
    labels: Annotated[str | None, typer.Option(help="Shares of the training labels, such as 1,0.1.")] = None,
    modalities: Annotated[str | None, typer.Option(help="all, each subset, or some: audio,audio+video.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="A choice of the study or a setting of the recipe: parallel=2, model.width=64."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare a system as the papers do, over folds, seeds, pre-training and shares of the labels; one HTML report.

    Ctrl-C cancels it; the same command goes on with the runs that have no figures yet.
    """
    from flows import following, study_command

    with _told_errors():
        settings = load_settings()
        corpus = _corpus(load_choices(PROJECT_ROOT / "params.yaml"), dataset, data_root)
        lists = {"seeds": seeds, "label_shares": labels, "modalities": modalities}
        options = {"num_folds": num_folds, **{name: text and text.split(",") for name, text in lists.items()}}
        choices = study_command.choices_of(recipe, corpus, options=options, assignments=setting or [])
        run_id = following.start("study/study", {"choices": choices.model_dump(mode="json")}, settings)
        _tell(f"run {settings.prefect_url}/runs/flow-run/{run_id}")
        state = following.follow(run_id, settings)
        outcome = study_command.outcome_of(run_id, state, settings)
        _answer(outcome, as_json, lambda: study_command.show(outcome))
        if not state.is_completed():
            sys.exit(1)


@app.command()
def predict(
    clip: Annotated[Path | None, typer.Argument(help="Recording; none takes one that no training has seen.")] = None,
    text: Annotated[str | None, typer.Option(help="The words that are said in it.")] = None,
    url: Annotated[str | None, typer.Option(help="Endpoint; the laptop's when not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask the endpoint for the emotion of a recording, of words, or of both."""
    from components import media
    from flows import summary
    from serving.client import Client
    from serving.keys import own_key

    with _told_errors():
        settings = load_settings()
        known = None
        if clip is None and text is None:
            known = summary.held_out_clip(settings)
            clip, text = known.path, known.transcript
        url = url or settings.endpoint_url
        with Client(url, key=own_key(settings, url)) as client:
            if clip is not None and not media.probe(clip).has_video:
                answer = client.predict(audio=clip, text=text)
            else:
                answer = client.predict(clip, text=text)
        document = answer.model_dump(mode="json")
        if known:
            document["clip"] = {"path": str(known.path), "speaker": known.speaker_id, "actual": known.actual}
        _answer(document, as_json, lambda: summary.show_prediction(document))


@app.command()
def monitor(
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the section monitor, such as window_h=1.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the last requests with what the live model was trained on, now, as the hourly schedule does."""
    from flows import following, monitor_command

    with _told_errors():
        settings = load_settings()
        chosen = monitor_command.settings_of(setting or [])
        run_id = following.start("monitor/monitor", {"settings": chosen.model_dump(mode="json")}, settings)
        _tell(f"run {settings.prefect_url}/runs/flow-run/{run_id}")
        state = following.follow(run_id, settings)
        outcome = monitor_command.outcome_of(run_id, state, settings)
        _answer(outcome, as_json, lambda: monitor_command.show(outcome))
        if not state.is_completed():
            sys.exit(1)


@app.command()
def releases(as_json: AsJson = False) -> None:
    """List what was live when, and why."""
    from components.registry import Registry
    from components.storage import Storage
    from flows import summary

    with _told_errors():
        log = [asdict(release) for release in Registry(Storage(load_settings().storage_url)).releases()]
        _answer(log, as_json, lambda: summary.show_releases(log))


@app.command()
def bucket(
    policies: Annotated[bool, typer.Option("--policies", help="Only show what each role's key may do.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make the bucket of AFFECT_STORAGE_URL ready: made, with versions of its files, and expiry of old checkpoints."""
    from components import bucket as buckets

    with _told_errors():
        url = load_settings().storage_url
        if policies:
            by_role = buckets.policies(url)
            _answer(by_role, as_json, lambda: print(json.dumps(by_role, indent=2)))
            return
        report = buckets.prepare(url)
        told = (
            f"bucket {report.bucket} {'is made' if report.made else 'was there'}; it keeps former versions: "
            f"{report.versions}; removes what is old: {report.expiry}; lets one writer make a name: {report.exclusive}"
        )
        _answer(asdict(report), as_json, lambda: print(told))


@app.command()
def rollback(
    to: Annotated[int | None, typer.Option(min=1, help="Release to go back to; none: the last other model.")] = None,
    reason: Annotated[str, typer.Option(help="Why, for the release log.")] = "",
    as_json: AsJson = False,
) -> None:
    """Serve the model of an older release again, at once. Needs the endpoint, and nothing of Prefect."""
    from flows import laptop, releasing

    with _told_errors():
        settings = laptop.on_platform(load_settings())
        made = releasing.roll_back(to, note=reason, holder="affect rollback", settings=settings, tell=_tell)
        told = f"release {made.number} is live: model {made.version} of run {made.run}"
        _answer(asdict(made), as_json, lambda: print(told))


@app.command()
def gate(
    explain: Annotated[str, typer.Option(help="A run: its Prefect id or its digest; last: the latest.")] = "last",
    as_json: AsJson = False,
) -> None:
    """Show what each gate of a run measured, what it was held against, and why it let the model pass or not."""
    from flows import records, summary

    with _told_errors():
        record = records.find_record(load_settings(), explain)
        told = {key: value for key, value in asdict(record).items() if key != "stages"}
        _answer(told, as_json, lambda: summary.show_gates(record))


@trial.command("start")
def start_trial(
    run: Annotated[
        str, typer.Argument(help="A finished run: its Prefect id or its digest; last: the latest.")
    ] = "last",
    shadow: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the requests whose answers are compared, unseen.")
    ] = None,
    canary: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the requests that the model answers.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a run's model judge a share of the live requests beside the live one. It stays until the trial is ended."""
    from flows import laptop, trials

    with _told_errors():
        if (shadow is None) == (canary is None) or not (shadow or canary):
            raise ValueError("give one of --shadow SHARE and --canary SHARE, such as --shadow 0.1")
        settings = laptop.on_platform(load_settings())
        begun = trials.start(run, "canary" if canary else "shadow", canary or shadow or 0.0, settings=settings)
        told = (
            f"trial {begun.number}: version {begun.version} beside release {begun.release}; see `affect trial status`"
        )
        _answer(asdict(begun), as_json, lambda: print(told))


@trial.command("status")
def trial_status(as_json: AsJson = False) -> None:
    """Show the last trial: its figures so far, and what its gates say to them."""
    from flows import summary, trials

    with _told_errors():
        now = trials.status(load_settings())
        _answer(now and asdict(now), as_json, lambda: summary.show_trial(now))


@trial.command("end")
def end_trial(
    promote: Annotated[
        bool, typer.Option(help="Then judge the model again, and release it if its gates pass.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, for the log of trials.")] = "",
    as_json: AsJson = False,
) -> None:
    """End the trial: the live model answers everybody."""
    from flows import following, laptop, summary, trials

    with _told_errors():
        settings = laptop.on_platform(load_settings())
        ended = trials.stop(reason, settings=settings)
        document: dict[str, Any] = asdict(ended)
        if promote:
            run_id = following.start("promote/promote", {"run": ended.trial.run}, settings)
            _tell(f"run {settings.prefect_url}/runs/flow-run/{run_id}")
            state = following.follow(run_id, settings)
            document["promotion"] = summary.of_run(run_id, state, settings)

        def show() -> None:
            summary.show_trial(ended)
            if promote:
                summary.show(document["promotion"])

        _answer(document, as_json, show)
        if promote and not state.is_completed():
            sys.exit(1)


@app.command()
def drill(as_json: AsJson = False) -> None:
    """Go through the whole story on a platform of its own: v1, traffic, drift, v2 refused, v3, rollback.

    The platform that may be running is left alone. Ends with status 1 if a request failed or a step did not happen.
    """
    from flows import drill as drilling

    with _told_errors():
        done = drilling.run(load_settings(), _tell)
        word = "passed" if done.passed else "FAILED"
        _answer(
            done.to_json(), as_json, lambda: print(f"{word}: {done.num_answers} requests, {len(done.failures)} failed")
        )
        if not done.passed:
            sys.exit(1)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Corpus that anybody may download: ravdess or crema_d.")],
    to: Annotated[Path | None, typer.Option(help="Folder for it; else one below .affect/corpora.")] = None,
    only: Annotated[str, typer.Option(help="Parts whose names fit, such as 'Audio*'.")] = "*",
    keep_archives: Annotated[bool, typer.Option(help="Keep the archives beside what was in them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a corpus and verify it. The same command goes on where a former one stopped."""
    from components import catalogue
    from components import fetch as fetching

    with _told_errors():
        release = catalogue.release(name)
        folder = (to or load_settings().home / "corpora" / name).expanduser().resolve()
        _tell(f"{name}, {release.licence}, into {folder}")
        parts = fetching.fetch(release, folder, only=only, keep_archives=keep_archives, tell=_tell)
        document = {"dataset": name, "root": str(folder), "parts": [asdict(part) for part in parts]}
        _answer(
            document, as_json, lambda: print(f"{len(parts)} parts in {folder}: --dataset {name} --data-root {folder}")
        )


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the recipes: the system of each, what it looks at, and the number of its parameters."""
    from components import recipe_models
    from flows import summary

    with _told_errors():
        listed = [asdict(entry) for entry in recipe_models.entries()]
        _answer(listed, as_json, lambda: summary.show_models(listed))


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    per_minute: Annotated[int, typer.Option(min=1, help="Requests a minute that it may make.")] = 600,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once: only its hash is kept. From the first on, the endpoint wants one."""
    from flows import key_list

    with _told_errors():
        key, line = key_list.add(name, per_minute, load_settings())
        _answer({"name": name, "key": key, "line": line}, as_json, lambda: print(key))


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List who has a key, and how often it may ask."""
    from flows import key_list

    with _told_errors():
        listed = [{"name": key.name, "per_minute": key.per_minute} for key in key_list.listed(load_settings())]
        _answer(listed, as_json, lambda: print("\n".join(f"{key['name']} {key['per_minute']}/min" for key in listed)))


@keys.command("remove")
def remove_key(name: Annotated[str, typer.Argument(help="Whose key.")], as_json: AsJson = False) -> None:
    """Remove a key: the endpoint refuses it from its next request on."""
    from flows import key_list

    with _told_errors():
        key_list.remove(name, load_settings())
        _answer({"removed": name}, as_json, lambda: print(f"removed {name}"))


@app.command()
def bench(
    name: Annotated[str | None, typer.Argument(help="Benchmark of tests/benchmarks; none runs all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a benchmark, and keep its JSON and picture under .affect/bench."""
    with _told_errors():
        sys.path.insert(0, str(PROJECT_ROOT))
        from tests.benchmarks.run import run, show

        report = run(name, load_settings().home / "bench", _tell)
        _answer(report, as_json, lambda: show(report))


@bento.command("build")
def build_bento(as_json: AsJson = False) -> None:
    """Build a bento of the champion, and put it into the object store beside the bundles."""
    from serving import bento_build

    with _told_errors():
        built = bento_build.build(load_settings())
        told = f"{built.bento} of release {built.release}: {built.bento_archive}\nserve it: bentoml serve {built.bento}"
        _answer(asdict(built), as_json, lambda: print(told))


def _choices(
    recipe: str | None, dataset: str | None, data_root: Path | None, seed: int | None, assignments: list[str]
) -> Choices:
    from flows.workspace import check_corpus

    choices = load_choices(PROJECT_ROOT / "params.yaml")
    changes: dict[str, Any] = {}
    if recipe is not None:
        changes["recipe"] = recipe
    changes["finetune_on"] = _corpus(choices, dataset, data_root)
    if seed is not None:
        changes["seed"] = seed
    choices = choices.model_copy(update=changes)
    for assignment in assignments:
        choices = with_setting(choices, assignment)
    # Refuse here what a run would refuse later.
    resolve(choices)
    return choices.model_copy(update={"finetune_on": check_corpus(choices.finetune_on)})


def _corpus(choices: Choices, dataset: str | None, data_root: Path | None) -> Corpus:
    """The labelled corpus that the options name, or that of params.yaml."""
    if dataset is None and data_root is None:
        return choices.finetune_on
    root = str(data_root.expanduser().resolve()) if data_root else None
    return Corpus(dataset=dataset or choices.finetune_on.dataset, root=root)


def _show_status(settings: Settings, as_json: bool) -> None:
    from flows import laptop, last_run, summary

    now, last = laptop.status(settings), last_run.tell(settings)

    def show() -> None:
        summary.show_status(now)
        if last:
            last_run.show(last)

    _answer({**asdict(now), "last_run": last and asdict(last)}, as_json, show)


def _answer(document: Any, as_json: bool, show: Callable[[], None]) -> None:
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        show()


def _tell(message: str) -> None:
    _messages.print(message)


@contextmanager
def _told_errors() -> Iterator[None]:
    """End with one line and status 1 for what a user can mend; anything else keeps its traceback."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        _messages.print(f"error: {one_line(error)}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    app()
