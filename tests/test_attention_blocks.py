"""Attention, layers and pooling against slow, obvious loops in float64, on random shapes with padding."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.models.attention import CrossAttention
from components.models.audiovisual_layers import (
    AudiovisualLayer,
    AudiovisualStack,
    ReconstructionHead,
    StackSettings,
    sinusoidal_positions,
)
from components.models.layers import (
    Attention,
    FrameProjection,
    Layer,
    Stack,
    positions,
    statistics_pooling,
    valid_steps,
)
from components.models.speech_text import statistics
from components.models.speech_text_encoders import LengthAwareGroupNorm
from tests.slow_references import Array, affine, allowed_steps, attention, gelu, layer_norm, randomised

FEW = settings(max_examples=25)


@dataclass(frozen=True)
class Case:
    """A batch of random shape: two padded sequences at one width."""

    x_BTD: torch.Tensor
    memory_BSD: torch.Tensor
    lengths_B: list[int]
    num_heads: int
    seed: int

    @property
    def mask_BS(self) -> torch.Tensor:
        return valid_steps(torch.tensor(self.lengths_B), self.memory_BSD.shape[1])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    batch, steps, others = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    num_heads, size, seed = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 2**31))
    lengths_B = draw(st.lists(st.integers(0, others), min_size=batch, max_size=batch))
    random = np.random.default_rng(seed)
    x_BTD, memory_BSD = (
        torch.from_numpy(random.normal(size=(batch, num, num_heads * size))) for num in (steps, others)
    )
    return Case(x_BTD, memory_BSD, lengths_B, num_heads, seed)


def _close(found: torch.Tensor, expected: Array) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9, atol=1e-10)


def _null_key_attention(module: Attention, x: Array, memory: Array, length: int) -> Array:
    """The trimodal system's: a learned key and value stand before every looked-at sequence."""
    width = x.shape[1]
    null = module.null_key_value.detach().numpy().reshape(-1)
    looked_at = np.concatenate([null[None], affine(module.key_value, memory)])
    allowed = allowed_steps(len(x), len(looked_at), length + 1, causal=False)
    mixed = attention(affine(module.query, x), looked_at[:, :width], looked_at[:, width:], allowed, module.num_heads)
    return affine(module.output, mixed)


def _trimodal_layer(module: Layer, x: Array, memory: Array | None, length: int) -> Array:
    normed = layer_norm(module.attention_norm, x)
    looked_at = normed if module.memory_norm is None or memory is None else layer_norm(module.memory_norm, memory)
    x = x + _null_key_attention(module.attention, normed, looked_at, length)
    return x + affine(module.contract, gelu(affine(module.expand, layer_norm(module.forward_norm, x))))


def _cross_attention(module: CrossAttention, x: Array, memory: Array, length: int, *, causal: bool) -> Array:
    width = x.shape[1]
    query, of_memory = affine(module.query_key_value, x)[:, :width], affine(module.query_key_value, memory)
    allowed = allowed_steps(len(x), len(memory), length, causal=causal)
    mixed = attention(query, of_memory[:, width : 2 * width], of_memory[:, 2 * width :], allowed, module.num_heads)
    return affine(module.output, mixed)


def _audiovisual_layer(module: AudiovisualLayer, x: Array, memory: Array | None, length: int) -> Array:
    normed = layer_norm(module.attention_norm, x)
    looked_at = normed if memory is None else layer_norm(module.attention_norm, memory)
    x = x + _cross_attention(module.attention, normed, looked_at, length, causal=module.causal)
    return x + affine(module.contract, np.maximum(affine(module.expand, layer_norm(module.forward_norm, x)), 0))


def _audiovisual_embedding(x: Array, *, on_zero_frames: bool) -> Array:
    """Scaled by the root of the width, and the sines and cosines of places counted from 1."""
    width, half = x.shape[1], x.shape[1] // 2
    found = x * math.sqrt(width)
    for place in range(len(x)):
        if x[place, 0] == 0 and not on_zero_frames:
            continue
        for column in range(half):
            angle = (place + 1) * math.exp(-column * math.log(10000) / max(1, half - 1))
            found[place, column] += math.sin(angle)
            found[place, half + column] += math.cos(angle)
    return found


