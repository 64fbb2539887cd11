"""Promises of reading and writing Keras weights: every layout, and every fault by its name."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers import (
    ROOT,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from synthsr_net.models.keras import weights as keras_weights
from synthsr_net.models.keras.layout import config_of, keras_arrays, keras_layers, multiplier_of
from synthsr_net.models.keras.weights import KerasWeightsError, read_keras, write_keras
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms.support.messages import SynthSRError

RECORDED = ROOT / "tests" / "parity" / "data"
SMALL = UNetConfig(num_levels=3, num_features=3, in_channels=2)

configs = st.builds(
    UNetConfig,
    in_channels=st.integers(1, 4),
    out_channels=st.integers(1, 4),
    num_levels=st.integers(1, 4),
    num_features=st.integers(1, 6),
    feature_multiplier=st.one_of(
        st.sampled_from([1.0, 1.5, 2.0, 3.0]), st.floats(1, 3), st.just(2.5)
    ),
    convs_per_level=st.integers(1, 3),
    kernel_size=st.sampled_from([1, 3, 5]),
    normalisation=st.sampled_from(["batch", "none"]),
)


def weights(config: UNetConfig = SMALL, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a network; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        state = UNet3d(config).state_dict()
    return {
        name: torch.rand(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else torch.tensor(0)
        for name, tensor in state.items()
    }


def assert_same(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(state) == set(expected)
    differ = [name for name, tensor in expected.items() if not torch.equal(state[name], tensor)]
    assert differ == []


def plain(config: UNetConfig) -> UNetConfig:
    """What the weights of an architecture tell of it, with any multiplier."""
    return replace(config, activation="elu", dropout=0.0, softmax=False, feature_multiplier=2.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_keras(tmp_path / "small.h5", SMALL, weights())
    return tmp_path / "small.h5"


def rewrite(path: Path, change: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def set_array(file: h5py.Group, layer: str, role: str, values: Any) -> None:
    """Put another array in the place of one."""
    del file[f"{layer}/{layer}/{role}:0"]
    file[f"{layer}/{layer}/{role}:0"] = values


class TestRoundTrip:
    @settings(max_examples=20)
    @given(config=configs)
    def test_any_architecture_is_found_in_its_weights(self, tmp_path_factory, config):
        path = tmp_path_factory.mktemp("keras") / "any.h5"
        state = weights(config)
        write_keras(path, config, state)
        found, read, *_ = read_keras(path)
        assert found.features == config.features
        assert plain(found) == plain(config)
        assert_same(read, state)

    @settings(max_examples=25)
    @given(
        first=st.integers(1, 64),
        multiplier=st.one_of(st.floats(0.5, 4), st.sampled_from([0.5, 1.25, 1.5, 2.5, 3.5])),
        levels=st.integers(1, 7),
    )
    def test_a_multiplier_is_found_for_all_features(self, first, multiplier, levels):
        def features(factor: float) -> tuple[int, ...] | None:
            try:
                return UNetConfig(
                    num_features=first, feature_multiplier=factor, num_levels=levels
                ).features
            except ValueError:
                return None

        wanted = features(multiplier)
        if wanted is not None:
            assert features(multiplier_of(wanted)) == wanted

    def test_the_multiplier_of_the_published_networks_is_found(self):
        assert multiplier_of(UNetConfig().features) == 2.0

    def test_weights_go_where_the_network_looks_for_them(self, path):
        config, state, *_ = read_keras(path)
        network = UNet3d(config)
        network.load_state_dict(state)
        written = weights()
        for name, tensor in network.named_parameters():
            assert torch.equal(tensor, written[name])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_any_precision_can_be_written(self, tmp_path, dtype):
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in weights().items()}
        write_keras(tmp_path / "m.h5", SMALL, state)
        read = read_keras(tmp_path / "m.h5")[1]
        assert_same(read, {name: tensor.to(read[name].dtype) for name, tensor in state.items()})


class TestWrittenFile:
    """Written files are those of the original, but for the weights."""

    @pytest.fixture(params=["unet_1ch", "unet_2ch"])
    def pair(self, request: Any, tmp_path: Path) -> Iterator[tuple[h5py.File, h5py.File]]:
        recorded = RECORDED / f"{request.param}.h5"
        write_keras(tmp_path / "again.h5", *read_keras(recorded)[:2])
        with h5py.File(recorded) as theirs, h5py.File(tmp_path / "again.h5") as ours:
            yield theirs, ours

    def test_groups_and_arrays_are_the_same(self, pair):
        def listed(file: h5py.File) -> dict[str, Any]:
            found: dict[str, Any] = {}
            file.visititems(
                lambda name, item: found.update(
                    {name: (item.shape, item.dtype, item[()].tobytes())}
                    if isinstance(item, h5py.Dataset)
                    else {name: None}
                )
            )
            return found

        theirs, ours = map(listed, pair)
        assert len(theirs) > 60
        assert ours == theirs

    def test_attributes_are_the_same_down_to_their_types(self, pair):
        def listed(item: Any) -> dict[str, Any]:
            kinds = {name: item.attrs.get_id(name) for name in item.attrs}
            return {
                name: (
                    kind.dtype,
                    kind.shape,
                    kind.get_type().get_class(),
                    item.attrs[name].tolist(),
                )
                if kind.shape
                else (
                    kind.get_type().is_variable_str(),
                    kind.get_type().get_cset(),
                    item.attrs[name],
                )
                for name, kind in kinds.items()
            }

        theirs, ours = pair
        assert set(listed(theirs)) == {"layer_names", "backend", "keras_version"}
        for group in ("/", *theirs):
            assert listed(ours[group]) == listed(theirs[group]), group

    def test_layers_of_dropout_are_listed(self, tmp_path):
        write_keras(tmp_path / "m.h5", replace(SMALL, dropout=0.2), weights())
        with h5py.File(tmp_path / "m.h5") as file:
            names = [name.decode() for name in file.attrs["layer_names"]]
            assert names[1:3] == ["unet_conv_downarm_0_0", "unet_dropout_downarm_0_0"]
            assert "unet_dropout_uparm_1_1" in names
            assert all(name in file for name in names)

    def test_the_default_network_has_the_layers_of_the_published_ones(self):
        layers = {layer: [] for layer in keras_layers(UNetConfig())}
        for array in keras_arrays(UNetConfig()):
            layers[array.layer].append(array.shape)
        assert len(layers) == 42
        assert layers["unet_conv_uparm_5_0"] == [(3, 3, 3, 576, 192), (192,)]
        assert layers["unet_conv_uparm_8_0"] == [(3, 3, 3, 72, 24), (24,)]
        assert layers["unet_bn_up_3"] == [(24,)] * 4
        assert layers["unet_merge_8"] == []
        total = sum(int(np.prod(shape)) for shapes in layers.values() for shape in shapes)
        assert total == 13_242_049

    def test_the_same_weights_make_the_same_file(self, path):
        first = path.read_bytes()
        write_keras(path, SMALL, weights())
        assert path.read_bytes() == first

    def test_long_lists_are_split_as_keras_does(self, tmp_path, monkeypatch):
        monkeypatch.setattr(keras_weights, "ATTRIBUTE_BYTES", 40)
        write_keras(tmp_path / "m.h5", SMALL, weights())
        with h5py.File(tmp_path / "m.h5") as file:
            assert "layer_names" not in file.attrs
            assert "layer_names12" in file.attrs
            assert "weight_names1" in file["unet_bn_down_0"].attrs
        assert_same(read_keras(tmp_path / "m.h5")[1], weights())


class TestWritingFails:
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                replace(SMALL, normalisation="instance"),
                "must be one of batch, none .*, got instance",
            ),
            (
                replace(SMALL, activation="leaky_relu"),
                "activation must be one of elu, .*leaky_relu",
            ),
            (
                replace(SMALL, num_levels=2),
                r"must hold the weights of its arch.* 18 differ, first decoder\.1",
            ),
            (replace(SMALL, in_channels=1), r"but 1 differ, first encoder\.0\.convs\.0\.weight"),
        ],
    )
    def test_what_keras_cannot_hold_is_refused(self, tmp_path, config, message):
        with pytest.raises(SynthSRError, match=message):
            write_keras(tmp_path / "m.h5", config, weights())
        assert not list(tmp_path.iterdir())

    def test_weights_that_are_not_finite_are_refused(self, tmp_path):
        state = weights()
        state["head.bias"][0] = torch.nan
        with pytest.raises(SynthSRError, match=r"must hold finite weights, but head\.bias"):
            write_keras(tmp_path / "m.h5", SMALL, state)

    def test_the_ending_is_checked(self, tmp_path):
        with pytest.raises(KerasWeightsError, match=r"must end in \.h5, got .*m\.hdf"):
            write_keras(tmp_path / "m.hdf", SMALL, weights())

    def test_a_full_disk_leaves_the_old_file(self, path, monkeypatch):
        before = path.read_bytes()

        def fill(self: Path, data: Any) -> None:
            with self.open("wb") as file:
                file.write(bytes(data)[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", fill)
        with pytest.raises(OSError, match="No space left"):
            write_keras(path, SMALL, weights(seed=1))
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]


def suffixed(file: h5py.File) -> None:
    """Second network of a session: the arrays' paths have suffixes, the groups have not."""
    for layer in list(file):
        if f"{layer}/{layer}" in file:
            file.move(f"{layer}/{layer}", f"{layer}/{layer}_1")
            names = [n.decode().replace("/", "_1/", 1) for n in file[layer].attrs["weight_names"]]
            file[layer].attrs["weight_names"] = [name.encode() for name in names]


