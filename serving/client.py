"""A small typed client of the endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from serving import feature_file
from serving.keys import bearer
from serving.problems import MEDIA_TYPE
from serving.retrying import Retrying
from serving.schema import (
    Answer,
    BatchAnswer,
    ClassAnswer,
    ModelCard,
    MultilabelAnswer,
    Problem,
    StreamEstimate,
    StreamFinal,
    StreamStart,
    ValuesAnswer,
)

_Schema = TypeVar("_Schema")

_ANSWER: Final[TypeAdapter[ClassAnswer | MultilabelAnswer | ValuesAnswer]] = TypeAdapter(Answer)
_BATCH: Final = TypeAdapter(BatchAnswer)
_CARD: Final = TypeAdapter(ModelCard)
_PROBLEM: Final = TypeAdapter(Problem)


class ServingError(RuntimeError):
    """The endpoint did not answer the question.

    Attributes:
        problem: what it said, or None when it did not answer at all.
    """

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


@dataclass(frozen=True)
class Clip:
    """One clip of a batch: files, or their bytes, and words; at least one of them."""

    video: Path | bytes | None = None
    audio: Path | bytes | None = None
    text: str | None = None


class Client:
    """Asks one endpoint. Use it in a `with` block, or close it.

    Args:
        url: of the endpoint, such as http://127.0.0.1:8000.
        key: API key, where the endpoint wants one.
        timeout_s: for one answer.
        patience_s: for so long a request is sent again while the endpoint has too much to do, a replica of it ended
            or the connection broke; 0 sends each once.
    """

    def __init__(self, url: str, *, key: str = "", timeout_s: float = 120.0, patience_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url, headers=bearer(key), timeout=timeout_s, transport=Retrying(patience_s=patience_s)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def predict(
        self, clip: Path | bytes | None = None, *, audio: Path | bytes | None = None, text: str | None = None
    ) -> ClassAnswer | MultilabelAnswer | ValuesAnswer:
        """Judge a clip: a recording with picture (its sound is used too), or sound alone as `audio`, and words.

        What the answer is depends on what the served model is asked: see `model().task`.

        Raises:
            ServingError: the endpoint does not answer, or refuses the request; the message says why in one line.
            OSError: a file cannot be read.
        """
        files = {name: _content(source) for name, source in (("video", clip), ("audio", audio)) if source is not None}
        words = {} if text is None else {"text": text}
        if files:
            request = self._http.build_request("POST", "/v1/emotion", files=files, data=words)
        else:
            request = self._http.build_request("POST", "/v1/emotion", json=words)
        return _parse(_ANSWER, self._send(request))

    def predict_features(self, content: bytes) -> ClassAnswer | MultilabelAnswer | ValuesAnswer:
        """Judge a clip by its features, as `serving.feature_file.describe` makes them with the model's bundle.

        Raises:
            ServingError: the endpoint does not answer, or refuses the features; the message says why in one line.
        """
        headers = {"Content-Type": feature_file.MEDIA_TYPE}
        return _parse(
            _ANSWER, self._send(self._http.build_request("POST", "/v1/emotion", content=content, headers=headers))
        )

    def batch(self, clips: Mapping[str, Clip]) -> BatchAnswer:
        """Judge several clips in one request, by names of letters, digits, `_` and `-`.

        Each has its answer, or its own problem: a clip that cannot be judged does not spoil the others.

        Raises:
            ServingError: the endpoint does not answer, or refuses the whole; the message says why in one line.
            OSError: a file cannot be read.
        """
        parts: list[tuple[str, tuple[str | None, bytes | str]]] = []
        for name, clip in clips.items():
            for modality, source in (("audio", clip.audio), ("video", clip.video)):
                if source is not None:
                    parts.append((f"{modality}.{name}", (name, _content(source))))
            if clip.text is not None:
                parts.append((f"text.{name}", (None, clip.text)))
        return _parse(_BATCH, self._send(self._http.build_request("POST", "/v1/emotion:batch", files=parts)))

    def stream(
        self, parts: Iterable[bytes | str], *, start: StreamStart | None = None, timeout_s: float = 60.0
    ) -> Iterator[StreamEstimate | StreamFinal]:
        """Judge a clip while it is being made: an iterator of estimates, which ends with the answer for all of it.

        `parts` is gone through in a thread of its own, so it may wait for a microphone.

        Args:
            parts: bytes are the next part of the recording (WebM, WAV, Ogg, as it is written), or of the samples that
                `start` describes; a string is all words so far.
            start: what the bytes are, when they are not a recording.
            timeout_s: without anything from the endpoint.

        Raises:
            ServingError: the endpoint does not answer, or refuses the stream; the message says why in one line.
            OSError, ValueError, RuntimeError: what `parts` raises.
        """
        # Only streams need web sockets.
        from serving import client_stream

        authorization = self._http.headers.get("authorization")
        headers = {"Authorization": authorization} if authorization else {}
        return client_stream.stream(self.url, parts, start=start, headers=headers, timeout_s=timeout_s)

    def model(self) -> ModelCard:
        """The served model.

        Raises:
            ServingError: the endpoint does not answer, or serves no model yet.
        """
        return _parse(_CARD, self._send(self._http.build_request("GET", "/v1/model")))

    def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            answer = self._http.send(request)
        except httpx.ConnectError as error:
            raise ServingError(f"nothing answers at {self.url}: start the platform with `affect up`") from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise ServingError(f"{self.url} broke off: {reason}; try again, or see `affect status`") from error
        if answer.is_success:
            return answer
        if answer.headers.get("content-type", "").startswith(MEDIA_TYPE):
            problem = _parse(_PROBLEM, answer)
            raise ServingError(problem.detail, problem)
        text = " ".join(answer.text.split())[:300]
        raise ServingError(f"{self.url} answers {answer.status_code}: {text or answer.reason_phrase}")


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _parse(schema: TypeAdapter[_Schema], answer: httpx.Response) -> _Schema:
    try:
        return schema.validate_json(answer.content)
    except ValidationError as error:
        raise ServingError(
            f"{answer.url} is no endpoint of this version: {error.error_count()} fields differ"
        ) from error