def _stack_settings(case: Case, *, causal: bool, on_zero_frames: bool) -> StackSettings:
    return StackSettings(2, case.x_BTD.shape[2], case.num_heads, causal, on_zero_frames, 0.25, 0.1, 0.1, 0.1)


@FEW
@given(cases())
def test_trimodal_attention_is_the_slow_loop(case: Case) -> None:
    module = Attention(case.x_BTD.shape[2], case.num_heads)
    randomised(module, case.seed)
    found = module(case.x_BTD, case.memory_BSD, case.mask_BS)
    for row, length in enumerate(case.lengths_B):
        _close(found[row], _null_key_attention(module, case.x_BTD[row].numpy(), case.memory_BSD[row].numpy(), length))


@FEW
@given(cases(), st.booleans())
def test_a_trimodal_stack_is_the_slow_loop(case: Case, cross: bool) -> None:
    module = Stack(2, case.x_BTD.shape[2], case.num_heads, 0.3, cross=cross)
    randomised(module, case.seed)
    x_BTD = case.x_BTD if cross else case.memory_BSD
    found = module(x_BTD, case.memory_BSD if cross else None, case.mask_BS)
    for row, length in enumerate(case.lengths_B):
        expected = x_BTD[row].numpy()
        for layer in module.layers:
            assert isinstance(layer, Layer)
            expected = _trimodal_layer(layer, expected, case.memory_BSD[row].numpy() if cross else None, length)
        _close(found[row], layer_norm(module.norm, expected))


@FEW
@given(cases())
def test_the_frame_projection_is_the_slow_loop(case: Case) -> None:
    width = case.memory_BSD.shape[2]
    module = FrameProjection(width, 4, 0.3)
    randomised(module, case.seed)
    found = module(case.memory_BSD, case.mask_BS)
    for row, length in enumerate(case.lengths_B):
        projected = affine(module.project, case.memory_BSD[row].numpy())
        projected[length:] = 0
        weight, bias = (value.detach().numpy() for value in module.neighbours.parameters())
        local = np.zeros_like(projected)
        for step in range(len(projected)):
            for channel in range(4):
                local[step, channel] = bias[channel]
                for offset in (-1, 0, 1):
                    if 0 <= step + offset < len(projected):
                        local[step, channel] += weight[channel, 0, offset + 1] * projected[step + offset, channel]
        _close(found[row], layer_norm(module.norm, projected + gelu(local)))


@FEW
@given(cases(), st.booleans())
def test_cross_attention_is_the_slow_loop(case: Case, causal: bool) -> None:
    module = CrossAttention(case.x_BTD.shape[2], case.num_heads)
    randomised(module, case.seed)
    found = module(case.x_BTD, case.memory_BSD, case.mask_BS, causal=causal)
    for row, length in enumerate(case.lengths_B):
        x, memory = case.x_BTD[row].numpy(), case.memory_BSD[row].numpy()
        _close(found[row], _cross_attention(module, x, memory, length, causal=causal))


@FEW
@given(cases(), st.booleans(), st.booleans(), st.booleans())
def test_an_audiovisual_stack_is_the_slow_loop(case: Case, cross: bool, causal: bool, on_zero_frames: bool) -> None:
    module = AudiovisualStack(_stack_settings(case, causal=causal, on_zero_frames=on_zero_frames))
    randomised(module, case.seed)
    x_BTD, memory_BSD = case.x_BTD.clone() if cross else case.memory_BSD.clone(), case.memory_BSD.clone()
    x_BTD[:, ::3], memory_BSD[:, 1::3] = 0, 0
    found = module(x_BTD, memory_BSD if cross else None, case.mask_BS)
    for row, length in enumerate(case.lengths_B):
        expected = _audiovisual_embedding(x_BTD[row].numpy(), on_zero_frames=on_zero_frames)
        memory = _audiovisual_embedding(memory_BSD[row].numpy(), on_zero_frames=on_zero_frames) if cross else None
        for layer in module.layers:
            assert isinstance(layer, AudiovisualLayer)
            expected = _audiovisual_layer(layer, expected, memory, length)
        _close(found[row], layer_norm(module.norm, expected))


