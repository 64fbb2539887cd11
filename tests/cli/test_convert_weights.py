"""Promises of ``synthsr convert-weights``: Keras weights become model files, and go back."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import helpers
import numpy as np
import pytest
import torch
from click.testing import Result
from helpers import (
    ROOT,
    one_error,
)

from synthsr_net.models.checkpoint import (
    InputConfig,
    ModelConfig,
    ScanConfig,
    read_model,
    save_model,
)
from synthsr_net.models.keras.converted import PRESETS, config_of_converted
from synthsr_net.models.keras.weights import read_keras, write_keras
from synthsr_net.models.loading import load_model
from synthsr_net.models.packing import stored_precision
from synthsr_net.models.zoo.registry import PUBLISHED_MODELS
from synthsr_net.networks.unet import UNet3d, UNetConfig

RECORDED = ROOT / "tests" / "parity" / "data"


def run(*arguments: object) -> Result:
    return helpers.run("convert-weights", *arguments)


def convert(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result


def small(in_channels: int = 1, out_channels: int = 1, **changes: Any) -> UNetConfig:
    sizes = {"num_levels": 2, "num_features": 2, **changes}
    return UNetConfig(in_channels=in_channels, out_channels=out_channels, **sizes)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with weights of networks of 1 to 4 channels, and of a Laplace law."""
    place: Path = tmp_path_factory.mktemp("weights")
    for name, config in {
        **{f"{n}ch.h5": small(n) for n in (1, 2, 3, 4)},
        "laplace.h5": small(1, 2),
        "laplace_3ch.h5": small(3, 2),
    }.items():
        with torch.random.fork_rng():
            torch.manual_seed(config.in_channels)
            write_keras(place / name, config, UNet3d(config).state_dict())
    return place


@pytest.fixture
def folder(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with a copy of the weights."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(weights, tmp_path, dirs_exist_ok=True))


class TestConversion:
    @pytest.mark.parametrize("name", ["unet_1ch", "unet_2ch"])
    def test_a_converted_model_computes_what_the_original_did(self, folder, name):
        convert(RECORDED / f"{name}.h5", "own.safetensors")
        with np.load(RECORDED / f"{name}_io.npz") as arrays:
            x, expected = (
                torch.from_numpy(arrays[key]).movedim(-1, 1) for key in ("input", "output")
            )
        output = read_model("own.safetensors").network(x)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)

    def test_there_and_back_is_bit_by_bit(self, folder):
        convert("1ch.h5", "own.safetensors")
        convert("own.safetensors", "back.h5", "--to-keras")
        assert Path("back.h5").read_bytes() == Path("1ch.h5").read_bytes()
        convert("back.h5", "again.safetensors", "--name", "1ch", "--description", "same")
        first, again = (
            read_model(f"{n}.safetensors").network.state_dict() for n in ("own", "again")
        )
        assert all(torch.equal(first[name], tensor) for name, tensor in again.items())

    def test_a_checkpoint_of_the_training_is_converted(self, folder):
        maps = ("--inputs", "T1, FLAIR", "--reliability-maps", "--preset", "v1")
        result = convert(RECORDED / "checkpoint_001.h5", "own.safetensors", *maps)
        assert "whole-model checkpoint of Keras, float32" in result.stdout
        assert "T1 with reliability map, FLAIR with reliability map" in result.stdout
        model = read_model("own.safetensors")
        assert model.config.inputs == [
            InputConfig(name=name, reliability_map=True) for name in ("T1", "FLAIR")
        ]
        with np.load(RECORDED / "checkpoint_001_io.npz") as arrays:
            x, expected = (
                torch.from_numpy(arrays[key]).movedim(-1, 1) for key in ("input", "output")
            )
        torch.testing.assert_close(model.network(x), expected, rtol=0, atol=1e-5)

    def test_what_was_found_is_said(self, folder):
        config = UNetConfig(num_levels=3, num_features=5, convs_per_level=1, kernel_size=5)
        state = UNet3d(config).state_dict()
        write_keras("own.h5", config, state)
        result = convert("own.h5", "own.safetensors")
        for line in (
            "own.h5: weight file of Keras, float32",
            "levels: 3, of 5, 10, 20 features",
            "each: 1 convolution of 5x5x5, elu, normalisation batch",
            "channels: 1 in, 1 out",
            "images: image",
            "Note: the file does not name the activation: elu is assumed, as in the original.",
            "Wrote own.safetensors.",
        ):
            assert line in result.stdout
        trained = sum(tensor.numel() for tensor in UNet3d(config).parameters())
        stored = sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
        assert f"parameters: {stored:,}, {trained:,} of them trainable" in result.stdout

    def test_a_converted_model_is_that_of_the_keras_file(self, folder):
        convert(RECORDED / "unet_1ch.h5", "unet_1ch.safetensors")
        direct, converted = (
            load_model(p) for p in (RECORDED / "unet_1ch.h5", "unet_1ch.safetensors")
        )
        assert direct.config == converted.config

    def test_the_activation_can_be_told(self, folder):
        result = convert("1ch.h5", "own.safetensors", "--activation", "relu")
        assert "relu" in result.stdout
        assert "Note" not in result.stdout
        assert read_model("own.safetensors").config.network.activation == "relu"

    def test_the_model_can_be_described(self, folder):
        told = {"name": "mine", "licence": "CC0-1.0", "description": "For ${tests}"}
        convert("2ch.h5", "own.safetensors", *(f"--{key}={text}" for key, text in told.items()))
        config = read_model("own.safetensors").config
        assert {key: getattr(config, key) for key in told} == told

    def test_a_model_trained_here_runs_in_the_original(self, folder):
        config = small(2, num_levels=3, feature_multiplier=1.5, dropout=0.1)
        state = {name: t.half() for name, t in UNet3d(config).state_dict().items()}
        model = ModelConfig(network=config, inputs=[InputConfig(name=n) for n in ("a", "b")])
        save_model("here.safetensors", model, state)
        result = convert("here.safetensors", "there.h5", "--to-keras")
        assert "holds the weights alone" in result.stdout
        found, weights, *_ = read_keras("there.h5")
        assert found.features == config.features
        assert all(
            torch.equal(weights[name], t.to(weights[name].dtype)) for name, t in state.items()
        )


