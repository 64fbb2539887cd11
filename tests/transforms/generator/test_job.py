"""Promises of generation jobs: every sample can be made again, whatever happens on the way."""

from __future__ import annotations

import csv
import dataclasses
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from helpers import save, until
from helpers.processes import Process

from synthsr_transforms.generator.config import GeneratorConfig, StepConfig, load_config
from synthsr_transforms.generator.generator import Generator
from synthsr_transforms.io.volumes import read_volume
from synthsr_transforms.job import job as job_module
from synthsr_transforms.job import record as job_record
from synthsr_transforms.job.job import GenerationJob, expected_bytes, remake_sample
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.subjects.files import (
    SubjectFiles,
    find_subjects,
    phantom_subject,
    read_subject,
)
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError

SHAPE = (18, 20, 16)
VALUES = np.array([0, 2, 3, 4, 41, 42, 43, 14], np.int16)

TWO_CHANNELS = """
label_table: freesurfer_aseg
reliability: reliability
steps:
  deformation:
    name: SpatialDeformation
    params: {rotation_degrees: [-10, 10], velocity_std_mm: [0, 3]}
  crop: {name: PatchCrop, params: {shape: 12}}
  flip: {name: HemisphereFlip, params: {p: 0.5}}
  mixture: {name: TissueMixture, params: {num_channels: 2}}
  target: {name: CopyImage, params: {channels: [0]}}
  acquisition:
    name: SliceAcquisition
    params: {spacing_mm: [1, 1, 3], noise_std: [0, 5]}
  reliability: {name: ReliabilityMap}
"""
"""A generator with every kind of volume."""


