"""Words that nobody wrote down, by a speech recognizer of transformers from a folder: CTC or sequence to sequence.

A clip's words depend on its sound alone: always the likeliest next symbol is taken, nothing is drawn, and clips are
heard together only where their inputs are of one shape without padding. torch and transformers are imported when the
recognizer is loaded.

S samples.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from components.features.text import PlainErrors
from components.sources import Transcribe

_BATCH: Final = 8
_SHORTEST_S: Final = 0.1
# What decides what is heard; a folder may hold the same weights in other forms, too.
_SUFFIXES: Final = frozenset({".json", ".txt", ".model", ".safetensors"})
_REMEDY: Final = (
    "name a folder with a Wav2Vec2ForCTC, WhisperForConditionalGeneration or alike, as save_pretrained writes it"
)


@dataclass(frozen=True)
class _Recognizer:
    """What turns a waveform into the network's input, the network, and what turns its output into words."""

    hearing: Any
    model: Any
    tokenizer: Any
    is_ctc: bool
    chunk_s: float | None


def identified(settings: Transcribe) -> Transcribe:
    """The settings with the digest of the recognizer's files.

    Raises:
        ValueError: there is no recognizer's folder, or it is another one than the settings say.
    """
    folder = Path(settings.path)
    if not (folder / "config.json").is_file():
        raise ValueError(f"features.text.transcribe.path {folder} has no config.json: {_REMEDY}")
    digest = _digest(folder)
    if settings.digest not in (None, digest):
        raise ValueError(
            f"features.text.transcribe.path {folder} holds another recognizer than the one that the words of the "
            "training came from: bring that one back, or start the run again"
        )
    return settings.model_copy(update={"digest": digest})


def check(settings: Transcribe, *, sample_rate_hz: int) -> Transcribe:
    """The settings with the digest of the recognizer's files, which was loaded once and heard silence.

    Raises:
        ValueError: it cannot be loaded, or hears another sampling rate.
    """
    found = identified(settings)
    transcribe([np.zeros(round(_SHORTEST_S * sample_rate_hz), np.float32)], found, sample_rate_hz=sample_rate_hz)
    return found


def transcribe(waveforms: Sequence[NDArray[np.float32]], settings: Transcribe, *, sample_rate_hz: int) -> list[str]:
    """What is said in each waveform, (S,) mono in [-1, 1]; the empty string where nothing is.

    Raises:
        ValueError: the recognizer cannot be loaded, or hears another sampling rate.
    """
    recognizer = _loaded(settings.path, settings.digest)
    hears_hz = getattr(recognizer.hearing, "sampling_rate", sample_rate_hz)
    if hears_hz != sample_rate_hz:
        raise ValueError(
            f"features.text.transcribe.path {settings.path} hears {hears_hz} Hz: "
            "set features.audio.sample_rate_hz to it"
        )
    pieces = [piece for waveform in waveforms for piece in _pieces(waveform, recognizer.chunk_s, sample_rate_hz)]
    counts = [len(_pieces(waveform, recognizer.chunk_s, sample_rate_hz)) for waveform in waveforms]
    words = iter(_heard(pieces, recognizer, settings, sample_rate_hz))
    return [" ".join(" ".join(next(words) for _ in range(count)).split()) for count in counts]


def _pieces(waveform_S: NDArray[np.float32], chunk_s: float | None, rate_hz: int) -> list[NDArray[np.float32]]:
    """The waveform in equal parts that the recognizer can hear at once; none of an empty one."""
    if not len(waveform_S):
        return []
    count = 1 if chunk_s is None else -(-len(waveform_S) // round(chunk_s * rate_hz))
    shortest = round(_SHORTEST_S * rate_hz)
    return [np.pad(part, (0, max(0, shortest - len(part)))) for part in np.array_split(waveform_S, count)]


def _heard(
    pieces: Sequence[NDArray[np.float32]], recognizer: _Recognizer, settings: Transcribe, rate_hz: int
) -> list[str]:
    import torch

    inputs = [
        dict(recognizer.hearing(piece, sampling_rate=rate_hz, return_tensors="pt", return_attention_mask=True))
        for piece in pieces
    ]
    alike: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
    for number, each in enumerate(inputs):
        alike[tuple(tuple(tensor.shape) for tensor in each.values())].append(number)
    words = [""] * len(pieces)
    for numbers in alike.values():
        for first in range(0, len(numbers), _BATCH):
            block = numbers[first : first + _BATCH]
            together = {name: torch.cat([inputs[number][name] for number in block]) for name in inputs[block[0]]}
            with torch.inference_mode():
                said = _of_ctc(recognizer, together) if recognizer.is_ctc else _written(recognizer, together, settings)
            for number, text in zip(block, said, strict=True):
                words[number] = text
    return words


def _of_ctc(recognizer: _Recognizer, inputs: dict[str, Any]) -> list[str]:
    # Nothing is padded, so nothing has to be masked; some of these networks were trained without masks.
    inputs = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}
    ids = recognizer.model(**inputs).logits.argmax(dim=-1)
    # The blank has to stay until repetitions are gone, so that special symbols cannot be skipped by the tokenizer.
    texts: list[str] = recognizer.tokenizer.batch_decode(ids)
    for symbol in recognizer.tokenizer.all_special_tokens:
        texts = [text.replace(symbol, " ") for text in texts]
    return texts


def _written(recognizer: _Recognizer, inputs: dict[str, Any], settings: Transcribe) -> list[str]:
    language = {} if settings.language is None else {"language": settings.language, "task": "transcribe"}
    ids = recognizer.model.generate(**inputs, do_sample=False, num_beams=1, **language)
    texts: list[str] = recognizer.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts


@functools.lru_cache(maxsize=1)
def _loaded(path: str, digest: str | None) -> _Recognizer:
    del digest  # Another digest, another recognizer.
    from safetensors import SafetensorError
    from transformers import (
        MODEL_FOR_CTC_MAPPING,
        MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
        AutoConfig,
        AutoFeatureExtractor,
        AutoModelForCTC,
        AutoModelForSpeechSeq2Seq,
        AutoTokenizer,
    )
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        is_ctc = type(config) in MODEL_FOR_CTC_MAPPING
        if not is_ctc and type(config) not in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING:
            raise ValueError(f"{config.model_type} recognizes no speech")
        auto = AutoModelForCTC if is_ctc else AutoModelForSpeechSeq2Seq
        model, report = auto.from_pretrained(
            path, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        missing = sorted(name for name in report["missing_keys"] if "masked_spec_embed" not in name)
        if missing:
            raise ValueError(f"its weights lack {missing[0]}")
        hearing = AutoFeatureExtractor.from_pretrained(path, local_files_only=True)  # type: ignore[no-untyped-call]  # transformers leaves these untyped
        with PlainErrors("its tokenizer is damaged"):
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"features.text.transcribe.path {path} is no recognizer ({why}): {_REMEDY}") from error
    model.eval()
    return _Recognizer(hearing, model, tokenizer, is_ctc, getattr(hearing, "chunk_length", None))


@functools.lru_cache(maxsize=4)
def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _SUFFIXES:
            with path.open("rb") as file:
                digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
