"""Training: what fit does, against a loop written out; accuracies by class."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from datastill import train as module
from datastill.artifact import tensors_of
from datastill.data import Batch, Images
from datastill.distilled import Distilled
from datastill.errors import RunError
from datastill.parametrizations.pixels import Pixels
from datastill.rng import RNG
from datastill.synthetic import SyntheticSet
from datastill.tables import counted
from datastill.train import Augmented, Examples, Fixed, Sharpness, Training, accuracies, ahead, augmented, fit
from kit import Told, input_error, one_thread, quick, toy_images  # noqa: F401  a fixture


def linear(seed: int = 0) -> nn.Module:
    """16 pixels to 3 logits."""
    with RNG("net", seed).as_global():
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def separable(n: int = 60) -> Batch:
    """Three classes, each with a bright quarter of its own."""
    targets = torch.arange(n) % 3
    x = 0.3 * RNG("noise").normal(n, 1, 4, 4)
    x[torch.arange(n), 0, targets] += 1
    return Batch(x, F.one_hot(targets, 3).float())


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def trained(rates: Sequence[float] = (0.1, 0.1, 0.1), seed: int = 0, batch_size: int = 16, examples: Examples | None = None,
            **options: object) -> Tensor:
    network = linear()
    fit(network, examples or Fixed(separable()), rates, RNG(seed), batch_size=batch_size, **options)  # type: ignore[arg-type]
    return weights(network)


def written_out(rates: Sequence[float], restarts: Sequence[int], momentum: float, weight_decay: float) -> Tensor:
    """SGD with momentum on all examples at once, in plain arithmetic."""
    network, (x, y) = linear(), separable()
    velocity = [torch.zeros_like(p) for p in network.parameters()]
    for epoch, rate in enumerate(rates):
        if epoch in restarts:
            velocity = [torch.zeros_like(v) for v in velocity]
        gradients = torch.autograd.grad(-(y * network(x).log_softmax(1)).sum(1).mean(), list(network.parameters()))
        with torch.no_grad():
            for i, (weight, gradient) in enumerate(zip(network.parameters(), gradients, strict=True)):
                velocity[i] = momentum * velocity[i] + gradient + weight_decay * weight
                weight.sub_(rate * velocity[i])
    return weights(network)


def test_it_learns_a_separable_set() -> None:
    network, (x, y) = linear(), separable()
    fit(network, Fixed(separable()), [0.5] * 30, RNG(0), batch_size=16)
    assert (network(x).argmax(1) == y.argmax(1)).all()


@quick
@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=6), st.sets(st.integers(0, 6), max_size=2),
       st.floats(0, 0.95), st.floats(0, 0.1))
def test_it_is_sgd_with_momentum_and_restarts_forget_it(
        rates: list[float], restarts: set[int], momentum: float, weight_decay: float) -> None:
    got = trained(rates, batch_size=60, momentum=momentum, weight_decay=weight_decay, restarts=sorted(restarts))
    torch.testing.assert_close(got, written_out(rates, sorted(restarts), momentum, weight_decay), atol=1e-5, rtol=1e-4)


def test_a_restart_makes_a_difference() -> None:
    assert not torch.allclose(trained([0.1] * 6, restarts=[3]), trained([0.1] * 6), atol=1e-3)


def test_soft_labels_count_by_their_probability() -> None:
    network, x = linear(), separable().x[:1]
    fit(network, Fixed(Batch(x, torch.tensor([[0.2, 0.3, 0.5]]))), [0.5] * 200, RNG(0), batch_size=1, weight_decay=0.0)
    torch.testing.assert_close(network(x).softmax(1), torch.tensor([[0.2, 0.3, 0.5]]), atol=1e-3, rtol=0)


def test_the_same_stream_gives_the_same_weights_bit_for_bit() -> None:
    torch.manual_seed(1)
    first = trained(seed=3)
    torch.manual_seed(2)
    assert torch.equal(trained(seed=3), first)
    assert not torch.equal(trained(seed=4), first)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    trained()
    assert torch.equal(torch.random.get_rng_state(), before)


class Numbered:
    """Images whose level is their index; remembers what was asked for."""

    def __init__(self, n: int) -> None:
        self.n, self.asked = n, list[list[int]]()

    def __len__(self) -> int:
        return self.n

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        self.asked.append(rows.tolist())
        return Batch(rows.float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4), torch.eye(3)[rows % 3])


@quick
@given(st.integers(1, 20), st.integers(1, 8))
def test_an_epoch_goes_through_all_examples_once(n: int, batch_size: int) -> None:
    examples = Numbered(n)
    fit(linear(), examples, [1e-6, 1e-6], RNG(n), batch_size=batch_size)
    batches = -(-n // batch_size)
    assert all(len(rows) <= batch_size for rows in examples.asked)
    for epoch in (examples.asked[:batches], examples.asked[batches:]):
        assert sorted(row for rows in epoch for row in rows) == list(range(n))


def test_every_epoch_has_an_order_of_its_own() -> None:
    examples = Numbered(12)
    fit(linear(), examples, [1e-6] * 3, RNG(0), batch_size=12)
    assert len({tuple(rows) for rows in examples.asked}) == 3


def test_every_batch_is_augmented_with_a_stream_of_its_own() -> None:
    seen: list[tuple[int, int]] = []

    def note(x: Tensor, rng: RNG) -> Tensor:
        seen.append((rng.seed, len(x)))
        return x

    plain, noted = trained([0.1, 0.1]), trained([0.1, 0.1], examples=Augmented(Fixed(separable()), note))
    assert torch.equal(plain, noted)
    assert [n for _, n in seen] == [16, 16, 16, 12] * 2
    assert len({seed for seed, _ in seen}) == 8


def test_the_augmented_images_are_what_is_learned_from() -> None:
    network = linear()
    before = network[1].weight.clone()  # type: ignore[index]
    fit(network, Augmented(Fixed(separable()), lambda x, rng: x * 0), [0.1], RNG(0), batch_size=16, weight_decay=0.0)
    assert torch.equal(network[1].weight, before)  # type: ignore[index]


class Mixup:
    """Every image mixed with another one, and their labels with them (Zhang et al. 2018), its share drawn."""

    def __init__(self, examples: Examples, shown: list[Batch]) -> None:
        self.examples, self.shown = examples, shown

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        x, y = self.examples.batch(rows)
        if rng is None:
            return Batch(x, y)
        share, other = rng("share").uniform(len(x)), rng("other").permutation(len(x))
        mixed = Batch(x.lerp(x[other], share.view(-1, 1, 1, 1)), y.lerp(y[other], share[:, None]))
        self.shown.append(mixed)
        return mixed


def test_images_and_labels_can_be_mixed() -> None:
    """Of one-hot images whose labels are their pixels, a mixed image's label is itself."""
    targets, shown = torch.arange(48) % 3, list[Batch]()
    x = torch.zeros(48, 1, 4, 4)
    x[torch.arange(48), 0, 0, targets] = 1
    network = linear()
    fit(network, Mixup(Fixed(Batch(x, torch.eye(3)[targets])), shown), [0.5] * 60, RNG(0), batch_size=16, weight_decay=0.0)
    assert len(shown) == 180
    assert all(torch.equal(batch.x[:, 0, 0, :3], batch.y) for batch in shown)
    assert len({float(batch.y.max(1).values.sum()) for batch in shown}) > 100  # each batch by its own draw
    between = torch.zeros(1, 1, 4, 4)
    between[0, 0, 0, :2] = 0.5
    near = network(between).softmax(1)
    assert near[0, :2].min() > 3 * near[0, 2]  # told apart from hard labels: half of each


