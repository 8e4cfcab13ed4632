"""The parts of open_clip's transformer blocks that both frozen towers run, without needless passes over memory."""

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

QUICK = 1.702  # QuickGELU(x) = x sigmoid(1.702 x)

TokenRows = Float[Tensor, "*rows width"]


def mlp(block: Any, x: TokenRows) -> TokenRows:
    """The block's MLP. QuickGELU in one wide pass, not three: silu(a x) / a, its factors on the narrow sides."""
    if type(block.mlp.gelu).__name__ != "QuickGELU":
        return block.mlp(x)
    first, last = block.mlp.c_fc, block.mlp.c_proj
    hidden = F.linear(QUICK * x, first.weight, QUICK * first.bias)
    hidden = F.silu(hidden, inplace=not hidden.requires_grad)
    return F.linear(hidden, last.weight, QUICK * last.bias) / QUICK


def finish_block(block: Any, x: TokenRows, attended: TokenRows) -> TokenRows:
    """The rest of a block after its attention: out-projection, residuals, MLP."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(mlp(block, block.ln_2(x)))


def project_in(block: Any, x: TokenRows, first: int = 0, stop: int = 3) -> Float[Tensor, "*rows projected"]:
    """q, k and v of ln_1(x) beside each other, or some of them: 0, 1 and 2."""
    rows = slice(first * x.shape[-1], stop * x.shape[-1])
    return F.linear(block.ln_1(x), block.attn.in_proj_weight[rows], block.attn.in_proj_bias[rows])
