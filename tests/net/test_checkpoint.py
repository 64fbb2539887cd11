"""Promises of model files: what is saved comes back, what is wrong is named, nothing is run."""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from synthsr_net.models.checkpoint import (
    FORMAT_VERSION,
    HEADER,
    InputConfig,
    ModelConfig,
    ScanConfig,
    network_of,
    read_config,
    read_model,
    save_model,
)
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_transforms.support.messages import SynthSRError

NETWORK = UNetConfig(num_levels=2, num_features=2, in_channels=4, out_channels=2)
CONFIG = ModelConfig(
    name="own",
    description='Two scans: "T1" and FLAIR, 10 % noise\nsecond line',
    licence="CC-BY-4.0",
    citation="Nobody et al.",
    network=NETWORK,
    inputs=[
        InputConfig(name="T1", contrast="T1w", maximum=3.0, reliability_map=True),
        InputConfig(name="FLAIR", reliability_map=True),
    ],
    output="T2w",
    spread=True,
    scan=ScanConfig(
        spacing_mm=0.8,
        divisor=4,
        normalisation="percentile",
        percentiles=(1.0, 99.5),
        normalise_after_padding=True,
        output_scale=100.0,
        output_range=None,
        clip_each_pass=True,
        residual_input=1,
        flip=False,
        sharpen=True,
    ),
    training={
        "preset": "all_purpose",
        "steps": 1000,
        "losses": ["l1", {"name": "ssim", "p": None}],
    },
)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet3d(NETWORK).state_dict()


@pytest.fixture
def path(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    save_model(tmp_path / "own.safetensors", CONFIG, state)
    return tmp_path / "own.safetensors"


def write(
    path: Path, state: Mapping[str, Tensor], settings: object = None, key: str = HEADER
) -> Path:
    """A file with any header: a text, or settings in place of those of `CONFIG`."""
    if not isinstance(settings, str):
        changes = settings if isinstance(settings, dict) else {}
        settings = json.dumps({"format": FORMAT_VERSION, **asdict(CONFIG), **changes})
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, {key: settings})
    return path


class TestRoundTrip:
    def test_a_whole_config_comes_back(self, path):
        assert read_config(path) == CONFIG

    def test_weights_come_back_bit_by_bit(self, path, state):
        model = read_model(path)
        assert model.config == CONFIG
        loaded = model.network.state_dict()
        assert set(loaded) == set(state)
        assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())

    def test_the_network_is_ready_for_inference(self, path):
        network = read_model(path).network
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())
        assert network(torch.zeros(1, 4, 5, 6, 7)).shape == (1, 2, 5, 6, 7)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_any_precision_is_stored_and_read_as_float32(self, tmp_path, state, dtype):
        stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
        save_model(tmp_path / "m.safetensors", CONFIG, stored)
        assert load_file(tmp_path / "m.safetensors")["head.weight"].dtype == dtype
        for name, tensor in read_model(tmp_path / "m.safetensors").network.state_dict().items():
            torch.testing.assert_close(tensor, stored[name].to(tensor.dtype), rtol=0, atol=0)
            assert tensor.dtype in (torch.float32, torch.int64)

    def test_half_precision_makes_half_the_file(self, tmp_path):
        config = ModelConfig(network=UNetConfig(num_levels=2))
        state = UNet3d(config.network).state_dict()
        halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        sizes = []
        for name, tensors in (("whole", state), ("half", halves)):
            save_model(tmp_path / f"{name}.safetensors", config, tensors)
            sizes.append((tmp_path / f"{name}.safetensors").stat().st_size)
        assert sizes[1] < 0.52 * sizes[0]

    @settings(max_examples=20)
    @given(text=st.text(st.sampled_from("$\\{}:.aé\n 1'\"#"), max_size=12), number=st.floats(-9, 9))
    def test_any_text_comes_back(self, tmp_path_factory, text, number):
        config = replace(CONFIG, name=text, training={"note": text, "rows": [text, number]})
        path = tmp_path_factory.mktemp("text") / "m.safetensors"
        write(path, {}, asdict(config))
        assert read_config(path) == config

    def test_nothing_is_looked_up_for_a_text(self, tmp_path, monkeypatch):
        monkeypatch.setenv("SYNTHSR_TEST_SECRET", "secret")
        text = "${oc.env:SYNTHSR_TEST_SECRET}"
        path = write(tmp_path / "m.safetensors", {}, {"name": text})
        assert read_config(path).name == text

    def test_an_older_header_gets_the_defaults(self, tmp_path, state):
        settings = {"format": 1, "network": asdict(NETWORK), "inputs": [{"name": "a"}] * 4}
        model = read_model(write(tmp_path / "m.safetensors", state, json.dumps(settings)))
        assert model.config.scan == ScanConfig()

    def test_reading_the_config_reads_no_weights(self, path):
        cut = path.with_name("cut.safetensors")
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        cut.write_bytes(data[: 8 + length] + b"\0" * (len(data) - 8 - length))
        assert read_config(cut) == CONFIG


