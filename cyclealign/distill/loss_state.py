"""Parameters of a loss in the checkpoints of sentence-transformers' trainers, which train them but do not save them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

FILE = "loss.safetensors"


def keeping_loss_state(trainer: type) -> type:
    """The trainer class, saving the loss's own parameters beside the model's and restoring them on resume."""
    return type(f"LossKeeping{trainer.__name__}", (_KeepsLossState, trainer), {})


class _KeepsLossState:
    """Mixin before a trainer whose ``loss`` is a module, or a dict of them."""

    loss: nn.Module | dict[str, nn.Module]
    model: nn.Module
    args: Any

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)  # type: ignore[misc]
        state = {name: p.detach().contiguous().cpu() for name, p in self._own_parameters()}
        if state:
            save_file(state, Path(output_dir or self.args.output_dir) / FILE)

    def _load_from_checkpoint(self, checkpoint_path: str, *rest: Any) -> None:
        super()._load_from_checkpoint(checkpoint_path, *rest)  # type: ignore[misc]
        own = dict(self._own_parameters())
        file = Path(checkpoint_path) / FILE
        saved = load_file(file) if file.exists() else {}
        if saved.keys() != own.keys():
            raise ValueError(f"{file}: expected the loss's parameters {sorted(own)}, got {sorted(saved)}")
        for name, parameter in own.items():
            # In place: the optimizer holds these very tensors.
            parameter.data.copy_(saved[name])

    def _own_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """What of the loss is trained and is not the model's."""
        models = {id(p) for p in self.model.parameters()}
        losses = self.loss if isinstance(self.loss, dict) else {"loss": self.loss}
        for name, loss in losses.items():
            yield from (
                (f"{name}.{n}", p) for n, p in loss.named_parameters() if p.requires_grad and id(p) not in models
            )
