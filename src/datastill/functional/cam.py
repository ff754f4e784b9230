"""Class activation maps: where in an image a network sees a class; differentiable, for convolutions and for attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from datastill.arguments import whole
from datastill.errors import InputError
from datastill.foreign import said
from datastill.functional.distances import check_images
from datastill.late import F, nn, torch
from datastill.tables import shown

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 4  # rows and columns of a map that tells places apart; 7 for images of more than 64 pixels
FLAT = 1e-6
CHANNELS_FIRST = ("Conv2d", "Permute", "AdaptiveAvgPool2d")  # in networks that otherwise have channels last


class Cam(NamedTuple):
    """Maps (B, h, w) of where a network sees the class of each image, at least 0, and its logits (B, K)."""

    maps: Tensor
    logits: Tensor


def grad_cam(network: nn.Module, x: Tensor, y: Tensor, layer: str = "", *, through_weights: bool = True) -> Cam:
    """Grad-CAM (Selvaraju et al. 2017, ICCV): with A (B, D, h, w) the output of a layer and w_d the mean over places of
    d logit_y / d A_d, the map is relu(sum_d w_d A_d).

    network: in evaluation mode. x: images (B, C, H, W). y: classes (B,). layer: one of the network's feature maps
    (``network.maps``), or the path of a submodule; by default the deepest map of at least 4 rows and columns, 7 for images
    of more than 64 pixels. through_weights: differentiate the weights w too, which takes second derivatives; where what
    follows the layer is piecewise linear they are locally constant, and the gradient is the same without. Raises InputError.
    Example::

        cam = grad_cam(network, x, y)
        where = normalized_maps(cam.maps, x.shape[2:])
    """
    _check(network, x, y, "grad_cam")
    graph = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad():
        logits, output, arrange = _seen(network, x if graph else x.detach(), layer)
        found = arrange(output)
        if found.dim() != 4 or min(found.shape[2:]) < 2:
            raise InputError(f"grad_cam: layer {layer!r} gives {tuple(found.shape[1:])} for an image; expected (D, h, w) "
                             f"with several rows and columns: take an earlier layer{_earlier(network, x)}")
        (slope,) = torch.autograd.grad(_of_classes(logits, y), output, create_graph=graph and through_weights,
                                       retain_graph=graph, allow_unused=True)
        if slope is None:
            raise InputError(f"grad_cam: nothing leads from {f'layer {layer!r}' if layer else 'the deepest feature map'} of "
                             f"{type(network).__name__} to its logits; name a submodule on the way")
        maps = (arrange(slope).mean((2, 3), keepdim=True) * found).sum(1).relu()
    return Cam(maps, logits) if graph else Cam(maps.detach(), logits.detach())


def attention_map(network: nn.Module, x: Tensor, y: Tensor, *, through_weights: bool = True) -> Cam:
    """The same for a vision transformer: with Att_h the attention of the last block's head h and w_h = relu(mean of
    d logit_y / d Att_h), how much the class token attends to each patch in sum_h w_h Att_h; without a class token, or where
    it does not lead to the logits, the mean over all patches. With one head a map is therefore whole or empty.

    Zhu et al. 2023 (WeakTr) weight heads in a similar way; MetaDD's own formula is not known to us, and this one is our
    reconstruction. network: one whose attention is ``torch.nn.functional.scaled_dot_product_attention`` or
    ``torch.nn.MultiheadAttention`` (our ViT, torchvision's, timm's). Arguments and errors as ``grad_cam``.
    """
    _check(network, x, y, "attention_map")
    graph = torch.is_grad_enabled() and x.requires_grad
    with torch.enable_grad(), _attending() as found:
        seen = x if graph else x.detach().requires_grad_()
        grid = _grid(network, seen)
        if min(grid) < 2:
            raise InputError(f"attention_map: the network divides images of this size into {grid[0]} x {grid[1]} patches; "
                             "expected several in rows and columns: take smaller patches, or larger images")
        found.clear()
        logits = _logits(network, seen, "attention_map")
        if not found or found[-1].shape[-1] < math.prod(grid):
            raise InputError("attention_map: the network's last attention is not over its patches (as in networks with "
                             "windows); use grad_cam")
        last = found[-1]  # (B, heads, N, N)
        (slope,) = torch.autograd.grad(_of_classes(logits, y), last, create_graph=graph and through_weights,
                                       retain_graph=graph)
        weight = slope.mean((2, 3)).relu()[:, :, None, None]
        whole = (weight * last).sum(1)
        before = whole.shape[-1] - math.prod(grid)  # class tokens and others come first
        by_class = before and bool(slope.detach()[:, :, 0].any())  # else the patches are pooled
        of_patches = whole[:, 0, before:] if by_class else whole[:, before:, before:].mean(1)
        maps = of_patches.unflatten(1, grid)
    return Cam(maps, logits) if graph else Cam(maps.detach(), logits.detach())


def activation_map(network: nn.Module, x: Tensor, y: Tensor, layer: str = "", *, through_weights: bool = True) -> Cam:
    """``attention_map`` for networks that attend over all patches, if no layer is named, else ``grad_cam``."""
    if not layer and getattr(network, "attends", False):
        return attention_map(network, x, y, through_weights=through_weights)
    return grad_cam(network, x, y, layer, through_weights=through_weights)


def normalized_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, h, w) enlarged to (B, H, W), bilinear, each from 0 to 1: (c - min) / (max - min + 1e-6). A map of one value
    becomes 0 and has no gradient.

    >>> normalized_maps(torch.tensor([[[0.0, 1.0], [1.0, 2.0]]]), (2, 2))[0, 0, 1]
    tensor(0.5000)
    """
    if not isinstance(maps, torch.Tensor) or maps.dim() != 3 or not maps.is_floating_point():
        raise InputError(f"normalized_maps: expected maps (B, h, w), got {shown(maps)}")
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise InputError(f"normalized_maps: expected a size (H, W), got {shown(size)}")
    large = F.interpolate(maps[:, None], [whole("normalized_maps: size", one, 1) for one in size], mode="bilinear")[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return torch.where(_flat(maps), torch.zeros_like(large), (large - low) / (high - low + FLAT))


def _flat(maps: Tensor) -> Tensor:
    """Which maps have one value, but for rounding, (B, 1, 1): enlarged, their rounding would be divided by ``FLAT``."""
    low, high = (end((1, 2), keepdim=True) for end in (maps.detach().amin, maps.detach().amax))
    found: Tensor = high - low <= 8 * torch.finfo(maps.dtype).eps * torch.maximum(high.abs(), low.abs())
    return found


def deepest_layer(shapes: dict[str, tuple[int, ...]], size: tuple[int, int]) -> str:
    """The deepest of feature maps of such shapes, by name in order of depth, that tells places of an image of this size
    apart. Raises InputError if none does."""
    least = LEAST if max(size) <= 64 else 7
    fitting = [name for name, shape in shapes.items() if len(shape) == 4 and min(shape[2:]) >= least]
    if not fitting:
        there = ", ".join(f"{name} {tuple(shape[1:])}" for name, shape in shapes.items()) or "none"
        raise InputError(f"no feature map has {least} rows and columns or more, as an activation map needs (they are: "
                         f"{there}); take another network, or larger images")
    return fitting[-1]


def _check(network: nn.Module, x: Tensor, y: Tensor, what: str) -> None:
    if not isinstance(network, nn.Module):
        raise InputError(f"{what}: expected a network (torch.nn.Module), got {shown(network)}")
    if torch.is_inference_mode_enabled():
        raise InputError(f"{what}: nothing can be differentiated in torch.inference_mode(); use torch.no_grad(), or neither")
    check_images(x, what)
    if x.is_inference():
        raise InputError(f"{what}: the images were made in torch.inference_mode(), so nothing can be differentiated; give "
                         "x.clone()")
    if not isinstance(y, torch.Tensor) or y.dim() != 1 or len(y) != len(x) or y.is_floating_point() or y.dtype == torch.bool:
        raise InputError(f"{what}: expected class numbers ({len(x)},), got {shown(y)}")


def _of_classes(logits: Tensor, y: Tensor) -> Tensor:
    if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
        raise InputError(f"classes range from {int(y.min())} to {int(y.max())}; the network has {logits.shape[1]}")
    return logits.gather(1, y[:, None]).sum()


def _seen(network: Any, x: Tensor, layer: str) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """Logits, the output of a layer in the same graph, and what arranges it as a map (B, D, h, w)."""
    x = x if x.requires_grad else x.requires_grad_()
    modules = {name: module for name, module in network.named_modules() if name}
    if layer in modules:
        found: list[Any] = []

        def keep(module: nn.Module, given: Any, output: Any) -> Any:
            found.append(output)
            return output.clone() if isinstance(output, torch.Tensor) else None  # what follows may change it in place

        hook = modules[layer].register_forward_hook(keep)
        try:
            logits = _logits(network, x, "grad_cam")
        finally:
            hook.remove()
        if not found or not isinstance(found[-1], torch.Tensor):
            what = f"gives {shown(found[-1])}" if found else "is not passed"
            raise InputError(f"layer {layer!r} of {type(network).__name__} {what}; expected one that gives a tensor")
        return logits, found[-1], _arrangement(network, modules[layer], found[-1])
    if not (hasattr(network, "walk") and hasattr(network, "classifier")):
        which = f"no layer {layer!r} in {type(network).__name__}" if layer else \
            f"which layer of {type(network).__name__} to take is not known"
        raise InputError(f"{which}; name a submodule{_earlier(network, x)}")
    features, outputs = _walk(network, x)
    if not layer:
        shapes = {name: tuple(network.arrange(one).shape) for name, one in outputs.items()}
        layer = deepest_layer(shapes, (x.shape[2], x.shape[3]))
    if layer not in outputs:
        raise InputError(f"no layer {layer!r}; feature maps: {', '.join(outputs)}; or the path of a submodule")
    return network.classifier(features), outputs[layer], network.arrange


def _arrangement(network: Any, module: nn.Module, output: Tensor) -> Callable[[Tensor], Tensor]:
    """What arranges the output of a submodule as a map."""
    if output.dim() == 3 and hasattr(network, "arrange"):
        return cast("Callable[[Tensor], Tensor]", network.arrange)
    last = getattr(network, "channels_last", False) and type(module).__name__ not in CHANNELS_FIRST
    return (lambda one: one.movedim(-1, 1)) if last else _as_it_is


def _walk(network: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    with _taking(x, "grad_cam"):
        found: tuple[Tensor, dict[str, Tensor]] = network.walk(x)
    return found


def _logits(network: nn.Module, x: Tensor, what: str) -> Tensor:
    """Logits (B, K). Raises InputError if the network gives none for these images."""
    with _taking(x, what):
        logits: Tensor = network(x)
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != len(x):
        raise InputError(f"{what}: {type(network).__name__} gives {shown(logits)}; expected logits ({len(x)}, K)")
    return logits


@contextmanager
def _taking(x: Tensor, what: str) -> Iterator[None]:
    """What a network raises inside, as an InputError that says which images it was given."""
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(f"{what}: the network cannot take images {tuple(x.shape)}: {said(error)}") from error


def _earlier(network: Any, x: Tensor) -> str:
    """For messages: the deepest output of at least ``LEAST`` rows and columns; "" if there is none."""
    shapes: dict[str, tuple[int, ...]] = {}

    def see(name: str, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.dim() == 4 and min(output.shape[2:]) >= LEAST:
            shapes[name] = tuple(output.shape[1:])

    with suppress(Exception), torch.no_grad():  # whatever is wrong with the network, the message is about the layer
        if hasattr(network, "walk"):
            for name, one in network.maps(x).items():
                see(name, one)
        else:
            hooks = [module.register_forward_hook(lambda module, given, out, name=name: see(name, out))
                     for name, module in network.named_modules() if name]
            try:
                network(x)
            finally:
                for hook in hooks:
                    hook.remove()
    return f", such as {list(shapes)[-1]!r} {list(shapes.values())[-1]}" if shapes else ""


def _as_it_is(output: Tensor) -> Tensor:
    return output


def _grid(network: Any, x: Tensor) -> tuple[int, int]:
    """Rows and columns of patches."""
    known = getattr(network, "grid", None)
    if known is None and hasattr(network, "maps"):
        with torch.no_grad():
            maps = [one for one in network.maps(x[:1]).values() if one.dim() == 4]
        known = tuple(maps[-1].shape[2:]) if maps else None
    if known is None:
        raise InputError(f"attention_map: how {type(network).__name__} divides images into patches is not known; give it an "
                         "attribute grid = (rows, columns)")
    return int(known[0]), int(known[1])


@contextmanager
def _attending() -> Iterator[list[Tensor]]:
    """Inside, the attention (B, heads, N, N) of every block that is passed is computed in the open and collected.

    The function is exchanged in its module, where torch's own layers look it up too: a ``TorchFunctionMode`` does not see
    calls inside of ``multi_head_attention_forward``.
    """
    found: list[Tensor] = []

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
                  is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:
        if dropout_p:
            raise InputError(f"attention_map: the network's attention has dropout ({dropout_p:g}) in evaluation mode too, "
                             "so its maps are random; set it to 0 where the network is not trained")
        if enable_gqa:  # several queries share a key and a value
            key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
        if attn_mask is not None:
            scores = scores + attn_mask if attn_mask.is_floating_point() else scores.masked_fill(~attn_mask, -math.inf)
        found.append(scores.softmax(-1))
        return found[-1] @ value

    there: Any = torch.nn.functional
    usual = there.scaled_dot_product_attention
    there.scaled_dot_product_attention = attention
    try:
        yield found
    finally:
        there.scaled_dot_product_attention = usual