def texts(file: h5py.File) -> None:
    """Attributes as later versions of Keras write them: texts, and no `:0`."""
    file.attrs["layer_names"] = [name.decode() for name in file.attrs["layer_names"]]
    for layer in list(file):
        names = [n.decode() for n in file[layer].attrs["weight_names"]] if file[layer] else []
        for name in names:
            file[layer].move(name, name.removesuffix(":0"))
        file[layer].attrs["weight_names"] = [name.removesuffix(":0") for name in names]


def without_lists(file: h5py.File) -> None:
    """No lists of names at all."""
    del file.attrs["layer_names"]
    for layer in list(file):
        del file[layer].attrs["weight_names"]


def by_order(file: h5py.File) -> None:
    """Arrays whose names say nothing."""
    for layer in list(file):
        names = [n.decode() for n in file[layer].attrs["weight_names"]] if file[layer] else []
        for i, name in enumerate(names):
            file[layer].move(name, f"array_{i}")
        file[layer].attrs["weight_names"] = [f"array_{i}".encode() for i in range(len(names))]


def single_paths(file: h5py.File) -> None:
    """Arrays right in the group of their layer."""
    for layer in list(file):
        names = [n.decode() for n in file[layer].attrs["weight_names"]] if file[layer] else []
        for name in names:
            file[layer].move(name, name.split("/")[1])
        file[layer].attrs["weight_names"] = [name.split("/")[1].encode() for name in names]


