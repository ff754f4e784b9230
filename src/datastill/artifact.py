"""The distilled set on disk: tensors, a card, a preview image. It can be read without this library; nothing is pickled."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from PIL import Image
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from datastill.arguments import checked
from datastill.data import Images
from datastill.data.domain import Domain
from datastill.data.images import denormalize
from datastill.data.whitening import from_tensors
from datastill.description import explain
from datastill.errors import InputError
from datastill.files import reason, write_atomically
from datastill.late import torch
from datastill.parametrization import Codec
from datastill.store import CARD, Entry
from datastill.tables import counted, upgraded

if TYPE_CHECKING:
    from torch import Tensor

    from datastill.distilled import Distilled
    from datastill.synthetic import SyntheticSet

SCHEMA, KIND = 2, "datastill.synthetic"
PARAMETER, PIXELS = "parameters.", "pixels"  # prefix of parameter names; the parameter that may be the images themselves
SIDE = 2000  # pixels, at most, of a preview
TENSORS, PREVIEW, WHITENING = "synthetic.safetensors", "preview.png", "whitening.safetensors"
MAPPED = 2**28  # bytes from which a file is mapped into memory instead of read
LONGEST = 10**8  # bytes of a safetensors header, at most
SEAL = "datastill"  # entry of a safetensors file with its checksum


class _Named(BaseModel):
    kind: str


class _Run(BaseModel):
    method: _Named
    network: _Named
    data: dict[str, Any]
    plugins: dict[str, Any] | list[Any]  # none at all
    seed: int


class _Data(BaseModel):
    name: str
    fingerprint: str


class _Published(BaseModel):
    accuracy: float


class _Purpose(BaseModel):
    """The entries that say what a set is meant for; they may be given."""

    protocol: dict[str, Any] = {}
    recipe: str = ""
    published: _Published | None = None


class _Card(_Purpose):
    """The entries that readers of a card rely on."""

    run: _Run
    digest: str
    ipc: int
    data: _Data
    classes: list[str]
    mean: list[float]
    std: list[float]
    count: int
    shape: tuple[int, int, int]
    labels: Literal["hard", "soft"]
    learning_rate: float | None = None
    step_size: float | None = None  # its name in schema 1
    files: dict[str, str]
    versions: dict[str, str]
    prepared: dict[str, dict[str, Any]] = {}
    started_from: dict[str, str] = {}


OWN = {"schema", "kind", "checksum", "computed", "stored", "images_of", "whitening", "merged", "code", *_Card.model_fields} \
    - {*_Purpose.model_fields}  # entries of a card that cannot be given


def check_about(about: Mapping[str, Any]) -> None:
    """Check that a card can take these entries. Raises InputError."""
    if own := sorted(OWN & {*about}):
        raise InputError(f"about: {own[0]!r} is an entry of the card's own; choose another name")
    try:
        _Purpose.model_validate(about)
    except ValidationError as error:
        raise InputError(explain(error, "about")) from None


def tensors_of(synthetic: SyntheticSet) -> dict[str, Tensor]:
    """The tensors to store. Decoded: images (normalized float32), view (uint8, N H W C), labels (probabilities). What they
    are decoded from: ``parameters.<name>``, except for ``pixels`` that are the images themselves; ``stored_labels`` if they
    differ from ``labels``; ``logits`` if those are what is learned. And ``lr``, if there is one."""
    with torch.no_grad():
        batch = synthetic.batch()
        seen = denormalize(batch.x, synthetic.mean, synthetic.std, synthetic.whitening)
        view = (seen * 255).round().byte().permute(0, 2, 3, 1)
        tensors = {"images": batch.x, "view": view, "labels": batch.y}
        if synthetic.lr is not None:
            tensors["lr"] = synthetic.lr
        if synthetic.soft:
            tensors["logits"] = synthetic.labels
        elif not torch.equal(synthetic.labels, batch.y):
            tensors["stored_labels"] = synthetic.labels
        for name, value in synthetic.images.items():
            if list(synthetic.images) != [PIXELS] or not torch.equal(value, batch.x):
                tensors[PARAMETER + name] = value.clone()  # a file cannot hold memory that images share
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def restored(tensors: Mapping[str, Tensor], like: Images | Domain, codec: Codec,
             of: range | None = None) -> SyntheticSet:
    """The synthetic set that ``tensors_of`` turned into these tensors, with images of the classes ``of``, by default all."""
    parameters = {name.removeprefix(PARAMETER): value for name, value in tensors.items() if name.startswith(PARAMETER)}
    labels = next(tensors[name] for name in ("logits", "stored_labels", "labels") if name in tensors)
    from datastill.synthetic import SyntheticSet

    return SyntheticSet(parameters or {PIXELS: tensors["images"]}, labels, like, codec, soft="logits" in tensors,
                        lr=float(tensors["lr"]) if "lr" in tensors else None, of=of)


def write_tensors(path: Path, synthetic: SyntheticSet, **of: Any) -> None:
    """Write a synthetic set's tensors, atomically, with a checksum; ``of`` says what they belong to (run, iteration)."""
    write_atomically(path, _bytes(tensors_of(synthetic), of))


