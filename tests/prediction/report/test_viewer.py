"""Promises of the viewer: who is served and what, and what a real browser then shows."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import one_error, run
from helpers.devtools import BROWSERS, Page, find_browser
from PIL import Image

from synthsr_net.prediction.space.postprocess import Prediction, Segmentation
from synthsr_net.prediction.viewer import LocalServer, Served, open_viewer
from synthsr_transforms.drawing.colours import label_colours
from synthsr_transforms.io.grids import Volume
from synthsr_transforms.io.volumes import write_volume
from synthsr_transforms.support.messages import SynthSRError

SHAPE = (41, 45, 43)
MARKER = (slice(6, 10), slice(6, 39), slice(6, 37))
"""Voxels far on the left, where x is lowest."""


def write_head(path: Path, *, labels: bool = False) -> Path:
    """A head of 2 mm voxels around the origin, with a marker of 200 on the left, stored LPS."""
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, 3] = [-(n - 1) for n in SHAPE]
    points = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    data = 50 * (((points / (36, 40, 38)) ** 2).sum(-1) < 1).astype(np.float32)
    if labels:
        data = np.where(data > 0, 258, 0).astype(np.int16)
        data[15:26, 15:30, 15:28] = 17
    else:
        data[MARKER] = 200
    turn = np.diag([-1.0, -1, 1, 1])
    turn[:2, 3] = SHAPE[0] - 1, SHAPE[1] - 1
    write_volume(path, Volume(data[::-1, ::-1], affine @ turn))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    for name in ("scan.nii.gz", "t1.mgz", "error.nii"):
        write_head(folder / name)
    write_head(folder / "labels.nii.gz", labels=True)
    write_volume(folder / "halves.nii", Volume(np.full((4, 4, 4), 0.5, np.float32), np.eye(4)))
    (folder / "secret.txt").write_text("secret")
    return folder


def started(server: LocalServer) -> threading.Thread:
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def server() -> Iterator[LocalServer]:
    contents = {"": Served("text/html", b"<p>page"), "scan.nii": Served("a/b", b"voxels")}
    made = LocalServer(contents, grace_seconds=0.5)
    thread = started(made)
    yield made
    made.page_opened()
    made.page_closed()
    thread.join(10)
    assert not thread.is_alive()


def ask(server: LocalServer, path: str, method: str = "GET", **headers: str) -> tuple[Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer, answer.read()


def request(server: LocalServer, name: str) -> bytes:
    return f"GET /{server.token}/{name} HTTP/1.0\r\nHost: localhost:1\r\n\r\n".encode()


class TestServer:
    def test_named_contents_are_served_as_they_are(self, server):
        for name, content in (("", b"<p>page"), ("scan.nii", b"voxels")):
            answer, body = ask(server, f"/{server.token}/{name}")
            assert (answer.status, body) == (200, content)
            head, nothing = ask(server, f"/{server.token}/{name}", "HEAD")
            assert (head.status, nothing) == (200, b"")
            assert head.headers["Content-Length"] == str(len(content))
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize(
        "path",
        [
            "/", "/scan.nii", "/{token}", "/{token}x/", "/{token}/secret.txt",
            "/{token}/../../etc/passwd", "/{token}/%2e%2e/secret.txt", "/{token}//etc/passwd",
            "/{token}/.", "/{token}/?a", "/{token}/scan.nii/", "/\xff/scan.nii", "/{short}/",
        ],
    )  # fmt: skip
    def test_nothing_else_is(self, server, path):
        asked = path.format(token=server.token, short=server.token[:-1])
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as stream:
            stream.sendall(f"GET {asked} HTTP/1.0\r\nHost: 127.0.0.1:1\r\n\r\n".encode("latin-1"))
            answer = b"".join(iter(lambda: stream.recv(4096), b""))
        assert answer.split()[1] in (b"404", b"400")
        assert b"voxels" not in answer
        assert b"page" not in answer

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
    def test_no_method_but_get_and_head_is_answered(self, server, method):
        answer, body = ask(server, f"/{server.token}/scan.nii", method)
        assert answer.status in (405, 501)
        assert b"voxels" not in body

    def test_pages_of_other_hosts_get_nothing(self, server):
        """A name of another server may lead to this address (DNS rebinding)."""
        for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1.evil:80", ""):
            assert ask(server, f"/{server.token}/", Host=host)[0].status == 404
        for host in ("127.0.0.1:8000", "localhost:8000"):
            assert ask(server, f"/{server.token}/", Host=host)[0].status == 200

    def test_it_listens_to_this_machine_alone(self, server):
        assert server.socket.getsockname()[0] == "127.0.0.1"
        assert server.address == f"http://127.0.0.1:{server.server_port}/{server.token}/"

    def test_tokens_and_ports_are_random(self):
        servers = [LocalServer({}) for _ in range(3)]
        assert len({each.token for each in servers}) == 3
        assert len({each.server_port for each in servers}) == 3
        assert all(len(each.token) >= 32 for each in servers)
        for each in servers:
            each.server_close()

    def test_it_ends_a_while_after_its_last_page(self):
        server = LocalServer({"": Served("text/html", b"")}, grace_seconds=0.5)
        thread = started(server)
        pages = []
        for _ in range(2):
            page = socket.create_connection(("127.0.0.1", server.server_port), timeout=10)
            page.sendall(
                f"GET /{server.token}/alive HTTP/1.0\r\nHost: localhost:1\r\n\r\n".encode()
            )
            assert page.recv(15) == b"HTTP/1.0 200 OK"
            pages.append(page)
        time.sleep(1.2)
        pages[0].close()
        thread.join(3)
        assert thread.is_alive(), "one page is open"
        pages[1].close()
        thread.join(10)
        assert not thread.is_alive()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", server.server_port), timeout=1)

    def test_it_waits_for_its_first_page(self):
        server = LocalServer({}, grace_seconds=0.0)
        time.sleep(0.1)
        assert not server.is_over()
        server.server_close()

    def test_a_browser_that_leaves_in_the_middle_does_no_harm(self, server, capfd):
        server.contents["large"] = Served("a/b", bytes(50_000_000))
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as stream:
            stream.sendall(
                f"GET /{server.token}/large HTTP/1.0\r\nHost: localhost:1\r\n\r\n".encode()
            )
            stream.recv(10)
        assert ask(server, f"/{server.token}/")[0].status == 200
        time.sleep(0.3)
        assert capfd.readouterr().err == ""


class TestContents:
    def test_volumes_are_those_of_the_files(self, folder):
        server = open_viewer(
            folder / "scan.nii.gz", folder / "t1.mgz", segmentation=folder / "labels.nii.gz"
        )
        server.server_close()
        page = json.loads(server.contents["volumes.json"].content)
        assert [volume["name"] for volume in page["volumes"]] == [
            *("scan", "prediction", "segmentation"),
        ]
        assert [volume["file"] for volume in page["volumes"]] == [
            *("scan.nii.gz", "t1.mgz", "labels.nii.gz"),
        ]
        for name, file in (("scan", "scan.nii.gz"), ("prediction", "t1.mgz")):
            sent = nib.Nifti1Image.from_bytes(server.contents[f"{name}.nii"].content)
            read = nib.load(folder / file)
            np.testing.assert_array_equal(np.asarray(sent.dataobj), np.asarray(read.dataobj))
            assert sent.affine == pytest.approx(read.affine)
        sent = nib.Nifti1Image.from_bytes(server.contents["segmentation.nii"].content)
        labels = page["volumes"][2]["labels"]
        table = np.array([row["value"] for row in labels])
        read = np.asarray(nib.load(folder / "labels.nii.gz").dataobj)
        np.testing.assert_array_equal(table[np.asarray(sent.dataobj)], read)
        assert [row["value"] for row in labels if row["shown"]] == [17]
        assert "hippocampus" in labels[1]["name"].lower()

    def test_only_the_page_and_named_volumes_are_served(self, folder):
        server = open_viewer(folder / "scan.nii.gz", folder / "t1.mgz")
        server.server_close()
        assert set(server.contents) == {
            *("", "viewer.css", "viewer.js", "niivue.js", "niivue.LICENSE.txt"),
            *("volumes.json", "scan.nii", "prediction.nii"),
        }
        licence = server.contents["niivue.LICENSE.txt"].content.decode()
        assert "Copyright (c) 2021, Niivue" in licence
        assert "Redistribution and use" in licence


class TestCommand:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("scan.nii.gz", "missing.nii.gz"),
            ("secret.txt", "t1.mgz"),
            ("scan.nii.gz", "t1.mgz", "--segmentation", "halves.nii"),
        ],
    )
    def test_what_cannot_be_read_is_one_error(self, folder, monkeypatch, arguments):
        monkeypatch.chdir(folder)
        assert one_error(run("view", *arguments, "--no-browser"))

    def test_it_prints_its_address_and_ends_with_ctrl_c(self, folder):
        program = "from synthsr_cli.main import main; main()"
        command = [sys.executable, "-c", program, "view", "scan.nii.gz", "t1.mgz", "--no-browser"]
        process = subprocess.Popen(
            command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env={**os.environ, "BROWSER": "false"},
        )  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "http://127.0.0.1:" in line
            address = next(word for word in line.split() if word.startswith("http"))
            host, _, path = address.removeprefix("http://").partition("/")
            connection = http.client.HTTPConnection(host, timeout=10)
            connection.request("GET", f"/{path}")
            assert connection.getresponse().status == 200
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
            assert (process.returncode, errors) == (130, "Stopped.\n")
        finally:
            process.kill()


# Browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, str]]:
    """The page of a viewer in a browser, and its address."""
    browser = find_browser()
    if browser is None:
        pytest.skip(f"there is no browser: install one of {', '.join(BROWSERS)}")
    server = open_viewer(
        folder / "scan.nii.gz", folder / "t1.mgz",
        segmentation=folder / "labels.nii.gz", uncertainty=folder / "error.nii",
    )  # fmt: skip
    server.grace_seconds = 1.0
    thread = started(server)
    page = Page(browser, tmp_path_factory.mktemp("browser") / "profile", (900, 700))
    try:
        page.open(server.address)
        page.wait_for("['ready', 'failed'].includes(document.body?.dataset.state)")
        yield page, server.address
    finally:
        page.close()
        thread.join(30)
    assert not thread.is_alive(), "the server ends when the page is gone"


def change(page: Page, name: str, value: str) -> None:
    page.evaluate(
        f"(() => {{ const control = document.getElementById('{name}'); control.value = '{value}';"
        " for (const kind of ['input', 'change']) control.dispatchEvent(new Event(kind)); })()"
    )
    time.sleep(0.5)


def side_of_marker(page: Page, canvas: str) -> str:
    """Half of a canvas in which the marker is, all else being darker."""
    box = page.evaluate(
        f"(() => {{ const b = document.getElementById('{canvas}').getBoundingClientRect();"
        " return [b.left, b.top, b.right, b.bottom]; })()"
    )
    with Image.open(io.BytesIO(page.screenshot())) as image:
        pixels = np.asarray(image.crop([round(edge) for edge in box]).convert("L")).astype(int)
    bright = np.argwhere(pixels[40:-40, 40:-40] > 180)
    assert len(bright) > 200
    head = np.argwhere(pixels > 40)[:, 1]
    return "left" if bright[:, 1].mean() + 40 < (head.min() + head.max()) / 2 else "right"


class TestBrowser:
    def test_it_shows_the_volumes_and_complains_of_nothing(self, shown):
        page, _ = shown
        assert page.evaluate("document.body.dataset.state") == "ready"
        assert page.complaints() == []
        assert "t1.mgz" in page.evaluate("document.title")

    def test_it_asks_nobody_else(self, shown):
        page, address = shown
        asked = page.addresses()
        assert f"{address}scan.nii" in asked
        assert [a for a in asked if not a.startswith((address, "data:", "blob:"))] == []

    def test_it_says_what_lies_at_the_cross(self, shown):
        page, _ = shown
        words = page.evaluate("document.getElementById('values').textContent")
        assert "prediction 50" in words
        assert "scan 50" in words
        assert "hippocampus" in words.lower()

    @pytest.mark.parametrize(
        ("convention", "side"), [("radiological", "right"), ("neurological", "left")]
    )
    def test_the_left_of_the_head_is_drawn_where_the_convention_says(self, shown, convention, side):
        page, _ = shown
        change(page, "planes", "AXIAL")
        change(page, "opacity-segmentation", "0")
        change(page, "convention", convention)
        assert [side_of_marker(page, canvas) for canvas in ("scan", "prediction")] == [side, side]

    def test_a_click_moves_the_cross_in_both(self, shown):
        page, _ = shown
        change(page, "planes", "AXIAL")
        before = page.evaluate("document.getElementById('place').textContent")
        box = page.evaluate(
            "(() => { const b = document.getElementById('scan').getBoundingClientRect();"
            " return [b.left, b.top, b.width, b.height]; })()"
        )
        x, y = box[0] + 0.4 * box[2], box[1] + 0.45 * box[3]
        picture = page.screenshot()
        for kind in ("mousePressed", "mouseReleased"):
            page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        time.sleep(0.5)
        assert page.evaluate("document.getElementById('place').textContent") != before
        edge = round(box[0] + box[2]) + 5
        first, second = (
            np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))[:, edge:]
            for png in (picture, page.screenshot())
        )
        assert (first[150:500] != second[150:500]).any(), "the prediction moves along"

    def test_structures_can_be_laid_over(self, shown):
        page, _ = shown
        colourful = []
        for value in ("0", "1"):
            change(page, "opacity-segmentation", value)
            pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(
                int
            )
            colourful.append((np.ptp(pixels[150:550], axis=-1) > 60).mean())
        assert colourful[1] > colourful[0] + 0.005


# In a notebook -----------------------------------------------------------------------------------


def layers() -> Prediction:
    """A prediction with structures 0, 17 and 258, and its uncertainty."""
    noise = np.random.default_rng(0).random((10, 12, 14), np.float32)
    labels = np.where(noise > 0.7, 258, np.where(noise > 0.4, 17, 0)).astype(np.int16)
    segmentation = Segmentation(Volume(labels, np.eye(4)), {})
    scale = Volume(noise / 10, np.eye(4))
    return Prediction(Volume(noise, np.eye(4)), torch.zeros(1), scale, segmentation=segmentation)


def test_a_notebook_shows_a_prediction_with_all_that_lies_above_it():
    ipyniivue = pytest.importorskip("ipyniivue")
    prediction = layers()
    scan = Volume(np.arange(60.0).reshape(3, 4, 5), np.diag([3.0, 3, 3, 1]))
    planes, sliders = prediction.view(scan).children
    assert isinstance(planes, ipyniivue.NiiVue)
    names = [volume.name for volume in planes.volumes]
    assert names == ["prediction.nii", "scan.nii", "laplace_scale.nii", "segmentation.nii"]
    assert planes.volumes[0].opacity == 1
    assert [s.value for s in sliders.children] == [v.opacity for v in planes.volumes[1:]]
    sent = [nib.Nifti1Image.from_bytes(bytes(volume.data)) for volume in planes.volumes]
    for image, volume in zip(
        sent, [prediction.image, scan, prediction.laplace_scale], strict=False
    ):
        np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), volume.data)
        np.testing.assert_array_equal(image.affine, volume.affine)
    values = np.array([0, 17, 258])[np.asarray(sent[-1].dataobj)]
    np.testing.assert_array_equal(values, prediction.segmentation.image.data)


def test_structures_have_their_names_and_colours_in_a_notebook():
    pytest.importorskip("ipyniivue")
    prediction = layers()
    planes, _ = prediction.segmentation.view(prediction.image).children
    assert [volume.name for volume in planes.volumes] == ["scan.nii", "segmentation.nii"]
    colours = planes.volumes[1].colormap_label
    assert colours.labels[1] == "left hippocampus"
    rows = np.array(colours.lut).reshape(-1, 4)
    np.testing.assert_array_equal(rows[:3, 3], [0, 255, 0])  # background and the rest: hidden
    np.testing.assert_array_equal(rows[1, :3], label_colours(np.array(17)))


def test_without_its_package_a_notebook_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(SynthSRError, match=r"ipyniivue cannot be .* pip install 'synthsr\[note"):
        layers().view()
