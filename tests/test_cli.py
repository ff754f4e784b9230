"""The command line as a user sees it: what it prints, where it writes, how it rejects bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import datastill as ds
import tiny
from children import Child, command
from datastill import cli, options
from datastill.recipes import read_recipe, recipe_names
from datastill.registry import kind
from kit import Call

SMALL = ["method.iterations=3", "method.batch_real=8", "network=convnet:width=4,depth=2"]


def test_distill_evaluate_report_export(run_cli: Call, tmp_path: Path) -> None:
    code, out, _ = run_cli("distill", "dm/digits-ipc1", *SMALL, "--out", "run")
    assert (code, out) == (0, "Distilled: run\n")
    assert run_cli("distill", "dm/digits-ipc1", *SMALL, "--out", "run")[1] == "Already finished: run\n"
    code, out, _ = run_cli("evaluate", "run", "--protocol", "dc:epochs=2,augment=none", "--trials", "2", "--network", "mlp")
    assert code == 0
    assert re.search(r"random real images +\S* +\d", out)
    assert re.search(r"paired: [+-]\d+\.\d points, 95 % interval", out)
    assert (tmp_path / "outputs" / "baselines").is_dir()
    code, out, _ = run_cli("report", "run")
    assert code == 0
    assert "Report: " in out
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    assert run_cli("export", "run", "folder")[0] == run_cli("export", "run", "set.npz")[0] == 0
    assert len(list((tmp_path / "folder").rglob("*.png"))) == 10
    assert np.load(tmp_path / "set.npz")["images"].shape == (10, 1, 8, 8)


def test_a_folder_of_images_is_described_before_the_work(run_cli: Call, tmp_path: Path) -> None:
    for number, name in enumerate(("Training/ant", "Training/bee", "Testing/ant", "Testing/bee")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for seed in range(3 + number % 2):
            colors = np.random.default_rng([number, seed]).integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(colors).save(tmp_path / "set" / name / f"{seed}.jpg")
    (tmp_path / "set/Training/ant/x.heic").write_bytes(b"x")
    arguments = ("dm/digits-ipc1", *SMALL, "data.source=folder", f"data.path={tmp_path / 'set'}", "data.size=8")
    code, _, err = run_cli("distill", *arguments, "--out", "run")
    assert code == 0
    lines = err.splitlines()
    assert lines[0].startswith(f"caution: {tmp_path / 'set'}: left out: .heic: 1;")
    assert err.count("left out") == 1
    assert lines[1] == "Distilling folder into run"
    assert lines[2] == "Images per class: ant: 3, bee: 4 for training; ant: 3, bee: 4 for testing"
    code, out, err = run_cli("plan", *arguments)
    assert code == 0
    assert re.search(r"images per class +ant: 3, bee: 4 for training; ant: 3, bee: 4 for testing", out)
    assert err.count(".heic: 1") == 1


def test_merge_and_start_from(run_cli: Call, tmp_path: Path) -> None:
    for number in range(2):
        assert run_cli("distill", "dm/digits-ipc1", *SMALL, "ipc=3", f"shard=[{number},2]", "--out", f"part{number}")[0] == 0
    assert run_cli("merge", "part0", "part1", "whole")[:2] == (0, "Merged 30 images: whole\n")
    code, _, err = run_cli("merge", "part0", "whole2")
    assert (code, err) == (2, "datastill: part 1 of 2 is missing; distill it with shard=[1,2] and give all parts\n")
    assert run_cli("distill", "dm/digits-ipc1", *SMALL, "ipc=3", "start_from=whole", "--out", "on")[0] == 0
    assert run_cli("plan", "on/run.toml")[0] == 0
    assert json.loads((tmp_path / "on/card.json").read_text())["started_from"]["digest"] == \
        json.loads((tmp_path / "whole/card.json").read_text())["digest"]


def test_default_folder_is_named_by_the_run(run_cli: Call, tmp_path: Path) -> None:
    assert run_cli("distill", "dm/digits-ipc1", *SMALL)[0] == 0
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert re.fullmatch(r"distribution-digits-ipc1-[0-9a-f]{16}", folder.name)
    card = json.loads((folder / "card.json").read_text())
    assert card["recipe"] == "dm/digits-ipc1"
    assert card["protocol"]["kind"] == "dc"


def test_run_file_is_a_recipe(run_cli: Call, tmp_path: Path) -> None:
    run_cli("distill", "dm/digits-ipc1", *SMALL, "--out", "a")
    assert run_cli("distill", "a/run.toml", "--out", "b")[0] == 0
    assert (tmp_path / "a/synthetic.safetensors").read_bytes() == (tmp_path / "b/synthetic.safetensors").read_bytes()


BAD = [
    (["distill", "dm/cifar10-ipc11"], r"unknown recipe 'dm/cifar10-ipc11', expected a name or the path of a \.toml file; did you mean 'dm/cifar10-ipc1"),
    (["distill", "none.toml"], r"no file none\.toml"),
    (["distill", "dm/digits-ipc1", "method.iteration=3"], r"unknown key 'method\.iteration'; did you mean 'iterations'"),
    (["distill", "dm/digits-ipc1", "method.iterations=-3"], r"method\.iterations: input should be greater than or equal to 0, got -3"),
    (["distill", "dm/digits-ipc1", "method.iterations=many"], r"method\.iterations: .*valid integer.*got 'many'"),
    (["distill", "dm/digits-ipc1", "method=destribution"], r"method: unknown method 'destribution'; did you mean 'distribution'"),
    (["distill", "dm/digits-ipc1", "method.augment=crop_blur"], r"method\.augment: unknown augmentation 'blur'"),
    (["distill", "dm/digits-ipc1", "plugins.total_varation.weight=1"], r"did you mean 'total_variation'"),
    (["distill", "dm/digits-ipc1", "plugins.total_variation=1"], r"expected a table like \{weight = 1\.0\}, got 1"),
    (["distill", "dm/digits-ipc1", "network=convnet:wdth=3"], r"unknown key 'network\.wdth'; did you mean 'width'"),
    (["distill", "dm/digits-ipc1", "network=convnett"], r"unknown network 'convnett'; did you mean 'convnet'"),
    (["distill", "dm/digits-ipc1", "network=lenet"], r"network lenet does not fit images of 8x8"),
    (["distill", "dm/digits-ipc1", "data.source=cifar11"], r"unknown dataset 'cifar11'; did you mean 'cifar10'"),
    (["distill", "dm/digits-ipc1", "data.source=folder", "data.path=nowhere"], r"no folder .*nowhere"),
    (["distill", "dm/digits-ipc1", "ipc=1000"], r"ipc 1000 is more than the \d+ training images of class"),
    (["distill", "dm/digits-ipc1", "ipc=0"], r"ipc: input should be greater than or equal to 1, got 0"),
    (["distill", "dm/digits-ipc1", "ipc"], r"expected key=value with dots between keys, got 'ipc'"),
    (["distill", "dm/digits-ipc1", "protocol.epoch=3"], r"unknown key 'protocol\.epoch'; did you mean 'epochs'"),
    (["distill", "dm/digits-ipc1", "--device", "quantum"], r"--device quantum"),
    (["distill", "dm/digits-ipc1", "--keep", "a"], r"--keep: expected iterations such as 100,1000, got 'a'"),
    (["evaluate", "nowhere"], r"nowhere holds no distilled set"),
    (["report", "nowhere"], r"nowhere"),
    (["list", "metods"], r"cannot list 'metods'; did you mean 'methods'"),
    (["distill", "foo"], r"unknown recipe 'foo', expected a name or the path of a \.toml file; known: (\S+/\S+, ){5}and \d+ more"),
    (["distill", "dm/digits-ipc1", "--keep", "²"], r"--keep: expected iterations such as 100,1000, got '²'"),
    (["distill", "dm/digits-ipc1", "parametrization=tiles:factor=2:shrink=mean"], r"tiles:factor=2: expected commas between options, as in tiles:factor=2,option=value"),
    (["distill", "dm/digits-ipc1", "network=convnet:"], r"network: expected a name, or name:option=value, got 'convnet:'"),
    (["distill", "dm/digits-ipc1", "published.accuracy=3"], r"published: what a paper reports .* cannot be changed"),
    (["distill", "dm/digits-ipc1", "network=vit:depth=100000"], r"network\.depth: .*less than or equal to 100, got 100000"),
    (["distill", "dm/digits-ipc1", "network=vit:depth=100,width=16384"], r"network vit:width=16384,depth=100 needs \d+ GiB for its weights"),
    (["evaluate"], r"Missing argument 'DIR'; see datastill evaluate --help"),
    (["distill", "dm/digits-ipc1", "--foo"], r"No such option: --foo.*; see datastill distill --help"),
    (["relabel", "a", "--seed", "-1"], r"Invalid value for '--seed'.*; see datastill relabel --help"),
    (["study", "sdc", "--jobs", "0"], r"Invalid value for '--jobs'.*; see datastill study --help"),
    (["distil"], r"No such command 'distil'.*; see datastill --help"),
    (["analyse", "theroy"], r"No such command 'theroy'.*; see datastill analyse --help"),
    (["distill", "sre2l/digits-ipc1"], r"unknown recipe"),
    (["distill", "dm/digits-ipc1", "parametrization.factor=2"], r"unknown key 'parametrization\.factor'; tiles has it, pixels does not"),
    (["distill", "idm/cifar10-ipc1", "parametrization.kind=latent"], r"'parametrization\.order'; tiles has it, latent does not .* give latent instead of kind=latent"),
    (["show", "base.toml"], r"no file base\.toml"),
    (["show", "latin.toml"], r"latin\.toml cannot be read as TOML: .*utf-8"),
    (["distill", "dm/digits-ipc1", "ipc=" + "9" * 5000], r"ipc: the number is too large"),
    (["distill", "dm/digits-ipc1", "data.keep="], r"data\.keep: data is not a list of indices"),
    (["distill", "dm/digits-ipc1", "--out", ""], r"the value of --out is empty; give one, or leave it out"),
    (["distill", "dm/digits-ipc1", "--out="], r"the value of --out is empty"),
    (["evaluate", "run", "--protocol", ""], r"the value of --protocol is empty"),
    (["evaluate", ""], r"an argument is empty"),
    (["show", "distribuion"], r"unknown name 'distribuion'; did you mean 'distribution'"),
    (["show", "nomodule:Class"], r"no module 'nomodule'"),
    (["export", "nowhere", "x"], r"nowhere"),
    (["distill", "x" * 5000], r"x: file name too long"),
    (["evaluate", "x" * 300], r"x/card\.json: file name too long"),
    (["distill", "dm/digits-ipc1", "\udcff=1"], r"expected key=value in valid Unicode"),
    (["distill", "dm/digits-ipc1", "data.path=\udcff"], r"expected key=value in valid Unicode"),
    (["tune", "dm/digits-ipc1", "--try", "\udcff=1"], r"expected key=value in valid Unicode"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a[:3])[:80] for a, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(run_cli: Call, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "latin.toml").write_bytes("name = 'Müller'".encode("latin-1"))
    code, out, err = run_cli(*arguments)
    assert code == 2
    assert out == ""
    assert re.search(message, err), err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.rglob("*.toml")] == ["latin.toml"]


def test_validation_needs_a_validation_split(run_cli: Call) -> None:
    run_cli("distill", "dm/digits-ipc1", *SMALL, "--out", "run")
    code, _, err = run_cli("evaluate", "run", "--split", "validation")
    assert code == 2
    assert "no images are held out; distill with, for example, data.validation=0.1" in err


def test_set_of_other_data_is_refused(run_cli: Call, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in (0, 1):
        np.savez(tmp_path / f"{seed}.npz", x_train=rng.integers(0, 256, (40, 12, 12), dtype=np.uint8), y_train=np.arange(40) % 2)
    (tmp_path / "0.npz").rename(tmp_path / "set.npz")
    small = ["data.source=npz", f"data.path={tmp_path / 'set.npz'}", *SMALL]
    assert run_cli("distill", "dm/digits-ipc1", *small, "--out", "run")[0] == 0
    (tmp_path / "1.npz").rename(tmp_path / "set.npz")
    code, _, err = run_cli("evaluate", "run")
    assert code == 2
    assert "is not the data" in err


def test_list_and_show_know_everything(run_cli: Call) -> None:
    for what in ("methods", "plugins", "data", "networks", "parametrizations", "protocols", "recipes"):
        code, out, _ = run_cli("list", what)
        assert code == 0
        for name in ([*tiny.METHODS] if what == "methods" else recipe_names() if what == "recipes" else []):
            assert name in out
    for name, text in {"distribution": "batch_real", "convnet": "width", "dc": "weight_decay", "folder": "alphabetical",
                       "dm/cifar10-ipc10": "[published]", "tiny:Pull": "iterations"}.items():
        code, out, _ = run_cli("show", name)
        assert code == 0
        assert text in out


def test_plan_writes_nothing(run_cli: Call, tmp_path: Path) -> None:
    code, out, _ = run_cli("plan", "dm/digits-ipc1", *SMALL, "protocol.epochs=2")
    assert code == 0
    for word in ("3 iterations x", "trials x", "peak memory", "convnet:width=4,depth=2", "10 images"):
        assert word in out
    assert not list(tmp_path.iterdir())


def test_help_teaches_without_loading_torch() -> None:
    code = "import sys; from datastill import cli; sys.argv = ['datastill', '--help']\ntry: cli.main()\nexcept SystemExit: pass\n" \
           "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "quickstart" in done.stdout


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_named_for_what_it_does(name: str) -> None:
    recipe = read_recipe(name)
    method, _, cell = name.partition("/")
    data = "own" if cell.startswith("own-") else recipe.run.data.name
    assert cell == f"{data}-ipc{recipe.run.ipc}"
    assert {"dm": "distribution", "random": "coreset", "herding": "coreset", "k_center": "coreset", "nearest": "coreset",
            **dict.fromkeys(("easiest", "hardest", "window", "ccs"), "ranked"), "dc": "gradient",
            "dsa": "gradient", "dsac": "gradient", "idc": "gradient", "idm": "distribution", "datadam": "attention", "rded": "rded",
            **dict.fromkeys(("sre2l", "sre2l_pp", "cda", "lpld", "fadrm", "scdd"), "recover")}.get(method, "trajectory") == kind(recipe.run.method)
    assert recipe.published is None or recipe.published.source


def test_published_number_is_dropped_when_the_recipe_is_changed() -> None:
    assert read_recipe("dm/cifar10-ipc10", ["seed=4"]).published is not None
    assert read_recipe("dm/cifar10-ipc10", ["method.iterations=5"]).published is None


def test_other_data_do_not_get_the_name_of_a_recipe(tmp_path: Path) -> None:
    digits = tiny.splits().train
    np.savez(tmp_path / "mine.npz", x_train=digits.pixels[:, 0].numpy(), y_train=digits.targets.numpy())
    mine = ["data.source=npz", f"data.path={tmp_path / 'mine.npz'}"]
    assert read_recipe("dm/cifar10-ipc10", mine).name == ""
    assert read_recipe("dm/cifar10-ipc10", ["data.zca=true"]).name == "dm/cifar10-ipc10"
    assert read_recipe("random/own-ipc1", mine).name == "random/own-ipc1"
    workspace = ds.Workspace(tmp_path, tmp_path)
    for recipe in ("random/mnist-ipc1", "random/own-ipc1"):
        folder = workspace.distill(read_recipe(recipe, [*mine, "data.size=none", f"network={tiny.NETWORK}"]), tmp_path / ("a" if "own" in recipe else "b"))
        card = ds.load(folder).card
        assert card.get("recipe") == ("random/own-ipc1" if "own" in recipe else None)
        assert card["protocol"]["kind"] == "dc"
        assert "mnist" not in workspace.report([folder], tmp_path / "page.html").read_text()


ROOT = Path(__file__).parents[1]


def code_blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of one language in a document of the repository."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


def test_plugin_method_and_network_of_your_own_each_in_one_file(tmp_path: Path) -> None:
    """The files of CONTRIBUTING, in an empty folder outside the package, named on the command line."""
    for name, text in zip(("gray", "mean", "wide"), code_blocks("CONTRIBUTING.md", "python"), strict=True):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "mine.toml").write_text(code_blocks("CONTRIBUTING.md", "toml")[0])

    def call(*arguments: str) -> str:
        child = Child(command, tmp_path, *arguments)
        assert child.wait() == 0, (tmp_path / "said").read_text()
        return (tmp_path / "said").read_text()

    call("distill", "mine.toml", "plugins.gray.power=1", "--out", "run")
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["run"]["plugins"]["gray"] == {"kind": "gray:Gray", "weight": 0.5, "balance": "fixed", "schedule": "constant",
                                              "label": "gray", "power": 1}
    assert card["run"]["network"] == {"kind": "wide:Wide", "width": 4}
    assert "wide:Wide" in call("evaluate", "run", "--protocol", "dc:epochs=1", "--trials", "1", "--network", "wide:Wide:width=2")


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "datastill", "distill", "dm/digits-ipc1", *SMALL[1:], "method.iterations=2000", "--out", "run"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment) as child:
        while not (tmp_path / "run" / "snapshots" / "000000.safetensors").exists():
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        assert child.stderr is not None
        text = child.stderr.read()
        assert child.wait() == 130, text
    stopped = re.search(r"stopped at iteration (\d+) of 2000; run the same command to continue", text)
    assert stopped, text
    assert (tmp_path / "run" / "state.pt").exists()


def test_a_scheduler_that_ends_a_study_leaves_one_that_goes_on(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("""
question = "Does it take long?"
against = "plain"
students = ["convnet:width=4,depth=1"]
recipes."dm/digits-ipc1" = {}
arms = { plain = {} }
seeds = 1
trials = 1
[changes]
data.size = 8
network = "convnet:width=4,depth=1"
method = { iterations = 20000, batch_real = 8 }
""")
    command = [sys.executable, "-m", "datastill", "study", "mine.toml"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as child:
        while not [*tmp_path.glob("outputs/runs/*/snapshots/000000.safetensors")]:
            assert child.poll() is None, child.stderr and child.stderr.read()
        child.send_signal(signal.SIGTERM)
        assert child.stderr is not None
        text = child.stderr.read()
        assert child.wait() == 128 + signal.SIGTERM, text
    assert "stopping at the next opportunity" in text
    assert "run the same command to continue" in text
    assert [*tmp_path.glob("outputs/runs/*/state.pt")]


def test_shell_completion_offers_recipes(run_cli: Call) -> None:
    assert options.complete_recipe("dm/cifar10-") == ["dm/cifar10-ipc1", "dm/cifar10-ipc10", "dm/cifar10-ipc50"]


def test_quickstart_is_the_whole_job(run_cli: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(cli, "distill", lambda recipe, changes, *a: called.append(recipe))
    monkeypatch.setattr(cli, "evaluate", lambda folder, networks, *a, **k: called.append(len(networks)))
    monkeypatch.setattr(cli, "report", lambda folders, out: called.append(out.name))
    assert run_cli("quickstart")[0] == 0
    assert called == ["dm/digits-ipc1", 2, "report.html"]


def test_what_is_said_before_and_during_the_work_is_said_once(run_cli: Call, tmp_path: Path) -> None:
    for place in ("a", "b"):
        code, _, err = run_cli("distill", "dm/digits-ipc1", "method.iterations=0", "network=mlp:width=4", "--out", str(tmp_path / place))
        assert (code, err.count("nothing is learned")) == (0, 1)


def test_quickstart_says_before_the_work_where_it_cannot_write(run_cli: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "distill", lambda *a: pytest.fail("it worked"))
    for name in ("report.html", "baselines"):
        place = tmp_path / name[0] / name
        place.parent.mkdir()
        place.write_text("mine")
        code, _, err = run_cli("quickstart", "--out", str(place.parent))
        assert (code, err.count("\n")) == (2, 1), err
        assert str(place) in err
        assert ("move it away, or choose another --out" if name == "report.html" else "choose another folder") in err
        assert place.read_text() == "mine"


SMALL_SET = """
from PIL import Image
from sklearn.datasets import load_digits

