"""Tiny speech recognizers of transformers with known answers, saved as real ones are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

RATE_HZ: Final = 16_000
_STEP: Final = 160
# Symbols of the recognizer that tells how high the sound's mean lies.
SYMBOLS: Final = ("<pad>", "<s>", "</s>", "<unk>", " yes", " no", " maybe")
# What follows the last one would be a time stamp.
_WHISPER_WORDS: Final = ("<|endoftext|>", "<|startoftranscript|>", "yes", "no", "maybe", "<|notimestamps|>")
_SPOKEN: Final = ("yes", "no", "maybe")


def sound_of(levels: str, *, part_s: float = 0.3) -> NDArray[np.float32]:
    """A sound that the recognizer of levels reads: `+` is yes, `-` is no, `0` is maybe."""
    heights = {"+": 0.5, "-": -0.5, "0": 0.0}
    return np.repeat(np.asarray([heights[level] for level in levels], np.float32), round(part_s * RATE_HZ))


def write_level_reader(folder: Path) -> Path:
    """A Wav2Vec2ForCTC without layers of attention whose weights are set: it reads `sound_of`."""
    config = Wav2Vec2Config(
        hidden_size=2,
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=2,
        conv_dim=[2],
        conv_kernel=[_STEP],
        conv_stride=[_STEP],
        num_conv_pos_embeddings=2,
        num_conv_pos_embedding_groups=1,
        vocab_size=len(SYMBOLS),
        pad_token_id=0,
        layer_norm_eps=1e-2,
    )
    model = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for name, parameter in model.named_parameters():
            if name.endswith("layer_norm.weight") or name.endswith("parametrizations.weight.original1"):
                parameter.fill_(1)
        front = model.get_parameter("wav2vec2.feature_extractor.conv_layers.0.conv.weight")
        front.copy_(torch.tensor([1.0, -1.0])[:, None, None].expand_as(front) / _STEP)
        model.wav2vec2.feature_projection.projection.weight.copy_(torch.eye(2))
        model.lm_head.weight[SYMBOLS.index(" yes")] = torch.tensor([1.0, -1.0])
        model.lm_head.weight[SYMBOLS.index(" no")] = torch.tensor([-1.0, 1.0])
        model.lm_head.bias[SYMBOLS.index(" maybe")] = 0.5
    model.save_pretrained(folder)
    hearing = Wav2Vec2FeatureExtractor(sampling_rate=RATE_HZ, do_normalize=False)  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    hearing.save_pretrained(folder)
    vocabulary = folder.parent / f"{folder.name}-vocabulary.json"
    vocabulary.write_text(json.dumps({symbol: number for number, symbol in enumerate(SYMBOLS)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(vocabulary))  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    tokenizer.save_pretrained(folder)
    return folder


def write_random_ctc(folder: Path) -> Path:
    """A small Wav2Vec2ForCTC of random weights, with layers of attention."""
    torch.manual_seed(3)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8, 8],
        conv_kernel=[10, 32],
        conv_stride=[5, 32],
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        vocab_size=len(SYMBOLS),
        pad_token_id=0,
    )
    model = Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(50)
    write_level_reader(folder)
    model.save_pretrained(folder)
    return folder


def write_whisper(folder: Path, *, only: str | None = None) -> Path:
    """A small WhisperForConditionalGeneration of random weights; with `only` it can say nothing but that word."""
    torch.manual_seed(4)
    config = WhisperConfig(
        vocab_size=len(_WHISPER_WORDS),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_mel_bins=8,
        max_source_positions=50,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        model.model.decoder.embed_tokens.weight.mul_(60)
    may_say = _SPOKEN if only is None else (only,)
    silent = [number for number, word in enumerate(_WHISPER_WORDS) if word not in may_say]
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers leaves these untyped
        max_length=6,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
        no_timestamps_token_id=len(_WHISPER_WORDS) - 1,
        suppress_tokens=silent,
        is_multilingual=False,
        return_timestamps=False,
    )
    model.save_pretrained(folder)
    hearing = WhisperFeatureExtractor(feature_size=8, chunk_length=1, sampling_rate=RATE_HZ)  # type: ignore[no-untyped-call]  # transformers leaves these untyped
    hearing.save_pretrained(folder)
    splitter = Tokenizer(WordLevel({word: number for number, word in enumerate(_WHISPER_WORDS)}, unk_token="no"))
    splitter.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves these untyped
        tokenizer_object=splitter,
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="no",
        additional_special_tokens=["<|startoftranscript|>", "<|notimestamps|>"],
    )
    tokenizer.save_pretrained(folder)
    return folder