def beside_others(file: h5py.Group) -> None:
    """Among the layers of a training model: generator, loss, a frozen network, a discriminator."""
    for other in ("labels_input", "lambda_13", "L1_loss"):
        file.create_group(other).attrs["weight_names"] = np.array([])
    for other in ("unet", "discriminator"):
        array = "unet_conv_downarm_0_0_1/kernel:0"
        file[f"{other}/{array}"] = np.zeros((3, 3, 3, 9, 9), np.float32)
        file[other].attrs["weight_names"] = [array.encode()]
    file.attrs["layer_names"] = [name.encode() for name in file]


def checkpoint(file: h5py.File) -> None:
    """Whole model, with the state of its optimiser."""
    names = list(file)
    inner = file.create_group("model_weights")
    for name in names:
        file.move(name, f"model_weights/{name}")
    del file["model_weights/unet_input"]
    beside_others(inner)
    file["optimizer_weights/Adam/iterations:0"] = 3
    file["optimizer_weights/unet_conv_downarm_0_0"] = np.zeros(7)


def keras_3(file: h5py.File) -> None:
    """Numbered arrays of `.weights.h5` files."""
    for k, layer in enumerate(list(file)):
        names = [n.decode() for n in file[layer].attrs["weight_names"]] if file[layer] else []
        for i, name in enumerate(names):
            file.move(f"{layer}/{name}", f"layers/conv3d_{k}/vars/{i}")
        file.require_group(f"layers/conv3d_{k}/vars").attrs["name"] = layer
        del file[layer]