class Taught:
    """Augmented images with what a teacher says of just these, at a temperature (Hinton et al. 2015)."""

    def __init__(self, examples: Examples, teacher: nn.Module, temperature: float) -> None:
        self.examples, self.teacher, self.temperature = examples, teacher, temperature

    def __len__(self) -> int:
        return len(self.examples)

    @torch.no_grad()
    def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
        x = self.examples.batch(rows, epoch, rng).x
        return Batch(x, (self.teacher(x) / self.temperature).softmax(1))


def test_a_teacher_can_label_augmented_images_online() -> None:
    """The teacher tells classes by the bright pixel and is asked after the images were turned around: a student of its
    answers agrees with it, one of labels from before is at chance."""
    temperature, (x, _) = 4.0, separable()
    teacher = linear()
    with torch.no_grad():
        teacher[1].weight.zero_()  # type: ignore[index]
        teacher[1].bias.zero_()  # type: ignore[index]
        teacher[1].weight[:, :3] = 10 * torch.eye(3)  # type: ignore[index]

    def kl(logits: Tensor, y: Tensor) -> Tensor:
        return temperature**2 * F.kl_div((logits / temperature).log_softmax(1), y, reduction="sum")

    def turned(x: Tensor, rng: RNG) -> Tensor:
        return x.roll(int(rng.numpy().integers(3)), 3) + 0.3 * rng.normal(*x.shape)

    def agrees(examples: Examples) -> float:
        student = linear(1)
        fit(student, examples, [0.05] * 60, RNG(0), batch_size=16, weight_decay=0.0, criterion=kl)
        shown = torch.cat([turned(x, RNG("shown", i)) for i in range(9)])
        return float((student(shown).argmax(1) == teacher(shown).argmax(1)).double().mean())

    plain = Fixed(separable())
    assert agrees(Taught(Augmented(plain, turned), teacher, temperature)) > 0.9
    assert agrees(Augmented(Taught(plain, teacher, temperature), turned)) < 0.6


