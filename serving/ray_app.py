"""The endpoint on Ray Serve: one deployment that swaps models by its `user_config`.

`serving.ray_app:app` is what a Serve config imports. A changed `user_config` alone makes Serve call `reconfigure`
in the running replica, which goes on answering meanwhile: the new runtime is loaded, warmed up and checked first,
then one reference changes. Serve *stops* a replica whose `reconfigure` raises (and starts others with the same
bad configuration), so a bundle that cannot be served must not raise there: the old model stays, and
`GET /v1/model` says what was refused. Only a replica that starts with nothing to serve raises.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from components import settings
from components.storage import Storage
from components.trials import TrialConfig, TrialLog
from serving import keys, loading
from serving.app import Live, create_app
from serving.sampling import Sampling
from serving.trial import Challenger, Observations

if TYPE_CHECKING:
    from serving.runtime import Runtime

logger = logging.getLogger("ray.serve")


class UserConfig(BaseModel):
    """What the deployment serves: the `user_config` of the Serve config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str = Field("", description="Folder or s3:// address of a bundle; empty before the first promotion.")
    release: int = Field(0, ge=0, description="Its number in the release log.")
    trial: TrialConfig | None = Field(None, description="Another model that judges a share of the requests.")
    sample_share: float = Field(0.0, ge=0, le=1, description="Share of requests of which statistics are kept.")


@serve.deployment(name="endpoint")
@serve.ingress()
class Endpoint:
    """One replica: holds what is live, and hands it to the app."""

    def __init__(self) -> None:
        self._live = Live()
        self._bundle = ""
        self._sample_share = 0.0
        self._starting = True

    def __serve_build_asgi_app__(self) -> FastAPI:
        here = settings.load()
        # Ray Serve's proxy puts the request's id on the answer itself.
        return create_app(
            lambda: self._live,
            keys=lambda: keys.of_settings(settings.load()),
            sampling=Sampling(Storage(here.storage_url), lambda: self._sample_share, max_age_s=here.sample_age_s),
            adds_request_id=False,
        )

    async def reconfigure(self, user_config: dict[str, object]) -> None:
        """Serve another bundle, or keep the present one when that cannot be loaded.

        Raises:
            ValueError, OSError: the replica has just started and cannot load its first bundle.
        """
        config = UserConfig.model_validate(user_config)
        self._sample_share = config.sample_share
        try:
            self._live = await self._load(config)
            self._bundle = config.bundle
        except (ValueError, OSError) as error:
            refused = (
                f"release {config.release}: bundle {config.bundle} cannot be served: {' '.join(str(error).split())}"
            )
            if self._starting:
                raise ValueError(refused) from error
            logger.error(refused)
            self._live = replace(self._live, refused=refused)
        else:
            await self._set_trial(config.trial)
        self._starting = False

    async def _set_trial(self, trial: TrialConfig | None) -> None:
        """Let another model judge a share of the requests; one that cannot be loaded is told, and left out."""
        if trial is None:
            return
        try:
            runtime = await asyncio.to_thread(load_runtime, trial.bundle)
        except (ValueError, OSError) as error:
            refused = f"trial {trial.number}: bundle {trial.bundle} cannot be served: {' '.join(str(error).split())}"
            logger.error(refused)
            self._live = replace(self._live, refused=refused)
            return
        log = TrialLog(Storage(settings.load().storage_url))
        seen = Observations(functools.partial(log.keep, trial.number))
        self._live = replace(self._live, challenger=Challenger(runtime, trial.number, trial.mode, trial.share, seen))

    async def _load(self, config: UserConfig) -> Live:
        if not config.bundle:
            return Live(release=config.release)
        if config.bundle == self._bundle:
            return Live(self._live.runtime, config.release)
        # In a thread: requests go on being answered from the present model.
        return Live(await asyncio.to_thread(load_runtime, config.bundle), config.release)


def load_runtime(bundle: str) -> Runtime:
    """Fetch a bundle, load it, and let it answer its golden requests.

    Raises:
        FileNotFoundError: there is no such bundle.
        BundleError: it is damaged, or answers them wrongly.
    """
    return loading.load(_fetch(bundle))


def _fetch(bundle: str) -> Path:
    root, _, name = bundle.rstrip("/").rpartition("/")
    cache = settings.load().home / "serving"
    cache.mkdir(parents=True, exist_ok=True)
    return Storage(root).download_folder(name, cache / hashlib.sha256(bundle.encode()).hexdigest()[:16])


app = Endpoint.bind()  # type: ignore[attr-defined]  # Ray's decorator has no type for what it makes of the class
