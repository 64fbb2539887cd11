"""Promises of structures: tables, the labels that they group, and the target of a segmentation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchio import LabelMap, ScalarImage, Subject

import synthsr_transforms as synth
from synthsr_transforms.labels.structures import StructureTable, ready_names
from synthsr_transforms.labels.table import LabelTable
from synthsr_transforms.support.messages import SynthSRError

HEADER = "value\tname\tlabels\n"


def written(folder: Path, *rows: str) -> Path:
    """File of a table with these rows."""
    path = folder / "structures.tsv"
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


class TestTables:
    @pytest.mark.parametrize("name", LabelTable.ready_names())
    def test_every_ready_label_table_has_its_structures(self, name):
        table = LabelTable.ready(name)
        assert StructureTable.resolve("auto", table) == StructureTable.ready("freesurfer")

    def test_sides_are_grouped_alike(self):
        lookup = StructureTable.ready("freesurfer").lookup()
        table = LabelTable.ready("freesurfer_aparc_aseg")
        swapped, mirrored = table.swapped_values(), LabelTable.ready("freesurfer_aseg")
        opposite = mirrored.swapped_values() | {258: 258}
        for value in table.values:
            group = int(lookup[value])
            if swapped[value] != value:
                assert int(lookup[swapped[value]]) == opposite[group], value

    def test_labels_and_ranges_belong_to_a_structure(self, tmp_path):
        path = written(tmp_path, "0\tnothing\t", "7\tliver\t12 20-22", "9\tspleen\t")
        table = StructureTable.read(path)
        assert (table.values, table.names) == ([0, 7, 9], ["nothing", "liver", "spleen"])
        assert table.lookup()[[0, 7, 9, 12, 20, 21, 22, 13]].tolist() == [0, 7, 9, 7, 7, 7, 7, 0]

    def test_other_labels_are_structures_of_their_own(self):
        table = LabelTable.from_values([0, 700, 701], sort=False)
        structures = StructureTable.resolve("auto", table)
        assert structures.values == [0, 700, 701]
        assert len(set(structures.names)) == 3

    def test_a_background_is_added(self):
        assert StructureTable.of_labels(LabelTable.from_values([4, 5])).values == [0, 4, 5]

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (["7\tliver\t", "0\tnothing\t"], "value 0"),
            (["0\tnothing\t"], "at least one more"),
            (["0\tnothing\t", "7\tliver\t", "7\tspleen\t"], "each value"),
            (["0\tnothing\t", "7\tliver\t", "8\tliver\t"], "each name"),
            (["0\tnothing\t", "7\tliver\t9", "8\tspleen\t9"], "each label"),
            (["0\tnothing\t", "7\tliver\t9-x"], "line 3"),
            (["0\tnothing\t", "x\tliver\t9"], "line 3"),
            (["0\tnothing\t", "7 8\tliver\t9"], "whole number"),
            (["0\tnothing\t", "7\tliver"], "3 cells"),
            (["0\tnothing\t", "7\tliver\t0-99999999999"], "at most"),
        ],
    )
    def test_wrong_tables_are_refused(self, tmp_path, rows, message):
        with pytest.raises(SynthSRError, match=message):
            StructureTable.read(written(tmp_path, *rows))

    def test_missing_labels_are_named(self, tmp_path):
        path = written(tmp_path, "0\tnothing\t", "2\twhite\t")
        with pytest.raises(SynthSRError, match="lack 3"):
            StructureTable.resolve(str(path), LabelTable.from_values([0, 2, 3]))

    def test_names_are_suggested(self):
        with pytest.raises(SynthSRError, match="did you mean 'freesurfer'"):
            StructureTable.ready("freesurfr")
        assert ready_names() == ("freesurfer",)


class TestGroupLabels:
    @pytest.fixture
    def subject(self):
        """Labels of both sides in slabs along the first axis, with an image."""
        values = torch.tensor([0, 506, 2, 1005, 2005, 41, 31, 63]).repeat_interleave(2)
        labels = values.view(1, 16, 1, 1).expand(1, 16, 12, 12).contiguous()
        image = torch.ones(1, 16, 12, 12)
        return Subject(labels=LabelMap(labels), image=ScalarImage(image))

    @pytest.fixture
    def table(self):
        rows = [*LabelTable.ready("freesurfer_aparc_aseg").rows]
        rows.append(LabelTable.ready("synthseg").row(506)._replace(label_class=0))
        return LabelTable(tuple(rows))

    def test_every_voxel_gets_its_structure(self, subject, table):
        made = synth.GroupLabels(label_table=table)(subject)
        assert isinstance(made["target"], LabelMap)
        slabs = made["target"].data[0, ::2, 0, 0].tolist()
        assert slabs == [0, 258, 2, 3, 42, 41, 4, 43]
        assert torch.equal(made["labels"].data, subject["labels"].data)

    def test_what_is_stripped_is_background(self, subject, table):
        made = synth.GroupLabels(label_table=table)(subject)
        strip = synth.SkullStripping(label_table=table, include=["image", "target"])
        target = strip(made)["target"].data
        assert not target.is_floating_point()
        assert target[0, ::2, 0, 0].tolist() == [0, 0, 2, 3, 42, 41, 4, 43]

    def test_label_maps_that_are_not_named_stay(self, subject, table):
        made = synth.GroupLabels(label_table=table)(subject)
        for mask in (
            synth.SkullStripping(label_table=table),
            synth.PartialFieldOfView(fraction=0.5),
        ):
            assert torch.equal(mask(made)["target"].data, made["target"].data)

    def test_a_part_outside_the_field_of_view_is_background(self, subject, table):
        made = synth.GroupLabels(label_table=table)(subject)
        view = synth.PartialFieldOfView(fraction=0.5, include=["image", "target"])
        seen = view(made, generator=torch.Generator().manual_seed(1))
        inside = seen["image"].data > 0
        assert 0 < inside.float().mean() < 1
        expected = torch.where(inside, made["target"].data, 0)
        assert torch.equal(seen["target"].data, expected)

    def test_the_preset_shows_only_what_the_target_has(self, make_labels):
        generator = synth.Generator.from_preset(
            "segmentation",
            {"crop.shape": 16, "crop.multiple_of": 8, "skull_stripping.p": 1, "lesions.p": 1},
        )
        labels = make_labels((20, 18, 22), 0)
        pair = generator.pair(Subject(labels=LabelMap(labels)), seed=3)
        allowed = {*StructureTable.ready("freesurfer").values}
        assert {*pair.target.unique().tolist()} <= allowed
        assert pair.target.shape == pair.image.shape == pair.labels.shape
        grouped = StructureTable.ready("freesurfer").lookup()[pair.labels.long()]
        shown = pair.target != 0
        assert torch.equal(pair.target[shown], grouped[shown])
