"""Scores in words: rounding, the verdicts, the sheet that makes the headline."""

from typing import Any

import pytest

import datastill as ds
from datastill.description import load
from datastill.digest import dump
from datastill.report import words
from datastill.statistics import statistics


def sheet(synthetic: list[float], random: list[float], **more: Any) -> dict[str, Any]:
    summary = {"synthetic": statistics(synthetic), "random": statistics(random),
               "gain": statistics([a - b for a, b in zip(synthetic, random, strict=True)])}
    return {"network": "mlp", "protocol": {"kind": "dc"}, "split": "test", "seed": 0, "images": 1000, "chance": 0.1,
            "summary": summary, **more}


@pytest.mark.parametrize(("value", "signed", "text"), [
    (12.345, False, "12.3"), (-0.04, True, "0.0"), (0.04, True, "0.0"), (-1.26, True, "−1.3"), (20.0, True, "+20.0")])
def test_number(value: float, signed: bool, text: str) -> None:
    assert words.number(value, signed) == text


@pytest.mark.parametrize(("synthetic", "random", "text", "warn"), [
    ([0.8, 0.81, 0.82], [0.6, 0.61, 0.62], "better than random real images", False),
    ([0.6, 0.61, 0.62], [0.8, 0.81, 0.82], "below random real images", True),
    ([0.6, 0.9, 0.62], [0.61, 0.5, 0.7], "not shown to beat random real images: the interval includes 0", False),
    ([0.5, 0.3], [0.4, 0.5], "below random real images, but the interval includes 0", True),
    ([0.6], [0.5], "above random real images in a single trial", False),
    ([0.118], [0.5], "no better than guessing; below random real images in a single trial", True),
])
def test_verdict(synthetic: list[float], random: list[float], text: str, warn: bool) -> None:
    assert words.verdict(sheet(synthetic, random)) == (text, warn)


def test_single_trial_has_no_interval() -> None:
    one = sheet([0.6], [0.5])
    assert words.headline(one, 1).endswith("Paired gain +10.0 points, 1 trial.")
    assert words.headline(one, 1).startswith("Students trained on this 1 image reach 60.0\u00a0%, those trained on as many")
    assert (words.row(one).synthetic, words.row(one).interval) == ("60.0", "")


def test_headline_is_of_test_images_and_the_runs_network() -> None:
    sheets = [sheet([0.5], [0.5], split=split, network=network, protocol=protocol)
              for split in ("validation", "test") for network in ("mlp", "convnet")
              for protocol in ({"kind": "dc"}, {"kind": "other"})]
    best = words.choose(sheets, "convnet", {"kind": "other"})
    assert best is sheets[-1]
    assert words.choose([], "convnet", None) is None


def test_mean_per_class_skips_classes_without_images() -> None:
    trials = [{"per_class": [0.5, None]}, {"per_class": [1.0, None]}]
    assert words.mean_per_class({"synthetic": trials}, "synthetic") == [0.75, None]
    assert words.mean_per_class({}, "random") == []


def test_breakable_escapes() -> None:
    assert words.breakable("<b>.c,d") == "&lt;b&gt;.<wbr>c,<wbr>d"


def test_matrices_are_of_one_protocol_and_split_and_at_least_two_students() -> None:
    runs = [scored("a", "convnet", sheet([0.5, 0.6], [0.3, 0.4]), sheet([0.1, 0.1], [0.3, 0.4], network="vgg11")),
            scored("b", "mlp", sheet([0.7, 0.6], [0.3, 0.4], network="vgg11"), sheet([0.5], [0.3], split="validation"))]
    (found,) = words.matrices(runs)
    assert (found.protocol, found.split, found.data, found.networks) == ("dc", "test", "photos", ["mlp", "vgg11"])
    assert [(name, made_with, [cell and cell.synthetic for cell in cells]) for name, made_with, cells in found.rows] == [
        ("a", "convnet", ["55.0 ± 7.1", "10.0 ± 0.0"]), ("b", "mlp", [None, "65.0 ± 7.1"])]
    assert found.rows[0][2][1].warn  # type: ignore[union-attr]
    assert words.matrices([scored("a", "mlp")]) == []


def scored(name: str, made_with: str, *sheets: dict[str, Any], lr: float | None = None) -> words.Scored:
    return words.Scored(name, made_with, "photos", lr, sheets)


def test_a_matrix_is_of_one_protocol_with_its_settings_and_of_one_set_of_data() -> None:
    def of(fingerprint: str, protocol: str) -> list[dict[str, Any]]:
        described: Any = load(ds.Protocol, protocol)  # type: ignore[type-abstract]
        return [sheet([0.5], [0.3], network=network, data={"fingerprint": fingerprint},
                      protocol=dump(described.for_network(load(ds.Architecture, network)).for_set(0.02)))  # type: ignore[type-abstract]
                for network in ("mlp", "vgg11")]

    found = words.matrices([scored("a", "mlp", *of("x", "dc"), *of("x", "dc:epochs=2"), *of("x", "tuned:epochs=5"), *of("x", "mtt"), lr=0.02),
                            scored("b", "mlp", *of("x", "dc"), *of("x", "mtt"), lr=0.02), scored("c", "mlp", *of("y", "dc"))])
    shown = {(one.protocol, tuple(name for name, *_ in one.rows)) for one in found}
    assert shown == {("dc", ("a", "b")), ("dc:epochs=2", ("a",)), ("tuned:epochs=5", ("a",)), ("mtt", ("a", "b")), ("dc", ("c",))}


def test_where_classes_differ_in_size_balanced_accuracy_stands_beside_accuracy() -> None:
    one = sheet([0.95, 0.95], [0.9, 0.91], chance=0.5, largest=["ok", 0.95])
    for subject, balanced in (("synthetic", 0.8), ("random", 0.6)):
        one["summary"][subject]["balanced"] = balanced
    one["summary"]["gain"]["balanced"] = statistics([0.15, 0.25])
    row = words.row(one)
    assert (row.balanced, row.random_balanced, row.gain_balanced) == ("80.0", "60.0", "+20.0 (−43.5 to 83.5)")
    text = words.headline(one, 20).replace(words.NBSP, " ")
    assert "Balanced accuracy, the mean over classes, is 80.0 %, with random real images 60.0 %." in text
    assert text.endswith("2 trials; in balanced accuracy +20.0 points, 95 % interval −43.5 to 83.5.")
    assert words.row({**one, "largest": ["ok", 0.5]}).gain_balanced == ""
