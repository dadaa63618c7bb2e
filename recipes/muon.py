"""Muon (Jordan et al. 2024): momentum made orthogonal, for the matrices between embeddings and head."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Muon:
    """Momentum, then the nearest orthogonal matrix by Newton-Schulz steps, in float32.

    `torch.optim.Muon` does the same in bfloat16, which is emulated and some 50 times slower on CPUs without
    bfloat16 instructions.
    """

    def __init__(self, weights: list[torch.nn.Parameter], *, weight_decay: float, momentum: float = 0.95) -> None:
        self.weights, self.weight_decay, self.momentum = weights, weight_decay, momentum
        self.buffers = [torch.zeros_like(weight) for weight in weights]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for weight, buffer in zip(self.weights, self.buffers, strict=True):
            assert weight.grad is not None
            buffer.lerp_(weight.grad, 1 - self.momentum)
            update = self._orthogonal(weight.grad.lerp(buffer, self.momentum))
            weight.mul_(1 - lr * self.weight_decay)
            weight.add_(update, alpha=-lr * math.sqrt(max(1.0, weight.shape[0] / weight.shape[1])))

    @staticmethod
    def _orthogonal(matrix: Tensor) -> Tensor:
        tall = matrix.shape[0] > matrix.shape[1]
        x: Tensor = matrix.T if tall else matrix
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return x.T if tall else x
