"""Promises of batches: names of files, what fits together, and work that overlaps and goes on."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import SCAN_MM, tiny_model
from helpers import SCAN_SHAPE as SHAPE

from synthsr_net.prediction.files import check_writable, find_scans, plan_outputs
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.report.entries import read_entries
from synthsr_net.prediction.runs import outcome as batch_outcome
from synthsr_net.prediction.runs import runner as batch_module
from synthsr_net.prediction.runs.outcome import Outcome
from synthsr_net.prediction.runs.runner import Batch, DiskFullError, check_same_maker, check_tasks
from synthsr_net.prediction.runs.tasks import (
    Task,
    missing_tasks,
    order_inputs,
    plan_tasks,
    unique_names,
    unread_inputs,
)
from synthsr_transforms.functional.kernels import choice
from synthsr_transforms.support.messages import SynthSRError, describe


@pytest.fixture
def predictor() -> Predictor:
    return make_predictor()


def make_predictor(num_inputs: int = 1, *, spread: bool = False, **settings: Any) -> Predictor:
    return Predictor(tiny_model(num_inputs, spread=spread), **{"device": "cpu", **settings})


def save(path: Path, seed: int = 0) -> Path:
    voxels = np.random.default_rng(seed).random(SHAPE, np.float32)
    return helpers.save(path, voxels, np.diag([-SCAN_MM, SCAN_MM, SCAN_MM, 1.0]))


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"" if name.endswith(".txt") else b"x")
    return folder


class TestSources:
    def test_a_folder_is_listed_by_name_and_not_searched(self, tmp_path):
        touch(tmp_path, "b.nii", "a.NII.GZ", "notes.txt", ".hidden.nii", "below/c.nii", "d.mgz")
        source = find_scans(tmp_path)
        assert source.kind == "folder"
        assert [path.name for path in source.scans] == ["a.NII.GZ", "b.nii", "d.mgz"]

    def test_earlier_predictions_in_the_folder_are_no_scans(self, tmp_path):
        touch(tmp_path, "a.nii", "a_synthsr.nii")
        assert [path.name for path in find_scans(tmp_path, without=[tmp_path]).scans] == ["a.nii"]
        assert len(find_scans(tmp_path, without=[tmp_path / "out"]).scans) == 2

    def test_a_list_has_a_path_per_line(self, tmp_path, monkeypatch):
        monkeypatch.chdir(touch(tmp_path, "here.nii", "lists/beside.nii"))
        lines = ["", "here.nii ", "  ", "beside.nii", "nowhere.nii", ""]
        (tmp_path / "lists" / "scans.txt").write_text("\r\n".join(lines), encoding="utf-8-sig")
        source = find_scans("lists/scans.txt")
        assert source.kind == "list"
        found = [path.as_posix() for path in source.scans]
        assert found == ["here.nii", "lists/beside.nii", "nowhere.nii"]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda p: p / "absent.nii", "absent.nii must be a scan, folder or list, but does not"),
            (lambda p: p / "absent.txt", "absent.txt must be a list of paths, but does not exist"),
            (lambda p: touch(p / "x", "a.doc"), r"must hold scans .* read DICOM"),
            (
                lambda p: touch(p / "x", "y/a.nii"),
                r"1 file is in subfolders \(y\): .*--recursive \(--bids",
            ),
            (
                lambda p: touch(p, "empty.txt") / "empty.txt",
                "must hold one path per line, but holds",
            ),
            (lambda p: dicom(p / "a.dcm"), "DICOM"),
            (lambda p: dicom(p / "a"), "DICOM"),
        ],
    )
    def test_what_holds_no_scans(self, tmp_path, make, message):
        with pytest.raises(ValueError, match=message):
            find_scans(make(tmp_path))

    def test_a_list_that_is_no_text(self, tmp_path):
        (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\x80")
        with pytest.raises(SynthSRError, match="must be a UTF-8 text file"):
            find_scans(tmp_path / "a.txt")


def dicom(path: Path) -> Path:
    path.write_bytes(bytes(128) + b"DICM" + bytes(100))
    return path


class TestOutputs:
    def test_one_scan_to_a_file_or_folder(self, tmp_path):
        source = find_scans(touch(tmp_path, "s.nii.gz") / "s.nii.gz")
        assert plan_outputs(source, "a/p.mgz") == [Path("a/p.mgz")]
        assert plan_outputs(source, "a/p.v2") == [Path("a/p.v2/s_synthsr.nii.gz")]
        (tmp_path / "f.nii").mkdir()  # a folder may have any name
        assert plan_outputs(source, tmp_path / "f.nii")[0].name == "s_synthsr.nii.gz"

    def test_many_scans_to_a_folder_keep_their_endings(self, tmp_path):
        source = find_scans(touch(tmp_path / "x.nii", "a.nii", "b.MGZ", "c.npz", "d.nii.gz"))
        names = [path.name for path in plan_outputs(source, "out")]
        assert names == ["a_synthsr.nii", "b_synthsr.mgz", "c_synthsr.npz", "d_synthsr.nii.gz"]

    def test_a_list_to_a_list(self, tmp_path):
        (tmp_path / "in.txt").write_text("a.nii\nb.nii\n")
        (tmp_path / "out.txt").write_text("x.nii\n\ny.mgz")
        source = find_scans(tmp_path / "in.txt")
        assert plan_outputs(source, tmp_path / "out.txt") == [Path("x.nii"), Path("y.mgz")]
        (tmp_path / "out.txt").write_text("x.nii")
        with pytest.raises(SynthSRError, match="one line per scan, got 1 lines for 2 scans"):
            plan_outputs(source, tmp_path / "out.txt")
        (tmp_path / "out.txt").write_text("x.nii\ny.png")
        with pytest.raises(SynthSRError, match=r"y\.png must end in"):
            plan_outputs(source, tmp_path / "out.txt")

    def test_two_scans_never_share_an_output(self, tmp_path):
        (tmp_path / "in.txt").write_text("a/s.nii\nb/s.nii\n")
        with pytest.raises(
            SynthSRError, match=r"out/s_synthsr\.nii for both a/s\.nii and b/s\.nii"
        ):
            plan_tasks([tmp_path / "in.txt"], "out")
        (tmp_path / "in.txt").write_text("a/s.nii\na/s.nii\n")
        with pytest.raises(SynthSRError, match=r"twice for a/s\.nii"):
            plan_tasks([tmp_path / "in.txt"], "out")

    def test_subfolders_are_kept(self, tmp_path):
        touch(tmp_path, "x/a/T1.nii", "x/b/c/T1.NII.GZ", "x/T1.mgz", "x/masks/m.nii", "x/out/p.nii")
        x, out = tmp_path / "x", tmp_path / "x" / "out"
        mask = x / "masks"
        source = find_scans(x, recursive=True, without=[out, mask])
        paths = [path.relative_to(out).as_posix() for path in plan_outputs(source, out)]
        assert paths == ["T1_synthsr.mgz", "a/T1_synthsr.nii", "b/c/T1_synthsr.nii.gz"]
        tasks = plan_tasks([x], out, recursive=True)
        assert [t.name for t in tasks][1:3] == ["T1.nii", "T1.NII.GZ"]
        assert len(tasks) == 4  # the mask is a scan where nobody says otherwise

    def test_subfolders_pair_scans(self, tmp_path):
        touch(tmp_path, "1/a/T1.nii", "1/b/T1.nii", "2/a/T2.nii", "2/b/T2.nii")
        tasks = plan_tasks([tmp_path / "1", tmp_path / "2"], tmp_path / "out", recursive=True)
        pairs = [[path.parent.name for path in task.inputs] for task in tasks]
        assert pairs == [["a", "a"], ["b", "b"]]

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            (["a.nii", "b/a.nii"], "1 file is in subfolders (b)"),
            (["a.nii", "b/a.nii", "b/b.MGZ", "c/d/e.nii.gz"], "3 files are in subfolders (b, c/d)"),
            (["a.nii", "s.nii.gz/a.nii"], "1 file is in subfolders (s.nii.gz)"),
            (
                ["a.nii", *(f"{n}/a.nii" for n in range(6))],
                "6 files are in subfolders (0, 1, 2 and",
            ),
            (["a.nii", "out/a.nii", "out/b/c.nii"], None),
            (["a.nii", "b/.hidden.nii", "b/._a.nii.gz", ".git/a.nii", "b/notes.txt"], None),
            (["a.nii"], None),
        ],
    )
    def test_scans_in_subfolders_are_counted(self, tmp_path, files, said):
        touch(tmp_path / "x", *files)
        warnings = unread_inputs([tmp_path / "x"], tmp_path / "x" / "out")
        assert [said in text and "--recursive" in text for text in warnings] == [True] * bool(said)
        assert not unread_inputs([tmp_path / "x"], tmp_path / "x" / "out", recursive=True)

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ("p.nii.gz", "output must be a folder for 2 scans"),
            ("p.nrrd", "output must be a folder, or a file ending in"),
            ("p.gz", "output must be a folder, or a file ending in"),
            ("list.txt", "output must be a folder, or a file ending in"),
        ],
    )
    def test_outputs_of_the_wrong_kind(self, tmp_path, output, message):
        with pytest.raises(SynthSRError, match=message):
            plan_outputs(find_scans(touch(tmp_path, "a.nii", "b.nii")), output)

    def test_a_file_is_no_folder(self, tmp_path):
        touch(tmp_path, "scans/a.nii", "thing")
        with pytest.raises(SynthSRError, match="thing is a file"):
            plan_outputs(find_scans(tmp_path / "scans"), tmp_path / "thing")

    def test_inputs_are_never_outputs(self, tmp_path):
        touch(tmp_path, "a.nii", "m.nii")
        with pytest.raises(SynthSRError, match="another file than the input"):
            plan_tasks([tmp_path / "a.nii"], tmp_path / "b" / ".." / "a.nii")
        with pytest.raises(SynthSRError, match="another file than the input"):
            plan_tasks([tmp_path / "a.nii"], tmp_path / "m.nii", lesion_mask=tmp_path / "m.nii")
        same = tmp_path / "p.nii"
        with pytest.raises(SynthSRError, match="a file of its own"):
            plan_tasks([tmp_path / "a.nii"], same, extra={"laplace_scale": same})

    def test_folders_without_permission_are_told_first(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(SynthSRError, match="no permission to write"):
            check_writable([tmp_path / "new"])

    def test_a_folder_below_a_file(self, tmp_path):
        touch(tmp_path, "file")
        with pytest.raises(SynthSRError, match="file is a file"):
            check_writable([tmp_path / "file" / "out"])

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
    def test_a_folder_that_only_seems_writable(self):
        with pytest.raises(SynthSRError, match="must be writable, got /proc/x"):
            check_writable([Path("/proc/x")])


class TestMatching:
    @pytest.mark.parametrize(
        ("ones", "twos"),
        [
            (["s1_T1.nii", "s2_T1.nii"], ["s1_T2.nii", "s2_T2.nii"]),
            (["sub-01_T1w.nii", "sub-02_T1w.nii"], ["sub-02_T2w.nii.gz", "sub-01_T2w.nii.gz"]),
            (["T1_1.nii", "T1_2.nii"], ["T2_1.nii", "T2_2.nii"]),
            (["1.nii", "2.nii"], ["1.nii", "2.nii"]),
            (["a t1 x.nii", "b-T1.nii"], ["A_T2-X.nii", "b.t2.nii"]),
        ],
    )
    def test_folders_by_name(self, tmp_path, ones, twos):
        touch(tmp_path / "one", *ones)
        touch(tmp_path / "two", *twos)
        tasks = plan_tasks([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
        assert len(tasks) == 2
        for task in tasks:
            names = [path.name.lower().replace(".nii", "") for path in task.inputs]
            letters = [set(re.sub(r"[^a-z0-9]|t[12]w?|gz|sub", "", name)) for name in names]
            assert letters[0] == letters[1]

    @pytest.mark.parametrize(
        ("ones", "twos", "message"),
        [
            (["a_T1.nii"], ["b_T2.nii"], r"2 have none: .*a_T1\.nii, .*b_T2\.nii"),
            (["a_T1.nii", "b_T1.nii"], ["a_T2.nii"], r"1 have none: .*b_T1\.nii"),
            (["a_T1.nii", "a_T1w.nii"], ["a_T2.nii"], "must differ by more than contrast"),
        ],
    )
    def test_folders_that_do_not_match(self, tmp_path, ones, twos, message):
        touch(tmp_path / "one", *ones)
        touch(tmp_path / "two", *twos)
        with pytest.raises(SynthSRError, match=message):
            plan_tasks([tmp_path / "one", tmp_path / "two"], tmp_path / "out")

    def test_lists_line_by_line(self, tmp_path):
        (tmp_path / "1.txt").write_text("b.nii\na.nii")
        (tmp_path / "2.txt").write_text("x.nii\ny.nii")
        tasks = plan_tasks([tmp_path / "1.txt", tmp_path / "2.txt"], tmp_path / "out")
        found = [[path.name for path in task.inputs] for task in tasks]
        assert found == [["b.nii", "x.nii"], ["a.nii", "y.nii"]]
        (tmp_path / "2.txt").write_text("x.nii")
        with pytest.raises(SynthSRError, match="equally many files, got 2 and 1"):
            plan_tasks([tmp_path / "1.txt", tmp_path / "2.txt"], tmp_path / "out")

    def test_a_file_does_not_go_with_a_folder(self, tmp_path):
        touch(tmp_path, "a.nii", "x/b.nii")
        with pytest.raises(SynthSRError, match=r"must be a file as .* is, got a folder"):
            plan_tasks([tmp_path / "a.nii", tmp_path / "x"], tmp_path / "out")

    def test_masks_go_with_their_scans(self, tmp_path):
        touch(tmp_path / "s", "p1_FLAIR.nii", "p2_FLAIR.nii")
        touch(tmp_path / "m", "p2_FLAIR_mask.nii", "p1_FLAIR_label-lesion_mask.nii")
        tasks = plan_tasks([tmp_path / "s"], tmp_path / "out", lesion_mask=tmp_path / "m")
        pairs = [(t.inputs[0].name[:2], t.lesion_mask.name[:2]) for t in tasks if t.lesion_mask]
        assert pairs == [("p1", "p1"), ("p2", "p2")]

    def test_inputs_come_in_the_order_of_the_model(self):
        task = Task(name="a", inputs=(Path("two"), Path("one")), output=Path("o"))
        (ordered,) = order_inputs([task], [None, "t1"], ["T1", "T2"])
        assert ordered.inputs == (Path("one"), Path("two"))
        with pytest.raises(SynthSRError, match="inputs of the model are T1, T2, got 't3'"):
            order_inputs([task], [None, "T3"], ["T1", "T2"])
        with pytest.raises(SynthSRError, match="must be given once"):
            order_inputs([task], ["T1", "T1"], ["T1", "T2"])

    def test_names_tell_files_apart(self):
        paths = [Path("x/a/t.nii"), Path("y/a/t.nii"), Path("x/b/t.nii"), Path("x/u.nii")]
        assert unique_names(paths) == ["x/a/t.nii", "y/a/t.nii", "b/t.nii", "u.nii"]


class TestExisting:
    def make(self, folder: Path) -> list[Task]:
        touch(folder / "in", "a.nii", "b.nii")
        return plan_tasks([folder / "in"], folder / "out")

    def test_outputs_that_exist_are_refused(self, tmp_path):
        tasks = self.make(tmp_path)
        assert missing_tasks(tasks) == tasks
        tasks[0].output.parent.mkdir()
        tasks[0].output.write_bytes(b"x")
        with pytest.raises(
            SynthSRError, match=r"a_synthsr.nii exists. Add --resume .* --overwrite"
        ):
            missing_tasks(tasks)
        assert missing_tasks(tasks, resume=True) == tasks[1:]
        assert missing_tasks(tasks, overwrite=True) == tasks
        with pytest.raises(SynthSRError, match="exclude each other"):
            missing_tasks(tasks, overwrite=True, resume=True)

    def test_a_task_is_complete_with_all_its_files(self, tmp_path):
        touch(tmp_path, "a.nii")
        arguments = ([tmp_path / "a.nii"], tmp_path / "p.nii")
        (task,) = plan_tasks(*arguments, extra={"laplace_scale": tmp_path / "s.nii"})
        task.output.write_bytes(b"x")
        assert missing_tasks([task], resume=True) == [task]
        (tmp_path / "s.nii").write_bytes(b"")  # as a full disk would leave it elsewhere
        assert missing_tasks([task], resume=True) == [task]
        (tmp_path / "s.nii").write_bytes(b"x")
        assert missing_tasks([task], resume=True) == []

    def test_predictions_of_other_settings_are_not_taken_for_complete(self, tmp_path, predictor):
        save(tmp_path / "a.nii")
        tasks = plan_tasks([tmp_path / "a.nii"], tmp_path / "p.nii")
        assert [outcome.error for outcome in Batch(tasks, predictor).run()] == [None]
        check_same_maker(tasks, predictor)
        check_same_maker(tasks, make_predictor(max_memory="4GB"))
        with pytest.raises(ValueError, match="made by another model or with other settings"):
            check_same_maker(tasks, make_predictor(flip=False))


@pytest.fixture
def make_tasks(tmp_path: Path) -> Callable[..., list[Task]]:
    def make(number: int = 3) -> list[Task]:
        for k in range(number):
            save(tmp_path / "in" / f"{k}.nii.gz", seed=k)
        return plan_tasks([tmp_path / "in"], tmp_path / "out")

    return make


def hidden_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]


class TestRun:
    def test_outcomes_come_in_order_and_are_what_the_predictor_gives(self, make_tasks, device):
        predictor = make_predictor(device=str(device))
        tasks = make_tasks(5)
        outcomes = list(Batch(tasks, predictor).run())
        assert [outcome.task for outcome in outcomes] == tasks
        assert all(outcome.error is None and outcome.seconds > 0 for outcome in outcomes)
        for task in tasks:
            expected = predictor(nib.load(task.inputs[0]))
            found = nib.load(task.output)
            # threads of a pool add up in another order: a thousandth of a grey level is rounding
            np.testing.assert_allclose(found.get_fdata(), expected.get_fdata(), rtol=0, atol=1e-3)
            assert found.header["descrip"] == expected.header["descrip"]

    def test_reading_computing_and_writing_overlap(self, make_tasks, predictor, monkeypatch):
        steps = {"prepare": 3, "infer": 2, "finish": 1}  # scans of which each step meets the others
        begun = {name: threading.Event() for name in steps}
        threads: dict[str, list[int]] = {name: [] for name in steps}
        met: list[bool] = []

        def meeting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                threads[name].append(threading.get_ident())
                if len(threads[name]) == steps[name]:
                    begun[name].set()
                    met.extend(event.wait(timeout=10) for event in begun.values())
                return function(*args, **kwargs)

            return call

        for name in steps:
            monkeypatch.setattr(predictor, name, meeting(name, getattr(predictor, name)))
        list(Batch(make_tasks(8), predictor).run())
        assert met == [True] * 9  # three scans at once
        assert set(threads["infer"]) == {threading.get_ident()}
        assert not set(threads["prepare"]) & set(threads["finish"])

    def test_few_scans_are_in_memory_at_a_time(self, make_tasks, predictor, monkeypatch):
        loaded, most, lock = 0, 0, threading.Lock()
        prepare, finish = predictor.prepare, predictor.finish

        def counted_prepare(*args: Any, **kwargs: Any) -> Any:
            nonlocal loaded, most
            with lock:
                loaded += 1
                most = max(most, loaded)
            return prepare(*args, **kwargs)

        def counted_finish(*args: Any, **kwargs: Any) -> Any:
            nonlocal loaded
            time.sleep(0.02)  # writing is the slow step
            with lock:
                loaded -= 1
            return finish(*args, **kwargs)

        monkeypatch.setattr(predictor, "prepare", counted_prepare)
        monkeypatch.setattr(predictor, "finish", counted_finish)
        list(Batch(make_tasks(12), predictor).run())
        assert most <= 5

    def test_kernels_are_compiled_for_many_scans_only(self, make_tasks, predictor, monkeypatch):
        seen = []

        def infer(prepared: Any, **more: Any) -> Any:
            seen.append(choice._device_types)
            return Predictor.infer(predictor, prepared, **more)

        monkeypatch.setattr(predictor, "infer", infer)
        monkeypatch.setattr(predictor, "warm_up", lambda: seen.append("warm"))
        list(Batch(make_tasks(2), predictor).run())
        monkeypatch.setattr(batch_module, "KERNELS_FROM", 2)
        list(Batch(make_tasks(2), predictor).run())
        assert seen == [(), (), "warm", ("cuda",), ("cuda",)]
        assert choice._device_types == ("cuda",)

    def test_a_scan_that_fails_does_not_stop_the_others(self, make_tasks, predictor):
        tasks = make_tasks(4)
        tasks[1].inputs[0].write_bytes(b"no scan")
        tasks[2].inputs[0].unlink()
        outcomes = list(Batch(tasks, predictor).run())
        assert [outcome.error is None for outcome in outcomes] == [True, False, False, True]
        assert outcomes[2].reason.startswith("does not exist")
        assert [task.output.exists() for task in tasks] == [True, False, False, True]

    @pytest.mark.parametrize("step", ["prepare", "planned", "infer", "finish", "write"])
    def test_every_step_may_fail(self, make_tasks, predictor, monkeypatch, step):
        calls, function = [], getattr(predictor, step)

        def fail_once(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            if len(calls) == 2:
                raise RuntimeError("bug")
            return function(*args, **kwargs)

        monkeypatch.setattr(predictor, step, fail_once)
        outcomes = list(Batch(make_tasks(3), predictor).run())
        assert [outcome.reason for outcome in outcomes] == ["", "unexpected RuntimeError: bug", ""]

    def test_a_full_disk_stops_the_batch(self, make_tasks, predictor, monkeypatch, tmp_path):
        def fill(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        tasks = make_tasks(9)
        monkeypatch.setattr(nib.Nifti1Image, "to_stream", fill)
        run = Batch(tasks, predictor).run()
        assert next(run).error is not None
        with pytest.raises(DiskFullError, match=r"is full. Free some space .* --resume"):
            next(run)
        assert not list((tmp_path / "out").iterdir())

    def test_giving_up_leaves_whole_files_only(self, make_tasks, predictor, tmp_path):
        run = Batch(make_tasks(6), predictor).run()
        next(run)
        run.close()
        written = list((tmp_path / "out").iterdir())
        assert 0 < len(written) < 6
        for path in written:
            assert np.isfinite(nib.load(path).get_fdata()).all()

    def test_an_interrupt_while_computing_stops_all_threads(
        self, make_tasks, predictor, monkeypatch, tmp_path
    ):
        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(predictor, "infer", interrupt)
        before = threading.active_count()
        with pytest.raises(KeyboardInterrupt):
            list(Batch(make_tasks(3), predictor).run())
        assert threading.active_count() == before
        assert not (tmp_path / "out").exists()

    def test_spreads_and_sidecars_are_written(self, tmp_path):
        save(tmp_path / "a.nii")
        tasks = [
            Task(
                name="a",
                inputs=(tmp_path / "a.nii",),
                output=tmp_path / "out" / "p.nii.gz",
                extra={"laplace_scale": tmp_path / "out" / "s.nii.gz"},
                sidecars={tmp_path / "out" / f"{name}.json": {"Sources": [name]} for name in "ps"},
            )
        ]
        assert [o.error for o in Batch(tasks, make_predictor(spread=True)).run()] == [None]
        written, other = (json.loads((tmp_path / "out" / f"{n}.json").read_text()) for n in "ps")
        assert written["Sources"] == ["p"]
        assert written["Resolution"] == "8 x 8 x 8 mm"
        assert written["Settings"]["model"] == "tiny"
        assert len(written["Settings"]["model_sha256"]) == 64
        assert other == {**written, "Sources": ["s"]}
        assert nib.load(tmp_path / "out" / "s.nii.gz").get_fdata().min() > 0

    def test_masks_reach_the_predictor(self, tmp_path, predictor):
        save(tmp_path / "a.nii")
        mask = np.zeros(SHAPE, np.uint8)
        mask[5:8, 5:8, 5:8] = 1
        affine = nib.load(tmp_path / "a.nii").affine
        nib.save(nib.Nifti1Image(mask, affine), tmp_path / "m.nii")
        plain = plan_tasks([tmp_path / "a.nii"], tmp_path / "p.nii")
        kept = plan_tasks([tmp_path / "a.nii"], tmp_path / "k.nii", lesion_mask=tmp_path / "m.nii")
        assert [o.error for o in Batch([*plain, *kept], predictor).run()] == [None, None]
        one, other = (nib.load(tmp_path / name).get_fdata() for name in ("p.nii", "k.nii"))
        assert (one != other)[6, 6, 6]
        assert one[0, 0, 0] == other[0, 0, 0]

    def test_what_a_killed_process_left_is_removed(self, make_tasks, predictor, tmp_path):
        tasks = make_tasks(1)
        touch(tmp_path / "out", ".notes-0_synthsr.nii.gz")
        helpers.abandoned(tasks[0].output)
        list(Batch(tasks, predictor).run())
        assert [path.name for path in hidden_files(tmp_path / "out")] == [".notes-0_synthsr.nii.gz"]

    def test_plans_are_told_before_the_work(self, make_tasks, predictor):
        told: list[tuple[str, int]] = []
        tasks = make_tasks(2)

        def tell(task: Task, prepared: Any) -> None:
            told.append((task.name, prepared.plan.num_bytes))

        list(Batch(tasks, predictor, on_plan=tell).run())
        assert [name for name, _ in told] == ["0.nii.gz", "1.nii.gz"]
        assert all(number > 0 for _, number in told)

    def test_tasks_must_suit_the_model(self, make_tasks, predictor, tmp_path):
        tasks = make_tasks(1)
        with pytest.raises(ValueError, match="takes 2 scans"):
            check_tasks(tasks, make_predictor(2))
        extra = {"laplace_scale": tmp_path / "spread"}
        spread = plan_tasks([tmp_path / "in"], tmp_path / "out", extra=extra)
        with pytest.raises(ValueError, match="needs a model that predicts a Laplace scale"):
            Batch(spread, predictor)


class TestReport:
    def test_every_scan_has_an_entry_and_every_prediction_a_picture(
        self, make_tasks, predictor, tmp_path, monkeypatch
    ):
        tasks = make_tasks(2)
        tasks[1].inputs[0].write_bytes(b"no scan")
        entries = []
        monkeypatch.setattr(batch_outcome, "save_entry", lambda _, entry: entries.append(entry))
        list(Batch(tasks, predictor, tmp_path / "report").run())
        good, bad = entries
        assert (tmp_path / "report" / good.picture).stat().st_size > 0
        assert good.error is None
        assert tuple(good.input_shape) == SHAPE
        assert good.input_spacing_mm == (SCAN_MM,) * 3
        assert bad.picture is None
        assert "gzip" in bad.error

    def test_predictions_of_earlier_runs_are_recorded_once(self, make_tasks, predictor, tmp_path):
        """Also where a process was killed between a prediction and its record."""
        tasks = make_tasks(2)
        batch = Batch(tasks[:1], predictor, tmp_path / "report")
        list(batch.run())
        assert batch.report is not None
        batch.report.add_complete(tasks)
        known, kept = read_entries(tmp_path / "report")
        assert known.picture is not None
        assert (kept.input, kept.output) == (str(tasks[1].inputs[0]), str(tasks[1].output))
        assert kept.warnings == (batch_outcome.MADE_BEFORE,)


class TestDescribe:
    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (ValueError("a\nb"), "a b"),
            (PermissionError(13, "Permission denied", "a.nii"), "a.nii: Permission denied."),
            (MemoryError(), "out of memory"),
            (torch.cuda.OutOfMemoryError("CUDA"), "out of memory"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
            (KeyError("x"), "unexpected KeyError"),
        ],
    )
    def test_errors_take_one_line(self, error, text):
        assert describe(error).startswith(text)
        assert "\n" not in describe(error)

    def test_the_path_is_not_said_twice(self):
        task = Task(name="a.nii", inputs=(Path("x/a.nii"),), output=Path("o.nii"))
        outcome = Outcome(task, 1.0, error=ValueError("x/a.nii must be a scan."))
        assert outcome.reason == "must be a scan."


def test_the_number_of_threads_is_bounded(monkeypatch):
    predictor = make_predictor()
    batch = Batch([], predictor)
    assert batch._num_threads() == (1, 1)
    monkeypatch.setattr(predictor, "device", torch.device("cuda"))
    readers, writers = batch._num_threads()
    assert 1 <= readers <= batch_module.READERS_BESIDE_GPU
    assert 1 <= writers <= batch_module.WRITERS_BESIDE_GPU
