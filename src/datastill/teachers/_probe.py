"""A linear classifier on the frozen features of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datastill.data import Batch, Images
from datastill.errors import InputError
from datastill.nets import passes
from datastill.rng import RNG
from datastill.train import Fixed, fit, half_cosine


@torch.no_grad()
def features(network: nn.Module, images: Images, rows: Tensor | None = None, mirrored: bool = False) -> Tensor:
    """Features (N, D) of images in evaluation mode."""
    network.eval()
    found = []
    for some in (torch.arange(len(images)) if rows is None else rows).split(1024):
        x = images.batch(some).x
        how = passes(network, x := x.flip(3) if mirrored else x, "features")
        found += [how.embed(part) for (part,) in how.split(x)]
    return torch.cat(found)


def probe(network: nn.Module, images: Images, epochs: int, lr: float, rng: RNG) -> float:
    """Train the network's linear classifier on its frozen features. Returns its loss; raises InputError if it has none."""
    classifier = getattr(network, "classifier", None)
    if not isinstance(classifier, nn.Linear):
        raise InputError("the network has no linear layer `classifier`, so no classifier can be trained on its features; "
                         "choose a network of the library, or one that has")
    both = torch.cat([features(network, images), features(network, images, mirrored=True)])
    mean, std = both.mean(0), both.std(0).clamp(min=1e-6)
    labels = nn.functional.one_hot(images.targets, len(images.classes)).to(both).repeat(2, 1)
    with rng("weights").as_global(both.device):
        linear = nn.Linear(both.shape[1], len(images.classes)).to(both.device)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
    rates = half_cosine(lr, epochs, warmup=0.0)
    fit(linear, Fixed(Batch((both - mean) / std, labels)), rates, rng, batch_size=256, momentum=0.9, weight_decay=0.0)
    with torch.no_grad():
        classifier.weight.copy_(linear.weight / std)
        classifier.bias.copy_(linear.bias - classifier.weight @ mean)
        return float(nn.functional.cross_entropy(classifier(both), labels))