def blocks(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A label map in blocks of 3 voxels."""
    small = np.random.default_rng(seed).integers(0, len(VALUES), [-(-n // 3) for n in shape])
    for axis, size in enumerate(shape):
        small = np.repeat(small, 3, axis=axis).take(range(size), axis=axis)
    return VALUES[small]


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of three label maps, of different shapes and orientations."""
    folder: Path = tmp_path_factory.mktemp("job") / "maps"
    lia = np.array([[-1, 0, 0, 5], [0, 0, 1, -3], [0, -1, 0, 9], [0, 0, 0, 1]], float)
    save(folder / "a_labels.nii.gz", blocks(0))
    save(folder / "b_labels.nii.gz", blocks(1, (20, 16, 18)), lia)
    save(folder / "c_labels.nii.gz", blocks(2))
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> GeneratorConfig:
    path = tmp_path_factory.mktemp("config") / "two_channels.yaml"
    path.write_text(TWO_CHANNELS)
    return load_config(path)


@pytest.fixture
def make_job(maps: Path, config: GeneratorConfig, tmp_path: Path) -> Callable[..., GenerationJob]:
    """Maker of jobs of four samples in the folder `out`."""

    def make(**changes: Any) -> GenerationJob:
        fields: dict[str, Any] = {
            "config": config,
            "subjects": find_subjects(maps),
            "num_samples": 4,
        }
        return GenerationJob(**{**fields, "folder": tmp_path / "out", **changes})

    return make


@pytest.fixture(scope="module")
def four(maps: Path, config: GeneratorConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a complete job of four samples, as `make_job()` makes it."""
    folder: Path = tmp_path_factory.mktemp("four") / "out"
    run(GenerationJob(config=config, subjects=find_subjects(maps), num_samples=4, folder=folder))
    return folder


@pytest.fixture
def out(four: Path, tmp_path: Path) -> Path:
    """A copy of the complete job, where `make_job()` goes on with it."""
    return Path(shutil.copytree(four, tmp_path / "out"))


def files(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Names and bytes of the files in a folder, hidden ones included."""
    return {p.name: p.read_bytes() for p in sorted(folder.glob(pattern))}


def run(job: GenerationJob) -> list[str]:
    return [sample.stem for sample in job.run()]


class TestFiles:
    def test_a_sample_is_its_volumes_and_its_record(self, make_job):
        job = make_job(num_samples=1)
        assert run(job) == ["sample_000000"]
        assert set(files(Path(job.folder))) == {
            "config.yaml",
            "manifest.csv",
            "sample_000000.json",
            *(f"sample_000000_{k}.nii.gz" for k in ("image", "reliability", "target", "labels")),
        }

    def test_channels_are_the_fourth_axis(self, make_job):
        job = make_job(num_samples=1)
        run(job)
        volumes = {k: read_volume(Path(job.folder) / f"sample_000000_{k}.nii.gz").data
                   for k in ("image", "reliability", "target", "labels")}  # fmt: skip
        assert volumes["image"].shape == volumes["reliability"].shape == (12, 12, 12, 2)
        assert volumes["target"].shape == volumes["labels"].shape == (12, 12, 12)
        assert volumes["image"].dtype == np.float32
        assert volumes["labels"].dtype == np.int16
        assert set(np.unique(volumes["labels"])) <= set(VALUES.tolist())

    @pytest.mark.parametrize("ending", ["nii", "mgz"])
    def test_other_formats_hold_the_same_voxels(self, ending, make_job, four, tmp_path):
        run(make_job(num_samples=1, file_format=ending, folder=tmp_path / "other"))
        for path in four.glob("sample_000000*.nii.gz"):
            one = read_volume(path)
            two = read_volume(tmp_path / "other" / path.name.replace("nii.gz", ending))
            np.testing.assert_array_equal(one.data, two.data)
            np.testing.assert_allclose(one.affine, two.affine, atol=1e-5)

    def test_the_manifest_lists_every_sample_with_its_source(self, make_job, maps, out):
        job = make_job(num_samples=8)
        run(job)
        rows = list(csv.DictReader((out / "manifest.csv").read_text().splitlines()))
        assert [row["sample"] for row in rows] == [f"sample_{k:06d}" for k in range(8)]
        assert len({row["seed"] for row in rows}) == 8
        assert {row["source_labels"] for row in rows} == {str(p) for p in maps.iterdir()}
        for row in rows:
            record = json.loads((Path(job.folder) / row["record"]).read_text())
            assert record["seed"] == int(row["seed"])
            assert record["source"] == {"labels": row["source_labels"], "image": None}
            assert record["files"]["image"] == row["image"]

    def test_the_folder_may_hold_other_files(self, make_job, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")
        run(make_job(num_samples=1))
        assert (tmp_path / "out" / "notes.txt").read_text() == "mine"

    def test_samples_of_unknown_origin_are_not_replaced(self, make_job, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "sample_000000_image.nii.gz").write_text("mine")
        with pytest.raises(SynthSRError, match="samples of an unknown job"):
            make_job().start()
        assert files(tmp_path / "out") == {"sample_000000_image.nii.gz": b"mine"}


class TestSameSamples:
    def test_shards_make_what_one_process_makes(self, make_job, four, tmp_path):
        for number in (3, 1, 2):
            run(make_job(shard=(number, 3)))
        assert files(tmp_path / "out") == files(four)

    def test_another_seed_makes_other_samples(self, make_job, four, tmp_path):
        run(make_job(seed=1, folder=tmp_path / "other"))
        one, two = files(four, "*image*"), files(tmp_path / "other", "*image*")
        assert set(one) == set(two)
        assert not set(one.values()) & set(two.values())

    def test_a_longer_job_begins_with_the_shorter_one(self, make_job, four, tmp_path):
        run(make_job(num_samples=2))
        before = files(tmp_path / "out", "sample*")
        assert run(make_job()) == [f"sample_{k:06d}" for k in (2, 3)]
        assert files(tmp_path / "out") == files(four)
        assert before.items() <= files(tmp_path / "out").items()

    def test_the_first_draw_does_not_depend_on_the_choice_of_the_subject(self, make_job):
        """Case and rotation must not come from the same random numbers."""
        job = make_job()
        chosen = np.array([job.subjects.index(job.sample(k).subject) for k in range(300)])
        first = [
            torch.rand(1, generator=torch.Generator().manual_seed(job.sample(k).seed)).item()
            for k in range(300)
        ]
        assert abs(np.corrcoef(chosen, first)[0, 1]) < 0.2
        assert np.bincount(chosen).min() > 70

    def test_a_sample_is_made_again_from_its_record(self, four):
        for path in four.glob("*.json"):
            batch = remake_sample(path)
            record = json.loads(path.read_text())
            affine = nib.load(record["source"]["labels"]).affine
            for kind, name in record["files"].items():
                made = batch.images[kind].data[0].movedim(0, -1).numpy()
                volume = nib.Nifti1Image(
                    made.squeeze(-1) if made.shape[-1] == 1 else made,
                    np.asarray(batch.images[kind].affines[0].data),
                )
                turn = nib.orientations.ornt_transform(
                    nib.io_orientation(volume.affine), nib.io_orientation(affine)
                )
                again = volume.as_reoriented(turn)
                written = read_volume(four / name)
                np.testing.assert_array_equal(np.asarray(again.dataobj), written.data)
                np.testing.assert_allclose(again.affine, written.affine, atol=1e-5)

    def test_a_record_replays_by_hand(self, four):
        record = json.loads((four / "sample_000000.json").read_text())
        generator = Generator.from_preset(four / "config.yaml")
        subject = read_subject(SubjectFiles(Path(record["source"]["labels"])))
        again, drawn = generator.run(subject, record["seed"])
        assert json.loads(json.dumps(drawn)) == record["steps"]
        replayed = generator.replay(subject, record["steps"])
        assert torch.equal(again.images["image"].data, replayed.images["image"].data)

    def test_the_written_configuration_makes_the_same_job(self, make_job, tmp_path):
        run(make_job(seed=3))
        again = GenerationJob.from_source(tmp_path / "out/config.yaml", folder=tmp_path / "again")
        assert len(run(again)) == 4
        assert files(tmp_path / "out") == files(tmp_path / "again")

    def test_what_is_given_replaces_what_the_configuration_says(self, maps, four):
        again = GenerationJob.from_source(
            four / "config.yaml", labels=maps / "c_labels.nii.gz", folder="x", seed=9
        )
        assert (again.seed, again.num_samples, len(again.subjects)) == (9, 4, 1)

    def test_the_configuration_needs_no_table_or_priors_from_elsewhere(self, maps, tmp_path):
        own = tmp_path / "own"
        own.mkdir()
        LabelTable.from_values(VALUES, classes=[0, 1, 2, 3, 1, 2, 3, 3]).write(own / "table.tsv")
        np.save(own / "means.npy", np.float32([[10, 20, 30, 40], [11, 22, 33, 44]]))
        (own / "config.yaml").write_text(
            "label_table: table.tsv\nsteps:\n"
            "  mixture: {name: TissueMixture, params: {prior_means: means.npy}}\n"
            "  target: {name: CopyImage}\n"
        )
        first = GenerationJob.from_source(own / "config.yaml", labels=maps, folder=tmp_path / "out")
        run(first)
        shutil.rmtree(own)
        (tmp_path / "out").rename(tmp_path / "moved")
        again = GenerationJob.from_source(tmp_path / "moved/config.yaml", folder=tmp_path / "again")
        run(again)
        assert files(tmp_path / "moved") == files(tmp_path / "again")

    def test_priors_of_a_description_are_kept_in_the_configuration(self, maps, tmp_path):
        table = LabelTable.from_values(VALUES)
        rows = [{"class": k, "mean": [50 + k, 1], "std": [5, 1]} for k in range(table.num_classes)]
        labels = [[v for v, c in zip(table.values, table.classes, strict=True) if c == k]
                  for k in range(table.num_classes)]  # fmt: skip
        content = {
            "distribution": "normal",
            "classes": [{"class": k, "labels": found} for k, found in enumerate(labels)],
            "channels": [{"classes": rows}],
        }
        own = tmp_path / "own"
        own.mkdir()
        table.write(own / "table.tsv")
        (own / "priors.yaml").write_text(json.dumps(content))
        (own / "config.yaml").write_text(
            "label_table: table.tsv\nsteps:\n"
            "  mixture: {name: TissueMixture, params: {priors: priors.yaml}}\n"
            "  target: {name: CopyImage}\n"
        )
        first = GenerationJob.from_source(own / "config.yaml", labels=maps, folder=tmp_path / "out")
        run(first)
        shutil.rmtree(own)
        again = GenerationJob.from_source(tmp_path / "out/config.yaml", folder=tmp_path / "again")
        run(again)
        assert files(tmp_path / "out") == files(tmp_path / "again")


class TestResume:
    def test_complete_samples_are_kept(self, make_job, out):
        before = {p.name: p.stat().st_mtime_ns for p in out.glob("sample*")}
        assert run(make_job()) == []
        assert before == {p.name: p.stat().st_mtime_ns for p in out.glob("sample*")}

    def test_incomplete_samples_are_made(self, make_job, out, four):
        (out / "sample_000002.json").unlink()
        (out / "sample_000002_image.nii.gz").write_bytes(b"half")
        started = make_job().start()
        assert started.num_complete == 3
        assert [s.stem for s in started.run()] == ["sample_000002"]
        assert files(out) == files(four)

    def test_a_sample_that_lost_a_volume_is_made_again(self, make_job, out, four):
        (out / "sample_000001_target.nii.gz").unlink()
        started = make_job().start()
        assert started.num_complete == 3
        assert [s.stem for s in started.run()] == ["sample_000001"]
        assert files(out) == files(four)

    def test_label_maps_that_differ_are_counted_and_named(self, make_job, maps):
        run(make_job(subjects=find_subjects(maps)[:2]))
        message = r"job.sources has 2 label maps there and 3 here, \S+c_labels.nii.gz is new here\."
        with pytest.raises(SynthSRError, match=message):
            make_job().start()
        with pytest.raises(
            SynthSRError, match=r"2 .* there and 2 here, \S+a_labels.nii.gz is missing"
        ):
            make_job(subjects=find_subjects(maps)[1:]).start()
        with pytest.raises(SynthSRError, match="in another order"):
            make_job(subjects=find_subjects(maps)[1::-1]).start()

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"seed": 5}, "job.seed is 0 there and 5 here"),
            ({"file_format": "nii"}, "job.file_format"),
            ({"num_samples": 3}, "a job of 4 samples, got 3"),
            ({"crop": 8}, "steps.crop.params.shape is 12 there and 8 here"),
            ({"fewer": True}, "job.sources"),
            ({"order": True}, "order"),
        ],
    )
    def test_another_job_in_the_folder_is_refused(self, change, named, make_job, config, maps, out):
        before = files(out)
        if "crop" in change:
            crop = StepConfig(name="PatchCrop", params={"shape": 8})
            change = {"config": dataclasses.replace(config, steps={**config.steps, "crop": crop})}
        elif "fewer" in change:
            change = {"subjects": find_subjects(maps)[:2]}
        elif "order" in change:
            names = [*config.steps]
            names[0], names[1] = names[1], names[0]
            steps = {name: config.steps[name] for name in names}
            change = {"config": dataclasses.replace(config, steps=steps)}
        with pytest.raises(SynthSRError, match=named):
            make_job(**change).start()
        assert files(out) == before

    def test_words_about_the_configuration_may_change(self, make_job, config, out):
        assert run(make_job(config=dataclasses.replace(config, description="new words"))) == []

    def test_overwriting_leaves_nothing_of_the_other_job(self, make_job, config, tmp_path):
        run(make_job(num_samples=3, preview=True))
        plain = dataclasses.replace(config, reliability=None)
        run(make_job(num_samples=2, config=plain, overwrite=True))
        run(make_job(num_samples=2, config=plain, folder=tmp_path / "clean"))
        left = files(tmp_path / "out")
        left.pop("overview.png", None)
        assert left == files(tmp_path / "clean")

    def test_an_overwrite_that_stopped_is_not_mixed_with_the_old_job(self, make_job, out):
        old = files(out, "*image*")
        run(make_job(seed=1, overwrite=True, shard=(1, 2)))
        assert run(make_job(seed=1)) == ["sample_000001", "sample_000003"]
        assert not set(old.values()) & set(files(out, "*image*").values())

    def test_a_folder_that_cannot_be_understood_is_refused(self, make_job, out):
        (out / "config.yaml").write_text("steps: [")
        with pytest.raises(SynthSRError, match="cannot be read"):
            make_job().start()

    def test_label_maps_are_not_checked_again_unless_they_changed(self, make_job, maps, tmp_path):
        own = Path(shutil.copytree(maps, tmp_path / "maps"))
        run(make_job(subjects=find_subjects(own), num_samples=1))
        seen: list[SubjectFiles] = []
        for number in (2, 2):
            run(make_job(subjects=find_subjects(own), num_samples=number))
        make_job(subjects=find_subjects(own), num_samples=2).start(seen.append)
        assert seen == []
        save(own / "c_labels.nii.gz", np.full(SHAPE, 9999, np.int16))
        os.utime(own / "c_labels.nii.gz", (1, 1))
        with pytest.raises(SynthSRError, match="9999"):
            make_job(subjects=find_subjects(own), num_samples=2).start(seen.append)
        assert len(seen) == 3


