"""Settings: what differs from its default is marked, local paths are not shown."""

from typing import Any

import pytest

from datastill.core import Method, Protocol
from datastill.description import load
from datastill.digest import dump
from datastill.report import settings
from datastill.report.settings import Setting
from datastill.run import Run


def rows(table: dict[str, object]) -> dict[str, dict[str, Setting]]:
    return {group.title: {row.name: row for row in group.rows} for group in settings.groups(load(Run, table))}


def test_differences_are_marked() -> None:
    found = rows({"method": {"kind": "distribution", "optim": {"images": {"lr": 10.0}}}, "network": "mlp", "seed": 3,
                  "plugins": {"smooth": {"kind": "total_variation", "weight": 2.0}}})
    assert list(found) == ["method", "plug-in smooth", "parametrization", "data", "network", "run"]
    assert found["method"]["optim.images.lr"] == Setting("optim.images.lr", "10", "1")
    assert found["method"]["iterations"].default is None
    assert found["plug-in smooth"]["weight"] == Setting("weight", "2", "1")
    assert found["network"]["kind"] == Setting("kind", "mlp", "convnet")
    assert found["run"] == {"ipc": Setting("ipc", "10", None), "seed": Setting("seed", "3", "0"),
                            "shard": Setting("shard", "0, 1", None), "class_shard": Setting("class_shard", "0, 1", None),
                            "with_replacement": Setting("with_replacement", "false", None),
                            "precision": Setting("precision", "float32", None),
                            "deterministic": Setting("deterministic", "false", None)}
    assert "path" not in found["data"]


@pytest.mark.parametrize("text", ["dc", "dc:epochs=50,augment=none", "dc:lr=0.5"])
def test_short_form_is_read_back(text: str) -> None:
    protocol = load(Protocol, text)  # type: ignore[type-abstract]
    assert settings.short(protocol) == text
    assert load(Protocol, settings.short(protocol)) == protocol  # type: ignore[type-abstract]


@pytest.mark.parametrize(("method", "recipe", "name"), [
    ("dm", None, "DM"), ({"kind": "distribution", "iterations": 3, "optim": {"images": {"lr": 3.0}}}, None, "DM"), ("dc", None, "DC"), ("idc", None, "IDC"), ("idm", None, "IDM"), ({"kind": "dc", "outer": 5, "batch_real": 64}, None, "DC"),
    ({"kind": "idm", "classification": 0.1}, None, "IDM"), ("dsa", None, "DSA"),
    ({"kind": "dsa", "augment": "color_crop"}, None, "gradient"), ({"kind": "dsa", "augment": "color_crop_cutout_scale_rotate"}, "dsa/mnist-ipc1", "DSA"),
    ({"kind": "dsac", "augment": "color_crop_cutout_scale_rotate"}, "dsa/mnist-ipc1", "gradient"), ("random", None, "random"),
    ("herding", "random/mnist-ipc1", "herding"), ("k_center", None, "k-center"), ("tesla", None, "TESLA"), ("datadam", None, "DataDAM"), ("tiny:Pull", None, "Pull"),
    ({"kind": "nowhere:Mine"}, None, "Mine")])
def test_a_method_has_its_usual_name(method: Any, recipe: str | None, name: str) -> None:
    table = method if isinstance(method, dict) and method["kind"] == "nowhere:Mine" else dump(load(Method, method))  # type: ignore[type-abstract]
    assert settings.method_name({"run": {"method": table}, **({"recipe": recipe} if recipe else {})}) == name


@pytest.mark.parametrize(("data", "name"), [
    ({"source": "folder", "path": "/home/me/photos"}, "photos"), ({"source": "npz", "path": "sets/path.npz"}, "path.npz"), ({"source": "folder", "path": "."}, "folder"),
    ({"source": "folder", "path": "/home/me/parts/train"}, "parts/train"),
    ({"source": "folder", "path": "C:\\me\\photos\\"}, "photos"), ({"source": "cifar10", "path": "elsewhere"}, "cifar10"), ({"source": "digits"}, "digits")])
def test_data_of_ones_own_have_the_name_of_their_place(data: dict[str, Any], name: str) -> None:
    assert settings.data_name({"run": {"data": data}, "data": {"name": data["source"]}}) == name


def test_unknown_class_keeps_its_name() -> None:
    assert settings.short_table(Protocol, {"kind": "nowhere:Mine", "lr": 1.0}) == "nowhere:Mine"  # type: ignore[type-abstract]


@pytest.mark.parametrize(("value", "shown"), [
    ("/home/me/pictures", "…/pictures"), ("~/pictures", "…/pictures"), ("C:\\me\\pictures", "…/pictures"),
    ("pictures/mine", "pictures/mine"), ("convnet:width=4", "convnet:width=4")])
def test_local_paths_are_cut(value: str, shown: str) -> None:
    assert settings.hidden(value) == shown
    assert settings.text((value,)) == shown


def test_text_is_as_typed() -> None:
    assert [settings.text(v) for v in (True, 0.1, 20_000, None, "", (1.0, 2.5), {"a": 1})] == \
        ["true", "0.1", "20000", "not set", "not set", "1, 2.5", "a 1"]
