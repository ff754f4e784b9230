"""Teachers from elsewhere: files by our names, a library's or in order, weights by name, and what does not fit."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

import datastill as ds
import tiny
from datastill.data.domain import bring
from datastill.description import load
from datastill.digest import dump, spec
from datastill.errors import InputError
from datastill.functional.guidance import clom
from datastill.nets import Architecture
from datastill.teachers import Context, Pool, Teachers
from datastill.teachers._names import outputs_for
from datastill.teachers._snapshots import flat
from datastill.teachers._weights import read_weights
from datastill.teachers.pretrained import Pretrained
from kit import input_error

NET = tiny.NETWORK
RESNET = {"resnet": models.resnet18(num_classes=10)}


def pool(**options: Any) -> Pretrained:
    return load(Pool, {"kind": "pretrained", "networks": [NET], **options})  # type: ignore[type-abstract, return-value]


def context(root: Path) -> Context:
    return Context(tiny.splits().train, root, root)


def network(seed: int = 0, name: str = NET, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return load(Architecture, name).build((1, 8, 8), classes)  # type: ignore[type-abstract]


def saved(path: Path, weights: dict[str, Tensor] | None = None) -> str:
    weights = dict(network().state_dict()) if weights is None else weights
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_a_file_of_ours(suffix: str, tmp_path: Path) -> None:
    teacher = pool(files=[saved(tmp_path / f"a{suffix}")]).load(context(tmp_path), 0, 0)
    assert torch.equal(flat(teacher.network), flat(network()))
    assert not teacher.network.training
    x = tiny.splits().train.batch(torch.arange(5)).x
    assert torch.equal(teacher.see(x), x)
    assert teacher.facts["network"] == NET
    assert f"a{suffix}" in teacher.name


def test_several_files_of_one_network_and_one_of_each(tmp_path: Path) -> None:
    names = [saved(tmp_path / f"{seed}.pt", dict(network(seed).state_dict())) for seed in range(3)]
    several = Teachers(pool(files=names), context(tmp_path))
    assert len(several) == 3
    assert [torch.equal(flat(one.network), flat(network(seed))) for seed, one in enumerate(several)] == [True] * 3
    each = pool(networks=[NET, "mlp"], files=[names[0], saved(tmp_path / "mlp.pt", dict(network(7, "mlp").state_dict()))])
    assert [one.group for one in Teachers(each, context(tmp_path))] == [0, 1]
    assert torch.equal(flat(each.load(context(tmp_path), 1, 0).network), flat(network(7, "mlp")))
    assert each.alone(1, 0).load(context(tmp_path), 0, 0).name == each.load(context(tmp_path), 1, 0).name
    with pytest.raises(InputError, match="expected one for each of the 2 networks, or several for a single one, got 3"):
        Pretrained(networks=(Pool.model_fields["networks"].default[0],) * 2, files=tuple(names))


def test_wrapped_prefixed_and_in_order(tmp_path: Path) -> None:
    weights = network().state_dict()
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in weights.items()}}
    torch.save(wrapped, tmp_path / "wrapped.pt")
    foreign = OrderedDict((f"layers.{i}", value) for i, value in enumerate(weights.values()))
    other = saved(tmp_path / "order.pt", dict(foreign))
    with input_error("no tensor features.conv1.weight", "the shapes are those of this network in its order", "set match=order"):
        pool(files=[other]).load(context(tmp_path), 0, 0)
    for given in (pool(files=[str(tmp_path / "wrapped.pt")]), pool(files=[other], match="order")):
        assert torch.equal(flat(given.load(context(tmp_path), 0, 0).network), flat(network()))


def test_a_file_by_the_names_of_torchvision(tmp_path: Path) -> None:
    given = pool(networks=["torchvision:model=resnet18,stem=original"], shape=[3, 64, 64], mean=[0.5] * 3, std=[0.25] * 3,
                 files=[saved(tmp_path / "resnet.pth", dict(RESNET["resnet"].state_dict()))])
    teacher = given.load(context(tmp_path), 0, 0)
    seen = teacher.see(tiny.splits().train.batch(torch.arange(2)).x)
    assert seen.shape == (2, 3, 64, 64)
    expected = RESNET["resnet"].eval()
    torch.testing.assert_close(teacher.network(seen), expected(seen))


def test_the_number_of_classes_is_that_of_the_file(tmp_path: Path) -> None:
    name = saved(tmp_path / "seven.pt", dict(network(classes=7).state_dict()))
    given = pool(files=[name])
    assert given.domain(context(tmp_path)).classes == tuple(f"output {number}" for number in range(7))
    assert given.load(context(tmp_path), 0, 0).logits(tiny.splits().train.batch(torch.arange(2)).x).shape == (2, 7)
    run = tiny.run(plugins={"clom": {"pool": {"kind": "pretrained", "networks": [NET], "files": [name]}}})
    with input_error("knows 7 (output 0, output 1, output 2, ...), the run has 10", "use cclom"):
        run.plugins[0].check(tiny.task(run), 1)
    assert pool(files=[name], classes=list("abcdefg")).domain(context(tmp_path)).classes == tuple("abcdefg")


def test_outputs_that_are_the_runs_classes_by_other_names(tmp_path: Path) -> None:
    name = saved(tmp_path / "words.pt")
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def guided(**options: Any) -> Any:
        return tiny.run(plugins={"clom": {"pool": {"kind": "pretrained", "networks": [NET], "files": [name], **options}}})

    with input_error("knows 10 (zero, one, two, ...), the run has 10 (0, 1, 2, ...)", "classes=run", "use cclom"):
        guided(classes=words).plugins[0].check(tiny.task(guided()), 1)
    run = guided(classes="run")
    run.plugins[0].check(tiny.task(run), 1)
    assert run.pools()[0].domain(context(tmp_path)).classes == tiny.splits().train.classes
    assert load(ds.Run, dump(run)) == run
    seven = saved(tmp_path / "seven.pt", dict(network(classes=7).state_dict()))
    with input_error("classes run", "seven.pt has 7 outputs, the run has 10 classes", "leave classes out"):
        pool(files=[seven], classes="run").check(context(tmp_path))


def test_outputs_of_the_runs_classes_and_more(tmp_path: Path) -> None:
    """The teacher's columns are taken in the run's order, whatever the names look like."""
    names = ["Nine", "eight!", "two", "six", "SEVEN", "five", "four", "three", "one", "zero", "eleven", "Twelve"]
    teacher = pool(files=[saved(tmp_path / "more.pt", dict(network(classes=12).state_dict()))], classes=names)
    real = replace(tiny.splits().train, classes=("zero", "ONE", "Two", "three", "four", "five", "six", "seven", "eight!", "nine"))
    one = teacher.load(Context(real, tmp_path, tmp_path), 0, 0)
    x = real.batch(torch.arange(4)).x
    wanted = one.logits(x)[:, [9, 8, 2, 7, 6, 5, 3, 4, 1, 0]]
    assert torch.equal(one.class_logits(x), wanted)
    assert torch.equal(clom(one, x, torch.tensor([0, 1, 2, 3])), F.cross_entropy(wanted, torch.tensor([0, 1, 2, 3])))


@pytest.mark.parametrize(("known", "wanted", "outputs"), [
    (("cat", "dog"), ("dog", "cat"), [1, 0]),
    (("Golden Retriever", "sea-lion", "café"), ("cafe", "golden_retriever", "Sea  lion"), [2, 0, 1]),
    (("tench, Tinca tinca", "goldfish, Carassius auratus"), ("goldfish", "tench"), [1, 0]),
    (("n01443537", "n01440764"), ("tench (n01440764)", "n01443537"), [1, 0]),
    (("a", "b", "c"), ("c",), [2]),
    (("0", "1", "2", "3"), ("3", "1"), [3, 1]),  # digits are names too
])
def test_names_written_differently(known: tuple[str, ...], wanted: tuple[str, ...], outputs: list[int]) -> None:
    assert outputs_for(known, wanted) == outputs


def test_wordnet_numbers_and_words_of_imagenet() -> None:
    words = tuple(models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    assert outputs_for(words, ("n01440764", "n15075141", "n02123045")) == [0, 999, 281]
    assert [words[one] for one in outputs_for(words, ("n02123045", "espresso", "Egyptian_cat"))] == ["tabby", "espresso", "Egyptian cat"]


@pytest.mark.parametrize(("known", "wanted", "says"), [
    (("cat", "dog"), ("cat", "dgo"), "class 'dgo' is not among the 2 classes it knows; did you mean 'dog'?"),
    (("cat", "CAT", "dog"), ("Cat", "dog"), "class 'Cat' may be several outputs: cat, CAT"),
    (("cat", "dog"), ("Cat", "cat", "dog"), "classes 'Cat' and 'cat' are the same output, 'cat'"),
    (("output 0", "output 1", "output 2"), ("0", "1"), "which class each of its 3 numbered outputs is, is not known"),
])
def test_names_that_do_not_tell(known: tuple[str, ...], wanted: tuple[str, ...], says: str) -> None:
    with input_error(says):
        outputs_for(known, wanted)


def test_the_runs_own_network(tmp_path: Path) -> None:
    names = [saved(tmp_path / f"{seed}.pt", dict(network(seed).state_dict())) for seed in range(2)]
    several = pool(networks=[], files=names).for_network(load(Architecture, NET))  # type: ignore[type-abstract]
    assert [torch.equal(flat(one.network), flat(network(seed)))
            for seed, one in enumerate(Teachers(several, context(tmp_path)))] == [True] * 2


def test_normalization_of_its_own(tmp_path: Path) -> None:
    given = pool(files=[saved(tmp_path / "a.pt")], mean=[0.5], std=[0.5])
    teacher, x = given.load(context(tmp_path), 0, 0), tiny.splits().train.batch(torch.arange(3)).x
    torch.testing.assert_close(teacher.see(x), teacher.home.pixels(x) * 2 - 1)
    assert bring(x, teacher.home, teacher.home) is x


@pytest.mark.parametrize(("options", "says"), [
    ({"mean": [0.5] * 3, "std": [0.5] * 3}, "mean and std: expected one number for each of 1 channels, got 3"),
    ({"shape": [3, 8, 8]}, "mean and std: expected one number for each of 3 channels, got 1"),
    ({"shape": [1, 16, 16]}, "tensor classifier.weight has shape (10, 36), the network expects (10, 100)"),
    ({"classes": ["x", "y"]}, "tensor classifier.weight has shape (10, 36), the network expects (2, 36)"),
    ({"networks": ["convnet:width=8,depth=2"]}, "tensor features.conv1.weight has shape (4, 1, 3, 3), the network expects (8, 1"),
    ({"networks": ["convnet:width=4,depth=3"]}, "no tensor features.conv3.weight (shape (4, 4, 3, 3)) for this network among features.conv1.weight, features.conv1.bias, features.norm1.weight, ...; the weights are from another one"),
])
def test_what_does_not_fit_is_named(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    given = pool(**{"files": [saved(tmp_path / "a.pt")], **options})
    with input_error(says):
        given.check(context(tmp_path))
        given.prepare(context(tmp_path))


@pytest.mark.parametrize(("options", "says"), [
    ({}, "no weights are available by name for convnet:width=4,depth=2; give a file for each network"),
    ({"files": ["x"], "mean": [0.5]}, "one number per channel each"),
    ({"files": ["x"], "mean": [0.5], "std": [0.0]}, "std: expected numbers above 0"),
    ({"networks": ["timm:model=resnet18"], "weights": "IMAGENET1K_V1"}, "for timm, the tag after the network name selects the weights"),
])
def test_settings_that_cannot_be(options: dict[str, Any], says: str) -> None:
    with input_error(says):
        pool(**options)


def test_the_runs_own_network_is_taken_if_it_has_weights_by_name(tmp_path: Path) -> None:
    own = pool(networks=[])
    named = own.for_network(load(Architecture, "torchvision:model=resnet18"))  # type: ignore[type-abstract]
    assert [spec(one) for one in named.networks] == ["torchvision:model=resnet18"]
    assert named.domain(context(tmp_path)).classes[0] == "tench"
    with input_error("pool.files: no weights are available by name for convnet:width=4,depth=2; give a file for each network"):
        own.for_network(load(Architecture, tiny.NETWORK)).check(context(tmp_path))  # type: ignore[type-abstract]
    from datastill.recipes import read_recipe
    (recovered,) = read_recipe("sre2l/imagenet-ipc10", ["network=torchvision:model=mobilenet_v2"]).run.pools()
    assert [spec(one) for one in recovered.networks] == ["torchvision:model=mobilenet_v2"]


def test_files_that_are_none(tmp_path: Path) -> None:
    with input_error("no file", "missing.pt", ".safetensors, .pt or .pth"):
        pool(files=[str(tmp_path / "missing.pt")]).check(context(tmp_path))
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save({"a": "b"}, tmp_path / "other.pt")
    torch.save([nn.Linear(2, 2)], tmp_path / "module.pt")
    for name, says in (("text.pt", "cannot be read as weights"), ("text.safetensors", "cannot be read as weights"),
                       ("other.pt", "is not a state dict"), ("module.pt", "cannot be read as weights")):
        with input_error(name, says):
            read_weights(tmp_path / name)


def test_the_content_of_the_file_decides_not_its_name(tmp_path: Path) -> None:
    one, two = saved(tmp_path / "a.pt"), shutil.copy(tmp_path / "a.pt", tmp_path / "b.pt")
    other = saved(tmp_path / "c.pt", dict(network(1).state_dict()))
    real = tiny.splits().train
    digests = [tiny.run(plugins={"cclom": {"pool": {"kind": "pretrained", "networks": [NET], "files": [name]}}})
               .digest(real, tmp_path) for name in (one, two, other)]
    assert digests[0] == digests[1] != digests[2]


def test_torchvision_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where torch.hub keeps its downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = models.MNASNet0_5_Weights.IMAGENET1K_V1
    file = tmp_path / "hub" / "checkpoints" / name.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    original = models.mnasnet0_5()
    torch.save(original.state_dict(), file)
    given = load(Pool, {"kind": "pretrained", "networks": ["torchvision:model=mnasnet0_5"],  # type: ignore[type-abstract]
                        "weights": "IMAGENET1K_V1"})
    where = context(tmp_path)
    given.check(where)
    given.prepare(where)
    teacher = given.load(where, 0, 0)
    assert teacher.domain.shape == (3, 224, 224)
    assert teacher.domain.mean == (0.485, 0.456, 0.406)
    assert teacher.domain.classes[:2] == ("tench", "goldfish")
    x = where.real.batch(torch.arange(1)).x
    torch.testing.assert_close(teacher.logits(x), original.eval()(teacher.see(x)))
    with input_error("torchvision has no weights 'V3' for mnasnet0_5; known: IMAGENET1K_V1, DEFAULT"):
        given.model_copy(update={"weights": "V3"}).check(where)
    assert file.exists()


def test_what_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*args: Any, **options: Any) -> Any:
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with input_error("weights DEFAULT of torchvision:model=alexnet cannot be downloaded: no route", "give the path in files"):
        pool(networks=["torchvision:model=alexnet"]).prepare(context(tmp_path))


def test_timm_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    given = pool(networks=["timm:model=test_resnet.r160_in1k"])
    where = context(tmp_path)
    domain = given.domain(where)
    assert domain.shape == (3, 160, 160)
    assert len(domain.classes) == 1000
    original = timm.create_model("test_resnet", pretrained=False)
    make = timm.create_model

    def create(name: str, pretrained: bool = False, **options: Any) -> Any:
        return original if pretrained else make(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create)
    teacher = given.load(where, 0, 0)
    x = where.real.batch(torch.arange(1)).x
    torch.testing.assert_close(teacher.logits(x), original.eval()(teacher.see(x)))
    with input_error("timm has no weights for test_resnet.no_such"):
        pool(networks=["timm:model=test_resnet.no_such"]).check(where)


def test_timm_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever kind of error the hub's client raises."""
    timm = pytest.importorskip("timm")
    make = timm.create_model

    class Strange(Exception):
        pass

    def create(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise Strange("nobody answers\nand more")
        return make(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create)
    with input_error("weights of timm:model=test_resnet.r160_in1k cannot be downloaded: nobody answers;"):
        pool(networks=["timm:model=test_resnet.r160_in1k"]).prepare(context(tmp_path))


@pytest.mark.parametrize("draw", ["one", "mean"])
def test_a_run_is_guided_by_a_file(draw: str, tmp_path: Path) -> None:
    table = {"kind": "pretrained", "networks": [NET], "files": [saved(tmp_path / "a.pt"), saved(tmp_path / "b.pt")]}
    run = tiny.run(plugins={"clom": {"pool": table, "draw": draw}, "cclom": {"pool": table, "draw": draw, "batch_real": 16}})
    ds.distill(run, tiny.splits().train, tmp_path / "out", root=tmp_path)
    assert len(ds.load(tmp_path / "out").card["prepared"]["clom"]["teachers"]) == 2


@pytest.mark.parametrize(("change", "says"), [
    (lambda w: {**w, "classifier.bias": w["classifier.bias"] * float("nan")}, "tensor classifier.bias contains non-finite values"),
    (lambda w: {**w, "classifier.bias": w["classifier.bias"].to(torch.complex64)}, "tensor classifier.bias is complex"),
    (lambda w: {**w, "classifier.bias": w["classifier.bias"].to_sparse()}, "tensor classifier.bias is sparse"),
    (lambda w: {**w, "more.weight": torch.zeros(3)}, "1 tensors that this network does not have (more.weight, ...)"),
])
def test_tensors_that_are_no_weights_of_this_network(change: Any, says: str, tmp_path: Path) -> None:
    with input_error(says):
        pool(files=[saved(tmp_path / "a.pt", change(dict(network().state_dict())))]).prepare(context(tmp_path))


def test_heads_that_serve_training_only_are_left_out(tmp_path: Path) -> None:
    weights = {**network().state_dict(), "aux1.weight": torch.zeros(3)}
    assert torch.equal(flat(pool(files=[saved(tmp_path / "a.pt", weights)]).load(context(tmp_path), 0, 0).network), flat(network()))


@pytest.mark.parametrize("shape", [[1, 0, 8], [-1, 8, 8], [1, 100_000, 100_000], [8, 8]])
def test_shapes_that_cannot_be(shape: list[int]) -> None:
    with input_error("shape: expected [C, H, W], each from 1 to"):
        pool(files=["x"], shape=shape)


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path / "a.pt")
    given = pool(files=["~/a.pt"])
    given.check(context(tmp_path))
    given.prepare(context(tmp_path))


def test_every_network_of_the_pool_must_know_the_classes(tmp_path: Path) -> None:
    files = [saved(tmp_path / "ten.pt"), saved(tmp_path / "seven.pt", dict(network(classes=7).state_dict()))]
    run = tiny.run(plugins={"clom": {"pool": {"kind": "pretrained", "networks": [NET, NET], "files": files}}})
    with input_error("knows 7 (output 0, output 1, output 2, ...), the run has 10"):
        run.plugins[0].check(tiny.task(run), 1)


def test_timm_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    monkeypatch.setitem(sys.modules, "timm", None)
    with input_error("timm:model=resnet18 needs timm", "pip install -e '.[timm]'"):
        pool(networks=["timm:model=resnet18"]).check(context(tmp_path))
