"""A small image encoder as a module of sentence-transformers, beside a text encoder in one vector space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sentence_transformers.base.modules import InputModule
from torch import Tensor, nn

from cyclealign.models.classifier import convolution_blocks
from cyclealign.models.features import Features
from cyclealign.types import UserError

CHANNELS = 4  # RGBA


class ImageEncoder(InputModule):  # type: ignore[misc]
    """Images to vectors: three blocks of convolution and halving, and a linear layer; trained from scratch.

    Args:
        size: height and width that images are scaled to. width: channels of the first block. dimension: D.
    """

    config_keys = ["size", "width", "dimension"]  # noqa: RUF012 - sentence-transformers' own way
    save_in_root = False

    def __init__(self, size: int, width: int, dimension: int) -> None:
        super().__init__()
        self.size, self.width, self.dimension = size, width, dimension
        blocks, features = convolution_blocks((CHANNELS, size, size), width)
        self.layers = nn.Sequential(blocks, nn.Flatten(), nn.Linear(features, dimension))

    @property
    def modalities(self) -> list[str]:
        return ["image"]

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """Paths, PIL images or arrays [H, W(, C)] to ``pixel_values`` [N, 4, size, size] in 0 ... 1.

        Raises:
            UserError: a path at which there is no image.
        """
        return {"pixel_values": torch.stack([self._pixels(image) for image in inputs])}

    def forward(self, features: Features, **_: Any) -> Features:
        pixels: Float[Tensor, "N 4 S S"] = features["pixel_values"]
        return {**features, "sentence_embedding": self.layers(pixels.contiguous(memory_format=torch.channels_last))}

    def get_embedding_dimension(self) -> int:
        return self.dimension

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> ImageEncoder:
        where = {k: options.get(k) for k in ("token", "cache_folder", "revision")}
        module = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **where))
        loaded: ImageEncoder = cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=module, **where)
        return loaded

    def _pixels(self, image: Any) -> Float[Tensor, "4 S S"]:
        from PIL import Image

        try:
            if isinstance(image, str):
                image = Image.open(image)
            elif not isinstance(image, Image.Image):
                image = Image.fromarray(np.asarray(image))
        except OSError as error:
            raise UserError(f"{image}: expected an image file: {error}") from error
        scaled = image.convert("RGBA").resize((self.size, self.size))
        return torch.from_numpy(np.asarray(scaled, dtype=np.float32) / 255).permute(2, 0, 1)
