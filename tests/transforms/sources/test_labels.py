"""Promises of label tables: order, sides, classes, pairs, look-ups and files."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    SHARED_DATA,
)
from hypothesis import given
from hypothesis import strategies as st

from synthsr_transforms.io.files import list_volumes
from synthsr_transforms.labels.files import COLUMNS
from synthsr_transforms.labels.rows import MAX_VALUE, TISSUES, LabelRow, side_of
from synthsr_transforms.labels.summary import report_label_maps
from synthsr_transforms.labels.table import LabelTable

needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason=f"example data is not in {SHARED_DATA}"
)
READY = LabelTable.ready_names()
HEADER = "\t".join(COLUMNS)
NEUTRAL = st.sampled_from([0, 14, 15, 16, 24, 72, 85, 165, 251, 507, 530])
LEFT = st.sampled_from([2, 3, 4, 10, 17, 28, 136, 137, 1001, 1035])
RIGHT = st.sampled_from([41, 42, 43, 49, 53, 60, 163, 164, 2001, 2035])


def table_file(folder: Path, *lines: str) -> Path:
    path = folder / "mine.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class TestSides:
    @pytest.mark.parametrize(
        ("values", "side"),
        [
            ((0, 14, 16, 21, 24, 72, 100, 109, 165, 210, 255, 260, 340, 507, 517, 537), "neutral"),
            ((1, 13, 17, 20, 25, 39, 136, 138, 865, 1000, 1035, 20101, 20109), "left"),
            ((40, 71, 139, 163, 164, 866, 2000, 2035, 20001, 20009), "right"),
        ],
    )
    def test_ends_of_the_intervals_have_their_side(self, values, side):
        assert {side_of(value) for value in values} == {side}

    @pytest.mark.parametrize("value", [-1, 73, 110, 135, 140, 503, 510, 999, 1036, 2036, 30000])
    def test_values_outside_the_intervals_are_an_error(self, value):
        with pytest.raises(ValueError, match=rf"known side, got {value}\. Use a \.tsv"):
            side_of(value)


class TestOrder:
    @given(st.lists(NEUTRAL | LEFT | RIGHT, min_size=1))
    def test_labels_are_unique_and_sorted_by_side_then_value(self, values):
        table = LabelTable.from_values(values, classes=[0] * len(values))
        rank = {"neutral": 0, "left": 1, "right": 2}
        assert set(table.values) == set(values)
        assert list(table.values) == sorted(set(values), key=lambda v: (rank[side_of(v)], v))

    def test_constructor_sorts_unless_the_order_is_kept(self):
        rows = (LabelRow(2, "b", "left", 0, "csf"), LabelRow(0, "a", "neutral", 0, "background"))
        assert LabelTable(rows).values == (0, 2)
        assert LabelTable(rows, keep_order=True).values == (2, 0)

    def test_without_sorting_the_list_stays_and_nothing_has_a_side(self):
        table = LabelTable.from_values([41, 0, 999, 2], sort=False)
        assert table.values == (41, 0, 999, 2)
        assert set(table.sides) == {"neutral"}
        assert table.classes == (0, 1, 2, 3)
        assert table.swapped_values() == {41: 41, 0: 0, 999: 999, 2: 2}

    def test_without_sorting_repeated_values_are_an_error(self):
        with pytest.raises(ValueError, match="each value must occur once, got 2 repeatedly"):
            LabelTable.from_values([0, 2, 2], sort=False)


class TestClasses:
    @given(st.lists(NEUTRAL | LEFT | RIGHT, min_size=1, unique=True), st.randoms())
    def test_classes_follow_their_values_when_they_are_sorted(self, values, random):
        classes = list(range(len(values)))
        random.shuffle(classes)
        table = LabelTable.from_values(values, classes)
        assert dict(zip(table.values, table.classes, strict=True)) == dict(
            zip(values, classes, strict=True)
        )

    def test_by_default_partners_share_a_class_and_others_do_not(self):
        table = LabelTable.from_values([0, 16, 2, 3, 41, 42])
        assert table.classes == (0, 1, 2, 3, 2, 3)
        assert table.num_classes == 4

    def test_by_default_every_label_of_a_one_sided_list_has_its_own_class(self):
        assert LabelTable.from_values([0, 2, 3]).classes == (0, 1, 2)

    def test_one_class_per_label_as_in_the_original(self):
        assert LabelTable.from_values([0, 2, 41], classes=range(3)).classes == (0, 1, 2)

    def test_a_repeated_value_may_repeat_its_class_but_not_change_it(self):
        assert LabelTable.from_values([0, 2, 2], classes=[0, 1, 1]).classes == (0, 1)
        with pytest.raises(ValueError, match=r"one class, got 0 and 1 \(value 2\)"):
            LabelTable.from_values([0, 2, 2], classes=[0, 0, 1])

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            ([0, 2], r"0, 1, \.\.\., K-1 with none left out, got 0, 2"),
            ([1, 2], r"got 1, 2\. Renumber"),
            ([0], r"as many as values \(2\), got 1"),
            ([0, 0.5], r"classes must be integers, got 0\.5"),
        ],
    )
    def test_wrong_classes_are_an_error(self, classes, message):
        with pytest.raises(ValueError, match=message):
            LabelTable.from_values([0, 2], classes)

    @pytest.mark.parametrize("name", READY)
    def test_class_names_are_distinct(self, name):
        table = LabelTable.ready(name)
        assert len(set(table.class_names)) == table.num_classes

    def test_class_is_named_after_its_labels_without_the_side(self):
        table = LabelTable.from_values([0, 10, 49])
        assert table.class_names == ("background", "thalamus")

    def test_equal_class_names_get_numbers(self):
        table = LabelTable.from_values([0, 10, 49], classes=range(3))
        assert table.class_names == ("background", "thalamus (class 1)", "thalamus (class 2)")


class TestPartners:
    @given(st.lists(NEUTRAL), st.data())
    def test_swapping_is_its_own_inverse_and_exchanges_the_sides(self, neutral, data):
        left = data.draw(st.lists(LEFT, unique=True, min_size=1))
        right = data.draw(st.lists(RIGHT, unique=True, min_size=len(left), max_size=len(left)))
        table = LabelTable.from_values([*neutral, *left, *right])
        swapped = table.swapped_values()
        assert {swapped[swapped[value]] for value in table.values} == set(table.values)
        assert all(swapped[value] == value for value in neutral)
        assert [swapped[value] for value in sorted(left)] == sorted(right)

    def test_unequal_sides_are_an_error_that_lists_them(self):
        table = LabelTable.from_values([0, 2, 3, 41], classes=range(4))
        with pytest.raises(ValueError, match=r"got 2 left \(2, 3\) and 1 right \(41\)\. Add"):
            table.swapped_values()

    def test_unequal_sides_cannot_share_classes_by_default(self):
        with pytest.raises(ValueError, match="numbers of left and right labels must be equal"):
            LabelTable.from_values([0, 2, 3, 41])

    def test_one_sided_labels_stay(self):
        assert LabelTable.from_values([0, 2, 3]).swapped_values() == {0: 0, 2: 2, 3: 3}

    def test_lookup_swaps_a_label_map_and_keeps_other_values(self):
        lookup = LabelTable.from_values([0, 2, 41]).swap_lookup()
        label_map = torch.tensor([[0, 2, 41], [5, 40, 2]], dtype=torch.uint8)
        assert lookup.dtype == torch.int64
        assert lookup[label_map.long()].tolist() == [[0, 41, 2], [5, 40, 41]]

    @pytest.mark.parametrize("name", READY)
    def test_ready_partners_mirror_one_another(self, name):
        table = LabelTable.ready(name)
        for value, partner in table.swapped_values().items():
            here, there = table.row(value), table.row(partner)
            assert here.label_class == there.label_class
            assert here.tissue == there.tissue
            assert here.name.removeprefix("left ") == there.name.removeprefix("right ") or (
                there.name.removeprefix("left ") == here.name.removeprefix("right ")
            )


class TestLookups:
    @pytest.mark.parametrize("name", READY)
    def test_lookups_give_class_and_row_of_every_value(self, name):
        table = LabelTable.ready(name)
        assert table.class_lookup()[list(table.values)].tolist() == list(table.classes)
        assert table.index_lookup()[list(table.values)].tolist() == list(range(len(table)))

    def test_values_outside_the_table_look_up_minus_one(self):
        table = LabelTable.from_values([0, 3])
        assert table.class_lookup().tolist() == [0, -1, -1, 1]
        assert table.index_lookup().tolist() == [0, -1, -1, 1]


class TestQuestions:
    @pytest.mark.parametrize("name", READY)
    def test_tissues_share_out_the_labels(self, name):
        table = LabelTable.ready(name)
        by_tissue = [value for tissue in TISSUES for value in table.values_of(tissue)]
        assert sorted(by_tissue) == sorted(table.values)

    @pytest.mark.parametrize("name", READY)
    def test_brain_is_what_is_neither_background_nor_extracerebral(self, name):
        table = LabelTable.ready(name)
        outside = {*table.values_of("background"), *table.values_of("extracerebral")}
        assert set(table.brain_values) == set(table.values) - outside

    def test_unknown_tissue_suggests_the_nearest(self):
        with pytest.raises(ValueError, match="did you mean 'white_matter'"):
            LabelTable.ready("synthsr").values_of("white_mater")

    def test_unknown_values_are_sorted_and_unique(self):
        values = np.array([500, 2, 400, 500])
        assert LabelTable.ready("synthsr").unknown_values(values) == (400, 500)

    def test_row_of_a_value_outside_the_table_is_an_error(self):
        with pytest.raises(ValueError, match="must be in the label table, got 77"):
            LabelTable.ready("synthsr").row(77)

    def test_subset_keeps_rows_and_renumbers_classes_in_order(self):
        table = LabelTable.ready("synthsr").subset([31, 0, 8])
        assert table.values == (0, 8, 31)
        assert table.classes == (0, 1, 2)

    def test_subset_of_all_values_is_the_table(self):
        table = LabelTable.ready("synthseg")
        assert table.subset(table.values) == table

    def test_subset_with_unknown_values_is_an_error(self):
        with pytest.raises(ValueError, match="got 41, 999"):
            LabelTable.ready("synthsr").subset([0, 41, 999])


class TestRows:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ((-1, "a", "left", 0, "csf"), "value must be between 0 and"),
            ((MAX_VALUE + 1, "a", "left", 0, "csf"), "value must be between 0 and"),
            ((1, "a\tb", "left", 0, "csf"), "one line of text without tabs"),
            ((1, " ", "left", 0, "csf"), "one line of text"),
            ((1, "a", "lefft", 0, "csf"), "side must be one of .* .did you mean 'left'"),
            ((1, "a", "left", 0, "grey_mater"), "did you mean 'grey_matter'"),
            ((1, "a", "left", 1, "csf"), "with none left out"),
        ],
    )
    def test_wrong_cells_are_an_error(self, row, message):
        with pytest.raises(ValueError, match=message):
            LabelTable((LabelRow(*row),))

    def test_a_table_without_rows_is_an_error(self):
        with pytest.raises(ValueError, match="at least one row"):
            LabelTable(())

    def test_unknown_values_get_a_plain_name(self):
        row = LabelTable.from_values([0, 999], sort=False).row(999)
        assert (row.name, row.tissue) == ("label 999", "brain_other")

    def test_numpy_integers_become_plain_ones(self):
        table = LabelTable.from_values(np.array([0, 2], dtype=np.int16), np.array([0, 1]))
        assert {type(cell) for cell in (*table.values, *table.classes)} == {int}

    def test_fractional_values_are_an_error(self):
        with pytest.raises(ValueError, match=r"values must be integers, got 1\.5"):
            LabelTable.from_values([0, 1.5])


class TestValueSemantics:
    def test_equal_rows_make_equal_tables_with_equal_hashes(self):
        one, two = LabelTable.from_values([0, 2]), LabelTable.from_values([2, 0])
        assert one == two
        assert hash(one) == hash(two)
        assert one != LabelTable.from_values([0, 3])

    def test_tables_survive_pickling(self):
        table = LabelTable.from_values([2, 0, 41], sort=False)
        table.row(2)
        assert pickle.loads(pickle.dumps(table)) == table

    def test_tables_cannot_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            LabelTable.ready("synthsr").rows = ()

    def test_repr_is_one_short_line(self):
        expected = "LabelTable(54 labels: 18 neutral, 18 left, 18 right; 25 classes)"
        assert repr(LabelTable.ready("synthseg")) == expected


class TestFiles:
    @pytest.mark.parametrize("name", READY)
    def test_ready_tables_survive_a_round_trip(self, name, tmp_path):
        table = LabelTable.ready(name)
        table.write(tmp_path / "table.tsv")
        assert LabelTable.read(tmp_path / "table.tsv") == table

    @pytest.mark.parametrize("name", ["été  #1", "日本", '"quoted", comma'])
    def test_unusual_names_survive_a_round_trip(self, name, tmp_path):
        table = LabelTable((LabelRow(7, name, "right", 0, "lesion"),))
        table.write(tmp_path / "table.tsv")
        assert LabelTable.read(tmp_path / "table.tsv") == table

    def test_sides_of_a_file_need_not_follow_freesurfer(self, tmp_path):
        rows = ("5\tx\tright\t1\tcsf", "300\ty\tleft\t1\tcsf", "1\tz\tneutral\t0\tbackground")
        table = LabelTable.read(table_file(tmp_path, HEADER, *rows))
        assert table.values == (1, 300, 5)
        assert table.swapped_values() == {1: 1, 300: 5, 5: 300}

    def test_comments_blank_lines_column_order_and_windows_text_are_accepted(self, tmp_path):
        path = tmp_path / "mine.tsv"
        text = "# mine\r\n\r\ntissue\tclass\tside\tname\tvalue\r\ncsf\t0\tneutral\tv\t4\r\n"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert LabelTable.read(path).rows == (LabelRow(4, "v", "neutral", 0, "csf"),)

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ([""], "got an empty file"),
            (["value\tname"], r"columns must be .*got value, name \(.*line 1\)"),
            ([HEADER], r"at least one row, got none \(.*mine\.tsv\)"),
            ([HEADER, "1\ta\tleft\t0"], r"5 cells, got 4 \(.*mine\.tsv, line 2\)"),
            ([HEADER, "x\ta\tleft\t0\tcsf"], r"got 'x' \(.*mine\.tsv, line 2\)"),
            ([HEADER, "1\ta\tleft\t-1\tcsf"], r"got '-1' \(.*line 2\)"),
            (
                [HEADER, "# c", "1\ta\tlfet\t0\tcsf"],
                r"got 'lfet' \(did you mean 'left'\?\) \(.*mine\.tsv, line 3\)",
            ),
            ([HEADER, "1\ta\tleft\t0\tskull"], r"got 'skull' \(.*line 2\)"),
            ([HEADER, "1\t\tleft\t0\tcsf"], r"name must be one line .*line 2"),
            (
                [HEADER, "1\ta\tleft\t0\tcsf", "1\tb\tleft\t0\tcsf"],
                r"got 1 again, first in line 2 \(.*mine\.tsv, line 3\)",
            ),
            ([HEADER, "1\ta\tleft\t2\tcsf"], r"got 2 \(.*mine\.tsv\)\. Renumber"),
        ],
    )
    def test_errors_name_file_line_and_column(self, lines, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            LabelTable.read(table_file(tmp_path, *lines))

    def test_text_of_another_encoding_is_an_error(self, tmp_path):
        (tmp_path / "mine.tsv").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match="must be a UTF-8 text file"):
            LabelTable.read(tmp_path / "mine.tsv")

    def test_numpy_lists_are_read_with_and_without_classes(self, tmp_path):
        np.save(tmp_path / "labels.npy", np.array([41, 0, 2]))
        np.save(tmp_path / "classes.npy", np.array([2, 0, 1]))
        with_classes = LabelTable.read(tmp_path / "labels.npy", tmp_path / "classes.npy")
        assert LabelTable.read(tmp_path / "labels.npy").classes == (0, 1, 1)
        assert with_classes.values == (0, 2, 41)
        assert with_classes.classes == (0, 1, 2)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((2, 2), int), r"1-D array, got shape \(2, 2\) \(.*labels\.npy\)"),
            (np.array(["a"]), r"array of numbers.*labels\.npy\)\. Save numbers, not <U1"),
            (np.array([0.5]), r"list must be integers, got 0\.5 \(.*labels\.npy\)"),
            (np.array([0, 999]), r"got 999 \(.*labels\.npy\)\. Use a \.tsv"),
        ],
    )
    def test_wrong_numpy_lists_are_an_error_that_names_the_file(self, array, message, tmp_path):
        np.save(tmp_path / "labels.npy", array)
        with pytest.raises(ValueError, match=message):
            LabelTable.read(tmp_path / "labels.npy")

    def test_a_file_that_is_not_numpy_is_an_error(self, tmp_path):
        (tmp_path / "labels.npy").write_text("0 1 2")
        with pytest.raises(ValueError, match=r"\.npy array of numbers.*labels\.npy"):
            LabelTable.read(tmp_path / "labels.npy")

    def test_classes_beside_a_tsv_are_an_error(self, tmp_path):
        with pytest.raises(ValueError, match="Edit its class column"):
            LabelTable.read(table_file(tmp_path, HEADER), "classes.npy")

    @pytest.mark.parametrize("name", ["table.csv", "table"])
    def test_other_endings_are_an_error(self, name, tmp_path):
        with pytest.raises(ValueError, match=r"must be a \.tsv or \.npy file"):
            LabelTable.read(tmp_path / name)
        with pytest.raises(ValueError, match=r"must end in \.tsv"):
            LabelTable.ready("synthsr").write(tmp_path / name)

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, tmp_path, monkeypatch):
        path = tmp_path / "table.tsv"
        LabelTable.ready("synthsr").write(path)
        before = path.read_bytes()

        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            LabelTable.ready("synthseg").write(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


class TestResolve:
    def test_a_table_a_name_and_a_path_are_accepted(self, tmp_path):
        table = LabelTable.ready("synthsr")
        table.write(tmp_path / "mine.tsv")
        for spec in (table, "synthsr", tmp_path / "mine.tsv", str(tmp_path / "mine.tsv")):
            assert LabelTable.resolve(spec) == table

    def test_a_misspelt_name_suggests_the_nearest(self):
        with pytest.raises(
            ValueError, match=r"got 'freesurfer_asegg' \(did you mean 'freesurfer_a"
        ):
            LabelTable.resolve("freesurfer_asegg")
        with pytest.raises(ValueError, match="did you mean 'synthsr'"):
            LabelTable.ready("syntsr")

    def test_a_missing_file_says_so(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            LabelTable.resolve(tmp_path / "none.tsv")


@needs_shared_data
class TestPublishedData:
    @pytest.mark.parametrize(
        ("name", "classes"),
        [
            ("synthsr", "generation_classes.npy"),
            ("synthseg", "generation_classes_contrast_specific.npy"),
        ],
    )
    def test_ready_classes_are_the_published_ones(self, name, classes):
        folder = SHARED_DATA / "priors" / name
        values = np.load(folder / "generation_labels.npy").tolist()
        lookup = LabelTable.ready(name).class_lookup()
        assert lookup[values].tolist() == np.load(folder / classes).tolist()

    @pytest.mark.parametrize(
        ("name", "files"),
        [
            ("synthsr", "synthsr_labels/*"),
            ("synthseg", "synthseg_labels/*"),
            ("freesurfer_aseg", "real/paired_T1_labels/fsaverage_aseg.mgz"),
            ("freesurfer_aparc_aseg", "real/paired_T1_labels/*aseg.mgz"),
        ],
    )
    def test_ready_tables_cover_the_label_maps(self, name, files):
        paths = [p for path in sorted(SHARED_DATA.glob(files)) for p in list_volumes(path)]
        paths = [paths[0], paths[-1]]  # all are of one kind
        assert report_label_maps(paths, LabelTable.ready(name)).unknown_values == ()


def test_destrieux_parcels_are_cortex_on_both_sides():
    """Names are those of FreeSurfer's colour table, values 11100 to 11175 and 12100 to 12175."""
    table, published = LabelTable.ready("freesurfer_a2009s_aseg"), LabelTable.ready("synthsr")
    assert len([value for value in table.values if value > 100 and value < 11100]) == 5
    for value in range(11100, 11176):
        left, right = table.row(value), table.row(value + 1000)
        assert (left.side, right.side) == ("left", "right")
        assert table.swapped_values()[value] == value + 1000
        assert left.label_class == right.label_class == published.row(3).label_class
        assert left.name.split(": ")[1] == right.name.split(": ")[1]
    names = {11106: "G_and_S_cingul-Ant", 11142: "Medial_wall", 11165: "S_orbital-H_Shaped"}
    names |= {11101: "G_and_S_frontomargin", 11145: "S_calcarine", 11175: "S_temporal_transverse"}
    for value, name in names.items():
        assert table.row(value).name == f"left cortex: {name}"
    aseg, tutorial = LabelTable.ready("freesurfer_aseg"), LabelTable.ready("freesurfer_synthsr")
    assert all(table.row(value) == aseg.row(value) for value in aseg.values)
    assert not tutorial.unknown_values(table.values)