SCRIPT = """
import signal
import sys
import time
import torch
signal.signal(signal.SIGINT, signal.default_int_handler)
from synthsr_transforms.job.job import GenerationJob
torch.set_num_threads(1)
job = GenerationJob.from_source(sys.argv[1], labels=sys.argv[2], folder=sys.argv[3],
                                num_samples=int(sys.argv[4]))
print("ready", flush=True)
for count, sample in enumerate(job.run()):
    print(sample.stem, flush=True)
    time.sleep(5 if count >= 8 else 0)  # full speed when the signal comes, but never done by then
"""


class TestStop:
    @pytest.fixture
    def running(self, maps, tmp_path, server) -> Iterator[Process]:
        """A process that makes fourteen samples, four of which are complete."""
        (tmp_path / "two_channels.yaml").write_text(TWO_CHANNELS)
        arguments = (tmp_path / "two_channels.yaml", maps, tmp_path / "out", 14)
        process = server.begin(SCRIPT, *arguments)
        until(lambda: "sample_000003" in process.said(), process)
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)

    def test_a_killed_job_goes_on_as_if_nothing_happened(self, running, make_job, tmp_path):
        running.send_signal(signal.SIGKILL)
        running.wait()
        records = list((tmp_path / "out").glob("*.json"))
        assert 4 <= len(records) < 14
        for record in records:
            for name in json.loads(record.read_text())["files"].values():
                nib.load(tmp_path / "out" / name).get_fdata()
        run(make_job(num_samples=14))
        run(make_job(num_samples=14, folder=tmp_path / "clean"))
        assert files(tmp_path / "out") == files(tmp_path / "clean")

    def test_ctrl_c_leaves_whole_samples_only(self, running, tmp_path):
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate()
        assert "KeyboardInterrupt" in errors
        left = files(tmp_path / "out")
        complete = {Path(name).stem for name in left if name.endswith(".json")}
        assert 4 <= len(complete) < 14
        assert {n[:13] for n in left if n.startswith("sample")} == complete
        assert not [name for name in left if name.startswith(".")]

    def test_giving_up_the_iteration_stops_the_job(self, make_job, tmp_path):
        for _ in make_job(num_samples=60).run():
            break
        left = files(tmp_path / "out")
        assert len([name for name in left if name.endswith(".json")]) < 20
        assert not [name for name in left if name.startswith(".")]


