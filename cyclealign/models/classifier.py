"""Small image classifiers in plain torch, on disk as a config and safetensors; and the images they read."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cyclealign.config.section import Section
from cyclealign.types import UserError


class ClassifierConfig(Section):
    """A small image classifier."""

    kind: Literal["cnn", "mlp"] = "cnn"
    """``cnn``: three blocks of 3x3 convolution, batch norm, ReLU and halving, with ``width``, 2 and 4 ``width``
    channels, and a linear layer; ``mlp``: two hidden layers of ``width`` units over the pixels."""
    width: int = Field(default=8, ge=1)
    """Channels of the first block, or units of a hidden layer."""


@dataclass(frozen=True)
class LabelledImages:
    """pixels: in 0 ... 1. labels: 0 ... classes - 1."""

    pixels: Float[Tensor, "N C H W"]
    labels: Int[Tensor, " N"]


class Classifier(nn.Module):
    """Pixels [N, C, H, W] to logits [N, classes]; ``shape`` is C, H, W."""

    def __init__(self, config: ClassifierConfig, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.network, self.shape, self.classes = config, shape, classes
        channels, height, width = shape
        if config.kind == "mlp":
            hidden = (config.width, config.width)
            layers = [nn.Flatten(), *_dense(channels * height * width, *hidden), nn.Linear(config.width, classes)]
        else:
            blocks, features = convolution_blocks(shape, config.width)
            layers = [*blocks, nn.Flatten(), nn.Linear(features, classes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Float[Tensor, "N C H W"]) -> Float[Tensor, "N classes"]:
        # Convolutions on CPUs are about twice as fast with the channels innermost.
        logits: Tensor = self.layers(pixels.contiguous(memory_format=torch.channels_last))
        return logits

    def save(self, folder: Path) -> None:
        """Write ``classifier.json`` and ``model.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")
        head = {"kind": self.network.kind, "width": self.network.width, "shape": self.shape, "classes": self.classes}
        (folder / "classifier.json").write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Classifier:
        """A saved classifier. UserError where there is none."""
        try:
            head = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
            network = ClassifierConfig(kind=head["kind"], width=head["width"])
            model = Classifier(network, tuple(head["shape"]), head["classes"])
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, RecursionError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{folder}: expected a classifier of cyclealign distill pld: {error}") from error
        return model


def read_images(path: Path) -> LabelledImages:
    """An npz of ``images`` [N, H, W] or [N, H, W, C] and ``labels`` [N].

    Pixels do not depend on what else is in the file: uint8 is divided by 255, uint16 by 65535, unless all are 0 or 1;
    booleans and floats are taken as they are.

    Raises:
        UserError: no such file or arrays, labels that do not belong to the images, or pixels of another range.
    """
    try:
        with np.load(path) as found:
            images, labels = found["images"], found["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: expected an npz with images and labels: {error}") from error
    if images.ndim not in (3, 4) or labels.shape != images.shape[:1] or images.size == 0 or labels.min() < 0:
        raise UserError(f"{path}: expected [N, H, W(, C)] and labels [N] from 0, got {images.shape} and {labels.shape}")
    pixels = torch.from_numpy(_unit_range(images, path))
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return LabelledImages(pixels, torch.from_numpy(labels.astype(np.int64)))


def _unit_range(images: ndarray, path: Path) -> Float[ndarray, "*shape"]:
    if images.dtype in (np.uint8, np.uint16) and images.max() > 1:
        return np.asarray(images.astype(np.float32) / np.iinfo(images.dtype).max)
    # Other integers are 0 and 1 or nobody knows what; NaN is in no range.
    if images.dtype.kind not in "buif" or not ((images >= 0) & (images <= 1)).all():
        raise UserError(f"{path}: expected uint8, uint16, bool, or floats in 0 ... 1 as images, got {_range(images)}")
    return images.astype(np.float32)


def _range(images: ndarray) -> str:
    inside = f" in {images.min():g} ... {images.max():g}" if images.dtype.kind in "buif" else ""
    return f"{images.dtype}{inside}"


def shifted_views(images: LabelledImages, views: int, shift: int, *, seed: int) -> LabelledImages:
    """The images and ``views - 1`` copies of each, moved by up to ``shift`` pixels in both directions."""
    n, _, height, width = images.pixels.shape
    padded = nn.functional.pad(images.pixels, (shift,) * 4)
    generator = torch.Generator().manual_seed(seed)
    copies = [images.pixels]
    for _ in range(views - 1):
        moves = torch.randint(0, 2 * shift + 1, (n, 2), generator=generator).tolist()
        moved = [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, moves, strict=True)]
        copies.append(torch.stack(moved))
    return LabelledImages(torch.cat(copies), images.labels.repeat(views))


def logits_of(model: nn.Module, pixels: Float[Tensor, "N C H W"], batch: int = 256) -> Float[Tensor, "N classes"]:
    """The model's logits in evaluation mode, on the CPU in float32."""
    device = next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        parts = [model(pixels[n : n + batch].to(device)).float().cpu() for n in range(0, len(pixels), batch)]
    return torch.cat(parts).clone()


def convolution_blocks(shape: tuple[int, int, int], width: int) -> tuple[nn.Sequential, int]:
    """Three blocks with ``width``, 2 and 4 ``width`` channels, each halving the image, and their number of outputs."""
    channels, height, breadth = shape
    steps = (channels, width, 2 * width, 4 * width)
    blocks = nn.Sequential(*(_block(a, b) for a, b in itertools.pairwise(steps)))
    return blocks, steps[-1] * (height // 8) * (breadth // 8)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


def _dense(*widths: int) -> list[nn.Module]:
    pairs = itertools.pairwise(widths)
    return [m for a, b in pairs for m in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
