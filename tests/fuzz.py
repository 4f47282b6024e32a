"""Thousands of requests that nobody wrote: recordings with bytes changed, and what the OpenAPI document allows or not.

`python -m tests.fuzz --cases 10000` runs as many of both against an endpoint of its own. The decoders get the
recordings directly, as the endpoint hands them over. What a decoding process died of is kept in `build/fuzz`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from components import params
from components.features.live import LiveFrames
from components.media import Limits, MediaError
from components.media_live import follow
from serving.app import Live
from serving.decoding import Decoders
from serving.runtime import Runtime
from tests.bundles import requests, write_bundle
from tests.codings import coded
from tests.conftest import REPOSITORY
from tests.endpoint import Endpoint, serve
from tests.test_media import pcm
from tests.webm import chunks

# Container, coding of the picture, coding of the sound.
_KINDS: Final = (
    ("mp4", "libx264", "aac"),
    ("matroska", "ffv1", "pcm_s16le"),
    ("webm", "libvpx", "libopus"),
    ("avi", "mpeg4", "mp3"),
    ("flv", "flv", "mp3"),
    ("mpegts", "mpeg2video", "mp2"),
    ("ogg", None, "libopus"),
    ("flac", None, "flac"),
    ("mp3", None, "mp3"),
    ("aiff", None, "pcm_s16be"),
)
_LIMITS: Final = Limits(max_bytes=4_000_000, max_duration_s=60.0, max_decoded_bytes=200_000_000)
_HEADER_BYTES: Final = 2_000
# Where sizes and counts stand, these are the ones that nobody thought of.
_EXTREMES: Final = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1", b"\xff\0\xff\0")


def fuzz_decoders(num_cases: int, *, seed: int, deaths: Path, tell: Callable[[str], None] = print) -> Counter[str]:
    """Let decoding processes have changed recordings; how often each outcome came.

    Everything but features or a problem that is the recording's is raised.
    """
    clean = list(_recordings())
    outcomes: Counter[str] = Counter()
    with Decoders() as pool, ThreadPoolExecutor(pool.num_workers) as threads:

        def outcome(number: int) -> str:
            content = _changed(clean, np.random.default_rng([seed, number]))
            is_video = number % 2 == 0
            try:
                pool.decode(
                    audio=content,
                    video=content if is_video else None,
                    config=params.Features(max_duration_s=5.0),
                    limits=_LIMITS,
                )
            except MediaError as error:
                if error.code in ("undecodable", "too-slow-to-decode"):
                    deaths.mkdir(parents=True, exist_ok=True)
                    (deaths / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
                return error.code
            return "features"

        for number, found in enumerate(threads.map(outcome, range(num_cases)), start=1):
            outcomes[found] += 1
            if number % 1000 == 0 or number == num_cases:
                tell(f"{number} recordings: {dict(outcomes.most_common())}")
        assert len(pool.process_ids) == pool.num_workers
    return outcomes


def fuzz_streams(num_cases: int, *, seed: int) -> Counter[str]:
    """Follow changed recordings as a stream's process does; how often each outcome came.

    Everything but features or a problem that is the recording's is raised.
    """
    camera = requests()[1].video
    assert camera is not None
    clean = [*_recordings(), b"".join(chunks(camera, duration_s=2.0))]
    outcomes: Counter[str] = Counter()
    config = params.Features(max_duration_s=5.0)
    for number in range(num_cases):
        content = _changed(clean, np.random.default_rng([seed, number]))
        live = LiveFrames(config)
        source, rate_hz = io.BytesIO(content), config.audio.sample_rate_hz
        try:
            for fresh in follow(
                source, sample_rate_hz=rate_hz, frame_rate_hz=config.video.frame_rate_hz, limits=_LIMITS
            ):
                live.hear(fresh.waveform_T)
                live.see(fresh.frames_HW)
            live.window()
        except MediaError as error:
            outcomes[error.code] += 1
        else:
            outcomes["features"] += 1
    return outcomes


def fuzz_api(url: str, num_cases: int, *, seed: int) -> subprocess.CompletedProcess[str]:
    """Let schemathesis make up requests from the endpoint's own OpenAPI document, so many for each operation."""
    command = [
        *(str(Path(sys.executable).with_name("st")), "run", f"{url}/openapi.json", "--no-color", f"--seed={seed}"),
        *(f"--max-examples={num_cases}", "--phases=examples,coverage,fuzzing", "--suppress-health-check=all"),
        # What is refused, and whether it could have been taken, are for the other tests: here nothing may break.
        "--checks=not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance",
        *("--continue-on-failure", "--request-timeout=60", "--warnings=off", "--generation-database=none"),
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz_hooks", "PYTHONPATH": str(REPOSITORY)}
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@contextlib.contextmanager
def endpoint() -> Iterator[str]:
    """The address of an endpoint of a bundle with random weights."""
    with tempfile.TemporaryDirectory(prefix="affect-") as folder:
        runtime = Runtime(write_bundle(Path(folder) / "bundle", seed=0))
        with serve(Endpoint(Live(runtime))) as running:
            yield running.url


def _recordings() -> Iterator[bytes]:
    clip = requests()[1].video
    assert clip is not None
    yield clip
    yield pcm(np.random.default_rng(0).integers(-9_000, 9_000, (8_000, 2)).astype(np.int16), 16_000)
    for kind in _KINDS:
        yield coded(clip, *kind)


def _changed(clean: list[bytes], random: np.random.Generator) -> bytes:
    """One of the recordings after a few changes: bits, lost, doubled and foreign parts, and extreme numbers."""
    content = bytearray(clean[random.integers(len(clean))])
    for _ in range(1 + random.geometric(0.3)):
        # Half of the changes hit the header, where the structure is.
        end = len(content) if random.random() < 0.5 else min(len(content), _HEADER_BYTES)
        place = int(random.integers(end))
        length = int(min(random.geometric(0.01), len(content) - place))
        match random.integers(6):
            case 0:
                content[place] ^= 1 << int(random.integers(8))
            case 1:
                content[place] = int(random.integers(256))
            case 2:
                del content[place : place + min(length, len(content) - 1)]
            case 3:
                content[place:place] = content[place : place + length]
            case 4:
                other = clean[random.integers(len(clean))]
                start = int(random.integers(len(other)))
                content[place : place + length] = other[start : start + length]
            case _:
                content[place : place + 4] = _EXTREMES[random.integers(len(_EXTREMES))]
    return bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="recordings, and at least as many requests")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    deaths = REPOSITORY / "build" / "fuzz"
    fuzz_decoders(arguments.cases, seed=arguments.seed, deaths=deaths)
    print(f"as streams: {dict(fuzz_streams(arguments.cases // 4, seed=arguments.seed).most_common())}")
    with endpoint() as url:
        # For each route; the two that take a body are the ones of which so many different requests can be made.
        done = fuzz_api(url, -(-arguments.cases // 2), seed=arguments.seed)
    print(done.stdout[-6_000:])
    sent = re.search(r"(\d+) generated", done.stdout)
    if sent is None or int(sent[1]) < arguments.cases:
        sys.exit(f"fewer than {arguments.cases} requests were made up")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
