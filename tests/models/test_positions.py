"""Position tables: MAE's layout by its definition, resampling as PyTorch."""

import math

import numpy as np
import pytest
import torch

from lvit_jax.errors import InputError
from lvit_jax.models.positions import resample, sincos_2d, sincos_moco


def test_table_is_maes_columns_first():
    table = sincos_2d(16, (3, 5))
    assert table.shape == (16, 16) and table.dtype == np.float32
    assert not table[0].any()
    for y in range(3):
        for x in range(5):
            row = table[1 + 5 * y + x]
            for i in range(4):
                omega = 10000 ** (-i / 4)
                expected = [math.sin(x * omega), math.cos(x * omega), math.sin(y * omega), math.cos(y * omega)]
                np.testing.assert_allclose(row[[i, 4 + i, 8 + i, 12 + i]], expected, rtol=1e-6, atol=1e-7)


def test_mocos_table_is_rows_first():
    table = sincos_moco(16, (3, 5))
    assert table.shape == (16, 16) and not table[0].any()
    for y in range(3):
        for x in range(5):
            for i in range(4):
                omega = 10000 ** (-i / 4)
                expected = [math.sin(y * omega), math.cos(y * omega), math.sin(x * omega), math.cos(x * omega)]
                found = table[1 + 5 * y + x][[i, 4 + i, 8 + i, 12 + i]]
                np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "source, target", [((14, 14), (24, 24)), ((14, 14), (7, 7)), ((6, 6), (4, 9)), ((4, 6), (8, 5))]
)
def test_resampling_is_torchs_bicubic(source, target):
    table = np.random.default_rng(0).standard_normal((1, 1 + source[0] * source[1], 8), np.float32)
    ours = resample(table, target, source)
    grid = torch.tensor(table[:, 1:]).reshape(1, *source, 8).permute(0, 3, 1, 2)
    theirs = torch.nn.functional.interpolate(grid, size=target, mode="bicubic", align_corners=False)
    np.testing.assert_allclose(ours[:, 1:], theirs.permute(0, 2, 3, 1).reshape(1, -1, 8), atol=1e-5)
    np.testing.assert_array_equal(ours[:, :1], table[:, :1])


def test_the_same_grid_changes_nothing():
    table = np.random.default_rng(0).standard_normal((1, 10, 8), np.float32)
    np.testing.assert_array_equal(resample(table, (3, 3)), table)


def test_errors_name_the_sizes():
    with pytest.raises(InputError, match="not 18; nearest: 16"):
        sincos_2d(18, (2, 2))
    with pytest.raises(InputError, match="7 patches does not lie on a 3x3 grid"):
        resample(np.zeros((1, 8, 4)), (3, 3))