class TestDamage:
    @pytest.mark.parametrize(
        ("kind", "damage"),
        [
            ("image", lambda data: data[:100]),
            ("labels", lambda data: data[:-1]),
            ("target", lambda data: b""),
            ("labels", lambda data: data + b"more"),
        ],
    )
    def test_a_sample_of_another_size_is_made_again(self, kind, damage, make_job, out, four):
        path = out / f"sample_000001_{kind}.nii.gz"
        path.write_bytes(damage(path.read_bytes()))
        assert run(make_job()) == ["sample_000001"]
        assert files(out) == files(four)


class TestWriting:
    def test_a_full_disk_is_one_clear_error(self, make_job, monkeypatch, tmp_path):
        writes = itertools.count()
        write = job_record.write_volume

        def fill(path: Path, volume: Any) -> None:
            if next(writes) >= 10:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(path, volume)

        monkeypatch.setattr(job_record, "write_volume", fill)
        with pytest.raises(WorkFailedError, match=r"disk of .* is full"):
            run(make_job(num_samples=6))
        left = files(tmp_path / "out")
        complete = {Path(name).stem for name in left if name.endswith(".json")}
        assert {n[:13] for n in left if n.startswith("sample")} == complete
        assert not [name for name in left if name.startswith(".")]
        monkeypatch.undo()
        run(make_job(num_samples=6))

    def test_a_disk_that_is_really_full_is_one_clear_error(self, make_job, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True
        )
        if mounted.returncode:
            pytest.skip("a small disk cannot be mounted here")
        try:
            small = make_job(num_samples=100, folder=disk / "out")
            with pytest.raises(WorkFailedError, match="room for about"):
                small.start()
            assert not (disk / "out").exists()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(job_module, "check_space", lambda *_: None)
                with pytest.raises(WorkFailedError, match="is full"):
                    run(small)
            left = files(disk / "out")
            complete = {Path(name).stem for name in left if name.endswith(".json")}
            assert {n[:13] for n in left if n.startswith("sample")} == complete
            assert not [name for name in left if name.startswith(".")]
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_too_little_space_is_found_before_the_work(self, make_job, monkeypatch, tmp_path):
        usage = shutil._ntuple_diskusage(100, 99, 1)  # type: ignore[attr-defined]
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(WorkFailedError, match="room for about"):
            make_job().start()
        assert not (tmp_path / "out").exists()

    def test_the_estimate_is_near_the_truth(self, make_job, tmp_path):
        job = make_job(num_samples=3, file_format="nii")
        started = job.start()
        list(started.run())
        written = sum(len(data) for name, data in files(tmp_path / "out", "*.nii").items()) / 3
        assert written / 2 < expected_bytes(started.generator, SHAPE) < written * 2

    def test_errors_of_a_writer_surface(self, make_job, monkeypatch):
        def fail(*_: Any) -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr(job_record, "write_volume", fail)
        with pytest.raises(RuntimeError, match="broken"):
            run(make_job())

    def test_permission_is_checked_first(self, make_job, monkeypatch, tmp_path):
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(SynthSRError, match="no permission to write"):
            make_job().start()

    def test_a_folder_that_only_seems_writable_is_found_first(self, make_job, monkeypatch):
        def refuse(**_: Any) -> None:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")

        seen: list[SubjectFiles] = []
        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        with pytest.raises(SynthSRError, match=r"must be writable, got .*no file can be made in"):
            make_job().start(seen.append)
        assert seen == []

    def test_permission_that_is_missing_later_is_one_clear_error(self, make_job, monkeypatch):
        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(SynthSRError, match=r"must be writable, got .*Permission denied"):
            make_job().start()

    def test_few_subjects_are_in_memory(self, make_job, monkeypatch):
        reads: list[SubjectFiles] = []
        read = job_module.read_subject
        monkeypatch.setattr(
            job_module,
            "read_subject",
            lambda subject, **k: (reads.append(subject), read(subject, **k))[1],
        )
        run(make_job(num_samples=10))
        assert len(reads) == 3