def test_the_criterion_is_what_is_learned_from() -> None:
    def squares(logits: Tensor, y: Tensor) -> Tensor:
        return (logits - y).square().sum()

    network, (x, y) = linear(), separable()
    fit(network, Fixed(separable()), [0.05] * 200, RNG(0), batch_size=60, weight_decay=0.0, criterion=squares)
    flat = torch.cat([x.flatten(1), torch.ones(60, 1)], 1)
    best = torch.linalg.lstsq(flat, y).solution
    torch.testing.assert_close(network(x), flat @ best, atol=2e-2, rtol=0)


def stored(kind: str) -> Examples:
    images = toy_images()
    batch = images.batch(torch.arange(len(images)))
    synthetic = SyntheticSet({"pixels": batch.x}, batch.y, images, Pixels())
    card = {"classes": images.classes, "mean": images.mean, "std": images.std}
    return {"fixed": Fixed(batch), "images": images, "synthetic": synthetic,
            "distilled": Distilled(tensors_of(synthetic), card)}[kind]  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["fixed", "images", "synthetic", "distilled"])
def test_stored_examples_are_the_same_in_every_epoch(kind: str) -> None:
    examples, rows = stored(kind), torch.tensor([3, 0, 7])
    plain = examples.batch(rows)
    assert plain.x.shape == (3, 1, 4, 4)
    again = examples.batch(rows, 5, RNG(1))
    assert torch.equal(plain.x, again.x)
    assert torch.equal(plain.y, again.y)


def test_augmented_examples_keep_labels_and_draw_nothing_without_a_stream() -> None:
    plain, rows = Fixed(separable()), torch.tensor([3, 0, 7])
    some = augmented(plain, "flip_crop")
    assert len(some) == len(plain)
    assert torch.equal(some.batch(rows).x, plain.batch(rows).x)
    assert not torch.equal(some.batch(rows, 0, RNG(0)).x, plain.batch(rows).x)
    assert torch.equal(some.batch(rows, 0, RNG(0)).x, some.batch(rows, 5, RNG(0)).x)
    assert torch.equal(some.batch(rows, 0, RNG(0)).y, plain.batch(rows).y)
    assert augmented(plain, "none") is plain


def test_someone_watching_is_told_of_every_epoch() -> None:
    told = Told()
    trained([0.1] * 3, progress=told)
    assert told.steps == [(1, 3), (2, 3), (3, 3)]


def test_no_epochs_leave_the_network_as_it_was() -> None:
    assert torch.equal(trained([]), weights(linear()))


def test_it_trains_in_training_mode() -> None:
    network = linear().eval()
    fit(network, Fixed(separable()), [0.1], RNG(0), batch_size=16)
    assert network.training


def test_diverging_is_reported_with_what_to_do() -> None:
    with pytest.raises(RunError, match=r"diverged.*learning rate 1e\+30.*lr"):
        trained([1e30] * 5)


def test_fixed_is_a_batch_as_examples() -> None:
    whole = separable(5)
    part = Fixed(whole).batch(torch.tensor([3, 0]))
    assert len(Fixed(whole)) == 5
    assert torch.equal(part.x, whole.x[[3, 0]])
    assert torch.equal(part.y, whole.y[[3, 0]])


# --- accuracies -------------------------------------------------------------------------------------------------------


class Says(nn.Module):
    """Predicts the class by the level of the first pixel (0, 1, 2); remembers the mode it was called in."""

    def forward(self, x: Tensor) -> Tensor:
        self.called_in_training = self.training
        return torch.eye(3)[x[:, 0, 0, 0].long()]