LAYOUTS = {
    f.__name__: f
    for f in (
        beside_others,
        suffixed,
        texts,
        without_lists,
        by_order,
        single_paths,
        checkpoint,
        keras_3,
    )
}


class TestLayouts:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_every_layout_gives_the_same_weights(self, path, layout):
        config, state, *_ = read_keras(rewrite(path, LAYOUTS[layout]))
        assert config == SMALL
        assert_same(state, weights())

    @pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", ">f8"])
    def test_every_precision_is_read(self, path, dtype):
        def convert(file: h5py.File) -> None:
            arrays: list[str] = []
            file.visititems(lambda n, i: arrays.append(n) if isinstance(i, h5py.Dataset) else None)
            for name in arrays:
                values = file[name][()].astype(dtype)
                del file[name]
                file[name] = values

        network = read_keras(rewrite(path, convert))
        assert network.precision == str(np.dtype(dtype))
        half = dtype == "float16"
        expected = weights()
        for name, tensor in network.state.items():
            assert tensor.dtype == expected[name].dtype
            wanted = expected[name].half().float() if half else expected[name]
            assert torch.equal(tensor.float(), wanted.float())

    def test_compressed_arrays_are_read(self, path):
        def compress(file: h5py.File) -> None:
            name = "unet_conv_downarm_0_0/unet_conv_downarm_0_0/kernel:0"
            values = file[name][()]
            del file[name]
            file.create_dataset(name, data=values, compression="gzip", chunks=True)

        assert_same(read_keras(rewrite(path, compress))[1], weights())

    def test_the_kind_of_file_is_told(self, path):
        assert read_keras(path).layout == "weight file"
        rewrite(path, checkpoint)
        assert read_keras(path).layout == "whole-model checkpoint"

    def test_the_recorded_checkpoint_of_the_original(self):
        network = read_keras(RECORDED / "checkpoint_001.h5")
        assert network.layout == "whole-model checkpoint"
        assert network.config == UNetConfig(in_channels=4, num_levels=3, num_features=4)


def described(**layers: dict[str, Any]) -> str:
    """Description of a model, as Keras writes it into checkpoints."""
    listed = [{"class_name": "X", "config": {"name": n, **c}} for n, c in layers.items()]
    return json.dumps({"class_name": "Model", "config": {"layers": listed}})


CONV, DROPOUT, LAST = "unet_conv_downarm_0_0", "unet_dropout_downarm_0_0", "unet_prediction"


UNTRUSTED = [
    *("", "{", "[]", "null", "{}", "[" * 10**4, 7.5),
    '{"config": 3}',
    '{"config": {"layers": {"a": 1}}}',
    '{"config": {"layers": [3, null]}}',
    described(**{CONV: {"activation": {"class_name": "x"}}}),
    described(**{CONV: {"activation": ["__import__('os')"]}, DROPOUT: {"rate": "all"}}),
    described(**{DROPOUT: {"rate": 7.5}}),
]


