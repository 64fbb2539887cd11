"""Promises of subjects: how files are matched, read and checked."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import save
from torchio import LabelMap, ScalarImage

from synthsr_transforms.io.files import VolumeError, unread_scans
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.subjects.files import (
    PHANTOM,
    SubjectFiles,
    check_subjects,
    find_subjects,
    phantom_subject,
    read_subject,
    subject_affine,
    subject_shape,
)

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def labels(*values: int, shape: tuple[int, int, int] = (4, 5, 6)) -> np.ndarray:
    data = np.zeros(shape, np.int16)
    for k, value in enumerate(values):
        data[k] = value
    return data


class TestFindSubjects:
    def test_label_maps_are_sorted_by_name(self, tmp_path):
        touch(tmp_path / "labels", "b.nii.gz", "a.mgz", "c.NII", "notes.txt", ".hidden.nii")
        assert [c.labels.name for c in find_subjects(tmp_path / "labels")] == [
            "a.mgz",
            "b.nii.gz",
            "c.NII",
        ]

    @pytest.mark.parametrize(
        ("label_map", "image"),
        [
            ("a.nii.gz", "a.mgz"),
            ("brain1_labels.nii", "brain1.nii"),
            ("brain1_labels.nii", "brain1_T1w_norm.nii"),
            ("brain1.nii", "brain1_T1w.nii"),
            ("sub-01_labels.mgz", "sub-01_norm.mgz"),
            ("sub-01_ses-2_aparc+aseg.mgz", "sub-01_ses-2_run-1_T1w.nii.gz"),
            ("01_seg.nii.gz", "01_T2.nii.gz"),
            ("CASE_001.nii.gz", "CASE_001_0000.nii.gz"),
            ("CASE_001.nii.gz", "CASE_001_0003.nii.gz"),
            ("BRATS_0001.nii.gz", "BRATS_0001_0000.nii.gz"),
            ("heads.nii.gz", "heads_0000.nii"),
        ],
    )
    def test_names_that_belong_together_are_matched(self, label_map, image, tmp_path):
        others = ("other_x.nii", "sub-02_norm.mgz", "brain11.nii", "11_T2.nii")
        touch(tmp_path / "labels", label_map)
        touch(tmp_path / "images", image, *others)
        (subject,) = find_subjects(tmp_path / "labels", tmp_path / "images")
        assert (subject.labels.name, subject.image.name) == (label_map, image)

    @pytest.mark.parametrize(
        ("label_map", "image"),
        [
            ("training_seg_01.nii", "training_img_01.nii"),
            ("subject_001.nii", "subject_002.nii"),
            ("subject_labels.nii", "subject_002.nii"),
            ("sub-01_labels.nii", "sub-02_labels_T1w.nii"),
            ("sub-01_ses-1_dseg.nii", "sub-01_ses-2_T1w.nii"),
            ("sub-01_ses-1_dseg.nii", "sub-01_T1w.nii"),
            ("sub-1_dseg.nii", "sub-10_T1w.nii"),
            ("brain1_labels.nii", "brain10.nii"),
            ("john_smith_labels.nii", "john_doe_T1w.nii"),
            ("CASE_001.nii", "CASE_002_0000.nii"),
            ("CASE_001.nii", "CASE_001_2019.nii"),
            ("CASE.nii", "CASE_001_0000.nii"),
        ],
    )
    def test_names_that_may_be_of_others_are_refused(self, label_map, image, tmp_path):
        touch(tmp_path / "labels", label_map)
        touch(tmp_path / "images", image)
        with pytest.raises(VolumeError, match=f"got none for {label_map}"):
            find_subjects(tmp_path / "labels", tmp_path / "images")

    def test_order_never_matches(self, tmp_path):
        touch(tmp_path / "labels", "a_labels.nii", "b_labels.nii")
        touch(tmp_path / "images", "b_T1w.nii", "a_T1w.nii")
        subjects = find_subjects(tmp_path / "labels", tmp_path / "images")
        assert [c.image.name for c in subjects] == ["a_T1w.nii", "b_T1w.nii"]

    def test_the_same_name_wins_over_a_similar_one(self, tmp_path):
        touch(tmp_path / "labels", "sub-01_x.nii")
        touch(tmp_path / "images", "sub-01_a.nii", "sub-01_x.mgz")
        (subject,) = find_subjects(tmp_path / "labels", tmp_path / "images")
        assert subject.image.name == "sub-01_x.mgz"

    def test_several_images_for_a_label_map_are_named(self, tmp_path):
        touch(tmp_path / "labels", "sub-01_dseg.nii")
        touch(tmp_path / "images", "sub-01_T1w.nii", "sub-01_T2w.nii")
        with pytest.raises(VolumeError, match=r"sub-01_T1w.nii, sub-01_T2w.nii for sub-01_dseg"):
            find_subjects(tmp_path / "labels", tmp_path / "images")

    def test_an_image_that_serves_two_label_maps_is_named(self, tmp_path):
        touch(tmp_path / "labels", "sub-01_a.nii", "sub-01_b.nii")
        touch(tmp_path / "images", "sub-01_T1w.nii")
        with pytest.raises(VolumeError, match=r"sub-01_a.nii and sub-01_b.nii for sub-01_T1w"):
            find_subjects(tmp_path / "labels", tmp_path / "images")

    def test_label_maps_without_image_are_counted_when_they_are_many(self, tmp_path):
        touch(tmp_path / "labels", *(f"brain{k}_labels.nii" for k in range(9)))
        touch(tmp_path / "images", "brain3_T1w.nii")
        with pytest.raises(VolumeError, match=r"brain0_labels.nii, .* and 4 more"):
            find_subjects(tmp_path / "labels", tmp_path / "images")

    def test_two_single_files_go_together_whatever_their_names(self, tmp_path):
        touch(tmp_path / "x", "aseg.mgz", "T1.mgz")
        (subject,) = find_subjects(tmp_path / "x" / "aseg.mgz", tmp_path / "x" / "T1.mgz")
        assert (subject.labels.name, subject.image.name) == ("aseg.mgz", "T1.mgz")

    def test_label_maps_among_the_images_are_no_images(self, tmp_path):
        name = "paired_T1_labels.nii"
        folder = touch(tmp_path / "both", name, "paired_T1.nii", "other.nii")
        (subject,) = find_subjects(folder / name, folder)
        assert subject.image.name == "paired_T1.nii"
        (folder / name).write_bytes(b"labels")
        touch(tmp_path / "labels", name)
        (tmp_path / "labels" / name).write_bytes(b"labels")
        (subject,) = find_subjects(tmp_path / "labels", folder)
        assert subject.image.name == "paired_T1.nii"
        (folder / "paired_T1_norm.nii").touch()
        with pytest.raises(VolumeError, match=r"paired_T1.nii, paired_T1_norm.nii for paired_T1_l"):
            find_subjects(folder / name, folder)

    def test_one_folder_for_both_is_refused(self, tmp_path):
        touch(tmp_path / "x", "sub-01_labels.nii", "sub-01_norm.nii")
        with pytest.raises(VolumeError, match="two folders"):
            find_subjects(tmp_path / "x", tmp_path / "x")

    def test_a_pattern_chooses_a_channel(self, tmp_path):
        touch(tmp_path / "labels", "CASE_1.nii", "CASE_2.nii")
        images = tmp_path / "images"
        touch(images, *(f"CASE_{case}_000{channel}.nii" for case in (1, 2) for channel in (0, 1)))
        with pytest.raises(VolumeError, match=r"CASE_1_0000.nii, CASE_1_0001.nii for CASE_1.nii"):
            find_subjects(tmp_path / "labels", images)
        subjects = find_subjects(tmp_path / "labels", images / "*_0001.nii", all_images=True)
        assert [s.image.name for s in subjects] == ["CASE_1_0001.nii", "CASE_2_0001.nii"]
        with pytest.raises(VolumeError, match="does not exist"):
            find_subjects(tmp_path / "labels", images / "*_0002.nii")

    def test_subfolders_are_part_of_names(self, tmp_path):
        for name in ("labels", "images", *(f"{a}/{b}" for a in ("labels", "images") for b in "12")):
            touch(tmp_path / name)
        for name in ("labels/1/seg.nii", "labels/2/seg.nii", "images/1/T1.nii", "images/2/T1.nii"):
            (tmp_path / name).touch()
        for where in (("labels", "images"), ("labels/*/seg.nii", "images/**/T1.nii")):
            subjects = find_subjects(*(tmp_path / name for name in where), recursive=True)
            assert [s.image.parent.name for s in subjects] == ["1", "2"]
        with pytest.raises(VolumeError, match=r"2 files are in subfolders .*--recursive"):
            find_subjects(tmp_path / "labels")


class TestFreeSurfer:
    @pytest.fixture
    def subjects(self, tmp_path: Path) -> Path:
        for name in ("bert", "ernie", "fsaverage", "lh.EC_average", "unfinished", "failed"):
            folder = tmp_path / "subjects" / name / ("scripts" if name == "failed" else "mri")
            folder.mkdir(parents=True)
            names = ("orig.mgz", "T1.mgz", "aparc+aseg.mgz", "aparc.a2009s+aseg.mgz")
            touch_all = () if name == "failed" else names[: 2 if name == "unfinished" else 4]
            for file in touch_all:
                (folder / file).touch()
        (tmp_path / "subjects" / "fsaverage5").symlink_to("/freesurfer/subjects/fsaverage5")
        (tmp_path / "subjects" / "away").symlink_to(".git/annex/objects/away")
        (tmp_path / "subjects" / "notes").mkdir()
        return tmp_path / "subjects"

    def test_label_maps_of_all_subjects(self, subjects):
        found = find_subjects(subjects)
        assert [s.name for s in found] == ["bert", "ernie"]
        assert found[0].labels == subjects / "bert" / "mri" / "aparc+aseg.mgz"
        (said,) = unread_scans(subjects, freesurfer="aparc+aseg.mgz")
        assert said.endswith("without mri/aparc+aseg.mgz are left out: away, failed, unfinished.")

    @pytest.mark.parametrize("everything", [False, True])
    def test_their_images(self, subjects, everything):
        found = find_subjects(subjects, subjects, all_images=everything)
        assert [s.image for s in found] == [
            subjects / "bert" / "mri" / "orig.mgz",
            subjects / "ernie" / "mri" / "orig.mgz",
        ]

    def test_other_files_by_patterns(self, subjects):
        labels, images = subjects / "*" / "mri" / "aparc.a2009s+aseg.mgz", subjects / "*/mri/T1.mgz"
        found = find_subjects(labels, images)
        assert [(s.labels.name, s.image.name) for s in found][:1] == [(labels.name, "T1.mgz")]
        assert [s.name for s in found] == ["bert", "ernie", "fsaverage", "lh.EC_average"]

    def test_images_elsewhere_are_paired_by_subject(self, subjects, tmp_path):
        touch(tmp_path / "images", "ernie.nii", "bert_T2w.nii")
        found = find_subjects(subjects, tmp_path / "images")
        assert [(s.name, s.image.name) for s in found] == [
            ("bert", "bert_T2w.nii"),
            ("ernie", "ernie.nii"),
        ]
        touch(tmp_path / "labels", "bert.nii")
        (found,) = find_subjects(tmp_path / "labels", subjects)
        assert found.image == subjects / "bert" / "mri" / "orig.mgz"

    def test_one_subject_by_its_folder(self, subjects):
        for folder in (subjects / "bert", subjects / "bert" / "mri"):
            (found,) = find_subjects(folder, folder)
            assert (found.name, found.image.name) == ("bert", "orig.mgz")

    def test_a_subject_without_image_is_named(self, subjects):
        (subjects / "ernie" / "mri" / "orig.mgz").unlink()
        with pytest.raises(VolumeError, match=r"got none for ernie"):
            find_subjects(subjects, subjects)

    def test_subjects_without_label_maps(self, subjects):
        for file in subjects.glob("*/mri/aparc+aseg.mgz"):
            file.unlink()
        with pytest.raises(VolumeError, match=r"none of 5 has one. Name another by a pattern"):
            find_subjects(subjects)


class TestReadSubject:
    def test_both_images_come_in_ras_and_metadata_stays_empty(self, tmp_path):
        lia = np.array([[-1, 0, 0, 5], [0, 0, 2, -3], [0, -1.5, 0, 9], [0, 0, 0, 1]], float)
        a = save(tmp_path / "a.nii", labels(2, 41), lia)
        b = save(tmp_path / "b.nii", np.random.default_rng(0).random((4, 5, 6)), lia)
        subject = read_subject(SubjectFiles(a, b))
        assert isinstance(subject.images["labels"], LabelMap)
        assert isinstance(subject.images["target"], ScalarImage)
        assert subject.labels.data.dtype == torch.int16
        assert subject.target.data.dtype == torch.float32
        assert subject.labels.shape == subject.target.shape == (1, 4, 6, 5)
        for image in (subject.labels, subject.target):
            assert "".join(nib.aff2axcodes(np.asarray(image.affine.data))) == "RAS"
        assert subject.metadata == {}

    def test_the_image_may_be_stored_in_another_orientation(self, tmp_path):
        data = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
        a = save(tmp_path / "a.nii", labels(2), AFFINE)
        turned = nib.Nifti1Image(data, AFFINE).as_reoriented(
            np.array([[2, -1], [0, 1], [1, -1]], float)
        )
        nib.save(turned, tmp_path / "b.nii")
        subject = read_subject(SubjectFiles(a, tmp_path / "b.nii"))
        np.testing.assert_array_equal(subject.target.data[0].numpy(), data)

    def test_large_labels_take_int32(self, tmp_path):
        path = save(tmp_path / "a.nii", labels(2).astype(np.int32) + 40000)
        assert read_subject(SubjectFiles(path)).labels.data.dtype == torch.int32

    def test_the_image_can_have_another_name(self, tmp_path):
        a, b = (save(tmp_path / f"{n}.nii", labels(2)) for n in "ab")
        assert set(read_subject(SubjectFiles(a, b), target="real").images) == {"labels", "real"}

    def test_shapes_that_differ_are_named_with_both_files(self, tmp_path):
        a = save(tmp_path / "a.nii", labels(2))
        b = save(tmp_path / "b.nii", np.zeros((4, 5, 7), np.float32))
        with pytest.raises(VolumeError, match=r"b.nii .*a.nii.*\(4, 5, 7\) and \(4, 5, 6\)"):
            read_subject(SubjectFiles(a, b))

    def test_an_image_beside_its_label_map_is_refused(self, tmp_path):
        a = save(tmp_path / "a.nii", labels(2))
        moved = np.eye(4)
        moved[0, 3] = 1
        b = save(tmp_path / "b.nii", np.zeros((4, 5, 6), np.float32), moved)
        with pytest.raises(VolumeError, match=r"places in the world"):
            read_subject(SubjectFiles(a, b))


class TestHeaders:
    """Label maps are read by the affine that scans are read by."""

    @pytest.mark.parametrize(
        ("sform", "pixdim", "unit"),
        [
            (np.diag([-1.0, -1, 1, 1]), (2, 2, 6), "mm"),
            (np.eye(4), (2, 2, 6), "mm"),
            (np.diag([0.002, 0.002, 0.006, 1]), (0.002, 0.002, 0.006), "meter"),
        ],
    )
    def test_spacing_that_the_sform_lacks_is_found(self, tmp_path, sform, pixdim, unit):
        image = nib.Nifti1Image(labels(shape=(60, 70, 20)), None)
        image.set_qform(np.diag([-pixdim[0], -pixdim[1], pixdim[2], 1]), 1)
        image.set_sform(sform, 1)
        image.header["pixdim"][1:4] = pixdim
        image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / "a.nii")
        subject = read_subject(SubjectFiles(tmp_path / "a.nii"))
        np.testing.assert_allclose(subject["labels"].spacing, (2, 2, 6), rtol=1e-5)

    @pytest.mark.parametrize("degrees", [0.6, 3, -12, 20])
    def test_sheared_label_maps_are_refused(self, tmp_path, degrees):
        affine = np.eye(4)
        affine[1, 2] = np.tan(np.deg2rad(degrees))
        nib.save(nib.Nifti1Image(labels(shape=(6, 7, 8)), affine), tmp_path / "a.nii")
        with pytest.raises(VolumeError, match=f"{abs(degrees):.1f} degrees off"):
            read_subject(SubjectFiles(tmp_path / "a.nii"))


class TestChecks:
    def test_values_are_those_of_all_label_maps(self, tmp_path):
        subjects = [
            SubjectFiles(save(tmp_path / "a.nii", labels(2, 41))),
            SubjectFiles(save(tmp_path / "b.nii", labels(4, 4464, shape=(4, 4, 4)))),
        ]
        seen: list[SubjectFiles] = []
        assert check_subjects(subjects, seen.append) == {0, 2, 41, 4, 4464}
        assert seen == subjects

    def test_bad_images_are_found_early(self, tmp_path):
        a = save(tmp_path / "a.nii", labels(2))
        b = save(tmp_path / "b.nii", np.full((4, 5, 6), np.nan, np.float32))
        with pytest.raises(VolumeError, match=r"b.nii must hold finite numbers"):
            check_subjects([SubjectFiles(a, b)])

    def test_label_maps_of_background_alone_are_named(self, tmp_path):
        subjects = [
            SubjectFiles(save(tmp_path / f"{n}.nii", labels(*v)))
            for n, v in (("a", [2]), ("b", []))
        ]
        with pytest.raises(VolumeError, match=r"b.nii must hold labels, got background 0 alone"):
            check_subjects(subjects)

    def test_affine_and_shape_need_no_voxels(self, tmp_path):
        lia = np.array([[-1, 0, 0, 5], [0, 0, 2, -3], [0, -1.5, 0, 9], [0, 0, 0, 1]], float)
        path = save(tmp_path / "a.nii", labels(2)[..., None], lia)
        assert subject_shape(SubjectFiles(path)) == (4, 6, 5)
        np.testing.assert_array_equal(subject_affine(SubjectFiles(path)), lia)

    @pytest.mark.parametrize("name", ["a.npz", "a.mgz"])
    def test_other_formats_have_affine_and_shape(self, name, tmp_path):
        path = tmp_path / name
        if name == "a.npz":
            np.savez(path, vol_data=labels(2))
        else:
            nib.save(nib.MGHImage(labels(2), np.eye(4)), path)
        assert subject_shape(SubjectFiles(path)) == (4, 5, 6)
        np.testing.assert_array_equal(subject_affine(SubjectFiles(path)), np.eye(4))

    def test_what_is_wrong_with_a_file_is_said(self, tmp_path):
        path = tmp_path / "a.nii"
        path.write_bytes(b"no volume")
        with pytest.raises(VolumeError, match=r"a.nii cannot be read as a volume"):
            subject_affine(SubjectFiles(path))


class TestPhantom:
    @pytest.mark.parametrize("name", ["synthseg", "synthsr", "freesurfer_aseg"])
    def test_every_value_is_in_the_table(self, name):
        table = LabelTable.ready(name)
        values = check_subjects([phantom_subject(table, spacing_mm=4)])
        assert not table.unknown_values(values)
        assert {2, 3, 4} <= values

    def test_a_table_without_sides_merges_right_into_left(self):
        sided = read_subject(
            phantom_subject(LabelTable.ready("synthseg"), spacing_mm=4)
        ).labels.data
        merged = read_subject(
            phantom_subject(LabelTable.ready("synthsr"), spacing_mm=4)
        ).labels.data
        assert (merged == 10).sum() == (sided == 10).sum() + (sided == 49).sum()
        assert not merged[sided == 515].any()

    def test_it_is_a_subject_without_files(self):
        subject = phantom_subject(LabelTable.ready("synthseg"), spacing_mm=4)
        assert (subject.labels, subject.image) == (PHANTOM, None)
        assert subject_shape(subject) == tuple(read_subject(subject).labels.spatial_shape)
        np.testing.assert_array_equal(
            subject_affine(subject), np.asarray(read_subject(subject).labels.affine.data)
        )

    def test_a_table_of_other_labels_is_refused(self):
        with pytest.raises(VolumeError, match="must hold labels of the head phantom"):
            read_subject(phantom_subject(LabelTable.from_values([0, 1001]), spacing_mm=4))