class TestAgain:
    """Model files become other model files."""

    @pytest.fixture
    def path(self, folder):
        config = ModelConfig(
            name="run", licence="unknown", network=small(), training={"results": {"l1": 0.1}}
        )
        torch.manual_seed(0)
        save_model("best.safetensors", config, UNet3d(config.network).state_dict())
        return Path("best.safetensors")

    def test_a_trained_model_is_packed(self, path):
        about = {"name": "own-1", "licence": "MIT", "citation": "Me (2026)", "description": "New"}
        options = [f"--{key}={text}" for key, text in about.items()]
        result = convert(path, "own.safetensors", "--precision", "fp16", *options)
        size = Path("own.safetensors").stat().st_size
        assert f"  weights: fp16, {size / 1e6:.1f} MB\n" in result.stdout
        assert "best.safetensors: model own-1\n" in result.stdout
        before, after = (read_model(p) for p in (path, "own.safetensors"))
        assert after.config == replace(before.config, **about)
        assert stored_precision("own.safetensors") == "fp16"
        for name, tensor in before.network.state_dict().items():
            assert torch.equal(after.network.state_dict()[name], tensor.half().to(tensor.dtype))

    def test_a_description_leaves_the_weights_alone(self, path):
        convert(path, "own.safetensors", "--precision", "fp16")
        convert("own.safetensors", "named.safetensors", "--name", "named")
        assert stored_precision("named.safetensors") == "fp16"
        convert("named.safetensors", "own.safetensors", "--name", "run", "--overwrite")
        convert(path, "again.safetensors", "--precision", "fp16")
        assert Path("own.safetensors").read_bytes() == Path("again.safetensors").read_bytes()

    def test_a_file_may_replace_itself_if_told(self, path):
        before = path.read_bytes()
        assert "--overwrite" in one_error(run(path, path, "--precision", "fp16"))
        assert path.read_bytes() == before
        convert(path, path, "--precision", "fp16", "--overwrite")
        assert stored_precision(path) == "fp16"

    def test_keras_weights_can_be_packed_at_once(self, folder):
        convert("1ch.h5", "own.safetensors", "--precision", "fp16", "--citation", "Me (2026)")
        assert stored_precision("own.safetensors") == "fp16"
        assert read_model("own.safetensors").config.citation == "Me (2026)"


