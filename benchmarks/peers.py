"""One of the authors' own scripts, unchanged but for what needs CUDA or wandb: the seconds of each iteration of its loop.

usage: python benchmarks/peers.py CASE WIDTH COUNT PEERS DATA      (see authors.py, which calls it)

The script runs at its published settings, on the data in the torchvision folder DATA. Its ``get_network`` is replaced by one
that makes the script's own ConvNet in the wanted width; it is called once an iteration, which is when the time is taken.
Prints one line of JSON: seconds, losses, and by how many MiB the memory of the process rose in the iterations.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

STRATEGY = "color_crop_cutout_flip_scale_rotate"
OUTER, INNER = 2, 5  # of a DSA iteration
EPOCHS, IMAGES = 20, 100  # of an evaluation
BATCH = 50  # of an inner step of MTT and TESLA


class Done(BaseException):
    """Enough iterations were timed; not an Exception, so that no script catches it."""


class Watch:
    """Takes the time of iterations, the first of which do not count."""

    def __init__(self, count: int, skipped: int) -> None:
        self.count, self.skipped = count, skipped
        self.stamps: list[float] = []
        self.losses: list[float] = []
        self.memory = Memory()

    def tick(self) -> None:
        """An iteration begins. Raises Done after the last."""
        if not self.stamps:
            self.memory.start()
        self.stamps.append(time.perf_counter())
        if len(self.stamps) > self.skipped + self.count:
            raise Done

    def note(self) -> None:
        """From now on keep the first loss that is differentiated in each iteration: that of the matching."""
        backward = torch.Tensor.backward

        def noted(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            if len(self.losses) < len(self.stamps):
                self.losses += [float(loss.detach())] * (len(self.stamps) - len(self.losses))
            backward(loss, *args, **kwargs)
        torch.Tensor.backward = noted  # type: ignore[method-assign]

    def report(self) -> dict[str, Any]:
        """The seconds, and what else authors.py shows."""
        seconds = np.diff(self.stamps)[self.skipped:].tolist()
        return {"seconds": seconds, "losses": self.losses[self.skipped:], "rise": self.memory.rise()}


class Memory:
    """How far the memory of this process rises, MiB; 0 where the system has no /proc."""

    def __init__(self) -> None:
        self.before = 0.0

    def start(self) -> None:
        """Count from here: what was needed before, for example to load data, is forgotten."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
            self.before = self._status("VmRSS")

    def rise(self) -> float:
        """Peak since the start."""
        return max(0.0, self._status("VmHWM") - self.before) if self.before else 0.0

    @staticmethod
    def _status(key: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(key))) / 1024


def narrow(networks: Any, width: int, tick: Callable[[], None] = lambda: None) -> Callable[..., Any]:
    """A ``get_network`` for the script's own ConvNet in this width."""
    def get_network(model: str, channel: int, num_classes: int, im_size: Any = (32, 32), dist: bool = True) -> Any:
        tick()
        return networks.ConvNet(channel=channel, num_classes=num_classes, net_width=width, net_depth=3, net_act="relu",
                                net_norm="instancenorm", net_pooling="avgpooling", im_size=im_size)
    return get_network


def condensation(case: str, width: int, watch: Watch, data: str, more: Sequence[str] = ()) -> None:
    """``main_DM.py`` or, for DSA, ``main.py`` of VICO-UoE/DatasetCondensation, with further options."""
    import importlib

    import networks  # type: ignore[import-not-found]
    script = importlib.import_module("main_DM" if case == "dm" else "main")
    script.evaluate_synset = lambda *args: (None, 0, 0)
    script.get_network = narrow(networks, width, watch.tick)
    options = ["--dataset", "CIFAR10", "--ipc", "10", "--num_exp", "1", "--num_eval", "0", "--Iteration", "1000000",
               "--data_path", data, "--save_path", ".", "--eval_mode", "S"]
    if case == "dsa":
        script.get_loops = lambda ipc: (OUTER, INNER)
        options += ["--method", "DSA", "--init", "real", "--dsa_strategy", STRATEGY]
    sys.argv = [script.__name__, *options, *more]
    script.main()


