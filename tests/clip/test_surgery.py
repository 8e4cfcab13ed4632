"""Patch-context and attention against plain loops and torch's own unfold."""

import math

import pytest
import torch
import torch.nn.functional as F

from clipos_lightning.clip.surgery import SurgeryOptions, attend, context_matrix, patch_context
from clipos_lightning.errors import InputError


def kernel_by_hand(size: int, kernel: str) -> torch.Tensor:
    sigma, c = 0.3 * ((size - 1) / 2 - 1) + 0.8, size // 2
    cells = [(i - c, j - c) for i in range(size) for j in range(size)]
    if kernel == "gaussian":
        return torch.tensor([math.exp(-(i * i + j * j) / (2 * sigma * sigma)) for i, j in cells])
    return torch.tensor([float(kernel == "uniform" or (i, j) != (0, 0)) for i, j in cells])


def context_by_unfold(tokens: torch.Tensor, grid: tuple[int, int], beta: float, size: int, kernel: str) -> torch.Tensor:
    """Weighted sum of the zero-padded neighbourhood over the same sum of ones."""
    batch, width = len(tokens), tokens.shape[2]
    weights = kernel_by_hand(size, kernel)

    def weighted_sum(planes: torch.Tensor) -> torch.Tensor:
        cells = F.unfold(planes, size, padding=size // 2)  # (B, W k k, P)
        return (cells.view(len(planes), -1, size * size, cells.shape[-1]) * weights[:, None]).sum(2)

    planes = tokens[:, 1:].transpose(1, 2).reshape(batch, width, *grid)
    mean = weighted_sum(planes) / weighted_sum(torch.ones(1, 1, *grid))
    patches = (1 - beta) * tokens[:, 1:] + beta * mean.transpose(1, 2)
    return torch.cat([tokens[:, :1], patches], 1)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (1, 2)])
@pytest.mark.parametrize(
    ("size", "kernel"),
    [
        *((size, kernel) for size in (1, 3, 5) for kernel in ("uniform", "gaussian")),
        *((size, "centre_excluded") for size in (3, 5)),
    ],
)
def test_patch_context_is_the_mean_of_the_neighbours_that_exist(size, kernel, grid, beta):
    tokens = torch.randn(2, 1 + grid[0] * grid[1], 6, generator=torch.Generator().manual_seed(0))
    matrix = context_matrix(grid, SurgeryOptions(beta=beta, kernel_size=size, kernel=kernel))
    expected = context_by_unfold(tokens, grid, beta, size, kernel)
    torch.testing.assert_close(patch_context(tokens, matrix), expected, rtol=0, atol=1e-6)


def test_patch_context_at_a_corner_by_hand():
    tokens = torch.tensor([100.0, 1, 2, 3, 4]).view(1, 5, 1)  # class token, then a 2 x 2 grid
    smooth = patch_context(tokens, context_matrix((2, 2), SurgeryOptions(beta=1.0, kernel="centre_excluded")))
    torch.testing.assert_close(smooth.flatten(), torch.tensor([100, 3, 8 / 3, 7 / 3, 2]))


@pytest.mark.parametrize(
    ("grid", "size", "kernel", "says"),
    [
        ((4, 4), 2, "uniform", "kernel_size is 2.*odd"),
        ((4, 4), 0, "uniform", "kernel_size is 0"),
        ((4, 4), 1, "centre_excluded", "without neighbours"),
        ((1, 1), 3, "centre_excluded", "1x1 grid without neighbours"),
    ],
)
def test_kernels_that_average_nothing_are_refused(grid, size, kernel, says):
    with pytest.raises(InputError, match=says):
        context_matrix(grid, SurgeryOptions(kernel_size=size, kernel=kernel))


@pytest.mark.parametrize("beta", [-0.01, 1.01, math.nan, math.inf])
def test_a_weight_of_the_neighbourhood_outside_0_to_1_is_refused(beta):
    with pytest.raises(InputError, match=rf"--model\.surgery\.beta is {beta}:"):
        SurgeryOptions(beta=beta)
    assert [SurgeryOptions(beta=limit).beta for limit in (0, 1)] == [0, 1]


def attend_token_by_token(q, k, v, heads: int) -> torch.Tensor:
    batch, tokens, width = v.shape
    d = width // heads
    out = torch.zeros(batch, tokens, width)
    for b in range(batch):
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            for i in range(tokens):
                logits = [float(q[b, i, part] @ k[b, j, part]) / math.sqrt(d) for j in range(tokens)]
                weights = [math.exp(x - max(logits)) for x in logits]
                for j in range(tokens):
                    out[b, i, part] += weights[j] / sum(weights) * v[b, j, part]
    return out


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("vv", [True, False])
def test_attention_equals_the_loop_over_heads_and_tokens(heads, vv):
    q, k, v = torch.randn(3, 2, 5, 8, generator=torch.Generator().manual_seed(1))
    q, k = (v, v) if vv else (q, k)
    torch.testing.assert_close(attend(q, k, v, heads), attend_token_by_token(q, k, v, heads), rtol=0, atol=1e-5)