def orientations() -> list[np.ndarray]:
    return [
        np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)], float)
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]


def oblique_affine() -> np.ndarray:
    """Anisotropic voxels, a little turned."""
    angle = np.deg2rad(12)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.0, 1.25, 2.0])
    affine[:3, 3] = [-11.0, 7.0, 3.0]
    return affine


def tilted(spacing: Any, degrees: Any, shear: float = 0.0) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 1] = np.tan(np.deg2rad(shear))
    turn = nib.eulerangles.euler2mat(*np.deg2rad(degrees))
    affine[:3, :3] = turn @ affine[:3, :3] * spacing
    affine[:3, 3] = [-11.0, 7.0, 3.0]
    return affine


THICK = [
    tilted((5, 1, 1), (12, 0, 0)),
    tilted((1, 5, 1), (25, -20, 0)),
    tilted((0.4, 0.4, 2), (0, 0, 25)),
    tilted((1, 1, 8), (30, 20, 10)),
    tilted((1, 1, 1), (45, 45, 45)),
    tilted((1, 1.2, 2), (10, 5, 3), shear=0.05),
    tilted((1, 1.2, 2), (10, 5, 3), shear=0.4),
]


class TestPlaceInTheWorld:
    @pytest.mark.parametrize(
        ("affine", "orientation"),
        [
            *((oblique_affine(), turn) for turn in orientations()[::3]),  # all axes, all signs
            *((affine, turn) for affine in THICK for turn in orientations()[::24]),
        ],
    )
    def test_every_voxel_of_a_crop_lies_where_it_lay(self, affine, orientation, tmp_path):
        source = nib.Nifti1Image(blocks(7, (14, 10, 12)), affine).as_reoriented(orientation)
        nib.save(source, tmp_path / "map.nii.gz")
        steps = {
            "crop": StepConfig(name="PatchCrop", params={"shape": [8, 6, 7]}),
            "mixture": StepConfig(name="TissueMixture", params={"prior_stds": [0, 0]}),
            "target": StepConfig(name="CopyImage"),
        }
        job = GenerationJob(
            config=GeneratorConfig(label_table="freesurfer_aseg", steps=steps),
            subjects=[SubjectFiles(tmp_path / "map.nii.gz")],
            folder=tmp_path / "out",
            file_format="nii",
        )
        run(job)
        out = tmp_path / "out" / "sample_000000_labels.nii"
        crop = nib.load(out)
        image = nib.load(tmp_path / "out" / "sample_000000_image.nii")
        same_axes = np.linalg.inv(source.affine[:3, :3]) @ crop.affine[:3, :3]
        np.testing.assert_allclose(same_axes, np.eye(3), atol=0.02)
        np.testing.assert_allclose(image.affine, crop.affine)
        np.testing.assert_allclose(SimpleITK.ReadImage(out).GetSpacing(), crop.header.get_zooms())
        assert sorted(crop.shape) == [6, 7, 8]
        indices = np.indices(crop.shape).reshape(3, -1)
        world = nib.affines.apply_affine(crop.affine, indices.T)
        found = nib.affines.apply_affine(np.linalg.inv(source.affine), world)
        np.testing.assert_allclose(found, np.rint(found), atol=0.1)  # by the shear of 0.4 degrees
        lay = np.asarray(source.dataobj)[tuple(np.rint(found).astype(int).T)]
        np.testing.assert_array_equal(lay, np.asarray(crop.dataobj).ravel())
        for value in np.unique(lay):
            assert len(np.unique(np.asarray(image.dataobj).ravel()[lay == value])) == 1

    @pytest.mark.parametrize(
        "orientation", orientations()[::7], ids=lambda o: str(o.astype(int).tolist())
    )
    def test_resampling_keeps_places(self, orientation, tmp_path):
        """An image of its own world coordinates still shows them on the coarser grid."""
        shape, affine = (24, 26, 28), oblique_affine()
        world = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
        ramp = (world @ [1.0, 0.3, -0.2]).astype(np.float32)
        for name, data in (("labels/a.nii", blocks(3, shape)), ("images/a.nii", ramp)):
            (tmp_path / name).parent.mkdir()
            nib.save(nib.Nifti1Image(data, affine).as_reoriented(orientation), tmp_path / name)
        steps = {
            "crop": StepConfig(name="PatchCrop", params={"shape": 20}),
            "copy": StepConfig(
                name="CopyImage", params={"source": "target", "destination": "image"}
            ),
            "coarse": StepConfig(
                name="TargetResolution", params={"spacing_mm": 2.5, "include": ["target"]}
            ),
        }
        job = GenerationJob(
            config=GeneratorConfig(label_table="freesurfer_aseg", steps=steps, real_target=True),
            subjects=find_subjects(tmp_path / "labels", tmp_path / "images"),
            folder=tmp_path / "out",
        )
        run(job)
        for kind, tolerance in (("image", 1e-3), ("target", 0.05)):
            volume = read_volume(tmp_path / "out" / f"sample_000000_{kind}.nii.gz")
            places = np.moveaxis(np.indices(volume.data.shape), 0, -1)
            expected = nib.affines.apply_affine(volume.affine, places) @ [1.0, 0.3, -0.2]
            inside = (slice(2, -2),) * 3
            np.testing.assert_allclose(volume.data[inside], expected[inside], atol=tolerance)
        assert volume.spacing_mm != (1.0, 1.25, 2.0)


