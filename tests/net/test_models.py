"""Models by name: shipped, published, found on disk, downloaded and loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from synthsr_net.models.checkpoint import ModelConfig, ScanConfig, save_model
from synthsr_net.models.keras.converted import config_of_keras
from synthsr_net.models.keras.weights import write_keras
from synthsr_net.models.loading import load_model, load_model_config
from synthsr_net.models.packing import pack_model, stored_precision
from synthsr_net.models.zoo import files as model_files
from synthsr_net.models.zoo import registry as model_registry
from synthsr_net.models.zoo.files import (
    cached_path,
    default_model,
    download_model,
    full_name,
    list_models,
    resolve_model,
    shipped_models,
    state_of,
    web_file,
)
from synthsr_net.models.zoo.registry import (
    PUBLISHED_MODELS,
    ModelError,
    PublishedModel,
)
from synthsr_net.networks.unet import UNet3d, UNetConfig
from synthsr_net.prediction.predictor import Predictor
from synthsr_transforms.support.messages import SynthSRError

BODY = bytes(range(256)) * 2000
SMALL = UNetConfig(num_levels=2, num_features=2)


@pytest.fixture
def server(web: Any) -> Any:
    web.files["a.h5"] = BODY
    return web


@pytest.fixture
def known(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PublishedModel:
    """A published model that the server offers."""
    monkeypatch.setenv("SYNTHSR_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("SYNTHSR_MODELS_URL", raising=False)
    published = PUBLISHED_MODELS["synthsr-v2"]
    model = replace(
        published,
        config=replace(published.config, name="made-up"),
        file="a.h5",
        url=f"{server.url}/a.h5",
        size_bytes=len(BODY),
        sha256=hashlib.sha256(BODY).hexdigest(),
    )
    monkeypatch.setitem(model_registry.PUBLISHED_MODELS, "made-up", model)
    return model


class TestDownloadModel:
    def test_it_is_downloaded_once_and_then_works_offline(self, server, known, tmp_path):
        assert state_of(known) == "not downloaded"
        path = download_model("made-up")
        assert path == tmp_path / "data" / "models" / "a.h5"
        assert path.read_bytes() == BODY
        assert state_of(known) == "cached"
        server.close()
        assert download_model("made-up") == resolve_model("made-up") == path
        assert server.asked == ["a.h5"]

    @pytest.mark.parametrize("ending", ["", "/", "/a.h5"])
    @pytest.mark.parametrize("how", ["argument", "environment"])
    def test_a_mirror_can_be_named(self, server, known, monkeypatch, how, ending):
        broken = replace(known, url="http://127.0.0.1:9/nowhere.h5")
        monkeypatch.setitem(model_registry.PUBLISHED_MODELS, "made-up", broken)
        mirror = server.url + ending
        if how == "environment":
            monkeypatch.setenv("SYNTHSR_MODELS_URL", mirror)
            download_model("made-up")
        else:
            monkeypatch.setenv("SYNTHSR_MODELS_URL", "http://127.0.0.1:9")
            download_model("made-up", base_url=mirror)
        assert state_of(known) == "cached"

    def test_the_address_of_a_file_may_have_a_query(self, known):
        address = "https://archive.test/files/b.h5?download=1"
        assert web_file("made-up", base_url=address).url == address

    def test_a_file_put_there_by_hand_is_taken_if_it_is_right(self, server, known):
        server.close()
        path = cached_path(known)
        path.parent.mkdir(parents=True)
        path.write_bytes(BODY)
        assert download_model("made-up") == resolve_model("made-up") == path
        path.write_bytes(b"x" * len(BODY))
        with pytest.raises(ModelError, match=r"another checksum.*synthsr models download made-up"):
            resolve_model("made-up")
        path.write_bytes(b"short")
        assert state_of(known) == "damaged"

    def test_a_damaged_file_is_replaced(self, known):
        path = cached_path(known)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"damaged")
        assert download_model("made-up").read_bytes() == BODY

    def test_what_cannot_be_downloaded_says_what_to_do(self):
        with pytest.raises(ModelError, match="--model FILE"):
            download_model("synthsr-hyperfine")
        with pytest.raises(ModelError, match="did you mean 'synthsr-v1'"):
            download_model("synthsr_v1")


class TestResolve:
    def test_a_model_that_is_not_there_is_not_downloaded(self, server, known):
        with pytest.raises(ModelError, match="synthsr models download made-up") as caught:
            resolve_model("made-up")
        assert str(cached_path(known).parent) in str(caught.value)
        assert server.asked == []

    def test_paths(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("mine.h5").write_bytes(b"")
        Path("bare").write_bytes(b"")
        assert resolve_model("mine.h5") == Path("mine.h5")
        assert resolve_model(tmp_path / "mine.h5") == tmp_path / "mine.h5"
        assert resolve_model("bare") == Path("bare")

    @pytest.mark.parametrize("name", ["gone.h5", "gone.safetensors", "a/b", "./synthsr-v1"])
    def test_missing_files_are_not_taken_for_names(self, name):
        with pytest.raises(ModelError, match="does not exist"):
            resolve_model(name)

    def test_a_folder_is_no_model(self, tmp_path):
        with pytest.raises(ModelError, match="is a folder"):
            resolve_model(tmp_path)

    def test_names_are_suggested(self):
        with pytest.raises(ModelError, match="did you mean 'synthsr-lowfield-v2'"):
            resolve_model("synthsr-lowfeild-v2")
        with pytest.raises(ModelError, match="synthsr-v2, synthsr-lowfield-v2, synthsr-v1"):
            resolve_model("zebra")


@pytest.fixture
def shipped(tmp_path: Path, ship: Callable[..., None]) -> Path:
    """A model that ships with the package, and is the default; a second one is called quick."""
    folder = tmp_path / "weights"
    folder.mkdir()
    config = ModelConfig(name="own", licence="Apache-2.0", network=SMALL)
    for name in ("own-1", "a-quick-one"):
        save_model(folder / f"{name}.safetensors", config, UNet3d(SMALL).state_dict())
    ship(folder / "own-1.safetensors", quick=folder / "a-quick-one.safetensors")
    return folder / "own-1.safetensors"


class TestShipped:
    def test_the_default_is_declared_whatever_the_names(self, shipped):
        assert default_model() == "own-1"
        assert list(shipped_models()) == ["own-1", "a-quick-one"]
        assert resolve_model("own-1") == download_model("own-1") == shipped
        assert list_models()[0]._asdict() == {
            "name": "own-1",
            "alias": None,
            "is_default": True,
            "inputs": "any contrast",
            "size_bytes": shipped.stat().st_size,
            "licence": "Apache-2.0",
            "state": "shipped",
        }

    def test_an_alias_is_the_model_that_it_stands_for(self, shipped, tmp_path):
        quick = shipped.with_name("a-quick-one.safetensors")
        assert full_name("quick") == "a-quick-one"
        assert resolve_model("quick") == resolve_model("a-quick-one") == quick
        assert download_model("quick") == quick
        assert load_model("quick").config.name == "own"
        assert (list_models()[1].alias, list_models()[1].is_default) == ("quick", False)

    @pytest.mark.parametrize("name", ["own-1", "quick"])
    @pytest.mark.parametrize("kind", ["file", "folder"])
    def test_names_come_before_paths_and_a_dot_makes_a_path(
        self, shipped, tmp_path, monkeypatch, name, kind
    ):
        monkeypatch.chdir(tmp_path)
        Path(name).mkdir() if kind == "folder" else Path(name).write_bytes(b"other")
        assert resolve_model(name).parent == shipped.parent
        if kind == "file":
            assert resolve_model(f"./{name}").read_bytes() == b"other"
        else:
            with pytest.raises(ModelError, match="is a folder"):
                resolve_model(f"./{name}")

    def test_names_and_aliases_are_listed_and_suggested(self, shipped):
        with pytest.raises(ModelError, match="did you mean 'own-1'"):
            resolve_model("own1")
        with pytest.raises(ModelError, match="did you mean 'quick'"):
            resolve_model("quik")
        with pytest.raises(ModelError, match=r"own-1, a-quick-one \(or quick\), synthsr-v2"):
            resolve_model("zebra")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 26492642\n"


class TestDamagedInstallation:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "is missing. Install the package again"),
            (POINTER, "is a Git LFS pointer, not the file itself. Run `git lfs pull`"),
            (b"", "has another checksum. Install the package again"),
        ],
    )
    def test_it_is_told_in_one_line(self, shipped, content, message):
        shipped.unlink()
        if content is not None:
            shipped.write_bytes(content)
        with pytest.raises(ModelError, match=message) as caught:
            load_model("own-1")
        assert str(shipped) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert resolve_model("quick").is_file()
        first = list_models()[0]
        assert (first.state, first.size_bytes) == ("damaged", None)

    def test_a_file_that_breaks_off_is_damaged(self, shipped):
        shipped.write_bytes(shipped.read_bytes()[:-1])
        with pytest.raises(ModelError, match="another checksum"):
            resolve_model("own-1")

    def test_without_checksums_nothing_is_trusted(self, shipped):
        shipped.with_name("SHA256SUMS").unlink()
        with pytest.raises(ModelError, match="another checksum"):
            resolve_model("own-1")


class TestPackage:
    """The files that really ship."""

    def test_each_file_fits_its_checksum(self):
        folder = model_files.SHIPPED_FOLDER
        sums = model_files.checksums()
        assert set(sums) == {path.name for path in folder.glob("*.safetensors")}
        assert set(sums) == {path.name for path in shipped_models().values()}
        for name, expected in sums.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected

    def test_they_are_small_and_free(self):
        total = 0
        for name, path in shipped_models().items():
            config = load_model_config(path)
            assert config.name == name
            assert config.licence == "Apache-2.0"
            assert config.description
            assert stored_precision(path) == "fp16"
            total += path.stat().st_size
            assert path.stat().st_size <= 30e6
        assert total <= 90e6

    def test_the_fast_one_takes_less_than_a_quarter_of_the_multiplications(self):
        configs = [load_model_config(path) for path in shipped_models().values()]
        passes = [1 + config.scan.flip for config in configs]
        costs = [n * multiplications(c.network) for n, c in zip(passes, configs, strict=True)]
        assert costs[1] < 0.25 * costs[0]

    def test_the_predictor_takes_the_default(self):
        predictor = Predictor.from_file(device="cpu")
        assert predictor.config.name == default_model() == "synthsr-t1-v2"
        assert predictor.record.path == shipped_models()["synthsr-t1-v2"]
        assert Predictor.from_file("fast", device="cpu").config.name == "synthsr-t1-fast-v1"


def multiplications(config: UNetConfig) -> float:
    """Multiplications per voxel of the convolutions, counted while the network runs."""
    network, count = UNet3d(config).eval(), 0

    def add(module: torch.nn.Conv3d, inputs: object, output: torch.Tensor) -> None:
        nonlocal count
        count += module.weight.numel() * output[0, 0].numel()

    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(add)
    with torch.no_grad():
        network(torch.zeros(1, config.in_channels, 16, 16, 16))
    return count / 16**3


class TestPacking:
    CONFIG = ModelConfig(
        name="own",
        description="For tests",
        licence="MIT",
        citation="Nobody (2000)",
        network=UNetConfig(num_levels=3, num_features=8, normalisation="instance"),
        training={"steps": 7},
    )

    @pytest.fixture
    def path(self, tmp_path):
        torch.manual_seed(0)
        save_model(
            tmp_path / "own.safetensors", self.CONFIG, UNet3d(self.CONFIG.network).state_dict()
        )
        return tmp_path / "own.safetensors"

    def test_fp16_halves_the_file_and_keeps_what_it_says(self, path, tmp_path):
        model = pack_model(path, tmp_path / "half.safetensors", precision="fp16")
        assert load_model_config(tmp_path / "half.safetensors") == self.CONFIG == model.config
        assert [stored_precision(tmp_path / f"{n}.safetensors") for n in ("own", "half")] == [
            *("fp32", "fp16")
        ]
        assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * path.stat().st_size

    def test_predictions_hardly_change(self, path, tmp_path):
        pack_model(path, tmp_path / "half.safetensors", precision="fp16")
        x = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
        whole, half = (load_model(p).network for p in (path, tmp_path / "half.safetensors"))
        assert {p.dtype for p in half.parameters()} == {torch.float32}
        with torch.no_grad():
            difference, size = (whole(x) - half(x)).abs(), whole(x).abs().max()
        assert 0 < difference.mean() < 1e-3 * size
        assert difference.max() < 1e-2 * size

    def test_packing_again_changes_nothing(self, path, tmp_path):
        once = tmp_path / "once.safetensors"
        pack_model(path, once, precision="fp16")
        for precision in (None, "fp16"):
            pack_model(once, tmp_path / "twice.safetensors", precision=precision)
            assert (tmp_path / "twice.safetensors").read_bytes() == once.read_bytes()

    def test_the_file_itself_can_be_replaced(self, path):
        pack_model(path, path, precision="fp16", name="new")
        assert stored_precision(path) == "fp16"
        assert load_model_config(path) == replace(self.CONFIG, name="new")

    def test_weights_that_are_too_large_are_refused(self, path, tmp_path):
        state = dict(load_model(path).network.state_dict())
        state["head.bias"] = torch.full_like(state["head.bias"], 1e6)
        save_model(path, self.CONFIG, state)
        with pytest.raises(SynthSRError, match=r"head\.bias reaches 1e\+06\. Take fp32"):
            pack_model(path, tmp_path / "half.safetensors", precision="fp16")
        assert [p.name for p in tmp_path.iterdir()] == ["own.safetensors"]


def keras(path: Path, network: UNetConfig) -> Path:
    """A Keras file with random weights."""
    torch.manual_seed(0)
    write_keras(path, network, UNet3d(network).state_dict())
    return path


class TestLoad:
    def test_model_files(self, tmp_path):
        network = UNet3d(SMALL)
        config = ModelConfig(name="mine", network=SMALL)
        save_model(tmp_path / "m.safetensors", config, network.state_dict())
        model = load_model(tmp_path / "m.safetensors")
        assert model.config == config == load_model_config(tmp_path / "m.safetensors")
        assert torch.equal(model.network.head.weight, network.head.weight)

    @pytest.mark.parametrize("content", [b"", b"nonsense" * 100])
    def test_neither_kind_of_file(self, tmp_path, content):
        (tmp_path / "m.h5").write_bytes(content)
        with pytest.raises(SynthSRError, match=r"m\.h5"):
            load_model(tmp_path / "m.h5")

    def test_a_keras_file_of_one_channel_is_like_v1(self, tmp_path):
        model = load_model(keras(tmp_path / "100.h5", SMALL))
        assert model.config.name == "100"
        assert model.config.scan == replace(ScanConfig(), divisor=4)
        assert "synthsr-v1" in model.config.description
        x = torch.rand(1, 1, 8, 8, 8)
        torch.manual_seed(0)
        torch.testing.assert_close(model.network(x), UNet3d(SMALL).eval()(x))

    def test_a_keras_file_needs_no_ending(self, tmp_path):
        path = keras(tmp_path / "m.h5", SMALL)
        path.rename(tmp_path / "bare")
        assert load_model(tmp_path / "bare").config.network == SMALL

    def test_a_downloaded_model_has_the_settings_of_the_registry(self, known, monkeypatch):
        path = cached_path(known)
        path.parent.mkdir(parents=True)
        keras(path, UNetConfig(num_features=2))
        body = path.read_bytes()
        right = replace(known, size_bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
        monkeypatch.setitem(model_registry.PUBLISHED_MODELS, "made-up", right)
        config = load_model("made-up").config
        assert config.scan.sharpen
        assert config.name == "made-up"
        assert config.licence.startswith("FreeSurfer Software License")

    def test_a_renamed_file_is_known_by_its_checksum(self, known, tmp_path):
        (tmp_path / "renamed.h5").write_bytes(BODY)
        config = config_of_keras(tmp_path / "renamed.h5", UNetConfig())
        assert config == known.config


class TestConfigs:
    """Of Keras files that are not of the registry."""

    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "m.h5").write_bytes(b"weights")
        return tmp_path / "m.h5"

    def test_two_channels_are_hyperfine(self, path):
        config = config_of_keras(path, UNetConfig(in_channels=2))
        assert [(i.name, i.contrast, i.maximum) for i in config.inputs] == [
            ("T1", "T1w", 3.0),
            ("T2", "T2w", 2.0),
        ]
        assert config.scan == ScanConfig(residual_input=0, output_range=None, flip=False)

    def test_the_name_of_a_published_file_gives_its_settings_but_not_its_licence(self, path):
        path = path.rename(path.with_name("SynthSR_v20_230130.h5"))
        config = config_of_keras(path, UNetConfig())
        assert config.scan == PUBLISHED_MODELS["synthsr-v2"].config.scan
        assert config.licence == "unknown"
        assert "file name" in config.description

    def test_the_name_of_a_model_of_other_channels_does_not_count(self, path):
        path = path.rename(path.with_name("synthsr_v20_230130.h5"))
        assert config_of_keras(path, UNetConfig(in_channels=2)).scan.residual_input == 0

    @pytest.mark.parametrize("channels", [(3, 1), (1, 2), (2, 3)])
    def test_others_must_be_converted(self, path, channels):
        network = UNetConfig(in_channels=channels[0], out_channels=channels[1])
        with pytest.raises(ModelError, match="convert-weights --inputs"):
            config_of_keras(path, network)

    @pytest.mark.parametrize("levels", [1, 4, 5, 6])
    def test_volumes_are_padded_for_the_depth_of_the_network(self, path, levels):
        config = config_of_keras(path, UNetConfig(num_levels=levels))
        assert config.scan.divisor % config.network.divisor == 0


class TestRegistry:
    @pytest.mark.parametrize("name", list(PUBLISHED_MODELS))
    def test_entries_are_complete(self, name):
        known = PUBLISHED_MODELS[name]
        assert known.config.name == name
        assert "doi:" in known.config.citation
        config = known.config
        assert config.num_channels == config.network.in_channels
        assert config.scan.divisor % config.network.divisor == 0

    @pytest.mark.parametrize("name", [n for n, m in PUBLISHED_MODELS.items() if m.url])
    def test_addresses_agree_with_files_sizes_and_checksums(self, name):
        known = PUBLISHED_MODELS[name]
        assert known.url.startswith("https://")
        assert len(bytes.fromhex(known.sha256)) == 32
        last = known.url.rsplit("/", 1)[1]
        assert last in (known.file, f"SHA256E-s{known.size_bytes}--{known.sha256}.h5")

    def test_settings_are_the_published_ones(self):
        assert PUBLISHED_MODELS["synthsr-v1"].config.scan == ScanConfig()
        v2 = ScanConfig(normalise_after_padding=True, clip_each_pass=True, sharpen=True)
        for name in ("synthsr-v2", "synthsr-lowfield-v2"):
            assert PUBLISHED_MODELS[name].config.scan == v2

    def test_the_cache_is_in_the_folder_of_the_data(self, monkeypatch, tmp_path):
        monkeypatch.setenv("SYNTHSR_DATA", str(tmp_path))
        known = PUBLISHED_MODELS["synthsr-v1"]
        assert cached_path(known) == tmp_path / "models" / known.file
        assert cached_path(known, "other") == Path("other") / "models" / known.file
        assert os.path.isabs(cached_path(known))
