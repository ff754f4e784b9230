"""Students of teachers: schedules, losses, teachers of the set's method, stored labels, the authors' rules, controls."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import datastill as ds
import tiny
from datastill.core import Protocol
from datastill.description import load
from datastill.nets.convnet import ConvNet
from datastill.protocols.soft_labels import SoftLabels
from datastill.recipes import read_recipe
from datastill.relabel import Relabel, Views
from datastill.scoring import Evaluation, student
from datastill.train import Fixed, Training
from kit import input_error

NET = "convnet:width=4,depth=2,norm=batch"
POOL = {"kind": "classifier", "networks": [NET], "epochs": 1, "batch_size": 512}
FAST: dict[str, Any] = {"kind": "soft_labels", "epochs": 3, "batch_size": 8, "pool": POOL, "views": {"area": 0.5}}


def evaluation(**options: Any) -> Evaluation:
    images = tiny.splits()
    found = Evaluation(load(Protocol, {**FAST, **options}), load(ds.Architecture, NET), images.train, images.test,  # type: ignore[type-abstract]
                       root=tiny.ROOT)
    found.prepare()
    return found


def scored(which: Evaluation, examples: Any, **more: Any) -> Any:
    return student(examples, which.protocol_for(None), which.network, which.images, 0, 0, context=which.context(), **more)


def some(count: int = 20) -> Any:
    return tiny.splits().train.batch(torch.arange(count))


@pytest.mark.parametrize("name", SoftLabels.presets)
def test_presets_of_the_papers(name: str) -> None:
    protocol = load(Protocol, name)  # type: ignore[type-abstract]
    assert isinstance(protocol, SoftLabels)
    assert protocol.for_network(ConvNet()).lr == {"sre2l_tiny": 0.2}.get(name, 1e-3)


def test_the_learning_rate_falls_as_far_as_it_is_stretched(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    monkeypatch.setattr("datastill.protocols.soft_labels.fit", lambda net, examples, found, *_, **__: rates.extend(found))
    for stretch, last in ((1.0, 0.5 * (1 + math.cos(0.9 * math.pi))), (2.0, 0.5 * (1 + math.cos(0.45 * math.pi)))):
        rates.clear()
        SoftLabels(labels="hard", epochs=10, lr=1.0, stretch=stretch).train(torch.nn.Identity(), Fixed(some()), ds.RNG(0))
        assert rates[0] == 1.0
        assert rates[-1] == pytest.approx(last)
    assert SoftLabels(epochs=6, warmup=2)._rates(3.0)[:3] == [1.0, 2.0, 3.0]
    with input_error("warmup: 6 epochs of 6"):
        SoftLabels(epochs=6, warmup=6)


def test_rded_has_a_rate_for_each_kind_of_student() -> None:
    rded = load(Protocol, "rded")  # type: ignore[type-abstract]
    for network, rate in (("convnet", 1e-3), ("vgg11", 5e-4), ("torchvision:model=mobilenet_v2", 2.5e-3), ("torchvision:model=swin_v2_t", 1e-4),
                          ("alexnet", 1e-4)):
        assert rded.for_network(load(ds.Architecture, network)).lr == rate  # type: ignore[type-abstract, attr-defined]


def test_biases_and_normalization_do_not_decay() -> None:
    net = load(ds.Architecture, NET).build((1, 8, 8), 3)  # type: ignore[type-abstract]
    for decay_all, expected in ((False, 0.0), (True, 0.01)):
        training = Training(net, Fixed(some()), [1e-3], ds.RNG(0), batch_size=8, optimizer="adamw", weight_decay=0.01, decay_all=decay_all)
        for group in training.updates.param_groups:
            small = {p.dim() <= 1 for p in group["params"]}
            assert group["weight_decay"] == (expected if small == {True} else 0.01)


def test_the_loss_is_the_divergence_from_what_the_teacher_says() -> None:
    protocol = SoftLabels(temperature=4.0)
    logits, said = torch.randn(3, 5), torch.randn(3, 5)
    assert torch.equal(protocol.criterion(logits, said), ds.losses.kl(logits, said, 4.0))
    torch.testing.assert_close(SoftLabels(temperature=4.0, t_squared=True).criterion(logits, said), 16 * ds.losses.kl(logits, said, 4.0))
    hard = SoftLabels(labels="hard")
    wanted = torch.nn.functional.cross_entropy(logits, torch.arange(3), reduction="sum")
    torch.testing.assert_close(hard.criterion(logits, torch.eye(5)[:3]), wanted)


def test_teachers_are_those_of_the_method_unless_others_are_named() -> None:
    run = tiny.run("recover", network=NET)
    taken = SoftLabels().for_method(run.method, run.network)
    assert taken.pool == run.method.pool.for_network(run.network)  # type: ignore[attr-defined]
    named = load(Protocol, {**FAST, "pool": {"kind": "classifier", "networks": []}})  # type: ignore[type-abstract]
    assert isinstance(named, SoftLabels)
    assert named.for_method(run.method, run.network).pool.networks == (run.network,)  # type: ignore[union-attr]
    assert named.pools(ConvNet())[0].networks == (ConvNet(),)
    assert SoftLabels(labels="hard").for_method(run.method, run.network).pool is None
    plain = tiny.run("coreset", method_options={"choose": "random"})
    with input_error("needs teachers", "protocol.pool=classifier"):
        found = SoftLabels().for_method(plain.method, plain.network)
        found.check(Evaluation(found, plain.network, tiny.splits().train, tiny.splits().test).context(), plain.network)
    for relabel in ({"epochs": 3}, {"top": 5}):
        with input_error("set relabel.store=true"):
            evaluation(relabel=relabel)
    for more, says in (({"views": {"strips": 9}}, "9 strips of images of 8 pixels"), ({"relabel": {"store": True, "top": 11}}, "11 logits of 10"),
                       ({"relabel": {"store": True, "epochs": 99}}, "labels of 99 epochs"), ({"relabel": {"rest": "smallest"}}, "there is no rest"),
                       ({"relabel": {"store": True, "rest": "smallest", "top": 1}}, "all logits of an image equal")):
        with input_error(says):
            evaluation(**more)


def test_students_start_alike_whatever_they_learn_from_and_differ_by_labels() -> None:
    online = scored(evaluation(), some())
    assert scored(evaluation(), some()).accuracy == online.accuracy
    assert scored(evaluation(labels="hard"), some()).auroc != online.auroc


def test_labels_are_stored_once_for_all_students(tmp_path: Path) -> None:
    which = evaluation(relabel={"store": True})
    first = scored(which, some(), folder=tmp_path, checksum="images")
    (place,) = tmp_path.iterdir()
    before = {file.name: file.stat().st_mtime_ns for file in place.iterdir()}
    assert scored(which, some(), folder=tmp_path, checksum="images").accuracy == first.accuracy
    assert {file.name: file.stat().st_mtime_ns for file in place.iterdir()} == before
    scored(which, some(), folder=tmp_path, checksum="others")
    assert len(list(tmp_path.iterdir())) == 2
    scored(replace(which, seed=1), some())
    assert len(list(tmp_path.iterdir())) == 2  # without a folder nothing is stored


def test_without_teachers_nothing_is_trained() -> None:
    few = tiny.splits().train.subset(torch.arange(20))
    with input_error("labeled by teachers", "train=", "protocol.labels=hard"):
        ds.evaluate(few, load(Protocol, FAST), tiny.splits().test, network=NET, trials=1)  # type: ignore[type-abstract]
    found = ds.evaluate(few, load(Protocol, FAST), tiny.splits().test, network=NET, trials=1,  # type: ignore[type-abstract]
                        train=tiny.splits().train, root=tiny.ROOT)
    assert found[0].accuracy >= 0


@pytest.mark.parametrize(("rule", "epochs", "first"), [("last_fifth", 300, 250), ("last_fifth", 3, 3), ("prefixes", 3, 1), ("none", 3, 0)])
def test_the_authors_rules_are_reported_beside_the_score(rule: str, epochs: int, first: int) -> None:
    watched = SoftLabels(best=rule, epochs=epochs).watched  # type: ignore[arg-type]
    assert min(watched, default=0) == first
    if epochs == 3:
        found = scored(evaluation(best=rule), some())
        assert found.best is None if rule == "none" else found.best >= found.accuracy - 1e-9
        assert found.accuracy == scored(evaluation(), some()).accuracy  # measuring changes nothing


def test_a_sheet_with_its_controls(tmp_path: Path) -> None:
    place = ds.Workspace(tmp_path / "out", tmp_path, "cpu")
    recipe = read_recipe("dm/digits-ipc1", ['method={kind="rded",patches={images=20,crops=2},pool={kind="classifier",epochs=1,batch_size=512}}',
                                            f"network={NET}", "ipc=2", 'protocol={kind="soft_labels",epochs=2,batch_size=8,best="prefixes"}'])
    folder = place.distill(recipe)
    sheet = place.score(folder, trials=2)
    names = {f"{images}{labels}" for images in ("random", "herding", "k_center") for labels in ("", ", hard labels", ", soft labels without CutMix")}
    assert set(sheet["controls"]) == names - {"random"}
    assert all(len(trials) == 2 for trials in sheet["controls"].values())
    assert sheet["summary"]["controls"]["herding"]["gain"]["n"] == 2
    assert sheet["summary"]["best"]["mean"] >= sheet["summary"]["synthetic"]["mean"]
    assert any("under the same labels" in flag for flag in sheet["flags"])
    again = place.score(folder, trials=2)
    assert again["controls"] == sheet["controls"]
    page = place.report([folder]).read_text()
    assert "Images or labels?" in page
    assert "images chosen by k-center, the same labels" in page
    fewer = place.score(place.distill(recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": 1})})), trials=1, controls=False)
    assert "controls" not in fewer or all(fewer["controls"].values())


def test_labels_of_stored_protocols_are_asked_for_by_the_command(tmp_path: Path) -> None:
    place = ds.Workspace(tmp_path / "out", tmp_path, "cpu")
    recipe = read_recipe("dm/digits-ipc1", ['method={kind="rded",patches={images=20,crops=2},pool={kind="classifier",epochs=1,batch_size=512}}',
                                            f"network={NET}", "ipc=2", 'protocol={kind="soft_labels",epochs=2,batch_size=8,relabel={store=true}}'])
    folder = place.distill(recipe)
    (which,) = place.evaluations(folder)
    size, epochs = place.size_of_labels(folder, which)
    labels = place.relabel(folder, which)
    assert (labels.nbytes, labels.epochs) == (size, epochs) == (size, 2)
    before = (labels.folder / "logits.npy").stat().st_mtime_ns
    place.score(folder, which, trials=1, controls=False)
    assert [path.name for path in (folder / "labels").iterdir()] == [labels.folder.name]
    assert (labels.folder / "logits.npy").stat().st_mtime_ns == before
    (online,) = place.evaluations(folder, [], {**FAST})  # type: ignore[arg-type]
    with input_error("stores no labels", "relabel.store=true"):
        place.size_of_labels(folder, online)


@pytest.mark.parametrize(("options", "parts"), [
    ({"temperature": 0.0}, ("temperature", "0.01")), ({"temperature": 1e-30}, ("temperature", "0.01")), ({"temperature": -1.0}, ("temperature",)),
    ({"stretch": 0.5}, ("stretch",)), ({"labels": "medium"}, ("labels",)), ({"views": {"mix": "blend"}}, ("mix",)),
])
def test_bad_input(options: dict[str, Any], parts: tuple[str, ...]) -> None:
    with input_error(*parts):
        SoftLabels(**options)


def test_controls_change_one_thing_at_a_time() -> None:
    plain = SoftLabels(views=Views(mix="none"), relabel=Relabel(store=True))
    found = plain.controls()
    assert set(found) == {"hard labels", "soft labels and CutMix"}
    assert found["soft labels and CutMix"] == plain.model_copy(update={"views": Views(mix="cutmix")})
    assert found["hard labels"].labels == "hard"  # type: ignore[attr-defined]
    assert SoftLabels(labels="hard").controls() == {}


def test_plans_and_studies_know_the_teachers(tmp_path: Path) -> None:
    from datastill.study import Study

    place = ds.Workspace(tmp_path / "out", tmp_path, "cpu")
    changes = [f"network={NET}", "ipc=2", 'method={kind="rded",patches={images=20,crops=2},pool={kind="classifier",epochs=1,batch_size=512}}',
               'protocol={kind="soft_labels",epochs=2,batch_size=8,pool={kind="classifier",epochs=2,batch_size=512}}']
    plan = place.plan(read_recipe("dm/digits-ipc1", changes))
    assert plan.student > 0 < plan.teachers
    recipe = tmp_path / "chosen.toml"
    recipe.write_text(f'''ipc = 2
network = "{NET}"
data.source = "digits"
method = {{ kind = "rded", patches = {{ images = 20, crops = 2 }}, pool = {{ kind = "classifier", epochs = 1, batch_size = 512 }} }}
protocol = {{ kind = "soft_labels", epochs = 2, batch_size = 8, pool = {{ kind = "classifier", epochs = 2, batch_size = 512 }} }}
''')
    study = load(Study, {"question": "Does it work?", "recipes": {str(recipe): {}}, "arms": {"one": {}}, "seeds": 1, "trials": 1, "controls": True})
    assert place.foresee(study).teachers > 0
    results = place.study(study, "labels")
    assert results["rows"][0]["gain"]["n"] == 1
    assert len(results["rows"][0]["controls"]) == 9
    assert results["rows"][0]["controls"]["random"] == results["rows"][0]["random"]
    assert "| images chosen by herding, hard labels | " in (tmp_path / "out" / "studies" / "labels" / "table.md").read_text()
    assert len(list((tmp_path / "out" / "teachers").iterdir())) == 2  # one chooses, one labels
    assert list((tmp_path / "out" / "baselines").glob("control-*.json"))
    assert place.foresee(study).teachers == 0
