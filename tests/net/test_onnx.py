"""Promises of the ONNX files of models: what they compute, hold, and say of themselves."""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    ROOT,
)
from torch import Tensor, nn

from synthsr_net.models.checkpoint import InputConfig, Model, ModelConfig, ScanConfig, save_model
from synthsr_net.models.onnx import export
from synthsr_net.models.onnx import graph as onnx_graph
from synthsr_net.models.onnx.export import config_of_metadata, export_onnx
from synthsr_net.networks.unet import ACTIVATIONS, MAX_LEVELS, NORMALISATIONS, UNet3d, UNetConfig
from synthsr_net.prediction.predictor import Predictor
from synthsr_net.prediction.refinement import contrast_inversion as inverse_contrast
from synthsr_net.prediction.refinement import data_consistency as consistency
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.volumes import read_volume, write_volume
from synthsr_transforms.support.messages import SynthSRError, WorkFailedError

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

DOCS = ROOT / "docs" / "export.md"


def network_of(seed: int = 0, **settings: Any) -> UNet3d:
    """A network with weights and statistics such as training leaves, ready for inference."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = UNet3d(UNetConfig(**{"num_levels": 3, "num_features": 4, **settings}))
        for name, tensor in network.state_dict().items():
            if tensor.ndim == 1:  # biases, and all that a normalisation has
                low = 0.5 if name.endswith(("weight", "var")) else -0.5
                tensor.uniform_(low, low + 1)
    return network.eval().requires_grad_(False)


def model_of(network: UNet3d | None = None, **settings: Any) -> Model:
    network = network or network_of()
    if "inputs" not in settings:
        names = [f"T{i + 1}" for i in range(network.config.in_channels)]
        settings["inputs"] = [InputConfig(name=name) for name in names]
    return Model(ModelConfig(network=network.config, **settings), network)


def session_of(path: Path | str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options)


def computed(path: Path, x: Tensor) -> Tensor:
    (output,) = session_of(path).run(["prediction"], {"image": x.numpy()})
    assert output.dtype == np.float32
    return torch.from_numpy(output)


def noise(*shape: int, seed: int = 7) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def assert_same(output: Tensor, expected: Tensor) -> None:
    scale = max(float(expected.max() - expected.min()), float(expected.abs().max()))
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5 * scale)


class TestNetworks:
    @pytest.mark.parametrize(
        ("activation", "normalisation"), [*itertools.product(ACTIVATIONS, NORMALISATIONS)]
    )
    def test_every_activation_and_normalisation(self, tmp_path, activation, normalisation):
        network = network_of(activation=activation, normalisation=normalisation)
        export_onnx(model_of(network), tmp_path / "a.onnx")
        x = noise(1, 1, 24, 16, 20)
        assert_same(computed(tmp_path / "a.onnx", x), network(x))

    @pytest.mark.parametrize(
        "settings",
        [
            {"num_levels": 1},
            {"num_levels": 6, "feature_multiplier": 1.2},
            {"kernel_size": 1},
            {"kernel_size": 5, "num_levels": 2},
            {"convs_per_level": 1, "feature_multiplier": 1.5},
            {"convs_per_level": 3, "num_levels": 2},
            {"in_channels": 3},
            {"out_channels": 4},
            {"out_channels": 4, "softmax": True},
            {"dropout": 0.3},
            {"normalise_last": False},
            {"normalise_last": False, "normalisation": "instance", "num_levels": 1},
        ],
        ids=str,
    )
    def test_every_architecture(self, tmp_path, settings):
        network = network_of(**settings)
        export_onnx(model_of(network), tmp_path / "a.onnx")
        x = noise(1, network.config.in_channels, 32, 32, 64)
        assert_same(computed(tmp_path / "a.onnx", x), network(x))

    @pytest.mark.parametrize("groups", [1, 2, 4])
    def test_group_normalisation_of_any_number_of_groups(self, groups):
        norm = nn.GroupNorm(groups, 4, eps=1e-3).requires_grad_(False)
        norm.weight.copy_(noise(4)), norm.bias.copy_(noise(4, seed=1))
        x = noise(2, 4, 5, 6, 7)
        assert_same(written(onnx_graph._standardised, norm, x), norm(x))

    def test_one_file_serves_all_shapes(self, tmp_path):
        network = network_of(in_channels=2)
        export_onnx(model_of(network), tmp_path / "a.onnx")
        shapes = [(1, 8, 8, 8), (2, 16, 12, 20), (3, 13, 9, 7), (1, 5, 30, 1), (1, 1, 1, 1)]
        for batch, *sizes in shapes:
            x = noise(batch, 2, *sizes)
            assert_same(computed(tmp_path / "a.onnx", x), network(x))

    @pytest.mark.parametrize("normalisation", sorted({*NORMALISATIONS} - {"batch", "none"}))
    def test_statistics_of_large_volumes_are_exact(self, tmp_path, normalisation):
        """Sums of a million voxels, one by one in float32, would be off by more than this."""
        settings = {"num_levels": 2, "num_features": 2, "activation": "relu"}
        network = network_of(normalisation=normalisation, **settings)
        export_onnx(model_of(network), tmp_path / "a.onnx")
        x = 3 + noise(1, 1, 112, 96, 104)
        assert_same(
            computed(tmp_path / "a.onnx", x).double(), copy.deepcopy(network).double()(x.double())
        )

    def test_the_model_is_left_as_it_was(self, tmp_path):
        model = model_of(network_of(dropout=0.5))
        model.network.train()
        before = copy.deepcopy(model.network.state_dict())
        export_onnx(model, tmp_path / "a.onnx")
        assert model.network.training
        for name, tensor in model.network.state_dict().items():
            assert torch.equal(tensor, before[name])
        x = noise(1, 1, 8, 8, 8)
        assert_same(computed(tmp_path / "a.onnx", x), model.network.eval()(x))

    def test_weights_of_half_precision_become_float32(self, tmp_path):
        network = network_of().half()
        export_onnx(model_of(network), tmp_path / "a.onnx")
        x = noise(1, 1, 8, 8, 8)
        assert_same(computed(tmp_path / "a.onnx", x), network.float()(x))


def written(write: Any, module: nn.Module, x: Tensor) -> Tensor:
    """What a part of a graph computes."""
    writer = onnx_graph._Writer()
    output = write(writer, "x", module, "module")
    float32 = onnx.TensorProto.FLOAT
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        writer.nodes,
        "part",
        [info("x", float32, [None] * x.ndim)],
        [info(output, float32, None)],
        list(writer.constants.values()),
    )
    opset = onnx.helper.make_opsetid("", onnx_graph.OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=export.IR_VERSION)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


class TestFile:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        export_onnx(model_of(network_of(in_channels=2, out_channels=3)), tmp_path / "a.onnx")
        return tmp_path / "a.onnx"

    def test_names_types_and_free_sizes(self, file):
        session = session_of(file)
        (image,), (prediction,) = session.get_inputs(), session.get_outputs()
        assert (image.name, image.type) == ("image", "tensor(float)")
        assert (prediction.name, prediction.type) == ("prediction", "tensor(float)")
        assert image.shape == ["batch", 2, "x", "y", "z"]
        assert prediction.shape == ["batch", 3, "x", "y", "z"]

    def test_the_difference_is_told(self, tmp_path):
        assert 0 <= export_onnx(model_of(), tmp_path / "a.onnx") < 1e-5

    def test_weights_are_stored_once_under_their_names(self, tmp_path):
        network = network_of(num_features=8)
        export_onnx(model_of(network), tmp_path / "a.onnx")
        assert list(tmp_path.iterdir()) == [tmp_path / "a.onnx"]
        stored = {
            tensor.name: onnx.numpy_helper.to_array(tensor)
            for tensor in onnx.load(tmp_path / "a.onnx").graph.initializer
        }
        state = {n: t for n, t in network.state_dict().items() if t.is_floating_point()}
        for name, tensor in state.items():
            np.testing.assert_array_equal(stored[name], tensor.numpy())
        size = (tmp_path / "a.onnx").stat().st_size
        assert size < 4 * sum(t.numel() for t in state.values()) + 20_000

    def test_operators_are_of_version_17_or_above(self, file):
        (opset,) = onnx.load(file).opset_import
        assert opset.domain == ""
        assert opset.version >= 17

    def test_the_same_model_gives_the_same_bytes(self, tmp_path):
        for name in ("a.onnx", "b.onnx"):
            export_onnx(model_of(), tmp_path / name)
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


class TestMetadata:
    @pytest.fixture
    def model(self) -> Model:
        """Two images, one with a reliability map, and a spread: nothing as by default."""
        return model_of(
            network_of(in_channels=3, out_channels=2),
            name="mine",
            description="For ${tests} of µm.",
            licence="CC0-1.0",
            citation="Nobody (2000)",
            inputs=[
                InputConfig(name="T1", maximum=3.0, reliability_map=True),
                InputConfig(name="T2"),
            ],
            spread=True,
            scan=ScanConfig(
                spacing_mm=1.5,
                divisor=8,
                normalisation="percentile",
                output_range=None,
                residual_input=0,
            ),
            training={"steps": 7},
        )

    def test_it_holds_the_whole_config(self, tmp_path, model):
        export_onnx(model, tmp_path / "a.onnx")
        metadata = session_of(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map
        assert config_of_metadata(metadata["synthsr"]) == model.config

    def test_it_is_the_header_of_the_model_file(self, tmp_path, model):
        from safetensors import safe_open

        export_onnx(model, tmp_path / "a.onnx")
        save_model(tmp_path / "a.safetensors", model.config, model.network.state_dict())
        metadata = session_of(tmp_path / "a.onnx").get_modelmeta().custom_metadata_map
        with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
            header = file.metadata()["synthsr"]
        assert json.loads(metadata["synthsr"]) == json.loads(header)

    def test_people_can_read_what_comes_in_and_out(self, tmp_path, model):
        export_onnx(model, tmp_path / "a.onnx")
        stored = onnx.load(tmp_path / "a.onnx")
        (image,), (prediction,) = stored.graph.input, stored.graph.output
        for text in ("T1, reliability map of T1, T2", "1.5 mm", "percentile", "multiples of 8"):
            assert text in image.doc_string
        assert "log spreads" in prediction.doc_string
        for text in ("mine", "For ${tests} of µm.", "CC0-1.0", "Nobody (2000)", "synthsr"):
            assert text in stored.doc_string

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "scan": {"spacing": 2}}'])
    def test_what_is_no_config_is_refused(self, text):
        with pytest.raises(ValueError, match="the metadata"):
            config_of_metadata(text)

    def test_a_later_format_is_refused(self):
        with pytest.raises(ValueError, match="Update synthsr"):
            config_of_metadata('{"format": 99}')


class TestChecks:
    @pytest.mark.parametrize("levels", range(1, MAX_LEVELS + 1))
    def test_shapes_that_are_compared_differ_and_leave_voxels_at_every_level(self, levels):
        config = UNetConfig(num_levels=levels, in_channels=2, feature_multiplier=1)
        whole, odd = export.check_shapes(config)
        assert whole[1] == odd[1] == 2
        assert all(a != b for a, b in zip(whole[2:], odd[2:], strict=True))
        assert all(n % min(config.divisor, 16) == 0 for n in whole[2:])
        assert any(n % 2 for n in odd[2:])
        for shape in (whole, odd):
            assert np.prod([-(-n // config.divisor) for n in shape[2:]]) > 1

    @pytest.fixture
    def wrong(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Graphs with another activation than the network."""
        relu = onnx_graph._ACTIVATIONS["relu"]
        monkeypatch.setitem(onnx_graph._ACTIVATIONS, "elu", relu)

    def test_a_graph_that_computes_something_else_is_not_kept(self, tmp_path, wrong):
        with pytest.raises(WorkFailedError, match=r"differs by .* of the range"):
            export_onnx(model_of(), tmp_path / "a.onnx")
        assert not list(tmp_path.iterdir())

    def test_the_file_before_it_stays(self, tmp_path, wrong):
        (tmp_path / "a.onnx").write_bytes(b"before")
        with pytest.raises(WorkFailedError):
            export_onnx(model_of(), tmp_path / "a.onnx")
        assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"before"]

    def test_a_graph_that_does_not_run_is_not_kept(self, tmp_path, monkeypatch):
        broken = {"elu": lambda writer, x: writer.add("Concat", x, x, axis=1)}  # twice the channels
        monkeypatch.setattr(onnx_graph, "_ACTIVATIONS", broken)
        with pytest.raises(WorkFailedError, match="must run in onnxruntime"):
            export_onnx(model_of(), tmp_path / "a.onnx")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_no_numbers_are_refused(self, tmp_path, value):
        network = network_of()
        network.head.bias.fill_(value)
        with pytest.raises(WorkFailedError):
            export_onnx(model_of(network), tmp_path / "a.onnx")

    @pytest.mark.parametrize("value", [0.0, -0.2])
    def test_a_constant_network_can_be_exported(self, tmp_path, value):
        network = network_of()
        network.head.weight.zero_()
        network.head.bias.fill_(value)
        assert export_onnx(model_of(network), tmp_path / "a.onnx") < 1e-5

    def test_weights_must_fit_into_the_format(self, tmp_path, monkeypatch):
        monkeypatch.setattr(export, "MAX_BYTES", 10_000)
        with pytest.raises(SynthSRError, match="smaller than 2 GiB"):
            export_onnx(model_of(), tmp_path / "a.onnx")

    def test_the_ending_is_checked(self, tmp_path):
        with pytest.raises(SynthSRError, match=r"must end in \.onnx"):
            export_onnx(model_of(), tmp_path / "a.pb")


