"""The interface of every network of the library: logits, features, and feature maps by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class Network(nn.Module):
    """``features`` in named stages, then a linear ``classifier`` on their flattened output.

    ``taps`` names the feature maps: tap -> the stage whose output it is, in order. ``features`` is an ``nn.Sequential``;
    a subclass that overrides ``walk`` may use any module. ``attends``: whether its blocks attend over all patches.
    ``channels_last``: whether its submodules give (B, H, W, C).
    """

    attends: bool = False
    channels_last: bool = False

    def __init__(self, features: nn.Module, classifier: nn.Module, taps: Mapping[str, str]) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.taps = dict(taps)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W)."""
        return self.classifier(self.embed(x))

    def embed(self, x: Tensor) -> Tensor:
        """Flattened features before the classifier, (B, D)."""
        return self.features(x).flatten(1)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps by tap name in order of depth, each (B, C, H, W), or (B, D) for a fully connected stage."""
        return {tap: self.arrange(output) for tap, output in self.walk(x)[1].items()}

    def arrange(self, output: Tensor) -> Tensor:
        """A stage's output as a map (B, C, H, W); its values, not computed with."""
        return output

    def walk(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """``embed(x)`` and, by tap name in order of depth, the outputs ``maps(x)`` are arranged from, in one pass."""
        found = {}
        tap_of = {stage: tap for tap, stage in self.taps.items()}
        for name, stage in self.features.named_children():
            x = stage(x)
            if name in tap_of:
                found[tap_of[name]] = x
        return x.flatten(1), found
