"""Words of a transcript as numbers.

A word is a run of letters, marks and digits, apostrophes inside it included ("don't"); case and Unicode
compatibility forms do not matter. The special words are part of the vocabulary but not of the splitting, so nobody
can smuggle a mask into a transcript by writing "[MASK]". A pre-trained system brings a tokenizer of its own instead,
which splits as it was trained to and sets its marks around the text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

from components.params import TextFeatures
from components.storage import write_atomically

SPECIAL_WORDS = ("[PAD]", "[UNK]", "[MASK]")
PAD_ID, UNKNOWN_ID, MASK_ID = range(3)

_WORD = r"[\p{L}\p{M}\p{N}]+(?:'[\p{L}\p{M}\p{N}]+)*"
# Of the tokenizers that come with models; this project's own are of whole words.
_PRETRAINED_TYPES = ("WordPiece", "BPE", "Unigram")
_CURLY_APOSTROPHE = "\u2019"


class PlainErrors:
    """Turns what the tokenizers library raises into a `ValueError` of one line.

    It raises the class `Exception` itself, which no handler can name without catching everything; so it is told by
    being of exactly that class, and errors of any other go on.
    """

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is Exception:
            why = " ".join(str(error).split())[:200]
            raise ValueError(f"{self._what} ({why}): save it again with save_pretrained, or fetch it again") from error


def fit_tokenizer(transcripts: Iterable[str | None], config: TextFeatures) -> Tokenizer:
    """A tokenizer that knows the most frequent words, equally frequent ones in the order of their code points.

    A pre-trained one is read as it is, and the transcripts do not matter.

    Raises:
        ValueError: there is no pre-trained one where it should be.
    """
    if config.kind == "pretrained":
        return _pretrained(config.path or "")
    splitter = _tokenizer(())
    counts: Counter[str] = Counter()
    for transcript in transcripts:
        counts.update(_words(splitter, transcript or ""))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return _tokenizer(ranked[: config.vocabulary_size - len(SPECIAL_WORDS)])


def encode(tokenizer: Tokenizer, transcript: str | None, config: TextFeatures) -> tuple[NDArray[np.int32], bool]:
    """Ids of the first `max_words` words, (T,) int32, and whether words were cut off.

    A transcript that is unknown and one without a word are the same: no steps. What a pre-trained tokenizer sets
    around a text counts among the words, and stays when the text is cut.
    """
    if config.kind == "pretrained":
        return _encode_marked(tokenizer, transcript, config.max_words)
    ids = tokenizer.encode(_encodable(transcript), add_special_tokens=False).ids if transcript else []
    return np.asarray(ids[: config.max_words], np.int32), len(ids) > config.max_words


def mask_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The id that stands for a masked word, and the first id of words that may replace one.

    Raises:
        ValueError: the tokenizer comes from a model that was not trained with masks.
    """
    for name in (SPECIAL_WORDS[MASK_ID], "<mask>"):
        mask_id = tokenizer.token_to_id(name)
        if mask_id is not None:
            return mask_id, len(SPECIAL_WORDS) if mask_id == MASK_ID else 0
    raise ValueError("features.text.path: the tokenizer has no mask to pre-train with; set pretrain.enabled=false")


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id that stands for a word which the tokenizer does not know; None when it spells every word out."""
    model = json.loads(tokenizer.to_str())["model"]
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    return None if model.get("unk_token") is None else tokenizer.token_to_id(model["unk_token"])


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json`; the same vocabulary gives the same bytes."""
    write_atomically(path, tokenizer.to_str(pretty=True).encode())


def load_tokenizer(path: Path) -> Tokenizer:
    """Read what `save_tokenizer` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no tokenizer of this project.
    """
    return parse_tokenizer(path.read_text(encoding="utf-8"), source=str(path))


def parse_tokenizer(text: str, *, source: str) -> Tokenizer:
    """The tokenizer in the text of a `tokenizer.json`.

    Raises:
        ValueError: it is no tokenizer of this project; `source` names it.
    """
    try:
        content = json.loads(text)
        is_pretrained = content["model"].get("type") in _PRETRAINED_TYPES
        vocabulary: dict[str, int] = content["model"]["vocab"]
        words = [] if is_pretrained else sorted(vocabulary, key=vocabulary.__getitem__)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{source} is no tokenizer of this project: build the features again, or fetch the file again"
        ) from error
    if is_pretrained:
        with PlainErrors(f"{source} is damaged"):
            return _unpadded(Tokenizer.from_str(text))
    # Built anew instead of read: the library raises no named error, and only the vocabulary is the file's to decide.
    tokenizer = _tokenizer(words[len(SPECIAL_WORDS) :])
    if json.loads(tokenizer.to_str()) != content:
        raise ValueError(f"{source} splits words in another way than this version: build the features again")
    return tokenizer


def _pretrained(name: str) -> Tokenizer:
    path = Path(name).expanduser() / "tokenizer.json"
    if path.is_file():
        return load_tokenizer(path)
    # A name on the hub: transformers takes a second to import.
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    with PlainErrors(f"features.text.path: the tokenizer of {name} is damaged"):
        try:
            found = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ValueError(f"features.text.path: {name} is no tokenizer's folder, and no name on the hub") from error
    if not isinstance(found, PreTrainedTokenizerFast):
        raise ValueError(f"features.text.path: {name} has no tokenizer.json: save it again with a fast tokenizer")
    return _unpadded(found.backend_tokenizer)


def _unpadded(tokenizer: Tokenizer) -> Tokenizer:
    # Some come with the padding and the cut of their training.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _encode_marked(tokenizer: Tokenizer, transcript: str | None, max_words: int) -> tuple[NDArray[np.int32], bool]:
    text = _encodable(transcript or "")
    num_words = len(tokenizer.encode(text, add_special_tokens=False).ids)
    if not num_words:
        return np.zeros(0, np.int32), False
    ids = tokenizer.encode(text).ids
    if len(ids) <= max_words:
        return np.asarray(ids, np.int32), False
    num_behind = len(tokenizer.encode("").ids) // 2
    return np.asarray([*ids[: max_words - num_behind], *ids[len(ids) - num_behind :]], np.int32), True


def _tokenizer(words: Iterable[str]) -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate((*SPECIAL_WORDS, *words))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=SPECIAL_WORDS[UNKNOWN_ID]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(_CURLY_APOSTROPHE, "'")]
    )
    # Inverted, the splitter treats what is no word as the separator and removes it.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    return tokenizer


def _words(splitter: Tokenizer, transcript: str) -> list[str]:
    normalized = splitter.normalizer.normalize_str(_encodable(transcript))
    return [word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(normalized)]


def _encodable(transcript: str) -> str:
    """The transcript without halves of surrogate pairs, which JSON lets through and UTF-8 does not know."""
    return transcript.encode(errors="replace").decode()
