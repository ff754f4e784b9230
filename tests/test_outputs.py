"""Pages and exports never replace anything else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import datastill as ds
import tiny
from datastill.export import to_folder, to_npz
from datastill.outputs import OWN
from datastill.report import report
from datastill.report.study import check_folder
from kit import Call, input_error


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs") / "run"
    tiny.distill(tiny.run(ipc=1), folder)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


OUTS = ["card.json", "run.toml", "log.jsonl", "synthetic.safetensors", "preview.png", "snapshots/000000.safetensors", "state.pt", "speed.json",
        "snapshots/page.html", "scores/page.html", "analysis/x.html", "snapshots/../card.json"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", OUTS)
def test_nothing_of_a_set_is_replaced(made: Path, name: str, force: bool) -> None:
    before = content(made)
    with input_error(str(made), "belongs to the folder", "choose a name outside it"):
        report([made], made / name, force=force)
    assert content(made) == before


@pytest.mark.parametrize("name", ["scores/set.npz", "snapshots/set.npz"])
def test_no_export_into_a_set(made: Path, name: str) -> None:
    with input_error("belongs to the folder"):
        to_npz(ds.load(made), made / name, force=True)
    with input_error("belongs to the folder"):
        to_folder(ds.load(made), made / Path(name).parent / "images")


def test_another_file_is_replaced_only_by_force(made: Path, tmp_path: Path) -> None:
    for name, write in (("page.html", lambda out, **how: report([made], out, **how)),
                        ("set.npz", lambda out, **how: to_npz(ds.load(made), out, **how))):
        out = tmp_path / name
        out.write_bytes(b"mine")
        with input_error(name, "exists and is not", "--force"):
            write(out)
        assert out.read_bytes() == b"mine"
        write(out, force=True)
        first = out.stat().st_mtime_ns
        write(out)  # an earlier one of its kind
        assert out.stat().st_mtime_ns > first


def test_what_is_no_regular_file_is_never_replaced(made: Path, tmp_path: Path) -> None:
    (tmp_path / "real.html").write_text("mine")
    (tmp_path / "link.html").symlink_to(tmp_path / "real.html")
    (tmp_path / "dangling.html").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.html")
    for name in ("link.html", "dangling.html", "pipe.html"):
        with input_error(name, "is not a regular file"):
            report([made], tmp_path / name, force=True)
    with input_error("/dev/null", "is not a regular file"):
        report([made], Path("/dev/null"), force=True)
    assert (tmp_path / "link.html").is_symlink()


def test_a_link_into_a_set_leads_there(made: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(made)
    with input_error("belongs to the folder"):
        report([made], tmp_path / "elsewhere" / "card.json", force=True)


def test_a_page_in_the_folder_of_the_run_is_written_again(made: Path) -> None:
    assert report([made], made / "report.html") == report([made], made / "report.html")
    assert "report.html" not in OWN
    (made / "report.html").write_text("mine")
    with input_error("belongs to the folder"):
        report([made], made / "report.html", force=True)
    (made / "report.html").unlink()


def test_files_no_study_wrote_are_kept(tmp_path: Path) -> None:
    for name in ("index.html", "table.md", "results.json"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        with input_error(name, "exists and is not a file of a study; move it away, or choose another --root"):
            check_folder(folder, "which?")


def test_results_of_another_study_are_kept(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"question": "other?", "rows": []}')
    check_folder(tmp_path, "other?")
    with input_error("has the results of another study of this name, 'other?'"):
        check_folder(tmp_path, "which?")


@pytest.mark.parametrize("name", ["x.npy", "x.ZIP", "x.html", "x.png", "x.tar.gz"])
def test_the_name_of_another_kind_of_file_is_refused(made: Path, name: str, tmp_path: Path, run_cli: Call) -> None:
    calls = [["export", str(made), str(tmp_path / name)]] + [["report", str(made), "--out", str(tmp_path / name)]] * (name != "x.html")
    for call in calls:
        code, _, err = run_cli(*call)
        assert (code, len(err.splitlines())) == (2, 1)
        assert f"{name} is named like" in err
    assert not (tmp_path / name).exists()


def test_suffixes_in_any_case_and_names_with_dots(made: Path, tmp_path: Path, run_cli: Call) -> None:
    for name in ("x.NPZ", "images.v2", "images.10"):
        assert run_cli("export", str(made), str(tmp_path / name))[0] == 0
    assert (tmp_path / "x.NPZ").is_file()
    assert (tmp_path / "images.v2" / "labels.csv").exists()
    assert (tmp_path / "images.10").is_dir()
    for name in ("page.HTML", "page.htm", "page", "page.v2"):
        assert run_cli("report", str(made), "--out", str(tmp_path / name))[0] == 0
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize("name", ["scores", "scores/deep", "snapshots", "analysis/x"])
def test_nothing_is_computed_inside_a_set(made: Path, name: str, tmp_path: Path) -> None:
    with input_error("which belongs to another set"):
        tiny.distill(tiny.run(ipc=1), made / name)
    other = made.parent / "other"
    tiny.distill(tiny.run(ipc=1, seed=1), other)
    for out in (made / name, made):
        with input_error(str(out), "choose another --out"):
            ds.Workspace(tmp_path, tmp_path).score(other, out=out)


def test_scores_are_put_where_they_are_without_out(made: Path, tmp_path: Path) -> None:
    ds.Workspace(tmp_path, tmp_path).score(made, trials=1, out=made / "scores")
    assert list((made / "scores").glob("*.json"))


def test_the_command_line_says_so(made: Path, tmp_path: Path, run_cli: Call) -> None:
    (tmp_path / "notes.html").write_text("mine")
    for command in (["report", str(made), "--out"], ["export", str(made), "--to", "npz"]):
        target = tmp_path / ("notes.html" if command[0] == "report" else "notes.npz")
        target.write_text("mine")
        code, _, err = run_cli(*command, str(target))
        assert code == 2
        assert "--force" in err
        assert target.read_text() == "mine"
        assert run_cli(*command, str(target), "--force")[0] == 0


def test_a_folder_is_exported_to_a_new_or_empty_one(made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with input_error("file is not a folder"):
        to_folder(ds.load(made), tmp_path / "file")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_an_export_needs_a_name(made: Path, name: str) -> None:
    with input_error("is a folder, expected the name of a file"):
        to_npz(ds.load(made), Path(name))


@pytest.mark.parametrize("form", ["images", "npz"])
def test_a_place_below_a_file_is_bad_input(made: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "file").write_text("mine")
    with input_error("cannot write to", "choose another folder"):
        (to_npz if form == "npz" else to_folder)(ds.load(made), tmp_path / "file" / "set")


def test_a_link_to_itself_leads_nowhere(made: Path, tmp_path: Path, run_cli: Call) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for command in (["distill", "random/digits-ipc1", "--out", str(loop)],
                    ["distill", "random/digits-ipc1", "--out", str(loop / "run")],
                    ["report", str(made), "--out", str(loop / "page.html")],
                    ["export", str(made), str(loop / "set.npz")], ["evaluate", str(loop)]):
        code, _, err = run_cli(*command)
        assert code == 2
        assert str(loop) in err.splitlines()[-1]
        assert "Traceback" not in err
