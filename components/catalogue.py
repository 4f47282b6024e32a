"""Corpora that anybody may download: which files, from where, and how to know that they came whole."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True)
class Part:
    """One file of a release.

    Attributes:
        name: of the file, as it is kept.
        num_bytes, md5: as its publisher says; None where nobody does, and then `holds` is what is checked.
        holds: how many files an archive has whose names fit a pattern.
        strip: leading folders of an archive's names that are left out.
        folder: below the corpus's folder, where an archive is unpacked or a plain file is kept.
    """

    name: str
    url: str
    num_bytes: int | None = None
    md5: str | None = None
    holds: Mapping[str, int] = field(default_factory=dict)
    strip: int = 0
    folder: str = ""

    @property
    def is_archive(self) -> bool:
        return self.name.endswith(".zip")


@dataclass(frozen=True)
class Release:
    """A corpus that may be downloaded; `pause_s` lies between two tries, for servers that count requests."""

    name: str
    licence: str
    parts: tuple[Part, ...]
    pause_s: float = 20.0


def release(name: str) -> Release:
    """The release of a corpus.

    Raises:
        ValueError: it is not openly downloadable, or there is no such corpus.
    """
    if name not in RELEASES:
        nearest = difflib.get_close_matches(name, RELEASES, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(
            f"{name!r} cannot be fetched{hint} There are: {', '.join(RELEASES)}; other corpora are given out by their "
            "owners on request"
        )
    return RELEASES[name]


# Zenodo's record 1188976: sizes and md5 sums as published there.
_RAVDESS: Final = "https://zenodo.org/records/1188976/files"
_RAVDESS_VIDEO: Final = (
    (552968353, "3c8ececaf392b4a9b11b32271f4f6d01"),
    (570673024, "a6f40d413b2e6ef25b3a595099e59abb"),
    (567824665, "68fa240ddd8a3cc410c64efe5fb2b0e4"),
    (546560009, "013eed832af1f7e97082aae398a00dbe"),
    (562966425, "b00e17d61374ef6ba86fef35d50a20fb"),
    (568517859, "3c42877921cc08cfb5c841a0f2cb94a7"),
    (565652404, "bdd29bfe082f80361ec6b589845c283d"),
    (562573079, "bed5f43d9c18e177e34d4bc1ed9b6d77"),
    (523489249, "775da349c50bf915a1bbcb37379bd092"),
    (565580163, "70199d1c6902f76e17df308d5c41fa01"),
    (518634370, "824504aa41a8fd575e5459d5701dd378"),
    (557928718, "2a1f0ddc0ca207beedee6ce2ea863ad7"),
    (501877549, "c5f2fd4fd77941636947620368c612b5"),
    (552484059, "466d31f4cce92a14b1f4ee884bbdf7d7"),
    (525205576, "4b3b9bc8473e86f884630f2506684887"),
    (566412513, "a63c54570ebbe6bd616d0dced5630f7e"),
    (551688845, "8b7ae3e5a85d2874ac8e1195e722e047"),
    (565655520, "fef2131ac361da182c0cb85f3d8e8a6c"),
    (581121687, "abb97d97d8c4e88c866cee1cea9d06d6"),
    (561349264, "5ddfb22770093bafebdefe8faa449f48"),
    (590292896, "d810cf2ff6863ef91306fc7a16d74fbb"),
    (560907466, "fee55f72c9871401f23d4b167de3217d"),
    (545177865, "b31e8c8904e66102e7a951694db752d6"),
    (595799165, "eef90e806c9179bc5b4b098d03647ae3"),
)

# The authors' mirror, which their README names because the quota of the first repository is used up. Its archives are
# made on request, so that nobody publishes sums of them: what is in them is counted instead.
_CREMA_D: Final = "https://gitlab.com/cs-cooper-lab/crema-d-mirror/-"
_CREMA_D_ARCHIVE: Final = f"{_CREMA_D}/archive/HEAD/crema-d-mirror-HEAD.zip?path="
_CREMA_D_CLIPS: Final = 7442

RELEASES: Final[Mapping[str, Release]] = {
    "ravdess": Release(
        "ravdess",
        "CC BY-NC-SA 4.0",
        (
            Part(
                "Audio_Speech_Actors_01-24.zip",
                f"{_RAVDESS}/Audio_Speech_Actors_01-24.zip?download=1",
                208468073,
                "bc696df654c87fed845eb13823edef8a",
                {"Actor_*/03-01-*.wav": 1440},
            ),
            *(
                Part(
                    f"Video_Speech_Actor_{actor:02d}.zip",
                    f"{_RAVDESS}/Video_Speech_Actor_{actor:02d}.zip?download=1",
                    num_bytes,
                    md5,
                    {f"Actor_{actor:02d}/0[12]-01-*.mp4": 120},
                )
                for actor, (num_bytes, md5) in enumerate(_RAVDESS_VIDEO, start=1)
            ),
        ),
    ),
    "crema_d": Release(
        "crema_d",
        "ODbL 1.0",
        (
            Part("AudioWAV.zip", f"{_CREMA_D_ARCHIVE}AudioWAV", holds={"AudioWAV/*.wav": _CREMA_D_CLIPS}, strip=1),
            Part(
                "VideoFlash.zip", f"{_CREMA_D_ARCHIVE}VideoFlash", holds={"VideoFlash/*.flv": _CREMA_D_CLIPS}, strip=1
            ),
            Part("processedResults.zip", f"{_CREMA_D_ARCHIVE}processedResults", holds={"*/*Votes.csv": 1}, strip=1),
            Part("VideoDemographics.csv", f"{_CREMA_D}/raw/HEAD/VideoDemographics.csv"),
            Part("SentenceFilenames.csv", f"{_CREMA_D}/raw/HEAD/SentenceFilenames.csv"),
        ),
    ),
}