def _bytes(tensors: Mapping[str, Tensor], of: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    # one entry, because safetensors writes several in random order
    return save(dict(tensors), {SEAL: json.dumps({**of, "checksum": _checksum(tensors, of)}, sort_keys=True)})


def _checksum(tensors: Mapping[str, Tensor | Pieces], of: Mapping[str, Any]) -> str:
    """Of names, types, shapes and values, and of what they belong to."""
    found = sha256(json.dumps(of, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        pieces = value if isinstance(value, Pieces) else Pieces([value], tuple(value.shape))
        found.update(f"{name} {pieces.dtype} {pieces.shape}".encode())
        for piece in pieces.parts:
            found.update(_as_bytes(piece))
    return found.hexdigest()


class Pieces(NamedTuple):
    """A tensor of this shape in parts, to be put together along the first axis; they need not be in memory."""

    parts: Sequence[Tensor]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """The type of its values."""
        return self.parts[0].dtype


def joined(parts: Sequence[Tensor]) -> Pieces:
    """Parts of a tensor, one after the other."""
    return Pieces(parts, (sum(map(len, parts)), *parts[0].shape[1:]))


def _as_bytes(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy()


def write_joined(path: Path, tensors: Mapping[str, Pieces], **of: Any) -> None:
    """As ``write_tensors``, for tensors in parts: the same file, without ever holding them in memory."""
    from safetensors.torch import _TYPES

    names = {dtype: name for name, dtype in _TYPES.items()}
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # as safetensors lays them out
    header: dict[str, Any] = {"__metadata__": {SEAL: json.dumps({**of, "checksum": _checksum(tensors, of)}, sort_keys=True)}}
    end = 0
    for name in order:
        pieces = tensors[name]
        start, end = end, end + math.prod(pieces.shape) * pieces.dtype.itemsize
        header[name] = {"dtype": names[pieces.dtype], "shape": list(pieces.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_atomically(path, chain([len(text).to_bytes(8, "little"), text],
                                 (_as_bytes(piece) for name in order for piece in tensors[name].parts)))


def write(folder: Path, synthetic: SyntheticSet, about: Mapping[str, Any], **of: Any) -> None:
    """Write the finished artifact; the card comes last, so a folder with a card is complete.

    ``about`` goes into the card first (the run, its digest, the data it was distilled from, the protocol it is meant for).
    ``of`` as in ``write_tensors``; given as for the last snapshot, the files are equal.
    """
    write_tensors(folder / TENSORS, synthetic, **of)
    complete(folder, synthetic, about, synthetic.stored, synthetic.of)


def complete(folder: Path, like: SyntheticSet | Domain, about: Mapping[str, Any], stored: int,
             of: range | None = None) -> None:
    """Write the rest of an artifact whose tensors are written: preview, whitening, and last the card. ``stored``: the number
    of stored images, of the classes ``of``, by default all."""
    tensors = read_tensors(folder / TENSORS)
    write_atomically(folder / PREVIEW, png(picture(tensors["view"], tensors["labels"])))
    names = [TENSORS, PREVIEW]
    if like.whitening is not None:
        write_atomically(folder / WHITENING, _bytes({
            name: value.cpu() for name, value in like.whitening.tensors().items()}, {}))
        names.append(WHITENING)
        about = {**about, "whitening": like.whitening.identity}
    count = len(tensors["images"])
    copies = count - len({sha256(one.numpy()).digest() for one in tensors["images"]})
    hard = bool(((tensors["labels"] == 0) | (tensors["labels"] == 1)).all())
    card = {
        "schema": SCHEMA, "kind": KIND, **about,
        "classes": list(like.classes), "mean": list(like.mean), "std": list(like.std),
        "count": count, "shape": list(tensors["images"].shape[1:]), "labels": "hard" if hard else "soft",
        **({"copies": copies} if copies else {}),
        **({} if of is None else {"images_of": [of.start, of.stop]}),
        **({} if stored == count else {"stored": stored}),
        "learning_rate": float(tensors["lr"]) if "lr" in tensors else None,
        "versions": {"datastill": version("datastill"), "torch": torch.__version__, "torchvision": version("torchvision")},
    }
    _entry(folder).finish(card, names)


def _entry(folder: Path) -> Entry:
    return Entry(folder, "restore it from a copy, or delete the folder and distill again")


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a finished artifact, upgraded to the current schema. Raises InputError if it is missing or altered, or
    of another kind of folder."""
    if not (folder / CARD).is_file():
        hint = "a run that has not finished; run it again to continue" if (folder / "run.toml").exists() else \
            f"no distilled set: expected {CARD} and {TENSORS}"
        raise InputError(f"{folder} holds {hint}")
    card = _entry(folder).card()
    if card.get("kind") != KIND:
        raise InputError(f"{folder} holds no distilled set but a {card.get('kind')}; name the folder of a finished run")
    if card.get("schema") not in (1, SCHEMA):
        raise InputError(f"{folder / CARD} has schema {card.get('schema')}, this version reads 1 to {SCHEMA}; use the "
                         "version that wrote it, or restore it from a copy")
    try:
        _Card.model_validate(card)
    except ValidationError as error:
        raise InputError(f"{folder / CARD} has another form than a card: {explain(error)}; restore it from a copy") from None
    return card if card["schema"] == SCHEMA else _upgraded(card)


def _upgraded(card: dict[str, Any]) -> dict[str, Any]:
    """A schema 1 card, upgraded to the current schema."""
    tables: dict[str, Any] = {key: upgraded(card[key]) for key in ("run", "protocol") if key in card}
    return {**card, **tables, "schema": SCHEMA, "learning_rate": card.get("step_size")}


def is_selected(card: Mapping[str, Any]) -> bool:
    """Whether the set with this card is of real images, as they are: nothing was optimized."""
    method = card["run"]["method"]
    return "started_from" not in card and method.get("iterations") == 0 and method.get("init") != "noise"


def verified(folder: Path) -> dict[str, Any]:
    """The card, after every file of the artifact was checked against its checksum. Raises InputError for a damaged one."""
    card = read_card(folder)
    _entry(folder).verify(card)
    return card


@checked
def load(folder: Path | str, transform: Callable[[Tensor], Any] | None = None) -> Distilled:
    """Read a distilled set as a torch dataset with its card. Every file is checked against its checksum.

    transform: applied to each image (C, H, W), normalized float, when an item is accessed; for example augmentation.

    Raises InputError: not a distilled set, an unfinished one, or a damaged file (the message names it).
    """
    folder = Path(folder)
    card = verified(folder)
    whitening = from_tensors(read_tensors(folder / WHITENING), card["whitening"]) if WHITENING in card["files"] else None
    from datastill.distilled import Distilled

    tensors = read_tensors(folder / TENSORS)
    if tensors["labels"].shape[1] != len(card["classes"]):
        raise InputError(f"{folder / CARD} names {counted(len(card['classes']), 'class')}, the labels are of "
                         f"{tensors['labels'].shape[1]}; restore it from a copy")
    return Distilled(tensors, card, whitening, transform, folder, mapped=(folder / TENSORS).stat().st_size >= MAPPED)


def snapshots(folder: Path) -> dict[int, Path]:
    """The snapshots of a run by iteration. Raises InputError for a file that is not a snapshot."""
    paths = sorted((folder / "snapshots").glob("*.safetensors"))
    if stray := [path for path in paths if not path.stem.isdecimal()]:
        raise InputError(f"{stray[0]} is not a snapshot: expected an iteration number as its name; move it elsewhere")
    return {int(path.stem): path for path in paths}


def read_snapshot(path: Path, card: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a snapshot of the run with this card. Raises InputError: damaged, or of another run or iteration."""
    tensors, of = _read(path)
    if of not in ({}, {"run": card["digest"], "iteration": int(path.stem)}):  # earlier versions did not write it
        raise InputError(f"{path} is the snapshot of iteration {of.get('iteration')} of run {of.get('run')}; expected "
                         f"iteration {int(path.stem)} of run {card['digest']}; move it elsewhere")
    wanted, shape = (card["count"], *card["shape"]), tuple(tensors["images"].shape) if "images" in tensors else ()
    if shape != wanted or not {"labels", "view"} <= {*tensors}:
        raise InputError(f"{path} is damaged or not a snapshot of this set: its images are {shape}, expected {wanted}; "
                         "move it elsewhere")
    return tensors


def read_snapshots(folder: Path) -> dict[int, dict[str, Tensor]]:
    """The tensors of all snapshots of a run, by iteration. Raises InputError: there are none, or one is damaged."""
    paths, card = _some_snapshots(folder), read_card(folder)
    return {iteration: read_snapshot(path, card) for iteration, path in paths.items()}


def sound_snapshots(folder: Path) -> dict[int, Path]:
    """All snapshots of a run, by iteration, each read once. Raises InputError: there are none, or one is damaged."""
    card, paths = read_card(folder), _some_snapshots(folder)
    for path in paths.values():
        read_snapshot(path, card)
    return paths


def _some_snapshots(folder: Path) -> dict[int, Path]:
    if not (paths := snapshots(folder)):
        raise InputError(f"{folder} has no snapshots to analyze; distill keeps the first and the last in its folder "
                         "snapshots unless they are deleted, and more with --keep 100,500")
    return paths


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, checked against its checksum. Raises InputError for anything else (a pickle is
    never opened)."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, and what they belong to."""
    from safetensors.torch import load, load_file

    try:
        with path.open("rb") as file:
            about = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), LONGEST))).get("__metadata__", {})
        tensors = load_file(path) if path.stat().st_size >= MAPPED else load(path.read_bytes())
        of = json.loads(about[SEAL]) if about else {}
        if about and of.pop("checksum") != _checksum(tensors, of):
            raise KeyError(SEAL)
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is damaged: its checksum does not match; restore it from a copy, or delete it") from None
    except (SafetensorError, OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else "it cannot be read as safetensors"
        raise InputError(f"{path} is damaged: {why}; restore it from a copy, or delete it") from None
    return tensors, of


def shown(view: Tensor) -> Tensor:
    """Images (..., C) as they are shown: the first three channels as color, or the first as gray if there are fewer."""
    return view[..., :3 if view.shape[-1] >= 3 else 1]


def picture(view: Tensor, labels: Tensor, columns: int = 10) -> Image.Image:
    """A grid with one row per class (by largest label) of its first ``columns`` images; view (N, H, W, C) uint8, see
    ``shown``.

    Classes that do not fit below each other are laid out side by side, with fewer images of each. At most ``SIDE`` pixels a
    side.
    """
    view, target, classes = shown(view), labels.argmax(1), labels.shape[1]
    zoom = max(1, 64 // max(view.shape[1:3]))
    padding = max(2, zoom // 2)
    fit = max(1, SIDE // (zoom * max(view.shape[1:3]) + padding))  # images below each other
    columns = columns if classes <= fit else max(1, min(columns, fit**2 // classes))
    rows = [view[target == c][:columns] for c in range(classes)]
    width = max(len(row) for row in rows)
    beside = 1 if classes <= fit else math.ceil(math.sqrt(classes / width))  # classes side by side, a blank between two
    gap = int(beside > 1 and width > 1)
    rows += [view[:0]] * (-classes % beside)
    blank = torch.full((1, *view.shape[1:]), 255, dtype=torch.uint8)
    cells = torch.cat([torch.cat([row, blank.expand(width + gap - len(row), -1, -1, -1)]) for row in rows])
    large = cells.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2).permute(0, 3, 1, 2)
    from torchvision.utils import make_grid

    grid = make_grid(large, nrow=beside * (width + gap), padding=padding, pad_value=255)
    page = Image.fromarray(grid.permute(1, 2, 0).numpy())
    page.thumbnail((SIDE, SIDE))
    return page


def png(image: Image.Image) -> bytes:
    """The image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