class TestWriting:
    def test_a_model_file_has_its_ending(self, tmp_path, state):
        with pytest.raises(SynthSRError, match=r"must end in \.safetensors, got .*own\.h5"):
            save_model(tmp_path / "own.h5", CONFIG, state)
        assert not list(tmp_path.iterdir())

    def test_a_full_disk_leaves_the_old_file(self, path, state, monkeypatch):
        before = path.read_bytes()

        def fill(self: Path, data: bytes) -> None:
            with self.open("wb") as file:
                file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", fill)
        with pytest.raises(OSError, match="No space left"):
            save_model(path, CONFIG, {name: tensor + 1 for name, tensor in state.items()})
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_a_missing_folder_is_an_error_of_the_system(self, tmp_path, state):
        with pytest.raises(FileNotFoundError):
            save_model(tmp_path / "none" / "own.safetensors", CONFIG, state)

    @pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
    def test_others_may_read_what_they_may_read_of_any_file(self, path):
        other = path.with_name("other")
        other.touch()
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)

    def test_weights_on_loan_can_be_saved(self, tmp_path, state):
        lent = {
            name: tensor.clone().requires_grad_(tensor.is_floating_point())
            for name, tensor in state.items()
        }
        turned = {name: t.transpose(0, 1) if t.ndim == 5 else t for name, t in lent.items()}
        back = {name: t.transpose(0, 1) if t.ndim == 5 else t for name, t in turned.items()}
        save_model(tmp_path / "m.safetensors", CONFIG, back)
        loaded = read_model(tmp_path / "m.safetensors").network.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


HEADERS = {
    "no JSON": ("{", "has a damaged header"),
    "a list": ("[1]", "has a damaged header"),
    "nested too deep": ("[" * 10**5, "has a damaged header"),
    "no version": ("{}", "has a damaged header"),
    "a later format": ({"format": FORMAT_VERSION + 1}, f"has format {FORMAT_VERSION + 1}.*Update"),
    "an unknown setting": ({"licens": "MIT"}, "unknown setting 'licens'.*licence"),
    "a setting of another type": ({"scan": {"divisor": "many"}}, "'scan.divisor' is not usable"),
    "a network that cannot be": ({"network": {"num_levels": 0}}, "num_levels must be 1 to"),
    "a network without end": ({"network": {"num_levels": 10**9}}, "num_levels must be 1 to"),
    "no channels": ({"inputs": []}, "takes 4 channels, but the inputs of model 'own' .* make 0"),
    "other channels": ({"inputs": [{"name": "a"}]}, r"inputs of model 'own' \(a\) make 1"),
    "half a spread": (
        {"network": asdict(replace(NETWORK, out_channels=3))},
        "even number of output channels, got 3",
    ),
    "an unknown normalisation": ({"scan": {"normalisation": "z"}}, "normalisation must be one of"),
    "no spacing": ({"scan": {"spacing_mm": 0}}, "spacing_mm must be above 0"),
}


