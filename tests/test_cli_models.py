"""Promises of ``synthsr models``."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from synthsr_cli.main import synthsr
from synthsr_net.checkpoint import ModelConfig, save_model
from synthsr_net.models import KNOWN_MODELS
from synthsr_net.models import registry as model_registry
from synthsr_net.unet import UNet3d, UNetConfig

BODY = b"weights" * 9999


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(synthsr, ["models", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web folder with the file of a published model, `made-up`; nothing is downloaded yet."""
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.setenv("SYNTHSR_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("SYNTHSR_MODELS_URL", raising=False)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a.h5").write_bytes(BODY)
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "web")))
    address = f"http://127.0.0.1:{http.server_port}"
    model = replace(
        KNOWN_MODELS["synthsr-v2"],
        name="made-up",
        file="a.h5",
        url=f"{address}/a.h5",
        size_bytes=len(BODY),
        sha256=hashlib.sha256(BODY).hexdigest(),
    )
    monkeypatch.setitem(model_registry.KNOWN_MODELS, "made-up", model)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield address
    http.shutdown()
    http.server_close()
    thread.join()


def table(result: Result) -> dict[str, list[str]]:
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    return {row[0]: row[1:] for row in rows}


class TestList:
    @pytest.mark.parametrize("arguments", [(), ("list",)])
    def test_it_names_input_size_licence_and_state(self, url, arguments):
        result = run(*arguments)
        assert result.exit_code == 0
        rows = table(result)
        assert rows["name"] == ["input", "MB", "licence", "state"]
        licence = "FreeSurfer Software License"
        assert rows["synthsr-v1"] == ["any contrast", "53.1", licence, "not downloaded"]
        assert rows["synthsr-hyperfine"] == ["T1w + T2w", "-", "Apache-2.0", "bring your own file"]
        assert set(rows) - {"name"} == set(model_registry.KNOWN_MODELS)

    def test_a_downloaded_model_is_cached(self, url):
        run("download", "made-up")
        assert table(run())["made-up"][-1] == "cached"

    def test_a_shipped_model_comes_first(self, url, tmp_path, monkeypatch):
        monkeypatch.setattr(model_registry, "SHIPPED_FOLDER", tmp_path)
        write_model(tmp_path / "own.safetensors")
        assert run().stdout.splitlines()[1].startswith("own\tany contrast\t")
        assert table(run())["own"][-1] == "shipped"


def write_model(path: Path) -> None:
    network = UNetConfig(num_levels=2, num_features=2)
    torch.manual_seed(0)
    config = ModelConfig(
        name="mine", licence="CC0-1.0", citation="Nobody (2000)", network=network,
        training={"steps": 7, "command": "train ${HOME} ${"},
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
        broken = replace(model_registry.KNOWN_MODELS["made-up"], url="http://127.0.0.1:9/a.h5")
        monkeypatch.setitem(model_registry.KNOWN_MODELS, "made-up", broken)
        assert run("download", "made-up").exit_code == 1
        assert run("download", "made-up", "--url", url).exit_code == 0

    def test_what_is_there_is_kept_unless_told_otherwise(self, url, tmp_path):
        run("download", "made-up")
        (tmp_path / "web" / "a.h5").write_bytes(b"changed")
        assert run("download", "made-up").exit_code == 0
        result = run("download", "made-up", "--overwrite")
        assert result.exit_code == 1
        assert "SHA-256" in result.stderr
        assert run("path", "made-up").exit_code == 0

    def test_one_that_fails_does_not_stop_the_others(self, url, monkeypatch):
        gone = replace(
            model_registry.KNOWN_MODELS["made-up"], name="gone", file="b.h5", url=f"{url}/b.h5"
        )
        monkeypatch.setitem(model_registry.KNOWN_MODELS, "gone", gone)
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


class TestShow:
    @pytest.mark.parametrize("name", list(KNOWN_MODELS))
    def test_a_published_model(self, url, name):
        result = run("show", name)
        assert result.exit_code == 0
        known = KNOWN_MODELS[name]
        for line in known.citation.splitlines():
            assert f"citation: {line}" in result.stdout
        assert known.licence in result.stdout
        assert (known.url or known.file) in result.stdout
        assert f"num_features: {UNetConfig().num_features}" in result.stdout

    def test_a_model_file(self, url, tmp_path):
        write_model(tmp_path / "m.safetensors")
        result = run("show", tmp_path / "m.safetensors")
        assert result.exit_code == 0
        assert f"file: {tmp_path / 'm.safetensors'}" in result.stdout
        for text in ("name: mine", "licence: CC0-1.0", "citation: Nobody (2000)"):
            assert text in result.stdout.splitlines()
        shown = yaml.safe_load(result.stdout[result.stdout.index("network:") :])
        assert shown["network"]["num_levels"] == 2
        assert shown["training"] == {"steps": 7, "command": "train ${HOME} ${"}

    def test_a_keras_file(self, url, tmp_path):
        keras_weights = pytest.importorskip("synthsr_net.keras_weights")
        network = UNetConfig(num_levels=2, num_features=2)
        keras_weights.write_keras(tmp_path / "m.h5", network, UNet3d(network).state_dict())
        result = run("show", tmp_path / "m.h5")
        assert result.exit_code == 0
        assert "settings of synthsr-v1" in result.stdout
        assert "num_levels: 2" in result.stdout

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
