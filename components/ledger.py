"""The ingest stage's own book: each clip that is to be inspected, and what came of it, on the disk.

As objects a million clips would fill the memory. Here they are rows of a file (SQLite) that goes when the stage ends;
everything passes through as a stream, and comes out in order.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from components.clip import Clip
from components.inspection import Inspected
from components.survey import Candidate, Outcome, Rejection

_INSPECTED: Final = TypeAdapter(Inspected)
_ROWS_AT_ONCE: Final = 1024
# Nothing in this file outlives the stage, so nothing is done for the day when the power fails.
_SCHEMA: Final = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE clips (number INTEGER PRIMARY KEY, clip_id TEXT, is_extra INTEGER, said TEXT, UNIQUE (clip_id, is_extra));
CREATE TABLE usable (number INTEGER PRIMARY KEY, found BLOB);
CREATE TABLE rejected (clip_id TEXT, uri TEXT, reason TEXT, detail TEXT);
"""


@dataclass(frozen=True)
class Member:
    """A usable clip, and the corpus it came from."""

    inspected: Inspected
    corpus: str
    is_extra: bool

    @property
    def clip(self) -> Clip:
        return self.inspected.clip


class Ledger:
    """A new book.

    Attributes:
        num_clips: how many candidates are in it.
        num_settled: how many of them have an outcome.
        num_usable: how many of these were found whole.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path)
        self._connection.executescript(_SCHEMA)
        # What is the same for all clips of a corpus, and the recordings that are to be made, which have no clip yet.
        self._templates: dict[bool, Candidate] = {}
        self._planned: dict[str, Candidate] = {}
        self.num_clips = self.num_settled = self.num_usable = 0

    def close(self) -> None:
        self._connection.close()

    def add(self, candidate: Candidate) -> bool:
        """Note what is to be inspected; false, and rejected, when its corpus has another clip of that name."""
        self._templates.setdefault(candidate.is_extra, replace(candidate, clip=None, plan=None))
        clip, said = candidate.clip, ""
        if clip is None:
            self._planned[candidate.clip_id] = candidate
        else:
            said = json.dumps({**vars(clip), "labels": dict(clip.labels)})
        row = (candidate.clip_id, candidate.is_extra, said)
        added = self._connection.execute("INSERT OR IGNORE INTO clips (clip_id, is_extra, said) VALUES (?, ?, ?)", row)
        if not added.rowcount:
            detail = "another clip has the same clip_id"
            self.reject(Rejection(candidate.clip_id, candidate.uri, "duplicate-id", detail))
            return False
        self.num_clips += 1
        return True

    def settle(self, candidate: Candidate, outcome: Outcome) -> None:
        """Note what came of a candidate."""
        self.num_settled += 1
        if isinstance(outcome, Rejection):
            self.reject(outcome)
            return
        self.num_usable += 1
        self._connection.execute(
            "INSERT INTO usable SELECT number, ? FROM clips WHERE clip_id = ? AND is_extra = ?",
            (_INSPECTED.dump_json(outcome), candidate.clip_id, candidate.is_extra),
        )

    def reject(self, rejection: Rejection) -> None:
        """Note what cannot be used."""
        self._connection.execute("INSERT INTO rejected VALUES (?, ?, ?, ?)", astuple(rejection))

    def waiting(self) -> Iterator[Candidate]:
        """Candidates that had no outcome when their turn came, in the order in which they were added."""
        last = 0
        while True:
            # Page by page: a row must not be written while its table is being read.
            rows = self._connection.execute(
                "SELECT number, clip_id, is_extra, said FROM clips "
                "WHERE number > ? AND number NOT IN (SELECT number FROM usable) ORDER BY number LIMIT ?",
                (last, _ROWS_AT_ONCE),
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            for _, clip_id, is_extra, said in rows:
                if said:
                    yield replace(self._templates[bool(is_extra)], clip=Clip(**json.loads(said)))
                else:
                    yield self._planned[clip_id]

    def members(self, *, with_extra: bool = True) -> Iterator[Member]:
        """The usable clips, by clip_id; all, or those of the corpus to fine-tune on."""
        rows = self._connection.execute(
            "SELECT is_extra, found FROM clips JOIN usable USING (number) WHERE is_extra <= ? "
            "ORDER BY clip_id, is_extra",
            (with_extra,),
        )
        for is_extra, found in rows:
            template = self._templates[bool(is_extra)]
            yield Member(_INSPECTED.validate_json(found), template.corpus, template.is_extra)

    def rejections(self) -> Iterator[Rejection]:
        """All that cannot be used, by clip_id, place and reason."""
        rows = self._connection.execute("SELECT * FROM rejected ORDER BY clip_id, uri, reason, rowid")
        return (Rejection(*row) for row in rows)