class TestSettings:
    """How the model sees scans: what a preset, the channels and the options make of it."""

    def config(self, source: str, *options: str) -> ModelConfig:
        convert(source, "own.safetensors", "--overwrite", *options)
        return read_model("own.safetensors").config

    @pytest.mark.parametrize(("preset", "name"), PRESETS.items())
    def test_a_preset_has_the_settings_of_its_published_model(self, folder, preset, name):
        published = PUBLISHED_MODELS[name].config
        config = self.config(f"{len(published.inputs)}ch.h5", "--preset", preset)
        assert config.scan == replace(published.scan, divisor=4)
        assert config.inputs == published.inputs
        assert (config.name, config.licence) == (f"{len(published.inputs)}ch", "unknown")

    def test_the_published_models_differ(self, folder):
        v1, v2 = (self.config("1ch.h5", "--preset", preset).scan for preset in ("v1", "v2"))
        assert v2 == replace(v1, normalise_after_padding=True, clip_each_pass=True, sharpen=True)

    def test_one_image_is_taken_for_v1_and_two_for_hyperfine(self, folder):
        one, two = self.config("1ch.h5"), self.config("2ch.h5")
        assert one.scan == ScanConfig(divisor=4)
        assert [(i.name, i.maximum) for i in two.inputs] == [("T1", 3.0), ("T2", 2.0)]
        assert two.scan.residual_input == 0
        assert self.config("2ch.h5", "--inputs", "T1,T2").inputs == two.inputs

    @pytest.mark.parametrize(
        "options",
        [
            ("2ch.h5", "--inputs", "T1,FLAIR"),
            ("4ch.h5", "--inputs", "T1,T2", "--reliability-maps"),
        ],
    )
    def test_other_pairs_are_as_the_original_trains_by_default(self, folder, options):
        config = self.config(*options)
        assert config.scan == ScanConfig(divisor=4)
        assert [(i.contrast, i.maximum) for i in config.inputs] == [("any", 1.0)] * 2

    def test_images_have_the_names_given(self, folder):
        assert [i.name for i in self.config("3ch.h5", "--inputs", "T1, T2,FLAIR").inputs] == [
            *("T1", "T2", "FLAIR")
        ]
        assert [i.name for i in self.config("1ch.h5", "--inputs", "CT").inputs] == ["CT"]

    def test_reliability_maps_take_every_second_channel(self, folder):
        [image] = self.config("2ch.h5", "--reliability-maps").inputs
        assert image.reliability_map
        two = ("4ch.h5", "--inputs", "T1,T2", "--reliability-maps")
        for preset, maxima in (((), (1.0, 1.0)), (("--preset", "hyperfine"), (3.0, 2.0))):
            images = self.config(*two, *preset).inputs
            assert [i.name for i in images] == ["T1", "T2"]
            assert all(i.reliability_map for i in images)
            assert tuple(i.maximum for i in images) == maxima

    def test_the_output_can_be_added_to_an_image(self, folder):
        images = ("--inputs", "T1,T2,FLAIR")
        scan = self.config("3ch.h5", *images, "--residual-input", "FLAIR").scan
        assert (scan.residual_input, scan.output_range) == (2, None)
        scan = self.config("2ch.h5", "--residual-input", "none").scan
        assert (scan.residual_input, scan.output_range) == (None, ScanConfig().output_range)
        assert self.config("3ch.h5", *images).scan.residual_input is None

    @pytest.mark.parametrize("options", [("laplace.h5",), ("laplace_3ch.h5", "--inputs", "a,b,c")])
    def test_a_spread_is_the_last_half_of_the_output(self, folder, options):
        result = run(options[0], "own.safetensors", *options[1:])
        assert "add --spread" in result.stdout
        assert not read_model("own.safetensors").config.spread
        result = run(options[0], "own.safetensors", *options[1:], "--spread", "--overwrite")
        assert "add --spread" not in result.stdout
        assert read_model("own.safetensors").config.spread

    def test_a_published_file_is_known_by_its_name(self, folder):
        Path("1ch.h5").rename(PUBLISHED_MODELS["synthsr-v2"].file)
        config = self.config(PUBLISHED_MODELS["synthsr-v2"].file, "--licence", "mine")
        assert config.scan.sharpen
        assert config.licence == "mine"


