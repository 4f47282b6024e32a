"""Put a bundle on the running Ray Serve, through the REST API of Ray's dashboard and nothing else.

The application lives on a long-lived Ray (`ray start --head`): a flow that deploys only talks HTTP, so what it
deploys outlives it. With the same code, a PUT that changes nothing but `user_config` reaches the running replicas
as a `reconfigure` (Ray compares `import_path`, `runtime_env` and `args` to tell); no replica restarts.
"""

from __future__ import annotations

import contextlib
import time
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import httpx
from pydantic import BaseModel

from components.settings import PROJECT_ROOT, Settings
from components.trials import TrialConfig
from serving import keys
from serving.prediction import Limits
from serving.problems import MEDIA_TYPE, PREFIX
from serving.schema import ModelCard, Problem

APPLICATION: Final = "affect"
DEPLOYMENT: Final = "endpoint"
_APPLICATIONS: Final = "/api/serve/applications/"
_POLL_S: Final = 0.25
# A stream is one request to Ray Serve: as long as a recording may be, and a minute for its answer.
_LONGEST_REQUEST_S: Final = Limits().max_duration_s + 60.0


class DeployError(RuntimeError):
    """The endpoint does not serve what it was told to; the message says why."""


def serve_config(
    bundle: str,
    release: int,
    *,
    here: Settings,
    num_replicas: int = 1,
    sample_share: float = 0.0,
    trial: TrialConfig | None = None,
) -> dict[str, Any]:
    """The Serve configuration that serves `bundle` (empty: none yet) as `release`, with another one on trial.

    Of a share of the requests samples are kept.

    Raises:
        ValueError: a key is not one that Ray Serve knows (Ray itself would drop it in silence), or the endpoint would
            be open to other machines without API keys.
    """
    keys.require_for(here.host, here)
    config: dict[str, Any] = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": here.host, "port": here.serve_port, "request_timeout_s": _LONGEST_REQUEST_S},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "serving.ray_app:app",
                "runtime_env": {"env_vars": _environment(here)},
                "deployments": [
                    {
                        "name": DEPLOYMENT,
                        "num_replicas": num_replicas,
                        # Far beyond the app's own limit, which refuses with a measured `Retry-After`: these are for
                        # slow uploads, and for the seconds in which a dead replica is replaced.
                        "max_ongoing_requests": 256,
                        "max_queued_requests": 256,
                        "backpressure_config": {"status_code": 429, "retry_after_s": 2.0},
                        # What was admitted is answered, by far.
                        "graceful_shutdown_timeout_s": 30.0,
                        "graceful_shutdown_wait_loop_s": 0.5,
                        # A killed replica is replaced that soon.
                        "health_check_period_s": 1.0,
                        "ray_actor_options": {"num_cpus": 0.5},
                        # The app counts requests in `/metrics`: a line for each of them would cost as much again.
                        "logging_config": {"enable_access_log": False},
                        "user_config": {
                            "bundle": bundle,
                            "release": release,
                            "sample_share": sample_share,
                            **({"trial": trial.model_dump()} if trial else {}),
                        },
                    }
                ],
            }
        ],
    }
    refuse_unknown(config)
    return config


def _environment(here: Settings) -> dict[str, str]:
    # No more than a replica reads: each change of a variable here would restart the replicas.
    needed = ("AFFECT_HOME", "AFFECT_STORAGE_URL", "AFFECT_API_KEYS", "AFFECT_API_KEYS_FILE")
    given = {name: value for name, value in here.environment().items() if name in needed}
    return {"PYTHONPATH": str(PROJECT_ROOT), **given}


def refuse_unknown(config: Mapping[str, Any]) -> None:
    """Check a Serve configuration against Ray's schema, unknown keys included.

    Raises:
        ValueError: with the path of the first key that Ray Serve would drop, or the first value it refuses.
    """
    # Ray takes seconds to import, and only who writes a configuration needs its schema.
    from ray.serve.schema import ServeDeploySchema

    for key in _unknown(ServeDeploySchema, config, ""):
        raise ValueError(
            f"Serve config: Ray Serve knows no {key}; it would be dropped in silence, so correct or remove it"
        )
    ServeDeploySchema.model_validate(config)


