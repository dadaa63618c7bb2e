"""An embedding teacher beside the policy's ranking loss (``leaf``), and the projection to its space on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cyclealign.config.extras import require_extra
from cyclealign.models.loading import loaded
from cyclealign.models.logprobs import projection_weight
from cyclealign.models.sharded import cut_as

FILE = "leaf_projection.safetensors"


class EmbeddingTeacher:
    """A frozen sentence encoder. ``width``: of its vectors.

    Raises:
        UserError: sentence-transformers is missing, or the encoder cannot be loaded.
    """

    def __init__(self, model: str, device: torch.device) -> None:
        require_extra("sentence_transformers", "retrieval", "leaf.teacher")
        from sentence_transformers import SentenceTransformer

        self._model = loaded(
            lambda: SentenceTransformer(model, device=str(device)), f"leaf.teacher: cannot load {model!r}"
        )
        self.width = int(self._model.get_embedding_dimension())

    def vectors(self, lists: Sequence[Sequence[str]]) -> list[Float[Tensor, "K D"]]:
        """Vectors of length 1 of the texts of each list, on the CPU in float32; each distinct text is encoded once."""
        distinct = list(dict.fromkeys(text for texts in lists for text in texts))
        encoded = self._model.encode_document(
            distinct, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False
        )
        rows = dict(zip(distinct, encoded.float().cpu(), strict=True))
        # inference_mode marks its tensors for good: a clone may take part in training.
        return [torch.stack([rows[text] for text in texts]).clone() for texts in lists]


def save_projection(weight: Float[Tensor, "D S"], folder: Path) -> None:
    """Write the projection beside a checkpoint: adapters do not hold it."""
    save_file({"weight": weight.detach().float().cpu().contiguous()}, folder / FILE)


def load_projection(model: nn.Module, folder: Path, *, first: Float[Tensor, "D S"]) -> None:
    """Load what ``save_projection`` saved, or ``first`` where nothing was trained yet."""
    file = folder / FILE
    own = projection_weight(model)
    with torch.no_grad():
        own.copy_(cut_as(own, load_file(file)["weight"] if file.exists() else first))