def changed(state: Mapping[str, Tensor], **changes: Tensor | None) -> dict[str, Tensor]:
    """Weights with some replaced, added, or (None) left out; `__` stands for a dot."""
    result = dict(state)
    for name, tensor in changes.items():
        result.pop(name.replace("__", "."), None)
        if tensor is not None:
            result[name.replace("__", ".")] = tensor
    return result


class TestBadFiles:
    @pytest.mark.parametrize("read", [read_config, read_model])
    @pytest.mark.parametrize("case", HEADERS)
    def test_a_bad_header_is_named(self, tmp_path, state, case, read):
        header, message = HEADERS[case]
        path = write(tmp_path / "m.safetensors", state, header)
        self.refuses(read, path, message)

    @pytest.mark.parametrize("size", [0, 4, 8, 20, 2000, -1])
    def test_a_file_cut_short_is_refused(self, path, size):
        path.write_bytes(path.read_bytes()[:size])
        self.refuses(read_model, path, "must be a safetensors file, but cannot be read")

    @pytest.mark.parametrize("content", [b"not a model", b"\0" * 100, b"\x89HDF\r\n\x1a\n" * 20])
    def test_another_file_is_refused(self, tmp_path, content):
        path = tmp_path / "m.safetensors"
        path.write_bytes(content)
        self.refuses(read_model, path, "must be a safetensors file, but cannot be read")

    def test_a_pickle_is_refused_and_not_run(self, tmp_path):
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "ran",)

        path = tmp_path / "m.safetensors"
        path.write_bytes(pickle.dumps(Trap()))
        self.refuses(read_model, path, "must be a safetensors file")
        assert not (tmp_path / "ran").exists()

    def test_safetensors_of_others_are_refused(self, tmp_path, state):
        path = write(tmp_path / "m.safetensors", state, key="format")
        self.refuses(read_model, path, "must be a model file of synthsr")

    @pytest.mark.parametrize("name", ["none.safetensors", "."])
    def test_what_is_no_file_is_refused(self, tmp_path, name):
        self.refuses(read_model, tmp_path / name, "must be a model file, but there is no such file")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"head__bias": None}, r"but 1 differ, first head\.bias"),
            ({"extra": torch.zeros(1)}, "but 1 differ, first extra"),
            ({"head__bias": torch.zeros(3)}, r"but 1 differ, first head\.bias"),
            (
                {"head__bias": torch.tensor([0, torch.nan])},
                r"finite weights, but head\.bias does not",
            ),
            (
                {"head__bias": torch.tensor([0, torch.inf])},
                r"finite weights, but head\.bias does not",
            ),
            ({"head__bias": torch.zeros(2, dtype=torch.int32)}, r"head\.bias is int32"),
            ({"head__bias": torch.zeros(2, dtype=torch.complex64)}, r"head\.bias is complex64"),
        ],
    )
    def test_weights_that_do_not_fit_are_named(self, tmp_path, state, changes, message):
        path = write(tmp_path / "m.safetensors", changed(state, **changes))
        self.refuses(read_model, path, message)

    def test_counters_of_batches_may_be_missing(self, tmp_path, state):
        kept = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
        network = read_model(write(tmp_path / "m.safetensors", kept)).network
        assert network.encoder[0].norm.num_batches_tracked == 0

    @settings(max_examples=20)
    @given(data=st.data())
    def test_damaged_bytes_never_crash(self, tmp_path_factory, state, data):
        path = tmp_path_factory.mktemp("damage") / "m.safetensors"
        save_model(path, CONFIG, state)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with suppress(SynthSRError):
            read_model(path)

    @staticmethod
    def refuses(read: Any, path: Path, message: str) -> None:
        with pytest.raises(SynthSRError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


class TestNetworkOf:
    def test_the_weights_given_stay_as_they_are(self, state):
        halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        network_of(NETWORK, halves, "here")
        assert halves["head.weight"].dtype == torch.float16

    def test_messages_say_where_weights_come_from(self):
        with pytest.raises(SynthSRError, match=r"the cloud must hold the weights of its arch"):
            network_of(NETWORK, {}, "the cloud")
