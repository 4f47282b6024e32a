"""From a bundle's folder to a runtime that has answered its golden requests, as every server starts one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.runtime import Runtime


def load(folder: Path) -> Runtime:
    """Load a bundle and let it answer its golden requests.

    Raises:
        BundleError: it is damaged, or answers them wrongly.
    """
    with _no_collection():
        # PyTorch takes seconds to import: a server that serves nothing yet is up without it.
        from serving.runtime import Runtime

        loaded = Runtime(folder)
    loaded.warmup()
    return loaded


@contextmanager
def _no_collection() -> Iterator[None]:
    """While modules are imported there is no garbage, yet a sixth of the time would go by in search of it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