@FEW
@given(cases())
def test_a_reconstruction_head_is_the_slow_loop(case: Case) -> None:
    module = ReconstructionHead(case.x_BTD.shape[2], 5)
    randomised(module, case.seed)
    found = module(case.x_BTD)
    for row, x_TD in enumerate(case.x_BTD.numpy()):
        inner = affine(module.second, np.maximum(affine(module.first, x_TD), 0))
        _close(found[row], affine(module.frames, inner + x_TD))


@FEW
@given(cases())
def test_pooled_statistics_are_those_of_the_valid_steps_alone(case: Case) -> None:
    with_floor, exact = statistics_pooling(case.memory_BSD, case.mask_BS), statistics(case.memory_BSD, case.mask_BS)
    for row, length in enumerate(case.lengths_B):
        steps = case.memory_BSD[row, :length].numpy()
        mean = np.array([sum(column) / max(length, 1) for column in steps.T])
        variance = np.array(
            [
                sum((value - m) ** 2 for value in column) / max(length, 1)
                for column, m in zip(steps.T, mean, strict=True)
            ]
        )
        _close(with_floor[row], np.concatenate([mean, np.sqrt(variance + 1e-6)]))
        _close(exact[row], np.concatenate([mean, variance / np.sqrt(variance + 1e-6)]))


@FEW
@given(cases())
def test_the_speech_front_end_normalises_over_the_valid_steps_alone(case: Case) -> None:
    width = case.memory_BSD.shape[2]
    module = LengthAwareGroupNorm(width, 1e-5)
    randomised(module, case.seed)
    lengths_B = [max(1, length) for length in case.lengths_B]
    module.lengths_B = torch.tensor(lengths_B)
    found = module(case.memory_BSD.transpose(1, 2))
    weight, bias = (value.detach().numpy() for value in module.parameters())
    for row, length in enumerate(lengths_B):
        for channel in range(width):
            steps = case.memory_BSD[row, :length, channel].numpy()
            mean = sum(steps) / length
            deviation = math.sqrt(sum((step - mean) ** 2 for step in steps) / length + 1e-5)
            _close(found[row, channel, :length], (steps - mean) / deviation * weight[channel] + bias[channel])
    # Of a clip that fills its batch it is torch's own norm.
    whole = torch.nn.GroupNorm(3, 3).double()
    twin = LengthAwareGroupNorm(3, whole.eps).double()
    x_BCT = torch.from_numpy(np.random.default_rng(case.seed).normal(size=(2, 3, 7)))
    twin.lengths_B = torch.tensor([7, 7])
    torch.testing.assert_close(twin(x_BCT), whole(x_BCT))


@given(st.integers(1, 40), st.integers(2, 13))
def test_positions_are_sines_and_cosines(num_steps: int, width: int) -> None:
    # Interleaved and from 0 on for the trimodal system, in halves and from 1 on for the audiovisual one.
    one = positions(num_steps, width, 0.5, torch.device("cpu")).double().numpy()
    two = sinusoidal_positions(num_steps, width, torch.zeros(1, dtype=torch.float64)).numpy()
    half = width // 2
    assert one.shape == two.shape == (num_steps, width)
    for step in range(num_steps):
        for column in range(width):
            angle = step * 0.5 * 1e4 ** (-(column - column % 2) / width)
            expected = math.sin(angle) if column % 2 == 0 else math.cos(angle)
            assert math.isclose(one[step, column], expected, abs_tol=1e-4)
        for column in range(half):
            angle = (step + 1) * 1e4 ** (-column / max(1, half - 1))
            assert math.isclose(two[step, column], math.sin(angle), abs_tol=1e-9)
            assert math.isclose(two[step, half + column], math.cos(angle), abs_tol=1e-9)
        assert not two[step, 2 * half :].any()
