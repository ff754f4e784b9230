"""MetaDD: its terms are what they say, whatever the number of images at once; what is refused; that maps come to agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import datastill as ds
import tiny
from datastill.core import Step
from datastill.functional.cam import activation_map, normalized_maps
from datastill.functional.invariance import distillation, evidence, map_variance
from datastill.run import check_run
from datastill.task import Task
from datastill.teachers import Teacher
from kit import input_error

NETS = [tiny.NETWORK, "convnet:width=4,depth=1,activation=swish", "vit:width=8,depth=1,patch=2"]
POOL = {**tiny.POOL, "networks": NETS, "count": 1}


def prepared(**options: Any) -> tuple[Task, Any]:
    run = tiny.run(ipc=2, plugins=(tiny.plugin("metadd", **{"pool": POOL, **options}),))
    task = check_run(run, tiny.splits().train, root=tiny.ROOT)
    run.plugins[0].prepare(task)
    return task, run.plugins[0]


def step(task: Task) -> Step:
    batch = task.synthetic(task.random_real(2, ds.RNG(5))).batch()
    return Step(batch.x.sum() * 0, batch._replace(x=batch.x.detach().requires_grad_()), nn.Identity())


def directly(task: Task, plugin: Any, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The terms without parts, from the networks themselves."""
    cams = [activation_map(one.network, x, y.argmax(1)) for one in task.teachers(plugin.pool)]
    maps = torch.stack([normalized_maps(one.maps, (8, 8)) for one in cams])
    known = task.teachers(plugin.backbone)[0].class_logits(x)
    return {"variance": map_variance(maps), "evidence": evidence(maps),
            "classification": torch.stack([F.cross_entropy(one.logits, y) for one in cams]).sum(),
            "distillation": torch.stack([distillation(one.logits, known) for one in cams]).sum()}


@pytest.mark.parametrize("size", [3, 100])
@pytest.mark.parametrize("only", ["variance", "evidence", "classification", "distillation", None])
def test_terms_and_gradients_are_those_without_parts(only: str | None, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {name: 0.0 if only not in (None, name) else 1.0 + 0.5 * number
               for number, name in enumerate(("variance", "evidence", "classification", "distillation"))}
    task, plugin = prepared(**weights)
    monkeypatch.setattr(Teacher, "chunk", lambda self, x: size)
    given = step(task)
    x, y = given.batch
    wanted = torch.stack([weights[name] * term for name, term in directly(task, plugin, x, y).items() if weights[name]]).sum()
    found = plugin.loss(given, task, ds.RNG(1))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(3 * found, x)[0], torch.autograd.grad(3 * wanted, x)[0], rtol=1e-3, atol=1e-6)


def test_the_sign_of_distillation() -> None:
    values = []
    for sign in (1, -1):
        task, plugin = prepared(sign=sign, variance=0, evidence=0, classification=0)
        values.append(float(plugin.loss(step(task), task, ds.RNG(1)).detach()))
    assert values[0] == -values[1] != 0


@pytest.mark.parametrize("match", ["logits", "features"])
def test_controls_match_something_else(match: str) -> None:
    task, plugin = prepared(match=match, evidence=0, classification=0, distillation=0)
    given = step(task)
    found = plugin.loss(given, task, ds.RNG(1))
    several = []
    for one in task.teachers(plugin.pool):
        features = F.normalize(one.embed(given.batch.x), dim=1)
        several.append(one.class_logits(given.batch.x).softmax(1) if match == "logits" else features @ features.T)
    torch.testing.assert_close(found, torch.stack(several).var(0, correction=0).mean())
    assert float(torch.autograd.grad(found, given.batch.x)[0].abs().max()) > 0


def test_the_log_has_the_terms_apart() -> None:
    task, plugin = prepared(classification=0.5, evidence=2.0, sign=-1)
    given = step(task)
    total = float(plugin.loss(given, task, ds.RNG(1)).detach())
    assert list(given.log) == ["metadd.variance", "metadd.classification", "metadd.distillation", "metadd.evidence"]
    variance, classification, distilled, evidence = given.log.values()
    assert total == pytest.approx(variance + 0.5 * classification + distilled + 2 * evidence, rel=1e-5)
    assert variance > 0 > distilled
    task, plugin = prepared(classification=0, evidence=0, distillation=0)
    plugin.loss(given := step(task), task, ds.RNG(1))
    assert not given.log  # it is the value of the plug-in