class CIFAR10:
    classes = [f"class {i}" for i in range(10)]

    def __init__(self, root, train):
        digits = load_digits()
        part = slice(0, 300) if train else slice(300, 400)
        self.images, self.targets = (digits.images[part] * 15).astype("uint8"), digits.target[part]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Image.fromarray(self.images[index]).resize((16, 16)).convert("RGB"), int(self.targets[index])
"""
README_SMALL = {"from torchvision.datasets import": "from small import", "iterations=1000": "iterations=2, batch_real=8", "ipc=10": "ipc=1",
                '"convnet"': '"convnet:width=4,depth=2"', '"resnet18"': '"mlp:width=8"', 'protocol="dc"': 'protocol="dc:epochs=2", trials=2',
                "count=3": "count=1, epochs=1"}


def test_python_example_of_the_readme_runs(tmp_path: Path) -> None:
    """As it is, except for a small set in place of CIFAR-10 and less of everything."""
    (block,) = code_blocks("README.md", "python")
    for there, small in README_SMALL.items():
        assert there in block
        block = block.replace(there, small)
    (tmp_path / "small.py").write_text(SMALL_SET)
    (tmp_path / "example.py").write_text(block)
    done = subprocess.run([sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"-?\d\.\S+ \(-?\d\.\S+, -?\d\.\S+\) \{.*\}\n", done.stdout)
    assert (tmp_path / "out/dm/card.json").exists()


def test_python_example_of_trajectory_matching_runs() -> None:
    (block,) = code_blocks("docs/trajectory.md", "python")
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["images"].grad.abs().sum() > 0
    assert names["lr"].grad.isfinite()


def test_recipes_and_commands_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in re.findall(r"^datastill (\w+)", text, re.MULTILINE):
        assert hasattr(cli, name) or name == "list"
    for recipe in re.findall(r"\b(?:dm|random)/[\w-]+", text):
        assert recipe in recipe_names()


# --- teachers and studies ----------------------------------------------------------------------------------------------

POOL = ["pool.networks=convnet:width=4,depth=2", "pool.count=2", "pool.epochs=2", "pool.batch_size=256",
        "data.source=digits", "data.validation=0.1"]
GUIDED = ["data.validation=0.1", "plugins.clom.weight=1", "plugins.clom.pool.networks=convnet:width=4,depth=2",
          "plugins.clom.pool.count=2", "plugins.clom.pool.epochs=2", "plugins.clom.pool.batch_size=256"]


def test_teach_then_distill_and_analyse(run_cli: Call, tmp_path: Path) -> None:
    code, out, err = run_cli("teach", "supervised", *POOL)
    assert code == 0, err
    assert len(re.findall(r"seed [01]", out)) == 2
    teachers = sorted((tmp_path / "outputs" / "teachers").iterdir())
    before = [(path / "snapshots.npy").stat().st_mtime_ns for path in teachers]
    assert run_cli("teach", "supervised", *POOL)[0] == 0
    code, _, err = run_cli("distill", "dm/digits-ipc1", *SMALL, *GUIDED, "--out", "run")
    assert code == 0, err
    assert [(path / "snapshots.npy").stat().st_mtime_ns for path in teachers] == before  # made once, found by the run
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert {one["digest"] for one in card["prepared"]["clom"]["teachers"]} == {path.name.rpartition("-")[2] for path in teachers}
    code, out, err = run_cli("teach", "dm/digits-ipc1", *SMALL, *GUIDED)
    assert code == 0, err
    assert "seed 1" in out
    code, out, err = run_cli("analyse", "teachers", "supervised", *POOL, "--count", "50")
    assert code == 0, err
    assert re.search(r"predicted differently [01]\.\d+, CKA 0\.\d+", out)
    code, out, err = run_cli("analyse", "sets", "run", "--set", "pool.networks=convnet:width=4,depth=2", "--set", "pool.epochs=1",
                             "--set", "pool.seed=9")
    assert code == 0, err
    assert len(re.findall(r"run +\S +[03] +\S +\d", out)) == 2
    trained = len(list((tmp_path / "outputs" / "teachers").iterdir()))
    code, _, err = run_cli("analyse", "sets", "run", "nowhere", "--set", "pool.seed=10")
    assert (code, "nowhere" in err) == (2, True)
    assert len(list((tmp_path / "outputs" / "teachers").iterdir())) == trained  # before any were trained
    code, out, err = run_cli("plan", "dm/digits-ipc1", *SMALL, *GUIDED, "plugins.clom.pool.seed=77")
    assert code == 0, err
    assert "to train the missing ones" in out
    assert len(list((tmp_path / "outputs" / "teachers").iterdir())) == 3


EARLY = ["pool.networks=mlp:width=8", "pool.count=2", "pool.epochs=2", "pool.batch_size=64"]


def test_difficulty_of_a_run_and_of_a_dataset(run_cli: Call, tmp_path: Path) -> None:
    assert run_cli("distill", "dm/digits-ipc1", *SMALL, "--out", "run", "--keep", "1")[0] == 0
    code, out, err = run_cli("analyse", "difficulty", "run", *EARLY, "--count", "40")
    assert code == 0, err
    assert re.findall(r"^\S (real images|\d+) ", out, re.MULTILINE) == ["real images", "0", "1", "3"]
    assert out.endswith("Difficulty: difficulty.html\n")
    assert "Easiest and hardest" not in (tmp_path / "difficulty.html").read_text()  # one image a class
    scores = np.arange(1797.0)
    code, out, err = run_cli("analyse", "difficulty", "digits", *EARLY, "--count", "40", "--out", "digits.html")
    assert code == 0, err
    count = len(ds.Data(source="digits").load(tmp_path).train)
    np.save(tmp_path / "scores.npy", scores[:count])
    code, out, err = run_cli("analyse", "difficulty", "digits", *EARLY, "--count", "40", "--scores", "scores.npy", "--force")
    assert code == 0, err
    assert re.search(r"rank correlation of the given scores with gradient norm \(GraDN\): [+-]0\.\d+ \(Spearman, n = 40\)", out)
    assert "nobody can tell if its order" in err


def test_meta_features_of_a_run(run_cli: Call, tmp_path: Path) -> None:
    assert run_cli("distill", "dm/digits-ipc1", *SMALL, "--out", "run", "--keep", "1")[0] == 0
    networks = [tiny.NETWORK, "convnet:width=4,depth=1", "vit:width=8,depth=1,patch=2"]
    arguments = [f"pool.networks={json.dumps(networks)}", "pool.count=1", "pool.epochs=1"]
    code, out, err = run_cli("analyse", "meta-features", "run", *arguments, "--count", "30")
    assert code == 0, err
    assert re.findall(r"(unseen|all) \(\d\) +│? *(?:│ )?(real images|start|end)", out) or "unseen (2)" in out
    page = (tmp_path / "meta-features.html").read_text()
    assert "Overlap of every two networks, end" in page
    assert page.count("not seen by the run") == 2
    assert page.count("<svg") == 8  # five curves, three tables
    code, _, err = run_cli("analyse", "meta-features", "run", 'pool.networks=["convnet"]', "pool.count=1", "--force")
    assert (code, "takes at least two" in err) == (2, True)
    code, _, err = run_cli("analyse", "meta-features", "nowhere")
    assert (code, "is not the folder of a finished run" in err) == (2, True)
    code, _, err = run_cli("analyse", "meta-features", "run", 'pool.networks=["convnet:width=4,depth=2","mlp"]', "--force")
    assert (code, "no feature map" in err) == (2, True)


def test_erasing(run_cli: Call) -> None:
    networks = json.dumps([tiny.NETWORK, "convnet:width=4,depth=1"])
    arguments = ["analyse", "erasing", "digits", f"pool.networks={networks}", "pool.count=1", "pool.epochs=1", "--count", "200", "--epochs", "1"]
    code, out, err = run_cli(*arguments, "--trials", "1")
    assert code == 0, err
    assert out.count("own heterogeneous") == 3
    code, _, err = run_cli(*arguments, "--threshold", "2")
    assert (code, "threshold: expected a number above 0" in err) == (2, True)
    code, _, err = run_cli("analyse", "erasing", "digits", 'pool.networks=["mlp","convnet"]')
    assert (code, "no feature map" in err) == (2, True)


def test_a_pool_from_a_file(run_cli: Call, tmp_path: Path) -> None:
    (tmp_path / "pool.toml").write_text('[pool]\nkind = "supervised"\nnetworks = ["mlp:width=8"]\ncount = 1\n'
                                        'epochs = 1\n[data]\nsource = "digits"\n')
    code, out, err = run_cli("teach", "pool.toml")
    assert code == 0, err
    assert "mlp:width=8" in out


@pytest.mark.parametrize(("arguments", "says"), [
    (("teach", "dm/digits-ipc1"), "no plug-in of dm/digits-ipc1 queries teachers; add one"),
    (("teach", "superwised"), "unknown pool 'superwised'; did you mean 'supervised'"),
    (("teach", "nowhere:Pool"), "no module 'nowhere'"),
    (("teach", "supervised", "pool.drops=-1", "data.source=digits"), "drops: expected fractions of the epochs"),
    (("teach", "dm/digits-ipc1", "plugins.clom.pool.networks=convnet:depth=6"), "does not fit"),
    (("teach", "supervised", "pool.epochs=3", "pool.epoch=2", "pool.snapshots=[1]", "data.source=digits"), "epoch 2 is never stored; add it to snapshots (stored epochs: 1, 3)"),
    (("teach", "pretrained", "pool.files=missing.pt", "pool.networks=mlp", "data.source=digits"), "no file missing.pt"),
    (("analyse", "sets", "nowhere"), "nowhere"),
    (("analyse", "sets", "nowhere", "--set", "data.source=mnist"), "data.source=mnist: expected a setting of the pool, as in pool.count=2"),
    (("analyse", "sets", "nowhere", "--pool", "banana"), "unknown pool 'banana'; expected a kind of pool (classifier, "),
    (("analyse", "erasing", "digits", "--pool", "banana"), "unknown pool 'banana'; expected a kind of pool"),
    (("analyse", "erasing", "digits", 'pool.networks=["convnet:width=4,depth=2","vit:width=8,depth=1,patch=2"]', "--threshold", "1.5"), "threshold: expected a number above 0 and at most 1, got 1.5"),
    (("analyse", "erasing", "digits", 'pool.networks=["convnet:width=4,depth=2","vit:width=8,depth=1,patch=2"]'), "count: 5000 of 1438 training images"),
    (("analyse", "erasing", "digits", 'pool.networks=["convnet:width=4,depth=2","vit:width=8,depth=1,patch=2"]', "pool.count=2", "--count", "9"), "set pool.count=1"),
    (("analyse", "difficulty", "nowhere"), "unknown dataset 'nowhere'"),
    (("analyse", "difficulty", "./nowhere"), "no folder ./nowhere; expected that of a finished run, or a dataset"),
    (("analyse", "difficulty", "digits", "--data-path", "x"), "set data.path=PATH"),
    (("analyse", "difficulty", "digits", "pool.count=0"), "pool.count"),
    (("analyse", "difficulty", "digits", "--pool", "superwised"), "unknown pool 'superwised'; did you mean 'supervised'"),
    (("analyse", "difficulty", "digits", "--scores", "missing.npy"), "missing.npy"),
    (("analyse", "difficulty", "digits", "--out", "page.txt"), ".html"),
    (("analyse", "difficulty", "digits", "--out", "/proc/page.html"), "cannot write to /proc"),
    (("analyse", "theory", "--out", "/proc/none/page.html"), "cannot write to /proc/none"),
    (("analyse", "theory", "--fractions", "-0.1"), "fraction: expected a number from 0.001 to 1, got -0.1"),
    (("analyse", "difficulty", "."), ". is not the folder of a finished run; for images of your own: folder data.path=."),
    (("analyse", "difficulty", "digits", "--pool", "banana"), "unknown pool 'banana'"),
    (("plan", "metadd"), "metadd is a study of many runs, not a recipe for one; datastill study metadd"),
    (("study", "dm/cifar10-ipc10"), "dm/cifar10-ipc10 is a recipe for one run, not a study; datastill distill dm/cifar10-ipc10"),
    (("study", "ptm-weight"), "unknown study 'ptm-weight', expected a name or the path of a .toml file; did you mean 'ptm-weights'"),
    (("study", "ptm-weights", "--edition", "tiny"), "no edition 'tiny'; known: paper, small"),
    (("distill", "dm/digits-ipc1", "plugins.clom.pool.data.source=mnist"), "dataset MNIST not found"),
])
def test_bad_input_about_teachers_and_studies(arguments: tuple[str, ...], says: str, run_cli: Call, tmp_path: Path) -> None:
    code, _, err = run_cli(*arguments)
    assert code == 2, err
    assert err.count("\n") == 1
    assert says in err
    assert not (tmp_path / "outputs").exists()


STUDY = """
question = "Does it help?"
recipes."dm/digits-ipc1" = {}
against = "plain"
figure = "bars"
seeds = 2
trials = 2
[changes]
method = { iterations = 3, batch_real = 8 }
network = "convnet:width=4,depth=2"
protocol = { epochs = 1, augment = "none" }
plugins.clom.pool = { networks = ["convnet:width=4,depth=2"], count = 1, epochs = 1 }
[arms]
plain = {}
clom = { plugins.clom.weight = 1.0 }
"""


def test_study(run_cli: Call, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(STUDY)
    code, out, err = run_cli("study", "own.toml", "--plan")
    assert code == 0, err
    assert "missing teachers:" in out
    assert not (tmp_path / "outputs").exists()
    code, out, err = run_cli("study", "own.toml")
    assert code == 0, err
    assert "Report: outputs/studies/own/index.html" in out
    assert sorted(path.name for path in (tmp_path / "outputs/studies/own").iterdir()) == ["index.html", "results.json", "table.md"]
    assert len(list((tmp_path / "outputs/runs").iterdir())) == 4
    assert "Does it help?" in run_cli("study", "own.toml")[1]
    code, out, _ = run_cli("study", "own.toml", "--plan")
    assert re.search(r"missing runs and students: 0", out)
    assert run_cli("list", "studies")[1].count("ptm-") == 7
    assert "supervised" in run_cli("list", "pools")[1]
    assert "question" in run_cli("show", "ptm-losses")[1]


def test_a_damaged_teacher_is_made_again_only_on_request(run_cli: Call, tmp_path: Path) -> None:
    single = [*(one for one in POOL if not one.startswith("pool.count")), "pool.count=1"]
    assert run_cli("teach", "supervised", *single)[0] == 0
    (file,) = (tmp_path / "outputs" / "teachers").glob("*/snapshots.npy")
    sound = file.read_bytes()
    file.write_bytes(sound[:-4] + b"abcd")
    code, _, err = run_cli("teach", "supervised", *single)
    assert code == 2
    assert "snapshots.npy is damaged" in err
    assert "--retrain" in err
    assert file.read_bytes() != sound
    assert run_cli("teach", "supervised", *single, "--retrain")[0] == 0
    assert file.read_bytes() == sound


def test_a_pool_of_your_own(run_cli: Call, tmp_path: Path) -> None:
    (tmp_path / "noise.py").write_text(
        "import torch\n"
        "from datastill.data.domain import domain_of\n"
        "from datastill.nets import fresh\n"
        "from datastill.rng import RNG\n"
        "from datastill.teachers import Pool, Teacher\n"
        "class Noise(Pool):\n"
        "    \"\"\"Untrained networks.\"\"\"\n"
        "    @property\n"
        "    def size(self): return 2\n"
        "    def domain(self, context, group=0): return domain_of(context.real)\n"
        "    def load(self, context, group, number):\n"
        "        home = domain_of(context.real)\n"
        "        net = fresh(self.networks[group], home.shape, len(home.classes), RNG('noise', number), context.real.device)\n"
        "        return Teacher(f'noise {number}', group, net.eval().requires_grad_(False), home, home, None, {'network': 'mlp', 'weights': 'noise', 'epoch': 0, 'digest': str(number)})\n")
    code, out, err = run_cli("teach", "noise:Noise", "pool.networks=mlp:width=8", "data.source=digits")
    assert code == 0, err
    assert "noise 1" in out
    code, _, err = run_cli("distill", "dm/digits-ipc1", *SMALL, "plugins.clom.weight=1", "plugins.clom.pool.kind=noise:Noise",
                           "plugins.clom.pool.networks=mlp:width=8", "plugins.cclom.weight=1",
                           "plugins.cclom.pool.kind=noise:Noise", "plugins.cclom.pool.networks=mlp:width=8", "--out", "run")
    assert code == 0, err


def test_a_learned_learning_rate_at_its_bound_is_reported_once(run_cli: Call) -> None:
    options = ["method.iterations=4", "method.steps=2", "method.max_start=1", "method.expert_epochs=1", "method.pool.count=1",
               "method.pool.epochs=1", "method.lr_net=1e-6", "method.optim.inner_lr.lr=1e-3", "method.optim.images.lr=0",
               "network=convnet:width=4,depth=2", "data.source=digits", "data.zca=false", "method.augment=none"]
    code, _, err = run_cli("distill", "mtt/cifar10-ipc1", *options, "--out", "run")
    assert code == 0, err
    assert err.count("caution: the learned learning rate is at its lower bound") == 1


def test_a_run_is_not_put_among_the_images_it_learns_from(run_cli: Call, tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((8, 8), 20 * number, dtype=np.uint8)).save(tmp_path / "photos" / name / f"{number}.png")
    mine = ["distill", "dm/digits-ipc1", "data.source=folder", "data.path=photos", *SMALL]
    for out in ("photos/run", "photos", "photos/ant/run"):
        code, _, err = run_cli(*mine, "--out", out)
        assert (code, "is inside the images of the run" in err) == (2, True), err
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["ant", "bee"]
    assert run_cli(*mine, "--out", "run")[0] == 0
    code, _, err = run_cli("distill", "dm/digits-ipc1", "data.source=folder", "data.path=", *SMALL)
    assert (code, "data.path is empty" in err) == (2, True)


@pytest.mark.parametrize(("arguments", "shown"), [
    (("show", "method"), "gradient"), (("show", "pool"), "supervised"), (("show", "Run"), "start_from"), (("list", "teachers"), "supervised"),
    (("list", "teacher"), "supervised"), (("list", "network"), "convnet"), (("list", "studies"), "ptm-losses"), (("show", "study"), "ptm-losses")])
def test_names_are_taken_in_other_forms(arguments: tuple[str, ...], shown: str, run_cli: Call) -> None:
    code, out, err = run_cli(*arguments)
    assert code == 0, err
    assert shown in out