def answered(predictions: list[int], targets: list[int]) -> Images:
    """Images that ``Says`` takes for these predictions."""
    pixels = torch.tensor(predictions).byte().view(-1, 1, 1, 1)
    return Images(pixels, torch.tensor(targets), ("a", "b", "c"), (0.0,), (1 / 255,))


@quick
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_accuracies_are_shares_of_each_class(pairs: list[tuple[int, int]]) -> None:
    predictions, targets = map(list, zip(*pairs, strict=True))
    got = accuracies(Says(), answered(predictions, targets))
    for label in range(3):
        hits = [p == t for p, t in pairs if t == label]
        assert got[label].isnan() if not hits else got[label] == sum(hits) / len(hits)


def test_accuracies_are_taken_in_evaluation_mode_without_a_graph() -> None:
    says = Says()
    assert not accuracies(says, answered([0, 1], [0, 1])).requires_grad
    assert not says.called_in_training


def test_a_trained_network_is_right_on_what_it_learned() -> None:
    images = toy_images(per_class=10)
    bright = images.pixels.clone()
    bright[torch.arange(len(images)), 0, images.targets] = 255
    images = replace(images, pixels=bright)
    network = linear()
    fit(network, images, [0.1] * 30, RNG(0), batch_size=10)
    assert accuracies(network, images).min() > 0.9


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("restarts", [(), (2,)])
def test_stopped_after_any_epoch_it_goes_on_as_if_it_never_had(optimizer: str, restarts: tuple[int, ...]) -> None:
    def training(network: nn.Module) -> Training:
        examples = Augmented(Fixed(separable()), lambda x, rng: x + 0.1 * rng.normal(*x.shape))
        return Training(network, examples, (0.1, 0.05, 0.05, 0.01), RNG("fit"), batch_size=16, optimizer=optimizer,  # type: ignore[arg-type]
                        restarts=restarts)

    def net() -> nn.Module:
        with RNG("net", 0).as_global():
            return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

    whole = training(net())
    losses = [whole.advance() for _ in range(4)]
    for stop in range(4):
        first = training(net())
        done = [first.advance() for _ in range(stop)]
        state = copy.deepcopy(first.state())
        second = training(net())
        second.restore(state)
        assert done + [second.advance() for _ in range(stop, 4)] == losses
        assert all(torch.equal(a, b) for a, b in zip(second.network.state_dict().values(), whole.network.state_dict().values(),
                                                     strict=True))


def test_what_a_network_draws_itself_follows_from_the_stream() -> None:
    def trained(seed: int, stop: int = 0) -> torch.Tensor:
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        with RNG("net").as_global():
            net[1].reset_parameters()
            net[3].reset_parameters()
        torch.manual_seed(seed)
        training = Training(net, Fixed(toy_images().batch(torch.arange(12))), [0.1] * 3, RNG(0), batch_size=4)
        for _ in range(stop):
            training.advance()
        other = Training(net, training.examples, training.rates, RNG(0), batch_size=4)
        other.restore(training.state())
        while other.epoch < 3:
            other.advance()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    assert torch.equal(trained(0), trained(1))
    assert torch.equal(trained(0), trained(2, stop=2))


# --- precision and layout ---------------------------------------------------------------------------------------------


