"""Latents of a generator: gradients in parts are the whole ones, features of a layer, what starts, files, what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import generators
import tiny
from datastill.data.domain import domain_of
from datastill.description import load
from datastill.parametrizations.latent import Generated, Latent, _generator
from datastill.run import check_run
from datastill.running import begin, read_start
from datastill.task import Task
from generators import Small
from kit import input_error

OPTIONS: dict[str, Any] = {"kind": "latent", "generator": "generators:Small", "shape": [4]}


def task_of(**options: Any) -> Task:
    return tiny.task(tiny.run(parametrization={**OPTIONS, **options}, ipc=2))


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("layer", ["", "last"])
def test_gradients_in_parts_are_those_of_the_whole(size: int, layer: str) -> None:
    task = task_of(batch_size=size, layer=layer)
    synthetic = task.synthetic(task.random_real(2, ds.RNG(0)))
    learned = list(synthetic.images.values())
    for one in learned:
        one.requires_grad_()
    weight = torch.arange(20 * 64.0).view(20, 1, 8, 8)
    found = torch.autograd.grad((weight * synthetic.decode()).sum(), learned, allow_unused=True)
    network, codec = Small().eval(), synthetic.codec
    assert isinstance(codec, Generated)
    z = learned[0].detach().clone().requires_grad_()
    y = torch.eye(10).repeat_interleave(2, 0)
    with codec._exchanged(learned[1] if layer else None):
        images = codec.generator(z, y)
    whole = codec.domain.normalize((images + 1) / 2)
    torch.testing.assert_close(synthetic.decode(), whole)
    if layer:
        assert sorted(synthetic.images) == ["features", "latents"]
        (wanted,) = torch.autograd.grad((weight * whole).sum(), learned[1])
        torch.testing.assert_close(found[1], wanted, rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(images, network(z, y))
        torch.testing.assert_close(found[0], torch.autograd.grad((weight * whole).sum(), z)[0], rtol=1e-4, atol=1e-4)


def test_features_begin_as_the_generator_computes_them() -> None:
    plain, more = (task_of(layer=layer) for layer in ("", "last"))
    start = plain.random_real(2, ds.RNG(0))
    torch.testing.assert_close(more.synthetic(start).decode(), plain.synthetic(start).decode())


def test_every_image_has_its_own_latents() -> None:
    task = task_of()
    latents = task.synthetic(task.random_real(2, ds.RNG(0))).images["latents"]
    assert len({tuple(one.tolist()) for one in latents}) == len(latents) == 20


def test_the_first_images_can_be_brought_close_to_real_ones() -> None:
    start = task_of().random_real(2, ds.RNG(0))
    apart = [float((task_of(invert=steps).synthetic(start).decode() - start.x).square().mean()) for steps in (0, 100)]
    assert apart[1] < 0.92 * apart[0]  # the generator is not trained


def test_latents_stay_where_the_generator_knows_them() -> None:
    """At the start, after every update, and with a gradient at the edge, from where they can come back."""
    run = tiny.run(parametrization={**OPTIONS, "limit": 0.5}, ipc=2,
                   method_options={"iterations": 3, "optim": {"parameters": {"latents": {"lr": 100.0}}}})
    loop = begin(run, tiny.task(run))
    for _ in range(3):
        latents = loop.synthetic.images["latents"]
        assert float(latents.detach().abs().max()) == 0.5
        (slope,) = torch.autograd.grad(loop.synthetic.decode().square().sum(), latents)
        assert bool((slope[latents.detach().abs() == 0.5] != 0).any())
        loop.advance()
    found = load(ds.Parametrization, {**OPTIONS, "limit": 0.5, "invert": 5, "invert_lr": 10.0})  # type: ignore[type-abstract]
    task = tiny.task(tiny.run(parametrization=found))
    assert float(task.synthetic(task.random_real(1, ds.RNG(0))).images["latents"].detach().abs().max()) <= 0.5


def test_what_a_generator_draws_when_it_is_created_is_always_the_same() -> None:
    run, images = tiny.run(parametrization={**OPTIONS, "generator": "generators:Unseeded"}), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        _generator.cache_clear()
        task = tiny.task(run)
        images.append(task.synthetic(task.random_real(1, ds.RNG(0))).decode())
    assert torch.equal(*images)


def test_another_generator_is_no_start(tmp_path: Path) -> None:
    """Latents mean nothing to it, whatever it is called."""
    for factor in (1, 2):
        torch.save({name: factor * value for name, value in Small().state_dict().items()}, tmp_path / "weights.pth")
        run = tiny.run(parametrization={**OPTIONS, "weights": str(tmp_path / "weights.pth")})
        if factor == 1:
            tiny.distill(run, tmp_path / "first")
            same = run.model_copy(update={"start_from": str(tmp_path / "first")})
            assert read_start(same, tiny.task(same)) is not None
        else:
            with input_error("decoded by generators:Small", "would give other images"):
                read_start(same, tiny.task(same))


@pytest.mark.parametrize("form", ["script", "weights", "free"])
def test_generators_from_files(form: str, tmp_path: Path) -> None:
    torch.jit.script(Small()).save(str(tmp_path / "small.pt"))
    weights = {name: 2 * value for name, value in Small().state_dict().items()}
    torch.save(weights, tmp_path / "weights.pth")
    options = {"script": {"generator": str(tmp_path / "small.pt")}, "weights": {"weights": str(tmp_path / "weights.pth")},
               "free": {"generator": "generators:Free", "conditional": False}}[form]
    run = tiny.run(parametrization={**OPTIONS, **options})
    task = check_run(run, tiny.splits().train, root=tiny.ROOT)
    synthetic = task.synthetic(task.random_real(1, ds.RNG(0)))
    same = torch.equal(synthetic.decode(), task_of().synthetic(task.random_real(1, ds.RNG(0))).decode())
    assert same == (form == "script")
    assert len(run.parametrization.identity()) == (form != "free")


@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "weights"])
def test_the_content_of_files_is_part_of_the_name(name: str, tmp_path: Path) -> None:
    names = []
    for factor in (1, 2):
        torch.save({key: factor * value for key, value in Small().state_dict().items()}, tmp_path / name)
        run = tiny.run(parametrization={**OPTIONS, "weights": str(tmp_path / name)})
        names.append(run.digest(tiny.splits().train))
    assert names[0] != names[1]


def test_their_place_is_not(tmp_path: Path) -> None:
    """A file may be moved, and named from another folder."""
    torch.save(Small().state_dict(), tmp_path / "weights.pth")
    torch.jit.script(Small()).save(str(tmp_path / "small.pt"))
    for key, file in (("weights", "weights.pth"), ("generator", "small.pt")):
        (tmp_path / key).mkdir()
        (tmp_path / key / "copy.pt").write_bytes((tmp_path / file).read_bytes())
        first, moved = (tiny.run(parametrization={**OPTIONS, key: str(tmp_path / path)}) for path in (file, f"{key}/copy.pt"))
        assert first.digest(tiny.splits().train) == moved.digest(tiny.splits().train)
        tiny.distill(first, tmp_path / f"of {key}")
        again = moved.model_copy(update={"start_from": str(tmp_path / f"of {key}")})
        assert read_start(again, tiny.task(again)) is not None
    named = [tiny.run(parametrization={**OPTIONS, "generator": name}) for name in ("generators:Small", "generators:Encoding")]
    assert named[0].digest(tiny.splits().train) != named[1].digest(tiny.splits().train)


def test_what_a_script_raises_is_its_own_last_line(tmp_path: Path) -> None:
    torch.jit.script(Small()).save(str(tmp_path / "small.pt"))
    with input_error("raised RuntimeError: mat1 and mat2 shapes cannot be multiplied") as told:
        check_run(tiny.run(parametrization={**OPTIONS, "generator": str(tmp_path / "small.pt"), "shape": [5]}), tiny.splits().train, root=tiny.ROOT)
    assert "Traceback" not in str(told.value)


def test_a_copy_of_a_set_shares_its_generator() -> None:
    task = task_of()
    synthetic = task.synthetic(task.random_real(1, ds.RNG(0)))
    assert copy.deepcopy(synthetic).codec is synthetic.codec


@pytest.mark.parametrize(("options", "says"), [
    ({"generator": "generators:Raw"}, ("gives values from", "expected about -1 to 1", "parametrization.low")), ({"generator": "generators:Bytes"}, ("torch.uint8", "fractions")),
    ({"generator": "generators:Pair"}, ("gives an object of type tuple", "expected images (B, C, H, W)")), ({"generator": "generators:Mixing"}, ("in another batch",)),
    ({"generator": "generators:EncodingNothing"}, ("encode gives values that are not finite",)), ({"generator": "generators:EncodingOne"}, ("encode gives 1 latent for 10 images",)),
    ({"shape": [5]}, ("it was given latents (2, 5) and one-hot classes (2, 10), as parametrization.shape",)),
    ({"generator": "", "weights": "x"}, ("of which generator",)), ({"generator": "generators:Large"}, ("shape (1, 16, 16)", "data.size")),
    ({"generator": "generators:Deaf"}, ("cannot be differentiated",)), ({"generator": "generators:Broken"}, ("generators:Broken raised", "out of order")),
    ({"generator": "generators:Boundless"}, ("not finite",)), ({"generator": "generators:Plain"}, ("expected a torch.nn.Module",)),
    ({"generator": "generators:Nothing"}, ("Nothing",)), ({"generator": "nowhere:Small"}, ("nowhere",)), ({"generator": "small"}, ("package.module:Class",)),
    ({"generator": "none.pt"}, ("no file none.pt; expected a generator as TorchScript (.pt, .pth, .ts)",)), ({"weights": "none.safetensors"}, ("no file none.safetensors",)),
    ({"generator": "generators:Noisy"}, ("draws at random",)), ({"generator": "generators:Unseeded", "layer": "beside"}, ("passes no layer 'beside'", "known: ")),
    ({"shape": [5]}, ("generators:Small raised",)), ({"conditional": False}, ("generators:Small raised",)), ({"layer": "first2"}, ("passes no layer 'first2'", "did you mean 'first'?")),
    ({"generator": "x.pt", "layer": "last"}, ("TorchScript",)), ({"low": 1.0}, ("low below high",)), ({"shape": [0]}, ("shape",)),
    ({"limit": 0}, ("limit",)), ({"batch_size": 0}, ("batch_size",))])
def test_bad_input(options: dict[str, Any], says: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with input_error(*says):
        check_run(tiny.run(parametrization={**OPTIONS, **options}), tiny.splits().train, root=tiny.ROOT)


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_files_that_are_no_generator(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with input_error("cannot be read as TorchScript") as told:
        check_run(tiny.run(parametrization={**OPTIONS, "generator": str(tmp_path / "x.pt")}), tiny.splits().train, root=tiny.ROOT)
    assert "it was given latents" not in str(told.value)
    torch.save({"first.weight": torch.zeros(2)}, tmp_path / "w.pth")
    with input_error("w.pth: tensor", "the weights are from another one"):
        check_run(tiny.run(parametrization={**OPTIONS, "weights": str(tmp_path / "w.pth")}), tiny.splits().train, root=tiny.ROOT)


def test_a_generator_that_can_encode_is_asked_for_the_first_latents() -> None:
    task = task_of(generator="generators:Encoding")
    start = task.random_real(2, ds.RNG(0))
    latents = task.synthetic(start).images["latents"]
    torch.testing.assert_close(latents[:, 0], (2 * domain_of(task.real).pixels(start.x) - 1).mean((1, 2, 3)))
    with input_error("encode gives latents of shape (4,)", "expected (5,)"):
        check_run(tiny.run(parametrization={**OPTIONS, "generator": "generators:Encoding5", "shape": [5]}), task.real, root=tiny.ROOT)


def test_a_set_alone_cannot_be_decoded() -> None:
    with input_error("decodes with a generator"):
        load(ds.Parametrization, OPTIONS).decode({"latents": torch.zeros(1, 4)})  # type: ignore[type-abstract]
    assert isinstance(load(ds.Parametrization, OPTIONS), Latent)  # type: ignore[type-abstract]


def test_images_of_another_precision_are_brought_to_that_of_the_run() -> None:
    run = tiny.run(parametrization={**OPTIONS, "generator": "generators:Double"})
    task = check_run(run, tiny.splits().train, root=tiny.ROOT)
    assert task.synthetic(task.random_real(1, ds.RNG(0))).decode().dtype == torch.float32


def test_latents_that_are_lost_on_the_way_to_the_first_images() -> None:
    task = task_of(generator="generators:Lost", invert=20, invert_lr=1000.0)
    with input_error("generator generators:Lost gives values that are not finite after 1 of 20 steps", "invert_lr smaller than 1000"):
        task.synthetic(task.random_real(1, ds.RNG(0)))


def test_code_that_was_changed_is_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny.run(parametrization={**OPTIONS, "generator": "generators:Changing"})
    tiny.distill(run, tmp_path / "first")
    again = run.model_copy(update={"start_from": str(tmp_path / "first")})
    assert read_start(again, tiny.task(again)) is not None
    monkeypatch.setattr(generators.Changing, "sign", -1)
    with input_error("now decode to other images", "was changed since"):
        read_start(again, tiny.task(again))


def test_a_start_with_other_settings_is_refused_by_what_differs(tmp_path: Path) -> None:
    tiny.distill(tiny.run(parametrization=OPTIONS), tmp_path / "first")
    for options, says in (({**OPTIONS, "low": -2.0}, "its low is -1.0, now given: -2.0"), ({"kind": "tiles"}, "its kind is latent, now given: tiles")):
        run = tiny.run(parametrization=options, start_from=str(tmp_path / "first"))
        with input_error(says):
            read_start(run, tiny.task(run))


def test_what_is_said_of_learning_rates_names_those_in_use(tmp_path: Path) -> None:
    method = tiny.method("distribution", optim={"parameters": {"latents": {"lr": 1e6}}})
    with pytest.raises(ds.RunError, match=r"method\.optim\.parameters\.latents\.lr is 1e\+06"):
        tiny.distill(tiny.run(parametrization={**OPTIONS, "generator": "generators:Lost"}, method=method), tmp_path / "run")
    still = tiny.method("distribution", optim={"parameters": {"latents": {"lr": 0.0}}})
    with input_error("nothing is learned", "method.optim.parameters.latents.lr is 0"):
        check_run(tiny.run(parametrization=OPTIONS, method=still), tiny.splits().train, root=tiny.ROOT)
