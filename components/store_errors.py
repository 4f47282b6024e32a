"""What the client of an object store raises, as errors of the file system that name the place and the remedy."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

# How stores of several makers say that there is no room.
_FULL: Final = frozenset({"EntityTooLarge", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"})
_BUSY: Final = frozenset({"SlowDown", "RequestTimeout", "ConditionalRequestConflict"})
# Arrow, by which Ray reaches the store, tells in words alone.
_PASSING_IN_ARROW: Final = re.compile(
    r"AWS Error (NETWORK_CONNECTION|REQUEST_TIMEOUT|SERVICE_UNAVAILABLE|SLOW_DOWN|THROTTLING|INTERNAL_FAILURE)\b"
    # The answer to a question without a body has none either, and so no name.
    r"|AWS Error UNKNOWN \(HTTP status 5\d\d\)"
)


@contextmanager
def os_errors(where: str) -> Iterator[None]:
    """Turn what the client raises about a place into what `open` would raise.

    Raises:
        ConnectionError: the store does not answer, or only that it cannot, after several attempts; it may later.
        PermissionError: it refuses the key, or was given none.
        FileExistsError: the name was to be made and is there.
        FileNotFoundError: there is no such name, or no such bucket.
        ValueError: the place is none.
        OSError: there is no room (ENOSPC), or something else.
    """
    try:
        yield
    except OSError as error:
        raise _as_os_error(where, error) from error
    except _client_errors() as error:
        client = sys.modules["botocore.exceptions"]
        words = " ".join(str(error).split())
        if isinstance(error, (client.NoCredentialsError, client.PartialCredentialsError)):
            raise PermissionError(f"{where}: {words}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
        if isinstance(error, (client.ConnectionError, client.HTTPClientError)):
            raise ConnectionError(
                f"{where}: the store does not answer ({words}): see that it runs, and AWS_ENDPOINT_URL_S3"
            ) from error
        raise ValueError(f"{where}: {words}: correct AFFECT_STORAGE_URL or the AWS_ variables") from error


def is_passing_in_arrow(told: str) -> bool:
    """Whether what Arrow tells, or what quotes it, is that the store did not answer, or only that it cannot."""
    return _PASSING_IN_ARROW.search(told) is not None


def _client_errors() -> tuple[type[BaseException], ...]:
    """The parent of the client's own errors, once somebody has imported the client."""
    client = sys.modules.get("botocore.exceptions")
    return () if client is None else (client.BotoCoreError,)


def _as_os_error(where: str, error: OSError) -> OSError:
    response: dict[str, Any] | None = getattr(error.__cause__, "response", None)
    if response is None:
        return error
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    words = " ".join(str(error).split())
    if code in _FULL or status in (413, 507):
        return OSError(errno.ENOSPC, f"{where}: the store has no room ({words}): free some, or raise its quota")
    if code == "NoSuchBucket":
        return FileNotFoundError(f"{where}: the store has no such bucket: make it with `affect bucket`")
    if status == 412:
        return FileExistsError(f"{where} exists already")
    if status in (401, 403):
        return PermissionError(
            f"{where}: the store refuses the key ({words}): see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and its policy"
        )
    if status >= 500 or code in _BUSY:
        return ConnectionError(f"{where}: the store is not able to answer ({words}): see its log, and try again")
    return error