class TestWhatWeightsDoNotTell:
    def describe(self, path: Path, text: object, dropout: bool = False) -> Path:
        write_keras(path, replace(SMALL, dropout=0.3 if dropout else 0.0), weights())
        rewrite(path, checkpoint)
        return rewrite(path, lambda file: file.attrs.__setitem__("model_config", text))

    def test_a_weight_file_says_what_is_assumed(self, path):
        network = read_keras(path)
        assert network.config.activation == "elu"
        assert [note for note in network.notes if "elu is assumed" in note]
        assert read_keras(path, activation="relu").notes == ()

    @pytest.mark.parametrize(
        ("keras", "ours"), [("elu", "elu"), ("relu", "relu"), ("swish", "silu")]
    )
    def test_a_checkpoint_may_name_the_activation(self, path, keras, ours):
        network = read_keras(self.describe(path, described(**{CONV: {"activation": keras}})))
        assert network.config.activation == ours
        assert network.notes == ()

    @pytest.mark.parametrize("keras", ["tanh", "leaky_relu"])
    def test_an_activation_that_is_not_ours_is_refused(self, path, keras):
        self.describe(path, described(**{CONV: {"activation": keras}}))
        with pytest.raises(KerasWeightsError, match=f"its activation is '{keras}'"):
            read_keras(path)
        assert read_keras(path, activation="relu").config.activation == "relu"

    def test_a_checkpoint_may_tell_the_rate_of_dropout(self, path):
        text = described(**{CONV: {"activation": "elu"}, DROPOUT: {"rate": 0.25}})
        assert read_keras(self.describe(path, text, dropout=True)).config.dropout == 0.25
        assert read_keras(self.describe(path, text)).config.dropout == 0.0

    def test_a_rate_of_dropout_that_is_not_told_is_0(self, path):
        write_keras(path, replace(SMALL, dropout=0.3), weights())
        network = read_keras(path)
        assert network.config.dropout == 0.0
        assert [note for note in network.notes if "rate of its dropout" in note]

    def test_a_checkpoint_may_tell_of_a_softmax(self, path):
        text = described(**{CONV: {"activation": "elu"}, LAST: {"activation": "softmax"}})
        assert read_keras(self.describe(path, text)).config.softmax
        text = described(**{CONV: {"activation": "elu"}, LAST: {"activation": "linear"}})
        assert not read_keras(self.describe(path, text)).config.softmax

    @pytest.mark.parametrize("text", UNTRUSTED)
    def test_a_description_is_never_trusted(self, path, text):
        network = read_keras(self.describe(path, text, dropout=True))
        assert network.config == SMALL
        assert_same(network.state, weights())

    def test_the_names_of_a_frozen_network_are_not_ours(self, path):
        inner = {"name": "unet", "layers": [{"config": {"name": CONV, "activation": "relu"}}]}
        text = json.dumps({"config": {"layers": [{"config": inner}]}})
        assert read_keras(self.describe(path, text)).config.activation == "elu"


def lose(name: str) -> Callable[[h5py.File], None]:
    return lambda file: file.__delitem__(name)


def other_shape(layer: str, role: str, shape: tuple[int, ...]) -> Callable[[h5py.File], None]:
    return lambda file: set_array(file, layer, role, np.zeros(shape, np.float32))


def value(
    layer: str, role: str, number: float, dtype: str = "float32"
) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        values = file[f"{layer}/{layer}/{role}:0"][()].astype(dtype)
        values.flat[0] = number
        set_array(file, layer, role, values)

    return change


def rename(old: str, new: str) -> Callable[[h5py.File], None]:
    return lambda file: file.move(old, new)


def rename_array(file: h5py.File, layer: str, old: str, new: str) -> None:
    names = [name.decode() for name in file[layer].attrs["weight_names"]]
    file[layer].move(f"{layer}/{old}:0", f"{layer}/{new}:0")
    file[layer].attrs["weight_names"] = [n.replace(f"/{old}:", f"/{new}:").encode() for n in names]


def only_others(file: h5py.File) -> None:
    for name in list(file):
        file.move(name, f"net{name}")


def nameless_keras_3(file: h5py.File) -> None:
    keras_3(file)
    for layer in file["layers"].values():
        del layer["vars"].attrs["name"]


