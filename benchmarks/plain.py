"""The loops as everybody writes them: a class at a time, torch's own layers, a DataLoader over tensors.

They take the same draws as the library (its streams), so that losses and gradients can be compared before anything is timed.
Augmentation, where there is any, is the library's: it is the same work for both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from datastill.data import Batch, Images
from datastill.functional.augment import augment_groups, augment_images
from datastill.nets._pool import AveragePool
from datastill.rng import RNG
from datastill.task import Task


def network(task: Task, rng: RNG) -> nn.Module:
    """The same weights with torch's own average pooling."""
    net = task.fresh(rng)
    for name, layer in list(net.features.named_children()):
        if isinstance(layer, AveragePool):
            net.features.register_module(name, nn.AvgPool2d(2))
    return net


def augmented(x: Tensor, c: int, classes: int, rng: RNG, strategy: str) -> Tensor:
    """The images of class c under that class's draw."""
    if strategy == "none":
        return x
    return augment_groups(x, torch.full((len(x),), c), classes, rng, strategy)


def dm(task: Task, pixels: Tensor, real: int, rng: RNG) -> tuple[Tensor, Tensor]:
    """Loss and pixel gradient of one DM iteration."""
    net = network(task, rng("network"))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    ipc = len(pixels) // task.classes
    loss = torch.zeros(())
    for c in range(task.classes):
        batch = task.real.sample(real, rng("real")(c), of_class=c)
        wanted = net.embed(batch.x).detach().mean(0)
        found = net.embed(pixels[c * ipc:(c + 1) * ipc]).mean(0)
        loss = loss + ((wanted - found) ** 2).sum()
    return loss.detach(), torch.autograd.grad(loss, pixels)[0]


def dc(task: Task, pixels: Tensor, real: int, outer: int, inner: int, rng: RNG,
       strategy: str = "none") -> tuple[Tensor, Tensor]:
    """(sum of losses, pixel gradient of the first step) of one DC iteration in which the images are not moved."""
    net = network(task, rng("network"))
    parameters = list(net.parameters())
    ipc = len(pixels) // task.classes
    total, first = torch.zeros(()), pixels
    for number in range(outer):
        loss = torch.zeros(())
        for c in range(task.classes):
            batch = task.real.sample(real, rng("outer", number)("real")(c), of_class=c)
            label = torch.full((ipc,), c)
            draw = rng("outer", number)("augment")
            theirs, mine = (augmented(x, c, task.classes, draw, strategy) for x in (batch.x, pixels[c * ipc:(c + 1) * ipc]))
            wanted = torch.autograd.grad(F.cross_entropy(net(theirs), batch.y.argmax(1)), parameters)
            found = torch.autograd.grad(F.cross_entropy(net(mine), label), parameters, create_graph=True)
            for a, b in zip(found, wanted, strict=True):
                if a.dim() > 1:
                    a, b = a.flatten(1), b.flatten(1)  # noqa: PLW2901
                    loss = loss + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
        (gradient,) = torch.autograd.grad(loss, pixels)
        first = gradient if number == 0 else first
        total = total + loss.detach()
        if number < outer - 1:
            y = torch.arange(task.classes).repeat_interleave(ipc)
            train(net, pixels.detach(), y, [0.01] * inner, 0.0, 0.0, rng("inner", number), strategy)
    return total, first


def train(net: nn.Module, x: Tensor, y: Tensor, rates: Sequence[float], momentum: float, decay: float, rng: RNG,
          strategy: str = "none") -> None:
    """SGD over a DataLoader in batches of 256, in the library's orders; made again where the learning rate changes."""
    for epoch, rate in enumerate(rates):
        if epoch == 0 or rate != rates[epoch - 1]:
            optimizer = torch.optim.SGD(net.parameters(), rate, momentum=momentum, weight_decay=decay)
        order = rng("order", epoch).permutation(len(x)).tolist()
        for number, (images, labels) in enumerate(DataLoader(TensorDataset(x, y), batch_size=256, sampler=order)):
            if strategy != "none":
                images = augment_images(images, rng("augment", epoch, number), strategy)  # noqa: PLW2901
            loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def evaluation(task: Task, batch: Batch, images: Images, rates: Sequence[float], trials: int) -> Tensor:
    """Accuracies (trials,) of students of the dc protocol with these learning rates, one after the other."""
    found = []
    for trial in range(trials):
        rng = RNG(0)("student", trial)
        net = network(task, rng("network"))
        train(net, batch.x, batch.y.argmax(1), rates, 0.9, 5e-4, rng("train"))
        net.eval()
        right = 0
        with torch.no_grad():
            for rows in torch.arange(len(images)).split(256):
                x, y = images.batch(rows)
                right += int((net(x).argmax(1) == y.argmax(1)).sum())
        found.append(right / len(images))
    return torch.tensor(found)