BAD: dict[str, tuple[str, str]] = {
    "missing file": (
        "none.h5 own.safetensors",
        "none.h5 must be a Keras weight file, but there is",
    ),
    "not HDF5": ("text.h5 own.safetensors", "text.h5 must be an HDF5 file of Keras"),
    "other HDF5": ("other.h5 own.safetensors", "none of its 1 layers has a name that starts with"),
    "model file, no change": (
        "model.safetensors own.safetensors",
        "got model.safetensors alone. S",
    ),
    "Keras option": (
        "model.safetensors own.safetensors --precision fp16 --preset v1",
        "--preset is for Keras files; a model file says so itself",
    ),
    "missing model file": ("none.safetensors own.safetensors --name a", "there is no such file"),
    "other precision": ("1ch.h5 own.safetensors --precision int8", "'int8' is not one of"),
    "precision to Keras": (
        "model.safetensors own.h5 --to-keras --precision fp16",
        "--precision has no place in a Keras file",
    ),
    "Keras as output": ("1ch.h5 own.h5", "OUT must end in .safetensors, got own.h5. To make a Ker"),
    "other ending": ("1ch.h5 own.pt", "OUT must end in .safetensors, got own.pt."),
    "existing output": ("1ch.h5 model.safetensors", "got model.safetensors. Add --overwrite to"),
    "missing folder": ("1ch.h5 none/own.safetensors", "none must be a folder, but is not"),
    "three channels": (
        "3ch.h5 own.safetensors",
        "channels as the network takes, 3, but make 1. Nam",
    ),
    "two of four": ("4ch.h5 own.safetensors --inputs a,b", "takes 4 channels, but the inputs of"),
    "odd with maps": ("3ch.h5 own.safetensors --reliability-maps", "takes 3 channels, but the inp"),
    "hyperfine of one": ("1ch.h5 own.safetensors --preset hyperfine", "takes, 1, but make 2. Name"),
    "v1 of two": ("2ch.h5 own.safetensors --preset v1", "the network takes, 2, but make 1. Name"),
    "same names": ("2ch.h5 own.safetensors --inputs a,a", "must have different names, got 'a, a'"),
    "no name": ("2ch.h5 own.safetensors --inputs a,", "must have different names, got 'a, '"),
    "residual": ("1ch.h5 own.safetensors --residual-input T9", "one of image, none, got 'T9'"),
    "spread": ("1ch.h5 own.safetensors --spread", "an even number of output channels, got 1"),
    "activation": ("1ch.h5 own.safetensors --activation tanh", "activation must be one of elu"),
    "preset": ("1ch.h5 own.safetensors --preset v3", "'v3' is not one of"),
    "name to Keras": ("model.safetensors own.h5 --to-keras --name a", "--name has no place in a"),
    "maps to Keras": (
        "model.safetensors own.h5 --to-keras --reliability-maps",
        "--reliability-maps has no place in a Keras file",
    ),
    "Keras to Keras": ("1ch.h5 own.h5 --to-keras", "1ch.h5 must be a safetensors file, but cannot"),
    "to Keras, ending": (
        "model.safetensors own.keras --to-keras",
        "OUT must end in .h5, got own.k",
    ),
    "to Keras, existing": ("model.safetensors 1ch.h5 --to-keras", "got 1ch.h5. Add --overwrite"),
    "instance norm": (
        "instance.safetensors own.h5 --to-keras",
        "must be one of batch, none for a Keras",
    ),
}


class TestErrors:
    @pytest.fixture
    def files(self, folder: Path) -> Path:
        config = small()
        save_model("model.safetensors", ModelConfig(network=config), UNet3d(config).state_dict())
        config = small(normalisation="instance")
        save_model("instance.safetensors", ModelConfig(network=config), UNet3d(config).state_dict())
        Path("text.h5").write_text("no weights")
        with h5py.File("other.h5", "w") as file:
            file.create_group("dense_1")
        return folder

    @pytest.mark.parametrize("case", BAD)
    def test_each_is_one_line_and_nothing_is_written(self, files, case):
        before = {path: path.read_bytes() for path in files.iterdir()}
        arguments, message = BAD[case]
        assert message in one_error(run(*arguments.split()))
        assert {path: path.read_bytes() for path in files.iterdir()} == before

    @pytest.mark.parametrize(
        "options", [("1ch.h5", "a.safetensors"), ("model.safetensors", "a.h5")]
    )
    def test_a_full_disk_leaves_nothing(self, files, monkeypatch, options):
        def fill(self: Path, data: Any) -> None:
            with self.open("wb") as file:
                file.write(bytes(data)[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        before = sorted(files.iterdir())
        monkeypatch.setattr(Path, "write_bytes", fill)
        keras = ["--to-keras"] * options[1].endswith(".h5")
        assert f"{options[1]}: No space left on device." in one_error(run(*options, *keras), code=1)
        assert sorted(files.iterdir()) == before

    def test_output_is_replaced_when_asked(self, files):
        convert("2ch.h5", "model.safetensors", "--overwrite")
        assert read_model("model.safetensors").config.network.in_channels == 2

    def test_an_unforeseen_error_has_its_own_exit_code(self, files, monkeypatch):
        monkeypatch.setattr("synthsr_net.models.checkpoint.save_model", lambda *_: 1 / 0)
        assert "unexpected ZeroDivisionError" in one_error(run("1ch.h5", "own.safetensors"), code=1)


class TestConfigOfConverted:
    def test_an_unknown_preset_is_named(self):
        with pytest.raises(ValueError, match="preset must be one of v1, v2, hyperfine, got 'v3'"):
            config_of_converted("a.h5", small(), preset="v3")

    def test_steps_of_two_are_padded_for(self):
        for levels in (1, 3, 5):
            config = config_of_converted("a.h5", small(num_levels=levels), preset="v1")
            assert config.scan.divisor % config.network.divisor == 0