def deploy(
    bundle: str,
    release: int,
    *,
    here: Settings,
    num_replicas: int = 1,
    sample_share: float | None = None,
    deadline_s: float = 120.0,
) -> ModelCard | None:
    """Serve `bundle` as `release` and wait until the endpoint answers with it; the card of what is now served.

    An empty `bundle` starts the endpoint before the first promotion; then there is no card. Without a `sample_share`
    the endpoint keeps the one that it has: a new model does not change what is kept of its requests.

    Raises:
        DeployError: no dashboard answers, the bundle was refused, or the deadline passed. What was served before is
            served again.
    """
    with httpx.Client(timeout=60.0) as client:
        before = _present(client, here)
        if sample_share is None:
            sample_share = before.sample_share if before else here.sample_share
        wanted = _Present(bundle, release, num_replicas, sample_share)
        _call(client, here, "PUT", _config_of(wanted, here))
        try:
            return _wait(client, here, wanted, deadline_s)
        except DeployError:
            if before is not None:
                _put_back(client, here, before, deadline_s)
            raise


def set_trial(trial: TrialConfig | None, *, here: Settings, deadline_s: float = 120.0) -> None:
    """Begin a trial beside what is served, or end the present one, and wait until the endpoint says so.

    Raises:
        DeployError: nothing is served, the challenger was refused, or the deadline passed; then no trial goes on.
    """
    with httpx.Client(timeout=60.0) as client:
        before = _present(client, here)
        if before is None or not before.bundle:
            raise DeployError("nothing is served that a trial could go on beside: run `affect retrain`")
        wanted = before._replace(trial=trial)
        _call(client, here, "PUT", _config_of(wanted, here))
        try:
            _wait(client, here, wanted, deadline_s)
        except DeployError:
            _put_back(client, here, before._replace(trial=None), deadline_s)
            raise


def _put_back(client: httpx.Client, here: Settings, before: _Present, deadline_s: float) -> None:
    _call(client, here, "PUT", _config_of(before, here))
    # Whether or not this succeeds, the first failure is the one to tell.
    with contextlib.suppress(DeployError):
        _wait(client, here, before, deadline_s)


def endpoint_status(here: Settings) -> str:
    """Status of the application as Ray Serve names it: RUNNING, DEPLOYING, DEPLOY_FAILED, ..., or NOT_STARTED.

    Raises:
        DeployError: no dashboard answers.
    """
    with httpx.Client(timeout=10.0) as client:
        return str(_application(client, here).get("status", "NOT_STARTED"))


def _wait(client: httpx.Client, here: Settings, wanted: _Present, deadline_s: float) -> ModelCard | None:
    release = wanted.release
    deadline = time.monotonic() + deadline_s
    last = "nothing yet"
    while time.monotonic() < deadline:
        application = _application(client, here)
        status = application.get("status", "NOT_STARTED")
        reasons = _messages(application)
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise DeployError(f"release {release} is not served: Ray Serve says {status}: {reasons}")
        last = f"Ray Serve says {status} {reasons}".strip()
        if status == "RUNNING":
            settled, card = ask(client, here, wanted.bundle, release, wanted.trial)
            if settled:
                return card
        time.sleep(_POLL_S)
    raise DeployError(f"release {release} is not served after {deadline_s:.0f} s: {last}; see the Ray dashboard")


