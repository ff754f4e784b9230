"""A distilled set for other tools: an image folder, or one .npz file."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from datastill.artifact import png
from datastill.errors import InputError
from datastill.files import LEFTOVER, make_folder, write_atomically
from datastill.outputs import check_new_folder, check_output

if TYPE_CHECKING:
    from datastill.distilled import Distilled

TABLE = "labels.csv"


def to_folder(distilled: Distilled, out: Path) -> Path:
    """PNG files ``<class>/<number>.png``, as torchvision's ImageFolder reads them, and labels.csv with every label.

    Pixels are rounded to 8 bits and clipped to the valid range; training on them differs slightly from using the floats.
    Soft labels are in labels.csv only; a file is in the folder of its largest one. Raises InputError: ``out`` has files, or
    other than 1 or 3 channels.
    """
    if distilled.view.shape[3] not in (1, 3):
        raise InputError(f"the set has {distilled.view.shape[3]} channels, which image files do not hold; export it to a "
                         "file.npz")
    names = _folder_names(distilled.classes)
    aside = out / f"{LEFTOVER}export-{_identity(distilled)}"  # where files are until all of them are there
    if not _is_half_moved(out, aside, names):
        check_new_folder(out)
        make_folder(out)
        for left in out.glob(f"{LEFTOVER}export*"):
            shutil.rmtree(left)
        _write_files(distilled, aside, names)
    for path in sorted(aside.iterdir(), key=lambda path: (path.name == TABLE, path.name)):  # the table last
        path.replace(out / path.name)
    aside.rmdir()
    return out


def _write_files(distilled: Distilled, folder: Path, names: list[str]) -> None:
    """The image files, and last the table of labels."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file", *distilled.classes])
    for number, (view, y) in enumerate(zip(distilled.view.numpy(), distilled.y, strict=True)):
        name = f"{names[int(y.argmax())]}/{number:05d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, png(Image.fromarray(view.squeeze(2) if view.shape[2] == 1 else view)))
        rows.writerow([name, *(f"{p:.6g}" for p in y.tolist())])
    write_atomically(folder / TABLE, table.getvalue().encode())


def _identity(distilled: Distilled) -> str:
    """What tells the files of one set from those of another."""
    found = hashlib.sha256(repr(distilled.classes).encode())
    for part in (distilled.view, distilled.y):
        found.update(part.contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def _is_half_moved(out: Path, aside: Path, names: list[str]) -> bool:
    """Whether a folder is what a killed process left of this very export when all its files were written."""
    if not aside.is_dir() or not ((aside / TABLE).is_file() or (out / TABLE).is_file()):
        return False
    return {path.name for path in out.iterdir()} <= {aside.name, TABLE, *names}


def to_npz(distilled: Distilled, out: Path, *, force: bool = False) -> Path:
    """One .npz: images (N, C, H, W) float32 normalized, labels (N, K) float32, x_train (N, H, W, C) uint8 for viewing,
    y_train (N,) int64 (the largest label), classes, mean, std, and lr if one was learned. If images are whitened,
    zca_mean (D,) and zca_matrix (D, D): normalized images x, flattened, are whitened by (x - zca_mean) @ zca_matrix.

    The names are those of ``data.source=npz``, but the file has no test images: to be read back as a dataset it needs at
    least two images per class (some are then held out for testing), or an x_test and y_test of your own. An earlier export
    is replaced, any other file only with ``force``. Raises InputError.
    """
    if out.name in ("", ".."):
        raise InputError(f"{out} is a folder, expected the name of a file")
    out = out if out.suffix.lower() == ".npz" else out.with_name(f"{out.name}.npz")
    check_output(out, "an export of datastill", _is_export, force)
    arrays = {"images": distilled.x.numpy(), "labels": distilled.y.numpy(), "x_train": distilled.view.numpy(),
              "y_train": distilled.y.argmax(1).numpy(), "classes": np.array(distilled.classes),
              "mean": np.array(distilled.mean), "std": np.array(distilled.std)}
    if distilled.whitening is not None:  # x_train is not whitened, images are
        arrays["zca_mean"] = distilled.whitening.mean.numpy()
        arrays["zca_matrix"] = distilled.whitening.matrix.numpy()
    if distilled.lr is not None:
        arrays["lr"] = np.array(distilled.lr)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    make_folder(out.parent)
    write_atomically(out, buffer.getvalue())
    return out


def _is_export(path: Path) -> bool:
    try:
        with np.load(path) as file:
            return {"images", "labels", "x_train", "y_train", "classes", "mean", "std"} <= {*file.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile, EOFError):
        return False


def _folder_names(classes: tuple[str, ...]) -> list[str]:
    """Class names as folder names; numbered unless each may be one and their order is the order of the classes."""
    safe = [re.sub(r"[^\w. -]+", "_", name).strip("_. ")[:60] for name in classes]
    if safe == sorted(classes) and len({name.casefold() for name in safe} - {""}) == len(classes):
        return safe
    digits = len(str(len(classes) - 1))
    return [f"{i:0{digits}d}_{name}" for i, name in enumerate(safe)]
