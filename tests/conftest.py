"""Options and small data that all tests share.

`--device cuda` runs the same tests on another device; nothing else changes.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
import torchio as tio
from helpers.interpreted import interpreted_kernels
from helpers.processes import Server
from torch import Tensor
from torchio.data.batch import SubjectsBatch


def pytest_configure() -> None:
    """Let Ctrl-C stop programs that tests start, also where the shell ignores it (`pytest &`).

    One thread for each process of the run: volumes are so small that threads only cost time, and
    sums then have one order. Threads that commands ask for wait without spinning.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # for the processes that it starts
    torch.set_num_threads(1)


hypothesis.settings.register_profile("tests", max_examples=30, deadline=None)  # any machine
hypothesis.settings.load_profile("tests")

SHAPE = (12, 10, 14)
LEFT_VALUES = (2, 3, 4, 10, 17, 31)
RIGHT_VALUES = (41, 42, 43, 49, 53, 63)
NEUTRAL_VALUES = (0, 14, 16, 24)
DEVICES = ("cpu", "cuda", "mps")
HANDLED = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", choices=DEVICES, help="device to run the tests on (default: cpu)"
    )
    parser.addoption(
        "--reference-dir",
        default=None,
        help="folder of vectors recorded from the original SynthSR, for the tests of parity",
    )


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device that `--device` names."""
    name = request.config.getoption("--device")
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name in available and not available[name]():
        raise pytest.UsageError(f"--device must be available here, got {name}. Use --device cpu.")
    return torch.device(name)


@pytest.fixture
def kernels(device: torch.device) -> Iterator[None]:
    """Kernels of Triton on the device of the tests."""
    pytest.importorskip("triton")
    if device.type == "cuda":
        yield
        return
    if not os.environ.get("TRITON_INTERPRET"):
        pytest.skip("kernels run on a CPU with TRITON_INTERPRET=1 only")
    with interpreted_kernels():
        yield


@pytest.fixture(scope="session", autouse=True)
def whole_products() -> Iterator[None]:
    """Tests compare with networks applied in full float32: no rounding to TF32 on NVIDIA GPUs."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="session")
def affines() -> dict[str, Tensor]:
    """Voxel-to-world matrices of several kinds, `(4, 4)` float64."""
    turn = rotation((10.0, -20.0, 5.0))
    oblique = torch.eye(4, dtype=torch.float64)
    oblique[:3, :3] = turn @ torch.diag(torch.tensor([0.8, 1.25, 2.0], dtype=torch.float64))
    oblique[:3, 3] = torch.tensor([-20.0, 31.0, 7.5])
    swapped = torch.zeros(4, 4, dtype=torch.float64)
    swapped[0, 2], swapped[1, 0], swapped[2, 1], swapped[3, 3] = -1.0, 1.0, -1.0, 1.0
    swapped[:3, 3] = torch.tensor([13.0, -4.0, 9.0])
    return {
        "identity": torch.eye(4, dtype=torch.float64),
        "anisotropic": torch.diag(torch.tensor([1.0, 1.5, 3.0, 1.0], dtype=torch.float64)),
        "oblique": oblique,
        "swapped": swapped,
    }


def rotation(degrees: Sequence[float]) -> Tensor:
    """A rotation about x, then y, then z, by other means than the library's."""
    result = torch.eye(3, dtype=torch.float64)
    for axis, angle in enumerate(degrees):
        skew = torch.zeros(3, 3, dtype=torch.float64)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        skew[j, i], skew[i, j] = 1.0, -1.0
        angle_radians = torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
        result = torch.linalg.matrix_exp(skew * angle_radians) @ result
    return result