def evaluation(width: int, watch: Watch, data: str) -> None:
    """``evaluate_synset`` of VICO-UoE/DatasetCondensation on the first training images, whatever their classes."""
    import networks
    import utils  # type: ignore[import-not-found]
    channel, size, classes, _, _, _, train, _, loader = utils.get_dataset("CIFAR10", data)
    options = types.SimpleNamespace(device="cpu", lr_net=0.01, epoch_eval_train=EPOCHS - 1, batch_train=256, dsa=True,
                                    dsa_strategy=STRATEGY, dsa_param=utils.ParamDiffAug(), dc_aug_param=None)
    x, y = torch.stack([train[i][0] for i in range(IMAGES)]), torch.arange(IMAGES) // (IMAGES // classes)
    while True:
        net = narrow(networks, width)("ConvNet", channel, classes, size)
        watch.tick()
        utils.evaluate_synset(0, net, x, y, loader, options)


def trajectory(width: int, steps: int, watch: Watch, data: str, folder: Path) -> None:
    """``distill.py`` of mtt-distillation or tesla, with an expert of random steps written beside it."""
    sys.modules["wandb"] = _wandb()
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign, assignment]
    load = torch.load
    torch.load = lambda file, **kwargs: load(file, weights_only=False)  # their files hold lists of parameters
    import distill as script  # type: ignore[import-not-found]
    import networks
    net = narrow(networks, width)("ConvNet", 3, 10)
    weights = [value.detach().clone() for value in net.parameters()]
    expert = [[value + 0.01 * epoch * torch.randn_like(value) for value in weights] for epoch in range(5)]
    place = Path("buffers") / "CIFAR10_NO_ZCA" / "ConvNet"
    place.mkdir(parents=True, exist_ok=True)
    torch.save([expert], place / "replay_buffer_0.pt")
    script.evaluate_synset = lambda *args, **kwargs: (None, 0, 0)
    make, timed = narrow(networks, width), narrow(networks, width, watch.tick)
    script.get_network = lambda *args, **kwargs: (timed if kwargs.get("dist") is False else make)(*args, **kwargs)
    sys.argv = ["distill.py", "--dataset", "CIFAR10", "--ipc", "10", "--syn_steps", str(steps), "--batch_syn", str(BATCH),
                "--expert_epochs", "2", "--max_start_epoch", "2", "--lr_img", "1000", "--lr_lr", "1e-05", "--lr_teacher",
                "0.01", "--buffer_path", "buffers", "--data_path", data, "--num_eval", "1", "--Iteration", "100000",
                "--eval_it", "1000000"]
    source = (folder / "distill.py").read_text(encoding="utf-8")  # its options are read at the end, outside of main
    last = source[source.index("if __name__"):].replace("if __name__ == '__main__':", "if True:")
    exec(compile(last, "distill.py", "exec"), vars(script))


def _wandb() -> Any:
    """A stand-in that records nothing."""
    class Nothing:
        def __getattr__(self, name: str) -> Any:
            return Nothing()

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return Nothing()

    module: Any = types.ModuleType("wandb")
    module.config = types.SimpleNamespace(_items={})
    module.init = lambda **kwargs: module.config._items.update(vars(kwargs["config"]))
    module.run = types.SimpleNamespace(name="none")
    module.log = lambda *args, **kwargs: None
    module.finish = lambda: None
    module.Histogram = module.Image = Nothing()
    return module


def main() -> None:
    case, width, count, peers, data = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *map(os.path.abspath, sys.argv[4:6])
    name, _, steps = case.partition("-")
    folder = Path(peers) / {"mtt": "mtt-distillation", "tesla": "tesla"}.get(name, "DatasetCondensation")
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - it is what the scripts draw from
    random.seed(0)
    sys.path.insert(0, str(folder))
    work = Path(peers) / "work"
    work.mkdir(exist_ok=True)
    os.chdir(work)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    watch = Watch(count, {"dm": 3, "dsa": 2}.get(name, 1))  # the evaluation before the first iteration asks for a network
    watch.note()
    with Path(os.devnull).open("w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing), \
            contextlib.redirect_stderr(nothing), contextlib.suppress(Done):
        if name in ("mtt", "tesla"):
            trajectory(width, int(steps), watch, data, folder)
        elif name == "evaluation":
            evaluation(width, watch, data)
        else:
            condensation(name, width, watch, data)
    print(json.dumps(watch.report()))


if __name__ == "__main__":
    main()
