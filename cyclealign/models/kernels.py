"""The 11 RBF kernels that TK and IDCM's CK count cosines with, and the weights that add the kernels up."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

MEANS = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, -0.1, -0.3, -0.5, -0.7, -0.9)
WIDTH = 0.1


class KernelCounts(nn.Module):
    """Of every query term, how many document terms lie near each mean: sum_j exp(-(M_ij - mu_k)^2 / (2 * 0.1^2))."""

    means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.tensor(MEANS), persistent=False)

    def forward(
        self, cosines: Float[Tensor, "N Q T"], document_mask: Bool[Tensor, "N T"]
    ) -> Float[Tensor, "N Q kernels"]:
        kernels = torch.exp(-((cosines[..., None] - self.means) ** 2) / (2 * WIDTH**2))
        counts: Tensor = (kernels * document_mask[:, None, :, None]).sum(dim=2)
        return counts


def kernel_weights() -> nn.Linear:
    """One weight a kernel. As published: an empty kernel's logarithm, summed over the query, would give scores in the
    hundreds with larger ones."""
    weights = nn.Linear(len(MEANS), 1, bias=False)
    nn.init.uniform_(weights.weight, -0.014, 0.014)
    return weights
