"""The one rule by which images of any shape become squares."""

from __future__ import annotations

from typing import Any, Literal

from PIL import Image

Fit = Literal["crop", "squash"]


def square(images: Any, side: int, fit: Fit) -> Any:
    """A PIL image, or images (B, C, H, W) uint8, of ``side`` x ``side`` pixels; bilinear with antialiasing, by torchvision.

    crop: the shorter side is resized to ``side``, then the center is cropped (Resize and CenterCrop). squash: both sides are
    resized. Images of this size are returned as they are. Raises ValueError for an image too long to be cropped.
    """
    width, height = images.size if isinstance(images, Image.Image) else (images.shape[3], images.shape[2])
    if width == height == side:
        return images
    from torchvision.transforms import functional

    if fit == "squash" or width == height:
        return functional.resize(images, [side, side])
    if max(width, height) * side**2 > min(width, height) * (Image.MAX_IMAGE_PIXELS or 2**27):
        raise ValueError(f"{width}x{height} pixels are too long to be cropped to {side}x{side}; set data.fit to squash")
    return functional.center_crop(functional.resize(images, side), [side, side])