class Noting(nn.Module):
    """A convolution and a classifier; notes what it computes in."""

    def __init__(self) -> None:
        super().__init__()
        with RNG("noting").as_global():
            self.conv, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(64, 3)
        self.seen: list[tuple[torch.dtype, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.seen.append((y.dtype, y.is_contiguous(memory_format=torch.channels_last)))
        return self.last(y.relu().flatten(1))


def noted(**options: object) -> Noting:
    network = Noting()
    fit(network, Fixed(separable()), [0.1] * 3, RNG(0), batch_size=16, **options)  # type: ignore[arg-type]
    return network


def test_bfloat16_is_of_the_forward_and_the_weights_stay_float32() -> None:
    plain, half = noted(), noted(precision="bfloat16")
    assert {dtype for dtype, _ in half.seen} == {torch.bfloat16}
    assert {dtype for dtype, _ in plain.seen} == {torch.float32}
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    assert not torch.equal(weights(half), weights(plain))
    torch.testing.assert_close(weights(half), weights(plain), atol=0.02, rtol=0.1)
    assert not torch.is_autocast_enabled("cpu")


def test_channels_last_is_a_layout_and_no_other_result() -> None:
    plain, last = noted(), noted(channels_last=True)
    assert {layout for _, layout in last.seen} == {True}
    assert {layout for _, layout in plain.seen} == {False}
    torch.testing.assert_close(weights(last), weights(plain), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_a_training_computes_in_its_own_precision_whatever_stands_outside(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(module, "computing", lambda device, precision="float32": (asked.append(precision), nullcontext())[1])
    noted(precision=precision)
    assert asked == [precision] * 3


def test_sharp_training_takes_the_precision_too() -> None:
    half = noted(precision="bfloat16", sharpness=Sharpness(0.1, 0.1, False))
    assert len(half.seen) == 2 * 3 * 4
    assert {dtype for dtype, _ in half.seen} == {torch.bfloat16}


# --- a last batch of one image ------------------------------------------------------------------------------------------


def normalized(*, maps: bool = False) -> nn.Module:
    """Batch normalization of features, or of maps of 4x4."""
    with RNG("net").as_global():
        if maps:
            return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 3))
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


@pytest.mark.parametrize(("n", "size", "parts"), [(9, 4, [4, 5]), (5, 4, [5]), (8, 4, [4, 4]), (10, 4, [4, 4, 2])])
def test_a_last_image_alone_joins_the_batch_before_it(n: int, size: int, parts: list[int]) -> None:
    examples = Numbered(n)
    fit(normalized(), examples, [0.1], RNG(0), batch_size=size)
    assert [len(rows) for rows in examples.asked if rows != [0]] == parts


def test_networks_that_can_be_trained_on_one_image_are() -> None:
    for network in (linear(), normalized(maps=True)):
        examples = Numbered(9)
        fit(network, examples, [0.1], RNG(0), batch_size=4)
        assert [len(rows) for rows in examples.asked][-3:] == [4, 4, 1]


@pytest.mark.parametrize(("n", "size"), [(1, 4), (4, 1), (1, 1)])
def test_single_images_only_are_refused_before_the_first_step(n: int, size: int) -> None:
    network = normalized()
    before = copy.deepcopy(network.state_dict())
    with input_error("batch normalization needs more than one value", f"{counted(n, 'image')} in batches of {size}", "norm=instance"):
        fit(network, Numbered(n), [0.1], RNG(0), batch_size=size)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_images_are_never_scored_alone_by_statistics_of_a_batch() -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16, track_running_stats=False), nn.Linear(16, 3))
    assert accuracies(network, toy_images(per_class=667)).isfinite().all()  # 2001 images


def test_outputs_that_are_not_finite_are_of_any_network() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.constant_(network[1].bias, float("inf"))
    with pytest.raises(RunError, match="the network's outputs are not finite; lower the lr it is trained with"):
        accuracies(network, toy_images())


# --- the last update ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e8, 1e12, 1e30, 1e38])
def test_the_last_update_is_checked(rate: float) -> None:
    with pytest.raises(RunError, match=r"diverged in the last epoch: a weight is .* at learning rate .*; lower the lr"):
        trained([rate], batch_size=60)


def test_a_criterion_must_give_a_scalar() -> None:
    with input_error("returned torch.Size([16]); expected a differentiable scalar tensor"):
        trained(criterion=lambda logits, y: F.cross_entropy(logits, y, reduction="none"))


def test_batches_are_drawn_ahead_in_order_and_errors_arrive() -> None:
    names: list[str] = []

    def parts() -> Iterator[int]:
        for number in range(4):
            names.append(threading.current_thread().name)
            yield number
        raise ZeroDivisionError

    coming, found = ahead(parts()), []
    for _ in range(4):
        found.append(next(coming))
        assert len(names) <= found[-1] + 2
    with pytest.raises(ZeroDivisionError):
        next(coming)
    assert found == [0, 1, 2, 3]
    assert all(name.startswith("datastill-ahead") for name in names)
    assert list(ahead([])) == []


def test_images_on_disk_give_the_same_training() -> None:
    class Slow:
        slow = True

        def __init__(self) -> None:
            self.images = toy_images(3, 12)

        def __len__(self) -> int:
            return len(self.images)

        def batch(self, rows: Tensor, epoch: int = 0, rng: RNG | None = None) -> Batch:
            return self.images.batch(rows, epoch, rng)

    found = []
    for examples in (Slow(), Slow().images):
        net = linear()
        fit(net, augmented(examples, "dsa"), [0.1] * 3, RNG(0), batch_size=16)
        found.append(net.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
