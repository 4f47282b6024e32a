"""Ridge regression by bands, against refitting without each speaker, and on inputs of which the truth is planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from torch import Tensor

from components.banded_ridge import choose, solve

SIZES = (4, 30, 3)


def _clips(num_clips: int, *, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """Two targets that lie in the first band; the second band is noise, the third always 0."""
    random = np.random.default_rng(seed)
    inputs_NI = random.normal(size=(num_clips, sum(SIZES)))
    inputs_NI[:, -SIZES[2] :] = 0
    targets_NC = inputs_NI[:, :2] + 0.3 * random.normal(size=(num_clips, 2)) + [0.5, -2.0]
    speakers = [f"speaker{number}" for number in random.integers(0, 6, num_clips)]
    return torch.from_numpy(inputs_NI), torch.from_numpy(targets_NC), speakers


def _refitted(
    inputs_NI: NDArray[np.float64], targets_NC: NDArray[np.float64], deviation_I: NDArray[np.float64]
) -> Ridge:
    return Ridge(alpha=1.0).fit(inputs_NI * deviation_I, targets_NC)


def test_answers_about_unseen_speakers_are_those_of_a_regression_without_them() -> None:
    inputs_NI, targets_NC, speakers = _clips(60, seed=0)
    bands = choose(inputs_NI, targets_NC, speakers, SIZES)
    deviation_I = np.repeat(bands.variance_K.sqrt().numpy(), SIZES)
    for speaker in set(speakers):
        held_out_N = np.array([each == speaker for each in speakers])
        model = _refitted(inputs_NI[~held_out_N].numpy(), targets_NC[~held_out_N].numpy(), deviation_I)
        expected = model.predict(inputs_NI[held_out_N].numpy() * deviation_I)
        # The intercept is shrunk a little, so that one inverse serves all.
        np.testing.assert_allclose(bands.unseen_NC[held_out_N].numpy(), expected, atol=2e-3)


def test_a_band_of_noise_counts_far_less_than_one_that_tells() -> None:
    inputs_NI, targets_NC, speakers = _clips(200, seed=1)
    told, noise, nothing = choose(inputs_NI, targets_NC, speakers, SIZES).variance_K.tolist()
    assert noise < told / 50
    assert nothing == 0


def test_no_common_strength_does_better_on_unseen_speakers() -> None:
    inputs_NI, targets_NC, speakers = _clips(60, seed=2)
    error = float((choose(inputs_NI, targets_NC, speakers, SIZES).unseen_NC - targets_NC).square().mean())
    for strength in 2.0 ** np.arange(-8, 8):
        errors = []
        for speaker in set(speakers):
            held_out_N = np.array([each == speaker for each in speakers])
            model = _refitted(
                inputs_NI[~held_out_N].numpy(), targets_NC[~held_out_N].numpy(), np.full(sum(SIZES), strength)
            )
            answers = model.predict(inputs_NI[held_out_N].numpy() * strength)
            errors.append(np.square(answers - targets_NC[held_out_N].numpy()))
        assert error < np.concatenate(errors).mean()


def test_all_clips_are_solved_in_parts_as_in_one() -> None:
    inputs_NI, targets_NC, _ = _clips(50, seed=3)
    variance_K = torch.tensor([2.0, 0.1, 0.0], dtype=torch.float64)
    weight_IC, bias_C = solve([(inputs_NI[:20], targets_NC[:20]), (inputs_NI[20:], targets_NC[20:])], variance_K, SIZES)
    deviation_I = np.repeat(variance_K.sqrt().numpy(), SIZES)
    expected = _refitted(inputs_NI.numpy(), targets_NC.numpy(), deviation_I)
    np.testing.assert_allclose(weight_IC.numpy(), (expected.coef_ * deviation_I).T, atol=1e-10)
    np.testing.assert_allclose(bias_C.numpy(), expected.intercept_, atol=1e-10)
    assert not weight_IC[-SIZES[2] :].any()


def test_of_one_speaker_any_clips_are_left_out() -> None:
    inputs_NI, targets_NC, _ = _clips(40, seed=4)
    bands = choose(inputs_NI, targets_NC, ["anna"] * 40, SIZES)
    assert float((bands.unseen_NC - targets_NC).square().mean()) < 0.5


def test_a_handful_of_clips_gives_finite_strengths() -> None:
    inputs_NI, targets_NC, speakers = _clips(3, seed=5)
    assert bool(choose(inputs_NI, targets_NC, speakers, SIZES).variance_K.isfinite().all())


def test_inputs_that_never_vary_leave_the_mean() -> None:
    _, targets_NC, speakers = _clips(12, seed=6)
    bands = choose(torch.zeros(12, sum(SIZES)), targets_NC, speakers, SIZES)
    assert not bands.variance_K.any()
    weight_IC, bias_C = solve([(torch.zeros(12, sum(SIZES)), targets_NC)], bands.variance_K, SIZES)
    assert not weight_IC.any()
    torch.testing.assert_close(bias_C, targets_NC.mean(dim=0))


def test_one_clip_is_too_few() -> None:
    with pytest.raises(ValueError, match="two labelled clips are needed"):
        choose(torch.ones(1, 2), torch.ones(1, 1), ["anna"], (2,))
