"""Promises of ``synthsr export``: a model goes in, a checked ONNX file comes out."""

from __future__ import annotations

import errno
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from click.testing import Result
from helpers import PROGRAM, one_error, python

from synthsr_net.models.checkpoint import ModelConfig, read_model, save_model
from synthsr_net.models.keras.weights import write_keras
from synthsr_net.models.onnx import export as library
from synthsr_net.models.onnx import graph as onnx_graph
from synthsr_net.networks.unet import UNet3d, UNetConfig

needs_packages = pytest.mark.skipif(
    any(find_spec(name) is None for name in library.PACKAGES), reason="needs the extra 'export'"
)
NETWORK = UNetConfig(num_levels=3, num_features=4)


def run(*arguments: object) -> Result:
    return helpers.run("export", *arguments)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with a model file, and its weights as Keras file; no model is downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNTHSR_DATA", str(tmp_path / "data"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = UNet3d(NETWORK).state_dict()
    save_model("mine.safetensors", ModelConfig(name="mine", network=NETWORK), state)
    write_keras("mine.h5", NETWORK, state)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"mine.safetensors", "mine.h5"}


def computed(path: str, x: torch.Tensor) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path).run(["prediction"], {"image": x.numpy()})[0]


@needs_packages
class TestExport:
    @pytest.mark.parametrize("source", ["mine.safetensors", "mine.h5"])
    def test_the_file_computes_what_the_model_does(self, folder, source):
        result = run(source, "mine.onnx")
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        assert names(folder) == {"mine.onnx"}
        x = torch.rand(2, 1, 9, 12, 10, generator=torch.Generator().manual_seed(0))
        expected = read_model("mine.safetensors").network(x)
        np.testing.assert_allclose(computed("mine.onnx", x), expected, rtol=0, atol=1e-5)

    def test_one_line_sums_up(self, folder):
        (line,) = run("mine.safetensors", "mine.onnx").stdout.splitlines()
        size = Path("mine.onnx").stat().st_size
        assert line.startswith(f"Wrote mine.onnx ({size / 1e3:.1f} kB): ")
        assert line.endswith(" of the range.")
        assert 0 <= float(line.split()[-4]) < 1e-5

    def test_a_shipped_model_is_the_default(self, folder, ship):
        ship(folder / "mine.safetensors")
        for arguments in (["default.onnx"], ["mine", "named.onnx"]):
            assert run(*arguments).exit_code == 0
        assert Path("default.onnx").read_bytes() == Path("named.onnx").read_bytes()

    def test_a_file_is_replaced_only_if_told(self, folder):
        Path("mine.onnx").write_bytes(b"before")
        assert "--overwrite" in one_error(run("mine.safetensors", "mine.onnx"))
        assert Path("mine.onnx").read_bytes() == b"before"
        assert run("mine.safetensors", "mine.onnx", "--overwrite").exit_code == 0
        assert len(Path("mine.onnx").read_bytes()) > 1000

    def test_nothing_else_is_printed(self, folder):
        """In a process of its own, where libraries can write past Python."""
        done = python(PROGRAM, "export", "mine.safetensors", "mine.onnx", check=True)
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 1

    def test_another_result_than_that_of_pytorch_is_a_failure(self, folder, monkeypatch):
        relu = onnx_graph._ACTIVATIONS["relu"]
        monkeypatch.setitem(onnx_graph._ACTIVATIONS, "elu", relu)
        assert "of the range" in one_error(run("mine.safetensors", "mine.onnx"), code=1)
        assert names(folder) == set()

    def test_a_full_disk_leaves_nothing(self, folder, monkeypatch):
        def full(path: Path, content: bytes) -> None:
            with path.open("wb") as file:
                file.write(content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        monkeypatch.setattr(Path, "write_bytes", full)
        assert os.strerror(errno.ENOSPC) in one_error(run("mine.safetensors", "mine.onnx"), code=1)
        assert names(folder) == set()


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["mine.safetensors", "mine.pb"], "must end in .onnx"),
            (["mine.safetensors"], "must end in .onnx"),
            (["mine.safetensors", "none/mine.onnx"], "Make it first"),
            (["mine.safetensors", "folder.onnx", "--overwrite"], "got the folder"),
            (["mine.safetensors", "mine.h5", "mine.onnx"], "one MODEL and one OUT"),
            ([], "Missing argument 'OUT'"),
        ],
    )
    def test_arguments(self, folder, arguments, message):
        (folder / "folder.onnx").mkdir()
        assert message in one_error(run(*arguments))

    @needs_packages
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ("none.safetensors", "does not exist"),
            ("synthsr-v3", "did you mean"),
            ("synthsr-v1", "synthsr models download synthsr-v1"),
            ("text.safetensors", "safetensors file"),
        ],
    )
    def test_models(self, folder, model, message):
        Path("text.safetensors").write_text("text", encoding="utf-8")
        assert message in one_error(run(model, "mine.onnx"))
        assert not Path("mine.onnx").exists()

    @needs_packages
    def test_a_shipped_model_that_is_missing_is_named(self, folder, ship):
        ship(folder / "mine.safetensors")
        (folder / "mine.safetensors").unlink()
        message = one_error(run("mine.onnx"))
        assert "is missing. Install the package again." in message

    @pytest.mark.parametrize("missing", library.PACKAGES)
    def test_without_its_packages_it_says_what_to_install(self, folder, monkeypatch, missing):
        monkeypatch.setattr(
            library, "find_spec", lambda name: None if name == missing else find_spec("json")
        )
        message = one_error(run("mine.safetensors", "mine.onnx"))
        assert "pip install 'synthsr[export]'" in message
        assert names(folder) == set()
