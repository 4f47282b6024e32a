"""`affect fetch` against a real HTTP server on this machine: whole, broken, wrong, and taken up again."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from components import catalogue, fetch
from components.catalogue import Part, Release
from components.datasets import ravdess
from components.fetch import FetchError
from tests.conftest import REPOSITORY
from tests.corpus_files import LFS_POINTER, clips_of, write_sound

# The trie that DVC keeps its outputs in, used by DVC as it was meant before.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value will soon raise:DeprecationWarning")


class Server:
    """Serves contents by name; those in `broken` end in the middle, as when the connection is lost."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.broken: set[str] = set()
        self.num_gets: Counter[str] = Counter()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(with_content=False)

            def do_GET(self) -> None:
                self._answer(with_content=True)

            def _answer(self, *, with_content: bool) -> None:
                name = self.path.lstrip("/").partition("?")[0]
                content = server.contents.get(name)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", hashlib.md5(content, usedforsecurity=False).hexdigest())
                self.end_headers()
                if not with_content:
                    return
                server.num_gets[name] += 1
                if name in server.broken:
                    self.wfile.write(content[: len(content) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def part(self, name: str, content: bytes, **fields: object) -> Part:
        self.contents[name] = content
        part = Part(name, f"{self.url}/{name}?download=1", len(content), hashlib.md5(content).hexdigest())
        return replace(part, **fields)  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def archive(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return content.getvalue()


@pytest.fixture
def release(server: Server, tmp_path: Path) -> Release:
    """RAVDESS in small: two archives, in the layout of the real ones."""
    parts = []
    for actor in (1, 2):
        sounds = {}
        for emotion in (3, 5):
            name = f"Actor_{actor:02d}/03-01-{emotion:02d}-01-01-01-{actor:02d}.wav"
            sounds[name] = write_sound(tmp_path / "made" / name).read_bytes()
        sounds["__MACOSX/._Actor"] = b"x"
        holds = {f"Actor_{actor:02d}/03-01-*.wav": 2}
        parts.append(server.part(f"Audio_{actor}.zip", archive(**sounds), holds=holds))
    return Release("ravdess", "for tests", tuple(parts), pause_s=0)


def test_release_is_brought_verified_and_readable(release: Release, tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "corpus"
    told: list[str] = []
    brought = fetch.fetch(release, folder, tell=told.append)
    assert [(part.name, part.state, part.num_files) for part in brought] == [
        ("Audio_1.zip", "fetched", 2),
        ("Audio_2.zip", "fetched", 2),
    ]
    assert told[0].startswith("1/2 Audio_1.zip, 0 MB")
    assert len(clips_of(list(ravdess.read(folder, None)))) == 4
    made = tmp_path / "made/Actor_01/03-01-03-01-01-01-01.wav"
    assert (folder / "Actor_01" / made.name).read_bytes() == made.read_bytes()
    # What DVC notes of an import: where it came from, and what it is.
    imported = yaml.safe_load((folder / "archives/Audio_1.zip.dvc").read_text())
    assert imported["deps"][0]["path"] == f"{server.url}/Audio_1.zip?download=1"
    assert imported["outs"][0]["md5"] == release.parts[0].md5
    # Nothing is on the disk twice.
    assert not list(folder.rglob("*.zip"))
    assert not [path for path in (folder / ".dvc/cache").rglob("*") if path.is_file()]

    gets = Counter(server.num_gets)
    again = fetch.fetch(release, folder)
    assert [part.state for part in again] == ["kept", "kept"]
    assert server.num_gets == gets, "what is there is not asked for"


def test_archives_are_kept_on_request_and_parts_chosen_by_name(release: Release, tmp_path: Path) -> None:
    (part,) = fetch.fetch(release, tmp_path / "corpus", only="*_2.zip", keep_archives=True)
    assert part.name == "Audio_2.zip"
    assert hashlib.md5((tmp_path / "corpus/archives/Audio_2.zip").read_bytes()).hexdigest() == part.md5
    with pytest.raises(ValueError, match=r"ravdess has no part Video\*; there are: Audio_1\.zip, Audio_2\.zip"):
        fetch.fetch(release, tmp_path / "corpus", only="Video*")


def test_broken_download_is_tried_again(release: Release, tmp_path: Path, server: Server) -> None:
    server.broken = {"Audio_1.zip"}
    told: list[str] = []

    def tell(message: str) -> None:
        told.append(message)
        if "trying again" in message:
            server.broken.clear()

    fetch.fetch(release, tmp_path / "corpus", tell=tell)
    assert sum("trying again" in line for line in told) == 1
    assert len(clips_of(list(ravdess.read(tmp_path / "corpus", None)))) == 4


def test_what_was_brought_stays_when_a_later_part_breaks(release: Release, tmp_path: Path, server: Server) -> None:
    server.broken = {"Audio_2.zip"}
    with pytest.raises(FetchError, match=r"Audio_2\.zip cannot be downloaded from .* run the command again"):
        fetch.fetch(release, tmp_path / "corpus")
    assert not (tmp_path / "corpus/Actor_02").exists()
    server.broken.clear()
    assert [part.state for part in fetch.fetch(release, tmp_path / "corpus")] == ["kept", "fetched"]


def test_wrong_checksum_is_refused_and_not_remembered(release: Release, tmp_path: Path, server: Server) -> None:
    good = server.contents["Audio_1.zip"]
    server.contents["Audio_1.zip"] = good[:-1] + b"?"
    folder = tmp_path / "corpus"
    with pytest.raises(FetchError, match=r"Audio_1\.zip is not what its publisher has: md5 \w+ instead of"):
        fetch.fetch(release, folder)
    server.contents["Audio_1.zip"] = good + b"more"
    with pytest.raises(FetchError, match=rf"{len(good) + 4} bytes instead of {len(good)}"):
        fetch.fetch(release, folder)
    assert not list(folder.rglob("*.wav"))
    server.contents["Audio_1.zip"] = good
    assert [part.state for part in fetch.fetch(release, folder)] == ["fetched", "fetched"]


def test_file_that_was_lost_or_cut_is_brought_again(release: Release, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    fetch.fetch(release, folder)
    path = folder / "Actor_02/03-01-05-01-01-01-02.wav"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert [part.state for part in fetch.fetch(release, folder)] == ["kept", "fetched"]
    assert path.read_bytes() == whole


def test_archives_without_published_sums_are_judged_by_their_content(server: Server, tmp_path: Path) -> None:
    """As those of CREMA-D, which are made on request: a folder of the archive's own around it, and counts of files."""
    stem = "crema-d-mirror-HEAD-AudioWAV/AudioWAV/1001_DFA_ANG_XX.wav"
    good = archive(**{stem: b"RIFF sound", "crema-d-mirror-HEAD-AudioWAV/.gitattributes": b"*"})
    part = server.part("AudioWAV.zip", good, num_bytes=None, md5=None, holds={"AudioWAV/*.wav": 1}, strip=1)
    votes = server.part("VideoDemographics.csv", b"ActorID\n", num_bytes=None, md5=None)
    release = Release("crema_d", "for tests", (part, votes), pause_s=0)
    folder = tmp_path / "corpus"
    fetch.fetch(release, folder)
    assert (folder / "AudioWAV/1001_DFA_ANG_XX.wav").read_bytes() == b"RIFF sound"
    assert (folder / "VideoDemographics.csv").read_bytes() == b"ActorID\n"

    for content, reason in (
        (archive(**{"top/AudioWAV/a.txt": b"x"}), r"0 files AudioWAV/\*\.wav instead of 1"),
        (archive(**{stem: LFS_POINTER}), "is a git-lfs pointer"),
        (archive(**{"top/../../AudioWAV/a.wav": b"x"}), "would lie outside of the folder"),
        (good[: len(good) // 2], "not a zip file"),
        (good.replace(b"RIFF", b"RAFF") if b"RIFF" in good else good[:60] + b"\0" + good[61:], "damaged"),
    ):
        server.contents["AudioWAV.zip"] = content
        other = tmp_path / f"corpus-{hashlib.md5(content).hexdigest()}"
        with pytest.raises(FetchError, match=reason):
            fetch.fetch(release, other)
        assert not list(other.rglob("*.wav"))


def test_catalogue_names_what_is_downloadable() -> None:
    parts = catalogue.release("ravdess").parts
    assert len(parts) == 25
    assert len({part.md5 for part in parts}) == 25
    assert all(part.md5 and len(part.md5) == 32 and part.url.startswith("https://") for part in parts)
    assert 12e9 < sum(part.num_bytes or 0 for part in parts) < 15e9
    assert {part.folder or part.name for part in catalogue.release("crema_d").parts}
    with pytest.raises(ValueError, match=r"'cremad' cannot be fetched; did you mean crema_d\?"):
        catalogue.release("cremad")


def test_command_says_in_one_line_what_cannot_be_fetched() -> None:
    command = [sys.executable, "-m", "flows.cli", "fetch", "iemocap", "--json"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: 'iemocap' cannot be fetched")
    assert ended.stderr.count("\n") == 1


def test_command_prints_one_document(release: Release, tmp_path: Path) -> None:
    """The command with a catalogue of its own: the same code, other addresses."""
    code = (
        "import sys, components.catalogue as c; from flows.cli import app; "
        "p = [c.Part(*fields) for fields in __import__('json').loads(sys.argv.pop(1))]; "
        "c.RELEASES = {'ravdess': c.Release('ravdess', 'for tests', tuple(p))}; app()"
    )
    fields = json.dumps([[part.name, part.url, part.num_bytes, part.md5, part.holds] for part in release.parts])
    command = [sys.executable, "-c", code, fields, "fetch", "ravdess", "--to", str(tmp_path / "corpus"), "--json"]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert document["root"] == str(tmp_path / "corpus")
    assert [part["state"] for part in document["parts"]] == ["fetched", "fetched"]
