"""Promises of ``synthsr models``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import helpers
import pytest
import torch
import yaml
from click.testing import Result

from synthsr_net.models.checkpoint import ModelConfig, read_config, save_model
from synthsr_net.models.keras.weights import write_keras
from synthsr_net.models.zoo import registry as model_registry
from synthsr_net.models.zoo.files import shipped_models
from synthsr_net.models.zoo.registry import PUBLISHED_MODELS
from synthsr_net.networks.unet import UNet3d, UNetConfig

BODY = b"weights" * 9999


def run(*arguments: object) -> Result:
    result = helpers.run("models", *arguments)
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def url(web: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A web folder with the file of a published model, `made-up`; nothing is downloaded yet."""
    monkeypatch.setenv("SYNTHSR_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("SYNTHSR_MODELS_URL", raising=False)
    web.files["a.h5"] = BODY
    published = PUBLISHED_MODELS["synthsr-v2"]
    model = replace(
        published,
        config=replace(published.config, name="made-up"),
        file="a.h5",
        url=f"{web.url}/a.h5",
        size_bytes=len(BODY),
        sha256=hashlib.sha256(BODY).hexdigest(),
    )
    monkeypatch.setitem(model_registry.PUBLISHED_MODELS, "made-up", model)
    return web.url


def table(result: Result) -> dict[str, list[str]]:
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    return {row[0]: row[1:] for row in rows}


class TestList:
    @pytest.mark.parametrize("arguments", [(), ("list",)])
    def test_it_names_input_size_licence_and_state(self, url, arguments):
        result = run(*arguments)
        assert result.exit_code == 0
        rows = table(result)
        assert rows["name"] == ["alias", "input", "MB", "licence", "state"]
        licence = "FreeSurfer Software License"
        assert rows["synthsr-v1"] == ["-", "any contrast", "53.1", licence, "not downloaded"]
        last = ["-", "T1w + T2w", "-", "Apache-2.0", "bring your own file"]
        assert rows["synthsr-hyperfine"] == last
        named = {*shipped_models(), *model_registry.PUBLISHED_MODELS}
        assert set(rows) - {"name"} == named

    def test_a_downloaded_model_is_cached(self, url):
        run("download", "made-up")
        assert table(run())["made-up"][-1] == "cached"

    def test_shipped_models_come_first(self, url, tmp_path, ship):
        for name in ("own", "another"):
            write_model(tmp_path / f"{name}.safetensors")
        ship(tmp_path / "own.safetensors", quick=tmp_path / "another.safetensors")
        first, second = run().stdout.splitlines()[1:3]
        assert first.startswith("own\t-\tany contrast\t")
        assert first.endswith("\tCC0-1.0\tshipped, the default")
        assert second.startswith("another\tquick\tany contrast\t")
        assert second.endswith("\tshipped")

    def test_a_damaged_one_is_told_and_the_others_are_listed(self, url, tmp_path, ship):
        write_model(tmp_path / "own.safetensors")
        ship(tmp_path / "own.safetensors")
        (tmp_path / "own.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
        assert table(run())["own"][-1] == "damaged, the default"
        for command in ("show", "path"):
            result = run(command, "own")
            assert result.exit_code == 2
            (line,) = result.stderr.splitlines()
            assert "git lfs pull" in line
            assert result.stdout == ""


def write_model(path: Path, training: dict[str, Any] | None = None) -> None:
    network = UNetConfig(num_levels=2, num_features=2)
    torch.manual_seed(0)
    config = ModelConfig(
        name="mine", licence="CC0-1.0", citation="Nobody (2000)", network=network,
        training=training or {"steps": 7, "command": "train ${HOME} ${"},
    )  # fmt: skip
    save_model(path, config, UNet3d(network).state_dict())


class TestDownload:
    def test_the_path_goes_to_standard_output_and_the_licence_to_the_other(self, url, tmp_path):
        result = run("download", "made-up")
        assert result.exit_code == 0
        path = tmp_path / "data" / "models" / "a.h5"
        assert result.stdout == f"{path}\n"
        assert path.read_bytes() == BODY
        assert "FreeSurfer Software License" in result.stderr
        assert "https://surfer.nmr.mgh.harvard.edu/fswiki" in result.stderr

    def test_a_mirror_can_be_named(self, url, monkeypatch):
        broken = replace(model_registry.PUBLISHED_MODELS["made-up"], url="http://127.0.0.1:9/a.h5")
        monkeypatch.setitem(model_registry.PUBLISHED_MODELS, "made-up", broken)
        assert run("download", "made-up").exit_code == 1
        assert run("download", "made-up", "--url", url).exit_code == 0

    def test_what_is_there_is_kept_unless_it_is_damaged(self, url, web, tmp_path):
        run("download", "made-up")
        web.files["a.h5"] = b"changed"
        assert run("download", "made-up").exit_code == 0
        (tmp_path / "data" / "models" / "a.h5").write_bytes(b"damaged")
        result = run("download", "made-up")
        assert result.exit_code == 1
        assert "SHA256" in result.stderr.splitlines()[-1]

    def test_one_that_fails_does_not_stop_the_others(self, url, monkeypatch):
        gone = replace(model_registry.PUBLISHED_MODELS["made-up"], file="b.h5", url=f"{url}/b.h5")
        monkeypatch.setitem(model_registry.PUBLISHED_MODELS, "gone", gone)
        result = run("download", "gone", "made-up")
        assert result.exit_code == 1
        assert "404" in result.stderr.splitlines()[-1]
        assert result.stderr.splitlines()[-1].startswith("Error: ")
        assert run("path", "made-up").exit_code == 0

    @pytest.mark.parametrize(
        ("name", "message"),
        [("synthsr-v3", "did you mean 'synthsr-v2'"), ("synthsr-hyperfine", "--model FILE")],
    )
    def test_names_are_checked_before_anything_is_downloaded(self, url, name, message):
        result = run("download", "made-up", name)
        assert result.exit_code == 2
        assert message in result.stderr
        assert table(run())["made-up"][-1] == "not downloaded"

    def test_a_model_to_bring_along(self, url):
        result = run("download", "synthsr-hyperfine")
        assert result.exit_code == 2
        assert "--model FILE" in result.stderr


class TestPath:
    def test_of_a_model_that_is_not_there(self, url):
        result = run("path", "made-up")
        assert result.exit_code == 2
        assert "synthsr models download made-up" in result.stderr
        assert result.stdout == ""

    def test_of_a_damaged_file(self, url, tmp_path):
        run("download", "made-up")
        (tmp_path / "data" / "models" / "a.h5").write_bytes(b"x" * len(BODY))
        result = run("path", "made-up")
        assert result.exit_code == 2
        assert "checksum" in result.stderr


class TestShipped:
    @pytest.mark.parametrize(
        ("name", "full"),
        [
            ("synthsr-t1-v2",) * 2,
            ("synthsr-t1-v1",) * 2,
            ("synthsr-t1-fast-v1",) * 2,
            ("fast", "synthsr-t1-fast-v1"),
        ],
    )
    def test_what_ships_has_a_path_and_a_description(self, url, name, full):
        path = run("path", name).stdout.strip()
        assert Path(path).name == f"{full}.safetensors"
        assert run("download", name).stdout.strip() == path
        shown = run("show", name).stdout.splitlines()
        assert {f"name: {full}", f"file: {path}", "weights: fp16", "licence: Apache-2.0"} <= {
            *shown
        }
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        assert f"sha256: {digest}" in shown
        assert ("alias: fast" in shown) == (full == "synthsr-t1-fast-v1")
        assert ("state: shipped, the default" in shown) == (full == "synthsr-t1-v2")


class TestShow:
    @pytest.mark.parametrize("name", list(PUBLISHED_MODELS))
    def test_a_published_model(self, url, name):
        result = run("show", name)
        assert result.exit_code == 0
        known = PUBLISHED_MODELS[name]
        for line in known.config.citation.splitlines():
            assert f"citation: {line}" in result.stdout
        assert known.config.licence in result.stdout
        assert (known.url or known.file) in result.stdout
        assert "levels: 5, of 24, 48, 96, 192, 384 features" in result.stdout

    def test_a_model_file(self, url, tmp_path):
        write_model(tmp_path / "m.safetensors")
        result = run("show", tmp_path / "m.safetensors")
        assert result.exit_code == 0
        assert f"file: {tmp_path / 'm.safetensors'}" in result.stdout
        for text in ("name: mine", "licence: CC0-1.0", "citation: Nobody (2000)"):
            assert text in result.stdout.splitlines()
        assert "  levels: 2, of 2, 4 features" in result.stdout.splitlines()
        assert "  command: train ${HOME} ${" in result.stdout.splitlines()
        assert "weights: fp32" in result.stdout.splitlines()

    def test_results_are_in_a_column(self, url, tmp_path):
        results = {"validation/brain/l1": 0.0612345678, "validation/brain/psnr": 21.7}
        nested = [{"name": "l1", "weight": 1.0}, {"name": "ssim", "weight": 0.5}]
        training = {"results": results, "flags": [True, None], "losses": nested, "none": {}}
        write_model(tmp_path / "m.safetensors", training)
        shown = run("show", tmp_path / "m.safetensors").stdout
        assert shown[shown.index("training:") :].splitlines() == [
            "training:",
            "  results:",
            "    validation/brain/l1:   0.06123",
            "    validation/brain/psnr: 21.7",
            "  flags: yes, none",
            "  losses:",
            "    - name: l1",
            "      weight: 1",
            "    - name: ssim",
            "      weight: 0.5",
            "  none: none",
        ]

    def test_yaml_holds_every_setting(self, url, tmp_path):
        write_model(tmp_path / "m.safetensors")
        shown = run("show", tmp_path / "m.safetensors", "--yaml").stdout
        expected = asdict(read_config(tmp_path / "m.safetensors"))
        assert yaml.safe_load(shown) == json.loads(json.dumps(expected))

    def test_a_keras_file(self, url, tmp_path):
        network = UNetConfig(num_levels=2, num_features=2)
        write_keras(tmp_path / "m.h5", network, UNet3d(network).state_dict())
        result = run("show", tmp_path / "m.h5")
        assert result.exit_code == 0
        assert "settings of synthsr-v1" in result.stdout
        assert "levels: 2, of 2, 4 features" in result.stdout

    def test_a_file_that_is_none(self, url, tmp_path):
        (tmp_path / "m.safetensors").write_bytes(b"nonsense")
        result = run("show", tmp_path / "m.safetensors")
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1


def test_a_misspelt_command_is_an_error_of_one_line():
    result = run("downlod")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_the_help_explains_itself():
    for command in ((), ("download",), ("show",), ("path",), ("list",)):
        result = run(*command, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: synthsr models")
