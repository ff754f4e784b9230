"""The network of the class-conditional autoencoder; needs diffusers, whose encoder and decoder these are."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.vae import Decoder, Encoder
from torch import Tensor, nn

BOUND = 10.0  # of the logarithm of a latent's variance


class Conditional(nn.Module):
    """Latents (B, channels, h, w) and one-hot classes (B, K) -> images (B, C, H, W) from about -1 to 1; ``spread`` and
    ``encode`` go the other way. The classes are further maps, constant over the image, that the decoder sees."""

    def __init__(self, colors: int, classes: int, channels: int, halvings: int, width: int, groups: int) -> None:
        super().__init__()
        widths = tuple(width * 2**number for number in range(halvings + 1))
        same: dict[str, Any] = {"block_out_channels": widths, "layers_per_block": 1, "norm_num_groups": groups,
                "mid_block_add_attention": False}
        self.encoder = Encoder(in_channels=colors, out_channels=channels, double_z=True,
                               down_block_types=("DownEncoderBlock2D",) * len(widths), **same)
        self.classes = nn.Linear(classes, channels, bias=False)
        self.decoder = Decoder(in_channels=2 * channels, out_channels=colors,
                               up_block_types=("UpDecoderBlock2D",) * len(widths), **same)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        kinds = self.classes(y)[:, :, None, None].expand(z.shape)
        images: Tensor = self.decoder(torch.cat([z, kinds], 1))
        return images

    def spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latents of images from -1 to 1."""
        mean, log_var = self.encoder(x).chunk(2, 1)
        return mean, log_var.clamp(-BOUND, BOUND)

    def encode(self, x: Tensor) -> Tensor:
        """The mean latents of images from -1 to 1."""
        return self.spread(x)[0]