class TestSettings:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"num_samples": 0}, "1 to 1000000, got 0"),
            ({"num_samples": 10**11}, "1 to 1000000, got 100000000000"),
            ({"seed": -1}, "seed must be a whole number from 0"),
            ({"file_format": "png"}, "format must be one of"),
            ({"shard": (0, 2)}, "got 0/2"),
            ({"shard": (3, 2)}, "got 3/2"),
            ({"subjects": []}, "label maps must be at least one"),
        ],
    )
    def test_values_out_of_range_are_refused(self, change, message, make_job):
        with pytest.raises(SynthSRError, match=message):
            make_job(**change)

    def test_the_folder_of_the_input_is_refused(self, make_job, maps, tmp_path):
        (tmp_path / "link").symlink_to(maps)
        for folder in (maps, tmp_path / "link"):
            with pytest.raises(
                SynthSRError, match="output folder must be another than that of label"
            ):
                make_job(folder=folder)

    def test_the_phantom_is_announced_when_it_is_made(self, config, tmp_path):
        config = dataclasses.replace(config, label_table="synthseg")
        subject = phantom_subject(LabelTable.ready("synthseg"), spacing_mm=4)
        calls: list[int] = []
        for number, expected in ((1, 1), (1, 1), (2, 2)):
            time.sleep(0.02)
            job = GenerationJob(
                config=config, subjects=[subject], folder=tmp_path / "out", num_samples=number
            )
            list(job.start(on_phantom=lambda: calls.append(1)).run())
            assert len(calls) == expected

    def test_a_real_target_needs_images(self, make_job, config):
        with pytest.raises(SynthSRError, match="--images"):
            make_job(config=dataclasses.replace(config, real_target=True))

    def test_images_need_a_real_target(self, make_job, maps):
        with pytest.raises(SynthSRError, match="Leave out --images"):
            make_job(subjects=find_subjects(maps / "a_labels.nii.gz", maps / "c_labels.nii.gz"))

    def test_mistakes_in_steps_are_found_before_label_maps_are_read(self, make_job, config):
        seen: list[SubjectFiles] = []
        wrong = StepConfig(name="PatchCropp")
        steps = {**config.steps, "crop": wrong}
        for table in ("auto", "freesurfer_aseg"):
            with pytest.raises(SynthSRError, match="did you mean 'PatchCrop'"):
                make_job(config=dataclasses.replace(config, steps=steps, label_table=table)).start(
                    seen.append
                )
        assert seen == []

    def test_an_image_that_the_steps_do_not_make_is_named(self, make_job, config):
        steps = {name: step for name, step in config.steps.items() if name != "target"}
        with pytest.raises(SynthSRError, match="the steps must make an image 'target'"):
            run(make_job(config=dataclasses.replace(config, steps=steps)))

    def test_the_table_is_chosen_by_the_label_maps(self, make_job, config):
        started = make_job(config=dataclasses.replace(config, label_table="auto")).start()
        assert started.generator.config.label_table == "freesurfer_aseg"
        assert "label_table: freesurfer_aseg" in (started.folder.path / "config.yaml").read_text()

    def test_the_phantom_works_with_and_without_sides(self, tmp_path):
        for name in ("all_purpose", "tutorial_2_sr_synthetic"):
            config = load_config(name, ["crop.shape=32"])
            table = "synthseg" if config.label_table == "auto" else config.label_table
            subject = phantom_subject(LabelTable.resolve(table), spacing_mm=4)
            job = GenerationJob(config=config, subjects=[subject], folder=tmp_path / name)
            assert run(job) == ["sample_000000"]

    def test_pictures_can_be_asked_for_later(self, make_job, tmp_path):
        run(make_job(num_samples=1))
        assert run(make_job(num_samples=1, preview=True)) == []
        found = {path.name for path in (tmp_path / "out").glob("*.png")}
        assert found == {"sample_000000_preview.png", "overview.png"}

    def test_a_file_that_is_no_record_is_refused(self, tmp_path):
        with pytest.raises(SynthSRError, match="does not exist"):
            remake_sample(tmp_path / "sample_000000.json")
        (tmp_path / "a.json").write_text("{}")
        with pytest.raises(SynthSRError, match="must be the JSON file of a sample"):
            remake_sample(tmp_path / "a.json")
