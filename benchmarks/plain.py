"""The loops as everybody writes them: a class at a time, torch's own layers, a DataLoader over tensors.

They take the same draws as the library (its streams), so that losses and gradients can be compared before anything is timed.
No augmentation: it is the same work for both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from datastill.core import Task
from datastill.data import Batch
from datastill.nets._pool import AveragePool
from datastill.rng import RNG


def network(task: Task, rng: RNG) -> nn.Module:
    """The same weights with torch's own average pooling."""
    net = task.fresh(rng)
    for name, layer in list(net.features.named_children()):
        if isinstance(layer, AveragePool):
            net.features.register_module(name, nn.AvgPool2d(2))
    return net


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


def dc(task: Task, pixels: Tensor, real: int, outer: int, inner: int, rng: RNG) -> tuple[Tensor, Tensor]:
    """(sum of losses, last pixel gradient) of one DC iteration in which the images are not moved."""
    net = network(task, rng("network"))
    parameters = list(net.parameters())
    ipc = len(pixels) // task.classes
    total = torch.zeros(())
    for number in range(outer):
        loss = torch.zeros(())
        for c in range(task.classes):
            batch = task.real.sample(real, rng("outer", number)("real")(c), of_class=c)
            label = torch.full((ipc,), c)
            wanted = torch.autograd.grad(F.cross_entropy(net(batch.x), batch.y.argmax(1)), parameters)
            found = torch.autograd.grad(F.cross_entropy(net(pixels[c * ipc:(c + 1) * ipc]), label), parameters,
                                        create_graph=True)
            for a, b in zip(found, wanted, strict=True):
                if a.dim() > 1:
                    a, b = a.flatten(1), b.flatten(1)  # noqa: PLW2901
                    loss = loss + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
        (gradient,) = torch.autograd.grad(loss, pixels)
        total = total + loss.detach()
        if number < outer - 1:
            y = torch.arange(task.classes).repeat_interleave(ipc)
            train(net, pixels.detach(), y, inner, 0.01, 0.0, 0.0, rng("inner", number))
    return total, gradient


def train(net: nn.Module, x: Tensor, y: Tensor, epochs: int, lr: float, momentum: float, decay: float, rng: RNG) -> None:
    """SGD over a DataLoader in batches of 256, in the library's orders."""
    optimiser = torch.optim.SGD(net.parameters(), lr, momentum=momentum, weight_decay=decay)
    for epoch in range(epochs):
        order = rng("order", epoch).permutation(len(x)).tolist()
        for images, labels in DataLoader(TensorDataset(x, y), batch_size=256, sampler=order):
            loss = F.cross_entropy(net(images), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def student(task: Task, batch: Batch, epochs: int, rng: RNG) -> Tensor:
    """The weights of a student after so many passes at the dc protocol's first step size."""
    net = network(task, rng("network"))
    train(net, batch.x, batch.y.argmax(1), epochs, 0.01, 0.9, 5e-4, rng("train"))
    return torch.cat([p.detach().flatten() for p in net.parameters()])
