"""Average over the tokens before the last linear layer instead of behind it.

Mean pooling is linear, so it commutes with the residual sum and with the last MLP's second layer:

    mean(x + W h(x) + b) = mean(x) + W mean(h(x)) + b,  h(x) the hidden activations, token by token

So that layer runs once an image, not once a token.
"""

from __future__ import annotations

from torch import Tensor, nn

from levit_deploy.model import LeViT, MeanPool, Residual
from levit_deploy.passes.replace import copied


class PooledResidual(nn.Module):
    """mean(x) + last(mean(hidden(x))): (B, N, C) -> (B, C).

    ``m`` keeps the MLP's three modules under the names they have in the checkpoint.
    """

    def __init__(self, m: nn.Sequential, pool: nn.Module) -> None:
        super().__init__()
        self.m = m
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.m[:-1](x)
        out: Tensor = self.pool(x) + self.m[-1](self.pool(hidden))
        return out


def pool_early(model: LeViT) -> LeViT:
    """Move the pooling into the last block, if that is an MLP of plain layers."""
    model = copied(model)
    last = model.blocks[-1]
    if (
        isinstance(model.pool, MeanPool)
        and isinstance(last, Residual)
        and isinstance(last.m, nn.Sequential)
        and isinstance(last.m[-1], nn.Linear)
    ):
        model.blocks[-1] = PooledResidual(last.m, model.pool)
        model.pool = nn.Identity()
    return model