def ask(
    client: httpx.Client, here: Settings, bundle: str, release: int, trial: TrialConfig | None = None
) -> tuple[bool, ModelCard | None]:
    """Whether the replica that answers serves what it was told to, and the card of its model.

    Raises:
        DeployError: it refused the bundle, or the key that it was asked with.
    """
    try:
        key = keys.own_key(here, here.endpoint_url)
        answer = client.get(f"{here.endpoint_url}/v1/model", headers=keys.bearer(key))
    except httpx.TransportError:
        return False, None
    card, problem = None, None
    if answer.status_code == 200:
        card = ModelCard.model_validate_json(answer.content)
    elif answer.headers.get("content-type", "").startswith(MEDIA_TYPE):
        problem = Problem.model_validate_json(answer.content)
    if problem and problem.type == f"{PREFIX}unauthorized":
        raise DeployError(
            f"{here.endpoint_url} wants an API key that this platform does not have: put one into AFFECT_API_KEY"
        )
    refused = (card.refused or "") if card else problem.detail if problem else ""
    if refused.startswith(f"release {release}: bundle {bundle} "):
        raise DeployError(refused)
    if trial and refused.startswith(f"trial {trial.number}: "):
        raise DeployError(refused)
    if not bundle:
        return problem is not None and problem.type == f"{PREFIX}no-model", None
    shown = card.trial.number if card and card.trial else None
    return card is not None and card.release == release and shown == (trial.number if trial else None), card


class _Present(NamedTuple):
    """What Ray Serve is configured to serve."""

    bundle: str
    release: int
    num_replicas: int
    sample_share: float = 0.0
    trial: TrialConfig | None = None


def _config_of(served: _Present, here: Settings) -> dict[str, Any]:
    return serve_config(**served._asdict(), here=here)


def keep_samples(share: float, *, here: Settings) -> bool:
    """Have the deployed endpoint keep samples of this share of its requests; whether that was a change.

    What it serves stays, and nothing restarts.

    Raises:
        DeployError: no dashboard answers.
    """
    with httpx.Client(timeout=60.0) as client:
        present = _present(client, here)
        if present is None or present.sample_share == share:
            return False
        _call(client, here, "PUT", _config_of(present._replace(sample_share=share), here))
    return True


def _present(client: httpx.Client, here: Settings) -> _Present | None:
    config = _application(client, here).get("deployed_app_config")
    if not config:
        return None
    [deployment] = [each for each in config["deployments"] if each["name"] == DEPLOYMENT]
    told = deployment["user_config"]
    trial = TrialConfig.model_validate(told["trial"]) if told.get("trial") else None
    share = told.get("sample_share", 0.0)
    return _Present(told["bundle"], told["release"], deployment["num_replicas"], share, trial)


def _application(client: httpx.Client, here: Settings) -> dict[str, Any]:
    answer = _call(client, here, "GET")
    applications: dict[str, dict[str, Any]] = answer.json().get("applications", {})
    return applications.get(APPLICATION, {})


def _call(client: httpx.Client, here: Settings, method: str, config: dict[str, Any] | None = None) -> httpx.Response:
    try:
        answer = client.request(method, f"{here.dashboard_url}{_APPLICATIONS}", json=config)
    except httpx.TransportError as error:
        raise DeployError(
            f"no Ray dashboard answers at {here.dashboard_url}: start the platform with `affect up`"
        ) from error
    if answer.status_code != 200:
        # Of a traceback the end says what it is about.
        text = " ".join(answer.text.split())[-500:]
        raise DeployError(f"Ray Serve refuses it ({method} {_APPLICATIONS}: {answer.status_code}): {text}")
    return answer


def _messages(application: Mapping[str, Any]) -> str:
    """The deployment's own error, without the traceback around it."""
    texts = [
        application.get("message", ""),
        *(each.get("message", "") for each in application.get("deployments", {}).values()),
    ]
    lines: list[str] = [line.strip() for text in texts for line in text.splitlines()]
    errors = [line for line in lines if "Error: " in line and "Traceback" not in line]
    found = errors or [line for line in lines if line]
    return found[-1] if found else ""


def _unknown(model: type[BaseModel], values: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in values.items():
        if key not in model.model_fields:
            yield f"{path}{key}"
            continue
        inner = _model_in(model.model_fields[key].annotation)
        if inner is None:
            continue
        for index, each in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(each, Mapping):
                yield from _unknown(
                    inner, each, f"{path}{key}[{index}]." if isinstance(value, list) else f"{path}{key}."
                )


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The pydantic model that a field holds, alone, optional or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (list, typing.Union, types.UnionType):
        found = [_model_in(each) for each in typing.get_args(annotation)]
        return next((each for each in found if each is not None), None)
    return None
