"""A clip's features as one file (safetensors), for callers who describe their recordings themselves.

Only numbers leave their machine, and an answer costs no decoding. The file says by which settings and tokenizer it was
made, so that a model never gets features of another kind.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from components.bundle_files import PREPROCESS, TOKENIZER
from components.features import ClipFeatures

MEDIA_TYPE: Final = "application/x-safetensors"
_KIND: Final = "kind"
_DTYPES: Final = {"audio": np.float16, "video": np.float16, "words": np.int32}
_HEAD_BYTES: Final = 8


def kind_of(bundle: Path) -> str:
    """A name for how a bundle's features are made: the digest of its settings and its tokenizer."""
    digest = hashlib.sha256()
    for name in (PREPROCESS, TOKENIZER):
        digest.update(hashlib.sha256((bundle / name).read_bytes()).digest())
    return digest.hexdigest()[:16]


def describe(
    bundle: Path, *, audio: Path | bytes | None = None, video: Path | bytes | None = None, text: str | None = None
) -> bytes:
    """The file of a clip, made as the bundle's model wants it. The bundle's weights are not read.

    Raises:
        MediaError: a recording cannot be used.
        ValueError: a file of the bundle is missing or damaged.
    """
    # Decoders and PyTorch come with these; who only sends or reads a file needs neither.
    from components import predictor
    from components.features import clip_features
    from components.features.text import load_tokenizer

    config = predictor.read_preprocess(bundle / PREPROCESS)
    recording = clip_features.record(audio=audio if audio is not None else video, video=video, config=config)
    features, _ = clip_features.compute(recording, text, config, load_tokenizer(bundle / TOKENIZER))
    return write(features, kind_of(bundle))


def write(features: ClipFeatures, kind: str) -> bytes:
    """Features and the name of how they were made, as a file."""
    arrays = {"audio": features.audio_TF, "video": features.video_TF, "words": features.word_ids_T}
    return save({name: np.ascontiguousarray(values) for name, values in arrays.items()}, {_KIND: kind})


def read(content: bytes) -> tuple[ClipFeatures, str]:
    """What `write` wrote.

    Raises:
        ValueError: it is no such file; says what is wrong.
    """
    try:
        arrays = load(content)
        # `load` leaves the metadata out; that the head is whole it has checked.
        head = json.loads(content[_HEAD_BYTES : _HEAD_BYTES + int.from_bytes(content[:_HEAD_BYTES], "little")])
    except (SafetensorError, ValueError, RecursionError, KeyError) as error:
        raise ValueError("the body is no safetensors file: write it with serving.feature_file") from error
    found = {name: values.dtype for name, values in arrays.items()}
    if found != {name: np.dtype(dtype) for name, dtype in _DTYPES.items()}:
        wanted = ", ".join(f"{name} ({np.dtype(dtype)})" for name, dtype in _DTYPES.items())
        given = ", ".join(f"{name} ({dtype})" for name, dtype in found.items())
        raise ValueError(f"the file holds {given or 'nothing'}: it must hold {wanted}")
    for name, values in arrays.items():
        if values.ndim != (1 if name == "words" else 2):
            raise ValueError(f"{name} has {values.ndim} dimensions: give steps by features, words as a list of ids")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are no numbers")
    features = ClipFeatures(arrays["audio"], arrays["video"], arrays["words"])
    return features, str(head.get("__metadata__", {}).get(_KIND, ""))