@pytest.fixture(scope="session")
def make_labels() -> Callable[..., Tensor]:
    """Maker of label maps `(1, X, Y, Z)` in blocks, left values first along the first axis."""

    def make(
        shape: Sequence[int] = SHAPE, seed: int = 0, dtype: torch.dtype = torch.int16
    ) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        blocks = [max(1, -(-n // 3)) for n in shape]
        which = torch.randint(0, 8, blocks, generator=generator)
        for axis, size in enumerate(shape):
            which = which.repeat_interleave(3, axis).narrow(axis, 0, size)
        left = torch.tensor([*LEFT_VALUES, 0, 14])
        right = torch.tensor([*RIGHT_VALUES, 16, 24])
        half = torch.arange(shape[0])[:, None, None] < shape[0] // 2
        return torch.where(half, left[which], right[which]).to(dtype)[None]

    return make


@pytest.fixture(scope="session")
def make_image() -> Callable[..., Tensor]:
    """Maker of images `(C, X, Y, Z)` of uniform numbers within 0 and 100."""

    def make(
        shape: Sequence[int] = SHAPE,
        channels: int = 2,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        generator = torch.Generator().manual_seed(seed + 1000)
        return (100 * torch.rand(channels, *shape, generator=generator)).to(dtype)

    return make


@pytest.fixture
def make_subject(
    make_labels: Callable[..., Tensor],
    make_image: Callable[..., Tensor],
    affines: dict[str, Tensor],
    device: torch.device,
) -> Callable[..., tio.Subject]:
    """Maker of subjects with a label map `labels` and an image `image` on the test device."""

    def make(
        shape: Sequence[int] = SHAPE,
        *,
        channels: int = 2,
        seed: int = 0,
        affine: str = "identity",
        dtype: torch.dtype = torch.float32,
        label_dtype: torch.dtype = torch.int16,
    ) -> tio.Subject:
        matrix = affines[affine]
        labels = make_labels(shape, seed, label_dtype).to(device)
        image = make_image(shape, channels, seed, dtype).to(device)
        return tio.Subject(
            labels=tio.LabelMap(labels, affine=matrix), image=tio.ScalarImage(image, affine=matrix)
        )

    return make


@pytest.fixture
def make_batch(make_subject: Callable[..., tio.Subject]) -> Callable[..., SubjectsBatch]:
    """Maker of batches of different subjects; arguments are those of `make_subject`."""

    def make(size: int = 3, *, seed: int = 0, **kwargs: Any) -> SubjectsBatch:
        subjects = [make_subject(seed=seed + i, **kwargs) for i in range(size)]
        return SubjectsBatch.from_subjects(subjects)

    return make


@pytest.fixture(scope="session")
def seeded() -> Callable[[int], torch.Generator]:
    """Maker of CPU generators."""
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def snapshot() -> Callable[[SubjectsBatch], dict[str, Any]]:
    """Everything that a batch holds, copied, for `assert_same`."""

    def take(batch: SubjectsBatch) -> dict[str, Any]:
        return {
            "data": {name: image.data.clone() for name, image in batch.images.items()},
            "affines": {
                name: [affine.data.clone().cpu() for affine in image.affines]
                for name, image in batch.images.items()
            },
            "kinds": {name: image._image_class for name, image in batch.images.items()},
            "metadata": copy.deepcopy(batch.metadata),
            "history": [(trace.name, trace.params) for trace in batch.applied_transforms],
        }

    return take


@pytest.fixture(scope="session")
def assert_same(
    snapshot: Callable[[SubjectsBatch], dict[str, Any]],
) -> Callable[..., None]:
    """Compare two batches (or snapshots): voxels, affines, kinds and metadata.

    `tolerance` is relative to the largest magnitude of an image; whole numbers must be equal.
    """

    def check(first: Any, second: Any, tolerance: float = 0.0, history: bool = False) -> None:
        a, b = (snapshot(x) if isinstance(x, SubjectsBatch) else x for x in (first, second))
        assert a["kinds"] == b["kinds"]
        for name, data in a["data"].items():
            _assert_close(data, b["data"][name], tolerance, name)
            for left, right in zip(a["affines"][name], b["affines"][name], strict=True):
                torch.testing.assert_close(left, right, rtol=0, atol=1e-9)
        assert json.dumps(a["metadata"]) == json.dumps(b["metadata"])
        if history:
            assert a["history"] == b["history"]

    return check


def _assert_close(first: Tensor, second: Tensor, tolerance: float, name: str) -> None:
    assert first.dtype == second.dtype, name
    assert first.shape == second.shape, name
    assert first.device == second.device, name
    if tolerance == 0 or not first.is_floating_point():
        assert torch.equal(first, second), f"{name} differs at {(first != second).sum()} voxels"
        return
    scale = max(first.abs().max().item(), 1e-6)
    torch.testing.assert_close(first, second, rtol=0, atol=tolerance * scale)


@pytest.fixture(scope="session", autouse=True)
def forget_people() -> Iterator[Callable[[], None]]:
    """Phantoms share what is the same on every grid, which takes most of their time.

    The function lets the next one be made from nothing.
    """
    from synthsr_transforms.phantom import head

    person = lru_cache(maxsize=4)(head.sample_person)
    make, lattices = head.lattice_fields, dict[tuple[int, int], tuple[Any, Tensor]]()

    def lattice(individual: Any, side: int) -> Tensor:
        key = id(individual), side
        if key not in lattices:
            if len(lattices) >= 8:
                forget()
            lattices[key] = individual, make(individual, side)
        return lattices[key][1]

    def forget() -> None:
        person.cache_clear()
        lattices.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "sample_person", person)
        patch.setattr(head, "lattice_fields", lattice)
        yield forget


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Begins processes that have imported everything already."""
    if not hasattr(os, "fork"):
        pytest.skip("processes are forked, which this system cannot")
    made = Server(tmp_path_factory.mktemp("processes"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """Take back what a command or a library set for the whole process."""
    variables = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    yield
    torch.set_num_threads(1)
    if torch.are_deterministic_algorithms_enabled():  # to say no takes seconds the first time
        torch.use_deterministic_algorithms(False)
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
    variables["PYTEST_CURRENT_TEST"] = os.environ.get("PYTEST_CURRENT_TEST", "")
    if variables != dict(os.environ):
        os.environ.clear()
        os.environ.update(variables)


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the transforms that a test defines from all others."""
    from synthsr_transforms.transforms import base

    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    for name in ("own_steps", "examples.own_steps"):  # of another test, which it registered in
        sys.modules.pop(name, None)


@pytest.fixture
def ship(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let other models ship with the package: files of one folder, the first being the default.

    Those that follow are given by their aliases.
    """
    from synthsr_net.models.zoo import files as shipped

    def pretend(default: Path, segmentation: Path | None = None, **aliases: Path) -> None:
        paths = [default, segmentation or default, *aliases.values()]
        assert {path.parent for path in paths} == {default.parent}
        monkeypatch.setattr(shipped, "SHIPPED_FOLDER", default.parent)
        monkeypatch.setattr(shipped, "DEFAULT_MODEL", default.stem)
        monkeypatch.setattr(shipped, "EARLIER_MODELS", ())
        monkeypatch.setattr(shipped, "SEGMENTATION_MODEL", paths[1].stem)
        names = {alias: path.stem for alias, path in aliases.items()}
        monkeypatch.setattr(shipped, "ALIASES", names)
        sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in paths]
        (default.parent / shipped.CHECKSUMS).write_text("".join(sums), encoding="utf-8")

    return pretend


# Web server --------------------------------------------------------------------------------------


@dataclass
class Web:
    """What a web server offers, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    """Bytes that each of the next answers sends before the connection breaks."""
    asked: list[str] = field(default_factory=list)
    """Files asked for, in order."""
    url: str = ""
    close: Callable[[], None] = lambda: None
    """Stops the server before the end of the test."""


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server on 127.0.0.1; downloads that fail are tried once more, at once."""
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "127.0.0.1")
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    state = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            state.asked.append(name)
            body = state.files.get(name)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def close() -> None:
        if thread.is_alive():
            http.shutdown()
            http.server_close()
            thread.join()

    state.close = close
    gc.freeze()  # what there is already need not be looked through
    yield state
    close()
    with warnings.catch_warnings():  # pooch leaves connections that broke to the collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.unfreeze()


@pytest.fixture
def curves() -> None:
    """Asks for training curves, which `without_curves` leaves out else."""


@pytest.fixture
def without_curves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no training curves, which takes longer than to train, unless a test asks for them."""
    from matplotlib.figure import Figure

    if "curves" not in request.fixturenames:
        monkeypatch.setattr(
            "synthsr_net.training.callbacks.log.curve_figure", lambda rows: Figure((1, 1))
        )
