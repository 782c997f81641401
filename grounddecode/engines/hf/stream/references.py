"""Reference pictures: a bank of other pictures, as pixel values in the place of a request's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.hf.checkpoint.reading import processor_of
from grounddecode.engines.images import PICTURES, open_image
from grounddecode.view import Pictures, References, StepView

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding

LAB_SCENES = 64  # calibration scenes that are drawn for the bank "lab"

Picture = Callable[[int], Tensor]  # number in the bank to (channels, height, width) float32, normalised


class Bank:
    """Pictures that stand in the place of others, drawn for each request by its own pictures.

    Raises:
        ValueError: a bank that is not there or has too few pictures, or a model whose processor is not to be found.
    """

    def __init__(self, references: References, binding: Binding, method: str) -> None:
        self._references, self._method, self._config = references, method, binding.model.config
        self._count, self._picture = _opened(references.bank, binding.model, method)
        if not 1 <= references.count <= self._count:
            raise ValueError(
                f"{method}: {references.count} references are wanted, the bank {references.bank!r} has {self._count}"
            )

    def stream(self, number: int) -> Callable[[Tensor, StepView], Tensor]:
        """What makes the pixel values of one of the streams."""
        return partial(self._edit, number)

    def _edit(self, number: int, entries: Tensor, view: StepView) -> Tensor:
        pictures = view.pictures
        if pictures is None or pictures.rows is None:
            raise ValueError(
                f"{self._method}: it cannot be told which pictures belong to which row, give one prompt at a time"
            )
        of_row = self.numbers(pictures, number)
        made = torch.empty_like(entries)
        for at, row in enumerate(pictures.rows):
            here = pictures.of_entry == at
            if row < 0:
                made[here] = 0
                continue
            made[here] = self._shaped(self._picture(of_row[row]), entries[here], pictures, at)
        return made

    def numbers(self, pictures: Pictures, number: int) -> dict[int, int]:
        """Of each row that has pictures, the number of its reference in one of the streams."""
        return {row: self._drawn(pictures, row)[number] for row in set(pictures.rows or ()) - {-1}}

    def _drawn(self, pictures: Pictures, row: int) -> list[int]:
        """Numbers of the references of a row, without one twice: by its own pictures, whatever stands beside it."""
        own = sum(seed for seed, of in zip(pictures.seeds, pictures.rows or (), strict=True) if of == row)
        generator = torch.Generator().manual_seed(self._references.seed + own)
        return torch.randperm(self._count, generator=generator)[: self._references.count].tolist()

    def _shaped(self, picture: Tensor, like: Tensor, pictures: Pictures, at: int) -> Tensor:
        """A reference in the shape of the entries (n, ...) of one picture; each tile shows all of it."""
        if like.dim() == 4:
            return _resized(picture, like.shape[-2], like.shape[-1]).expand(like.shape).to(like)
        if like.dim() != 2 or pictures.grids is None:
            raise ValueError(
                f"{self._method}: how pixel values of shape {tuple(like.shape[1:])} show a picture is not known, use "
                "another model"
            )
        vision = self._config.vision_config
        patch, merge = int(vision.patch_size), int(getattr(vision, "spatial_merge_size", 1))
        _, high, wide = pictures.grids[at].tolist()
        return _patches(_resized(picture, high * patch, wide * patch), patch, merge, pictures.frames).to(like)


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    """(channels, height, width), bilinear."""
    options: dict[str, Any] = {"mode": "bilinear", "antialias": True}
    return torch.nn.functional.interpolate(picture[None], (height, width), **options)[0]


def _patches(picture: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """(patches, channels * frames * patch * patch), window of patches by window, as Qwen-VL and GLM-4V read them."""
    channels, high, wide = picture.shape
    parts = picture.view(channels, high // (patch * merge), merge, patch, wide // (patch * merge), merge, patch)
    windows = parts.permute(1, 4, 2, 5, 0, 3, 6)[..., :, None, :, :]
    return windows.expand(*windows.shape[:5], frames, patch, patch).reshape(-1, channels * frames * patch * patch)


# -- where they come from ----------------------------------------------------------------------------------------------
def _opened(bank: str, model: Any, method: str) -> tuple[int, Picture]:
    """How many pictures a bank has, and what gives one of them."""
    if bank.endswith(".pt"):
        tensor = _stored(bank, method)
        return len(tensor), tensor.__getitem__
    made = processor_of(model, f"{method}: the processor that reads the pictures of the bank {bank!r}").image_processor
    normal = _normalisation(made)
    if bank == "lab":
        return LAB_SCENES, lambda number: _of_lab(number, *normal)
    folder = Path(bank)
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES) if folder.is_dir() else []
    if not paths:
        raise ValueError(f"{method}: no picture was found in {bank!r}, give a folder of PNG or JPEG files, or 'lab'")
    return len(paths), lambda number: _of_file(paths[number], *normal)


@lru_cache(maxsize=4)
def _stored(path: str, method: str) -> Tensor:
    try:
        tensor = torch.load(path, weights_only=True)
    except Exception as error:  # a damaged file makes the library raise anything
        raise ValueError(f"{method}: the bank {path!r} cannot be read ({type(error).__name__})") from error
    if not isinstance(tensor, Tensor) or tensor.dim() != 4:
        raise ValueError(f"{method}: the bank {path!r} holds no tensor (pictures, channels, height, width)")
    return tensor.float()


def _normalisation(image_processor: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of 0..1 that the processor brings to 0 and 1; 0 and 1 where it does not."""
    if not getattr(image_processor, "do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return tuple(image_processor.image_mean), tuple(image_processor.image_std)


@lru_cache(maxsize=LAB_SCENES)
def _of_lab(number: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    from grounddecode.lab.world import scenes

    (scene,) = scenes("calibration", 1, start=number)
    return _normalised(scene.image, mean, std)


@lru_cache(maxsize=256)
def _of_file(path: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return _normalised(open_image(path), mean, std)


def _normalised(image: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    import numpy as np

    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 255
    centre, spread = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return (pixels - centre) / spread