class TestDocs:
    """Code of `docs/export.md` runs as it stands there."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        affine = np.diag([-8.0, 6.0, 9.0, 1.0])
        data = np.random.default_rng(0).random((14, 19, 11), np.float32)
        write_volume("scan.nii.gz", Volume(data, affine))
        return tmp_path

    def blocks(self, number: int) -> list[Any]:
        codes = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.M | re.S)
        assert len(codes) == number
        return [compile(code, f"{DOCS.name}, block {i}", "exec") for i, code in enumerate(codes)]

    @pytest.mark.parametrize(
        "scan",
        [
            ScanConfig(spacing_mm=8.0, divisor=4),
            ScanConfig(spacing_mm=8.0, divisor=4, clip_each_pass=True, sharpen=True),
            ScanConfig(spacing_mm=8.0, divisor=4, residual_input=0, output_range=None, flip=False),
        ],
    )
    def test_the_example_predicts_what_predict_does(self, folder, scan, capsys):
        model = model_of(scan=scan)
        export_onnx(model, "my_model.onnx")
        save_model("my_model.safetensors", model.config, model.network.state_dict())
        for block in self.blocks(3):
            exec(block, {})
        assert "8.0 4" in capsys.readouterr().out
        expected = Predictor(model, device="cpu")("scan.nii.gz", "expected.nii.gz")
        found, expected = read_volume("t1.nii.gz"), read_volume(expected)
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)
        scale = float(np.ptp(expected.data))
        assert scale > 1
        np.testing.assert_allclose(found.data, expected.data, rtol=0, atol=1e-5 * scale)
        assert (folder / "copy.onnx").read_bytes() == (folder / "my_model.onnx").read_bytes()

    @pytest.mark.parametrize("name", ["inverse_contrast", "data_consistency"])
    def test_the_example_does_what_the_model_says(self, folder, name, monkeypatch):
        monkeypatch.setattr(inverse_contrast, "_is_inverse", lambda *_: True)  # every scan is so,
        for limits in ("CORRELATIONS", "TISSUE_CORRELATIONS"):
            monkeypatch.setattr(consistency, limits, (-3.0, -2.0))  # and is kept
        model = model_of(scan=ScanConfig(spacing_mm=8.0, divisor=4, **{name: True}))
        export_onnx(model, "my_model.onnx")
        for block in self.blocks(3)[1:2]:
            exec(block, {})
        usual, without = (
            read_volume(Predictor(model, device="cpu", **options)("scan.nii.gz", "p.nii.gz")).data
            for options in ({}, {name: False})
        )
        difference = float(np.abs(usual - without).max())
        assert difference > 0.01
        found = read_volume("t1.nii.gz").data
        np.testing.assert_allclose(found, usual, rtol=0, atol=0.01 * difference)