def both_even(file: h5py.File) -> None:
    for layer in [name for name in file if "_conv_" in name]:
        kernel = file[f"{layer}/{layer}/kernel:0"]
        set_array(file, layer, "kernel", np.zeros((2, 2, 2, *kernel.shape[3:]), np.float32))


def listed_but_missing(file: h5py.File) -> None:
    del file[f"{CONV}/{CONV}/kernel:0"]


def other_features(file: h5py.File) -> None:
    shape = (3, 3, 3, 6, 40)
    set_array(file, "unet_conv_downarm_2_0", "kernel", np.zeros(shape, np.float32))


def elsewhere(**settings: Any) -> Callable[[h5py.File], None]:
    """An array without values of its own in the place of a bias."""

    def change(file: h5py.File) -> None:
        name = f"{CONV}/{CONV}/bias:0"
        shape = settings.pop("shape", file[name].shape)
        del file[name]
        file.create_dataset(name, shape, "float32", **settings)

    return change


def linked(link: Any) -> Callable[[h5py.File], None]:
    """A link in the place of a layer."""
    return lambda file: (lose(CONV)(file), file.__setitem__(CONV, link))[0]


def virtual(file: h5py.File) -> None:
    name = f"{CONV}/{CONV}/bias:0"
    layout = h5py.VirtualLayout(file[name].shape, "float32")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", file[name].shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


FAULTS: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "no layer of ours": (only_others, r"none of its 24 layers has a name that starts with unet_"),
    "nothing": (lambda file: file.clear(), r"none of its 0 layers .* \(they are none\)"),
    "no first layer": (lose("unet_conv_downarm_0_0"), "layer unet_conv_downarm_0_0 is missing"),
    "a lost level": (lose("unet_conv_downarm_1_1"), "layer unet_conv_downarm_1_1 is missing"),
    "a lost decoder layer": (lose("unet_conv_uparm_4_0"), "layer unet_conv_uparm_4_0 is missing"),
    "a lost normalisation": (lose("unet_bn_up_1"), "layer unet_bn_up_1 is missing"),
    "a lost head": (lose("unet_likelihood"), "layer unet_likelihood is missing"),
    "a lost array": (listed_but_missing, f"array {CONV}/kernel:0 of layer {CONV} is missing"),
    "a strange number": (
        rename("unet_conv_downarm_2_0", "unet_conv_downarm_99999999_0"),
        "layer unet_conv_downarm_2_0 is missing",
    ),
    "far too many convolutions": (
        rename("unet_conv_downarm_0_1", "unet_conv_downarm_0_99999999"),
        "layer unet_conv_downarm_0_1 is missing",
    ),
    "half-known arrays": (
        lambda file: rename_array(file, CONV, "kernel", "matrix"),
        f"layer {CONV} holds matrix, bias where kernel, bias belong",
    ),
    "an unknown layer": (
        lambda file: file.copy("unet_conv_downarm_0_1", "unet_expand_down_merge_0"),
        "layer unet_expand_down_merge_0 is unknown",
    ),
    "a decoder too many": (
        lambda file: file.copy("unet_conv_uparm_4_0", "unet_conv_uparm_5_0"),
        "layer unet_conv_uparm_5_0 is unknown",
    ),
    "a bias of another shape": (
        other_shape("unet_conv_uparm_3_1", "bias", (7,)),
        r"the bias of layer unet_conv_uparm_3_1 has shape \(7,\) where .* asks for \(6,\)",
    ),
    "a kernel of another shape": (
        other_shape("unet_conv_uparm_3_0", "kernel", (3, 3, 3, 5, 6)),
        r"the kernel of layer unet_conv_uparm_3_0 has shape .*5, 6\) where .* \(3, 3, 3, 18, 6\)",
    ),
    "an oblong kernel": (other_shape(CONV, "kernel", (3, 3, 5, 2, 3)), r"\(3, 3, 5, 2, 3\) where"),
    "even kernels": (both_even, "kernel_size must be odd, 1 to 31, got 2"),
    "a 2-D network": (other_shape(CONV, "kernel", (3, 3, 2, 3)), "not that of a 3-D convolution"),
    "a scalar": (other_shape(CONV, "kernel", ()), r"shape \(\), not that of a 3-D convolution"),
    "features that jump": (other_features, "levels have 3, 6, 40 features, which do not grow"),
    "an empty array": (other_shape(CONV, "kernel", (3, 3, 3, 2, 0)), "features|at least 1"),
    "whole numbers": (value(CONV, "bias", 1, "int32"), "is of type int32, not of floating point"),
    "not a number": (
        value("unet_bn_up_0", "gamma", np.nan),
        "gamma of layer unet_bn_up_0 is not fin",
    ),
    "infinity": (value("unet_likelihood", "kernel", np.inf), "layer unet_likelihood is not finite"),
    "too large for float32": (value(CONV, "bias", 1e300, "float64"), "is not finite"),
    "three roles": (
        lambda file: file[CONV].attrs.__setitem__("weight_names", [f"{CONV}/kernel:0".encode()]),
        f"layer {CONV} holds kernel where kernel, bias belong",
    ),
    "Keras 3 without names": (nameless_keras_3, "does not say which layer is which"),
    "values in a file of the system": (
        elsewhere(external=[("/etc/passwd", 0, 12)]),
        "lies in another file",
    ),
    "groups without end": (
        lambda file: [file.create_group(f"more/{number}") for number in range(5_001)],
        "it holds more than 5000 groups and arrays",
    ),
    "a virtual array": (virtual, "lies in another file"),
    "a link to another file": (linked(h5py.ExternalLink("/etc/passwd", "/")), "is a link"),
    "a link within the file": (linked(h5py.SoftLink("/unet_conv_downarm_0_1")), "is a link"),
    "gigabytes that are not there": (
        elsewhere(shape=(10**6, 10**6), chunks=(100, 100)),
        "takes 4000.0 GB, of which the file holds 0 bytes",
    ),
    "another type of item": (
        lambda file: (lose(CONV)(file), file.__setitem__(CONV, np.zeros(3)))[0],
        f"layer {CONV} is missing",
    ),
}


