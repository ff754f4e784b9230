"""A linear classifier on the frozen features of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from datastill.data import Batch, Images
from datastill.errors import InputError
from datastill.nets import fresh, passes
from datastill.rng import RNG
from datastill.teachers.pool import Context, Pool
from datastill.train import fit, half_cosine


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


class _Standardized:
    """Features with the mean 0 and the standard deviation 1, and one-hot labels, made for a batch at a time: of a million
    images of a thousand classes, all labels at once would take more memory than the features."""

    def __init__(self, found: Sequence[Tensor], targets: Tensor, classes: int) -> None:
        self.found, self.targets, self.classes = found, targets.to(found[0].device), classes
        both = torch.stack([one.mean(0) for one in found])
        self.mean = both.mean(0)
        square = torch.stack([(one - self.mean).square().sum(0) for one in found]).sum(0)
        self.std = (square / (len(self) - 1)).sqrt().clamp(min=1e-6)

    def __len__(self) -> int:
        return sum(map(len, self.found))

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        rows = rows.to(self.targets.device)
        which, places = rows // len(self.targets), rows % len(self.targets)
        x = torch.where((which == 0)[:, None], self.found[0][places], self.found[1][places])
        y = nn.functional.one_hot(self.targets[places], self.classes)
        return Batch((x - self.mean) / self.std, y.to(x))


def check_classifier(pool: Pool, context: Context) -> None:
    """Check that the networks of a pool have a linear layer ``classifier``. Raises InputError."""
    for group, architecture in enumerate(pool.networks):
        domain = pool.domain(context, group)
        _linear(fresh(architecture, domain.shape, len(domain.classes), RNG("check"), context.real.device))


def _linear(network: nn.Module) -> nn.Linear:
    if not isinstance(classifier := getattr(network, "classifier", None), nn.Linear):
        raise InputError("the network has no linear layer `classifier`, so no classifier can be trained on its features; "
                         "choose a network of the library, or one that has")
    return classifier


def probe(network: nn.Module, images: Images, epochs: int, lr: float, rng: RNG) -> float:
    """Train the network's linear classifier on its frozen features. Returns its loss; raises InputError if it has none."""
    classifier = _linear(network)
    examples = _Standardized([features(network, images), features(network, images, mirrored=True)], images.targets,
                             len(images.classes))
    device = examples.mean.device
    with rng("weights").as_global(device):
        linear = nn.Linear(len(examples.mean), len(images.classes)).to(device)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
    rates = half_cosine(lr, epochs, warmup=0.0)
    fit(linear, examples, rates, rng, batch_size=256, momentum=0.9, weight_decay=0.0)
    with torch.no_grad():
        lost = [nn.functional.cross_entropy(linear(batch.x), batch.y, reduction="sum")
                for batch in map(examples.batch, torch.arange(len(examples)).split(4096))]
        classifier.weight.copy_(linear.weight / examples.std)
        classifier.bias.copy_(linear.bias - classifier.weight @ examples.mean)
        return float(torch.stack(lost).sum() / len(examples))