def test_some_of_the_images() -> None:
    task, plugin = prepared(images=3)
    given = step(task)
    (gradient,) = torch.autograd.grad(plugin.loss(given, task, ds.RNG(1)), given.batch.x)
    assert int((gradient.flatten(1).abs().amax(1) > 0).sum()) == 3


def test_networks_that_know_more_classes_in_another_order() -> None:
    other = {**POOL, "data": {"source": "digits", "classes": ["3", "1", "0", "7"]}}
    run = tiny.run(data={"source": "digits", "classes": ["0", "1", "3"]}, plugins=(tiny.plugin("metadd", pool=other, distillation=0),))
    images = ds.Data(source="digits", classes=["0", "1", "3"]).load(Path()).train
    task = check_run(run, images, root=tiny.ROOT)
    run.plugins[0].prepare(task)
    batch = task.synthetic(task.random_real(2, ds.RNG(5))).batch()
    found = run.plugins[0].loss(Step(batch.x.sum() * 0, batch, nn.Identity()), task, ds.RNG(0))
    assert torch.isfinite(found)
    teacher = task.teachers(run.plugins[0].pool)[0]  # type: ignore[attr-defined]
    assert teacher.outputs == [2, 1, 0]


def test_one_architecture_is_enough_where_nothing_has_to_agree() -> None:
    task, plugin = prepared(pool={**POOL, "networks": NETS[:1]}, variance=0)
    assert torch.isfinite(plugin.loss(step(task), task, ds.RNG(0)))


@pytest.mark.parametrize(("options", "says"), [
    ({"pool": {**POOL, "networks": [NETS[0], NETS[0]]}}, ("at least two architectures",)),
    ({"pool": {**POOL, "networks": NETS[:1]}}, ("at least two architectures", "plugins.metadd.pool.networks")),
    ({"pool": {**POOL, "networks": [NETS[0], "mlp"]}}, ("mlp: no feature map", "plugins.metadd.layer")),
    ({"pool": {**POOL, "networks": [NETS[0], "mlp"]}, "match": "logits"}, ("mlp: no feature map", "plugins.metadd.evidence=0")),
    ({"match": "features", "images": 1}, ("pairs of images", "plugins.metadd.images")),
    ({"layer": ["", "block2", ""]}, ("no layer 'block2'", "block1")), ({"layer": ["block1"]}, ("1 name for 3 networks",)),
    ({"variance": 0, "evidence": 0, "classification": 0, "distillation": 0}, ("all terms have the weight 0",)),
    ({"sign": 2}, ("sign",)), ({"temperature": 0}, ("temperature",)), ({"temperature": 1e-30}, ("temperature",)), ({"variance": -1}, ("variance",)),
    ({"backbone": {**tiny.POOL, "count": 2}}, ("backbone is the one network", "this has 2", "plugins.metadd.backbone.count=1")),
    ({"match": "logits", "evidence": 0, "layer": ["nonsense", "", ""]}, ("no maps are looked at",)),
    ({"pool": {**POOL, "networks": [NETS[0], "lenet"]}}, ("metadd: ", "lenet does not fit")),
    ({"backbone": {**tiny.POOL, "count": 1, "data": {"source": "digits", "classes": ["0", "1"]}}}, ("have to know the run's classes",))])
def test_bad_input(options: dict[str, Any], says: tuple[str, ...]) -> None:
    with input_error(*says):
        prepared(**options)


def test_maps_come_to_agree(tmp_path: Path) -> None:
    """Its own part of a run: variance falls where it is minimized."""
    run = tiny.run(ipc=1, plugins=(tiny.plugin("metadd", pool=POOL, weight=1000.0, balance="fixed", evidence=0, classification=0,
                                               distillation=0),), method_options={"iterations": 30})
    ds.distill(run, tiny.splits().train, tmp_path / "run", root=tiny.ROOT)
    task = tiny.task(run)
    teachers = list(task.teachers(run.plugins[0].pool.for_network(run.network)))  # type: ignore[attr-defined]

    def apart(x: Tensor) -> float:
        y = torch.arange(10)
        return float(map_variance(torch.stack([normalized_maps(activation_map(one.network, x, y).maps, (8, 8)) for one in teachers])))

    start = run.method.start(task, 1, ds.RNG(run.seed)).decode()
    assert apart(ds.load(tmp_path / "run").x) < 0.8 * apart(start)
