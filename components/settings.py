"""Where things are: the only module that reads environment variables.

Every setting has a default that makes a laptop work; a cluster sets `AFFECT_*` (and the usual `AWS_*` for an
S3 endpoint) in the environment of its pods.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cached_property
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT_ROOT = Path(__file__).resolve().parent.parent

# What a program needs of its surroundings to start.
_OF_THE_SYSTEM = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "PYTHONDONTWRITEBYTECODE")

# Ray puts sockets below its temporary folder, and Linux limits a socket's path to 107 bytes.
_LONGEST_RAY_FOLDER = 40

# Variables of places that each machine of a Ray has for itself.
OF_A_MACHINE = ("AFFECT_HOME", "AFFECT_SCRATCH", "AFFECT_API_KEYS_FILE", "AFFECT_RAY_TOKEN_FILE")

# For a Ray's own processes. A run's workers have an environment of its own: none of those that Ray starts beforehand,
# one a processor, would ever be used.
NODE_ENVIRONMENT = {"RAY_prestart_worker_first_driver": "0"}


class Settings(BaseSettings):
    """The place of the storage, the compute and the servers, read once from `AFFECT_*` variables."""

    model_config = SettingsConfigDict(env_prefix="AFFECT_", extra="forbid", frozen=True)

    home: Path = Field(
        default=PROJECT_ROOT / ".affect",
        description="Folder of all local state: deleting it is a clean start.",
    )
    scratch: Path = Field(
        default=Path(), description="Folder for Ray's sockets and logs, where several machines share `home`."
    )
    storage_url: str = Field(
        default="",
        description="Where bundles, checkpoints and the release log are kept: a folder or s3://bucket/prefix.",
    )
    ray_address: str = Field(default="", description="host:port of a running Ray; empty starts one for the call.")
    host: str = Field(default="127.0.0.1", description="Address that the laptop's servers bind to.")
    prefect_port: int = Field(default=4200, ge=1, le=65535)
    ray_port: int = Field(default=6379, ge=1, le=65535)
    dashboard_port: int = Field(default=8265, ge=1, le=65535)
    serve_port: int = Field(default=8000, ge=1, le=65535)
    rayjob: str = Field(
        default="",
        pattern="^([a-z0-9-]+/[a-z0-9-]+)?$",
        description="NAMESPACE/NAME of the RayJob after which a training gets a cluster; empty: this machine trains.",
    )
    ray_token_file: Path = Field(default=Path(), description="File of the token that such a cluster asks for.")
    rayservice: str = Field(
        default="",
        pattern="^([a-z0-9-]+/[a-z0-9-]+)?$",
        description="NAMESPACE/NAME of the RayService that is the endpoint; empty: the one on this machine.",
    )
    endpoint_address: str = Field(
        default="", pattern="^(https?://[^/]+)?$", description="URL of that endpoint; empty: this machine's."
    )
    api_keys: str = Field(
        default="", repr=False, description="The endpoint's keys, one a line: NAME SHA256 PER_MINUTE."
    )
    api_keys_file: Path = Field(default=Path(), description="File of such lines, when there is no `api_keys`.")
    api_key: str = Field(default="", repr=False, description="The key that this machine asks endpoints with.")
    sample_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of requests of which the endpoint keeps statistics and answers."
    )
    sample_age_s: float = Field(
        default=60.0, gt=0, description="Seconds that it keeps them before it writes what there is to the store."
    )
    parent_pid: int = Field(default=0, description="A stage ends itself when this process is gone; 0: never.")
    share_frames: bool = Field(
        default=False,
        description="Keep each clip's frames for other runs on these recordings, as a study does; doubles their disk.",
    )
    share_inspections: bool = Field(
        default=False, description="Keep what was found of each recording for other runs, as every flow does."
    )
    train_threads: int = Field(
        default=0, ge=0, description="Threads of one training process; 0: the node's processors over its workers."
    )
    commit: str = Field(default="", description="Commit of the code when there is no git, as in an image.")

    def model_post_init(self, _context: object) -> None:
        object.__setattr__(self, "home", self.home.expanduser().resolve())
        if not self.storage_url:
            object.__setattr__(self, "storage_url", str(self.home / "store"))
        given = self.api_keys_file
        object.__setattr__(self, "api_keys_file", self.home / "api-keys" if given == Path() else given.resolve())

    @property
    def goes_by_store(self) -> bool:
        """Whether stages hand over by the store: it is not of this machine alone, or another may run them."""
        return bool(self.rayjob) or self.storage_url.startswith("s3://")

    @property
    def prefect_url(self) -> str:
        return f"http://{self.host}:{self.prefect_port}"

    @property
    def dashboard_url(self) -> str:
        return f"http://{self.host}:{self.dashboard_port}"

    @property
    def endpoint_url(self) -> str:
        return self.endpoint_address or f"http://{self.host}:{self.serve_port}"

    @cached_property
    def ray_folder(self) -> Path:
        """Ray's temporary folder: below `scratch` or `home`, or below /tmp when that is too long for a socket."""
        inside = (self.home if self.scratch == Path() else self.scratch) / "ray"
        return inside if len(str(inside)) <= _LONGEST_RAY_FOLDER else self._short_folder("ray")

    @cached_property
    def proxy_folder(self) -> Path:
        """For the sockets of the proxy before the endpoint, whose names Ray makes long."""
        return self._short_folder("proxy")

    def _short_folder(self, name: str) -> Path:
        return Path("/tmp") / f"affect-{hashlib.sha256(f'{self.home}/{name}'.encode()).hexdigest()[:8]}"

    def environment(self) -> dict[str, str]:
        """The variables that make a child process see these very settings."""
        values = self.model_dump(exclude={"parent_pid"})
        return {f"AFFECT_{name.upper()}": str(value) for name, value in values.items() if value != ""}


def load() -> Settings:
    """Read the settings from the environment."""
    return Settings()


def inherited_environment() -> dict[str, str]:
    """This process's environment, for a child that is given it with additions."""
    return dict(os.environ)


def bare_environment() -> dict[str, str]:
    """The environment of a child that works for strangers: how to find the code, one thread, and no secret."""
    kept = {name: value for name, value in os.environ.items() if name in _OF_THE_SYSTEM}
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # The code's own folder first, then wherever this process finds its packages.
    found = os.pathsep.join(dict.fromkeys([str(PROJECT_ROOT), *(path for path in sys.path if path)]))
    return {**kept, **one_thread, "PYTHONPATH": found}