class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_fault_is_named_in_one_line(self, path, fault):
        change, message = FAULTS[fault]
        self.refuses(rewrite(path, change), message)

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99])
    def test_a_file_cut_short_is_refused(self, path, share):
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        self.refuses(path, r"must be an HDF5 file of Keras \(\.h5\), but cannot be read")

    @pytest.mark.parametrize(
        "content", [b"version https://git-lfs", b"PK\3\4 a .keras file", b"<html>"]
    )
    def test_another_file_is_refused(self, tmp_path, content):
        (tmp_path / "m.h5").write_bytes(content * 100)
        self.refuses(tmp_path / "m.h5", "must be an HDF5 file of Keras")

    @pytest.mark.parametrize("name", ["none.h5", "."])
    def test_what_is_no_file_is_refused(self, tmp_path, name):
        self.refuses(tmp_path / name, "must be a Keras weight file, but there is no such file")

    def test_a_file_of_other_data_is_refused(self, tmp_path):
        with h5py.File(tmp_path / "m.h5", "w") as file:
            file["vol_data"] = np.zeros((2, 2, 2))
        self.refuses(tmp_path / "m.h5", "none of its 0 layers")

    @settings(max_examples=25)
    @given(data=st.data())
    def test_damaged_bytes_never_crash(self, tmp_path_factory, data):
        path = tmp_path_factory.mktemp("damage") / "m.h5"
        write_keras(path, SMALL, weights())
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 5))):
            content[data.draw(st.integers(0, 9000))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with suppress(KerasWeightsError):
            read_keras(path)

    def test_shapes_alone_are_checked_without_a_file(self):
        with pytest.raises(KerasWeightsError, match="layer unet_conv_downarm_0_0 is missing"):
            config_of({})

    @staticmethod
    def refuses(path: Path, message: str) -> None:
        with pytest.raises(KerasWeightsError, match=message) as caught:
            read_keras(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
