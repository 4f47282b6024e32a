"""The bucket of the platform's store, made ready by the S3 interface alone: versions, expiry, what each role may do.

Nothing here is of one maker's store. What a store does not offer is told and left. Who may do what is given as policies
in AWS's language, which most stores' own tools take, since S3 itself has no call for users.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from botocore.session import get_session
from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.error import S3Error
from minio.lifecycleconfig import (
    AbortIncompleteMultipartUpload,
    Expiration,
    LifecycleConfig,
    NoncurrentVersionExpiration,
    Rule,
)
from minio.versioningconfig import VersioningConfig
from urllib3.exceptions import HTTPError

from components.stage import one_line
from components.storage import AlreadyExists, Storage

# What a training left that nobody goes on with, and what somebody removed or replaced by mistake.
CHECKPOINT_DAYS: Final = 30
FORMER_VERSION_DAYS: Final = 30
_UNFINISHED_UPLOAD_DAYS: Final = 2


@dataclass(frozen=True)
class BucketReport:
    """What a bucket is like afterwards; of `versions`, `expiry` and `exclusive`, `yes`, or why not.

    Attributes:
        made: whether it had to be made.
        versions: former content of a name is kept.
        expiry: old checkpoints, former versions and unfinished uploads are removed.
        exclusive: a name can be made by one writer only, which releases depend on.
    """

    bucket: str
    made: bool
    versions: str
    expiry: str
    exclusive: str


def prepare(url: str) -> BucketReport:
    """Make the bucket of `s3://bucket/prefix` where it is missing, and set what it should do by itself.

    Args:
        url: of the storage; its endpoint, region and keys are those of the `AWS_` variables.

    Raises:
        ValueError: it is no address of a bucket.
        ConnectionError: the store does not answer.
        PermissionError: it refuses the key.
    """
    bucket, prefix = split(url)
    client = _client()
    try:
        made = not client.bucket_exists(bucket)
        if made:
            client.make_bucket(bucket)
    except S3Error as error:
        raise PermissionError(
            f"{url}: the store refuses ({error.code}: {error.message}): see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
            "and whether the key may make buckets"
        ) from error
    except HTTPError as error:
        raise ConnectionError(
            f"{url}: the store does not answer ({one_line(error)}): see that it runs, and AWS_ENDPOINT_URL_S3"
        ) from error
    return BucketReport(
        bucket=bucket,
        made=made,
        versions=_offered(lambda: client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))),
        expiry=_offered(lambda: client.set_bucket_lifecycle(bucket, _expiry(prefix))),
        exclusive=_exclusive(url),
    )


def policies(url: str) -> dict[str, dict[str, Any]]:
    """By role, what its key may do, as a policy in AWS's language.

    `platform` is for flows and trainings, `endpoint` for what answers callers: it reads bundles, and adds samples of
    what it was asked and what a trial's challenger made of it.

    Raises:
        ValueError: `url` is no address of a bucket.
    """
    bucket, prefix = split(url)
    root = f"arn:aws:s3:::{bucket}"
    below = f"{root}/{prefix}/*" if prefix else f"{root}/*"

    def within(*folders: str) -> list[str]:
        return [below.removesuffix("*") + f"{folder}/*" for folder in folders]

    listing = _allowed(["s3:ListBucket"], [root], {"StringLike": {"s3:prefix": [f"{prefix}/*" if prefix else "*"]}})
    uploads = ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    return {
        "platform": _policy(listing, _allowed(["s3:GetObject", "s3:PutObject", "s3:DeleteObject", *uploads], [below])),
        "endpoint": _policy(
            listing,
            _allowed(["s3:GetObject"], within("bundles")),
            _allowed(["s3:PutObject", *uploads], within("samples", "trials/observations")),
        ),
    }


def split(url: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`.

    Raises:
        ValueError: it is no such address.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError(f"{url} is no bucket: set AFFECT_STORAGE_URL to s3://BUCKET/PREFIX")
    return parts.netloc, parts.path.strip("/")


def _client() -> Minio:
    """A client of the store that the usual variables and files of AWS name, as all other clients find it."""
    session = get_session()
    found = session.create_client("s3").meta
    keys = session.get_credentials()
    endpoint = urlsplit(found.endpoint_url)
    return Minio(
        endpoint.netloc,
        access_key=keys.access_key if keys else None,
        secret_key=keys.secret_key if keys else None,
        session_token=keys.token if keys else None,
        secure=endpoint.scheme == "https",
        region=found.region_name,
    )


def _offered(call: Callable[[], object]) -> str:
    try:
        call()
    except S3Error as error:
        return f"not offered by this store ({error.code})"
    return "yes"


def _expiry(prefix: str) -> LifecycleConfig:
    checkpoints = "/".join(filter(None, (prefix, "checkpoints/")))
    return LifecycleConfig(
        [
            Rule(
                ENABLED,
                rule_id="checkpoints",
                rule_filter=Filter(prefix=checkpoints),
                expiration=Expiration(days=CHECKPOINT_DAYS),
            ),
            Rule(
                ENABLED,
                rule_id="former-versions",
                rule_filter=Filter(prefix=prefix),
                noncurrent_version_expiration=NoncurrentVersionExpiration(noncurrent_days=FORMER_VERSION_DAYS),
                abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(
                    days_after_initiation=_UNFINISHED_UPLOAD_DAYS
                ),
            ),
        ]
    )


def _exclusive(url: str) -> str:
    """Whether a second writer of a name is refused."""
    storage, name = Storage(url), f"probes/{uuid.uuid4().hex}"
    storage.create(name, b"first")
    try:
        storage.create(name, b"second")
    except AlreadyExists:
        return "yes"
    finally:
        storage.remove(name)
    return "no: two releases made at once could overwrite each other; use a store that keeps If-None-Match"


def _allowed(
    actions: Sequence[str], resources: Sequence[str], condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": list(resources)}
    return {**statement, "Condition": dict(condition)} if condition else statement


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}
