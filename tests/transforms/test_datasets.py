"""Data sets: whole files or clear errors, against a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from synthsr_transforms.subjects import datasets
from synthsr_transforms.subjects.datasets import (
    DATASETS,
    Dataset,
    DownloadError,
    data_root,
    describe,
    fetch_labels,
    fetch_priors,
    load_subjects,
)

CONTENT = {"a_labels.nii.gz": b"first" * 4000, "b_labels.nii.gz": b"second" * 4000}
SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"
needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason=f"example data is not in {SHARED_DATA}"
)


@dataclass
class Server:
    """What the server offers, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after_bytes: int | None = None
    requests: list[str] = field(default_factory=list)
    url: str = ""
    close: Callable[[], None] = lambda: None


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A web server on 127.0.0.1; `close` stops it before the end of the test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server(files=dict(CONTENT))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            state.requests.append(name)
            body = state.files.get(name)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.cut_after_bytes])

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
    yield state
    close()


def made_up(server: Server, **changes: object) -> Dataset:
    sums = {name: hashlib.sha256(body).hexdigest() for name, body in CONTENT.items()}
    values = {
        "name": "made_up",
        "kind": "labels",
        "description": "Two files.",
        "licence": "CC0-1.0",
        "citation": "Nobody (2000).",
        "base_url": server.url,
        "registry": sums,
    }
    return Dataset(**(values | changes))  # type: ignore[arg-type]


def files_below(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


class TestFetch:
    def test_files_are_downloaded_whole_and_in_order(self, server: Server, tmp_path: Path) -> None:
        paths = made_up(server).fetch(root=tmp_path)
        assert paths == [tmp_path / "made_up" / name for name in CONTENT]
        assert [path.read_bytes() for path in paths] == list(CONTENT.values())
        assert files_below(tmp_path) == sorted(CONTENT)

    def test_cached_files_need_no_server(self, server: Server, tmp_path: Path) -> None:
        first = made_up(server).fetch(root=tmp_path)
        server.close()
        assert made_up(server).fetch(root=tmp_path) == first
        assert server.requests == list(CONTENT)

    def test_a_mirror_can_be_named(self, server: Server, tmp_path: Path) -> None:
        dataset = made_up(server, base_url="http://127.0.0.1:9/nowhere")
        assert len(dataset.fetch(root=tmp_path, base_url=f"{server.url}/")) == len(CONTENT)

    def test_a_spoilt_file_is_downloaded_again(self, server: Server, tmp_path: Path) -> None:
        paths = made_up(server).fetch(root=tmp_path)
        paths[0].write_bytes(b"spoilt")
        made_up(server).fetch(root=tmp_path)
        assert paths[0].read_bytes() == CONTENT["a_labels.nii.gz"]
        assert server.requests == [*CONTENT, "a_labels.nii.gz"]

    def test_progress_is_shown_on_standard_error(
        self, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made_up(server).fetch(root=tmp_path, progressbar=True)
        captured = capsys.readouterr()
        assert "a_labels.nii.gz" in captured.err
        assert captured.out == ""


class TestFailure:
    def test_wrong_checksum_says_expected_got_and_what_to_do(
        self, server: Server, tmp_path: Path
    ) -> None:
        server.files["b_labels.nii.gz"] = b"something else"
        with pytest.raises(DownloadError) as caught:
            made_up(server).fetch(root=tmp_path)
        message = str(caught.value)
        assert hashlib.sha256(CONTENT["b_labels.nii.gz"]).hexdigest() in message
        assert hashlib.sha256(b"something else").hexdigest() in message
        assert "try again" in message
        assert "\n" not in message

    def test_wrong_checksum_leaves_nothing(self, server: Server, tmp_path: Path) -> None:
        server.files["b_labels.nii.gz"] = b"something else"
        with pytest.raises(DownloadError):
            made_up(server).fetch(root=tmp_path)
        assert files_below(tmp_path) == ["a_labels.nii.gz"]

    def test_a_failed_update_keeps_the_file_that_was_there(
        self, server: Server, tmp_path: Path
    ) -> None:
        paths = made_up(server).fetch(root=tmp_path)
        paths[1].write_bytes(b"edited by hand")
        server.files["b_labels.nii.gz"] = b"something else"
        with pytest.raises(DownloadError):
            made_up(server).fetch(root=tmp_path)
        assert paths[1].read_bytes() == b"edited by hand"

    def test_an_interrupted_download_leaves_nothing(self, server: Server, tmp_path: Path) -> None:
        server.cut_after_bytes = 1000
        with pytest.raises(DownloadError, match=r"a_labels\.nii\.gz"):
            made_up(server).fetch(root=tmp_path)
        assert files_below(tmp_path) == []

    def test_a_missing_file_names_its_address_and_the_folder(
        self, server: Server, tmp_path: Path
    ) -> None:
        del server.files["a_labels.nii.gz"]
        with pytest.raises(DownloadError, match="404") as caught:
            made_up(server).fetch(root=tmp_path)
        assert f"{server.url}/a_labels.nii.gz" in str(caught.value)
        assert str(tmp_path / "made_up") in str(caught.value)
        assert files_below(tmp_path) == []

    def test_no_server_is_an_error_of_one_line(self, server: Server, tmp_path: Path) -> None:
        server.close()
        with pytest.raises(DownloadError, match="Check the connection") as caught:
            made_up(server).fetch(root=tmp_path)
        assert "\n" not in str(caught.value)


class TestNames:
    def test_a_near_miss_suggests_the_right_name(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'synthsr_labels'"):
            fetch_labels("synthsr_label")

    def test_a_far_miss_lists_the_names(self) -> None:
        with pytest.raises(ValueError, match="synthsr_labels, synthsr_priors, synthseg_labels"):
            describe("zebra")

    def test_priors_are_not_labels(self) -> None:
        with pytest.raises(ValueError, match="name must be one of synthsr_labels"):
            fetch_labels("synthsr_priors")

    @pytest.mark.parametrize("name", list(DATASETS))
    def test_a_description_gives_source_licence_and_citation(self, name: str) -> None:
        text = describe(name)
        assert DATASETS[name].base_url in text
        assert "Licence: Apache-2.0" in text
        assert "doi:" in text


class TestNamed:
    """The functions that take a name, on a data set that is made up."""

    def test_labels(self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(datasets.DATASETS, "made_up", made_up(server))
        paths = fetch_labels("made_up", root=tmp_path)
        assert [path.name for path in paths] == list(CONTENT)

    def test_priors_are_found_by_stem(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.files["prior_means.npy"] = b"numbers"
        registry = {"prior_means.npy": hashlib.sha256(b"numbers").hexdigest()}
        dataset = made_up(server, kind="priors", registry=registry)
        monkeypatch.setitem(datasets.DATASETS, "made_up", dataset)
        files = fetch_priors("made_up", root=tmp_path)
        assert files == {"prior_means": tmp_path / "made_up" / "prior_means.npy"}

    def test_subjects_hold_a_label_map(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
        nib.save(image, tmp_path / "map.nii.gz")
        body = (tmp_path / "map.nii.gz").read_bytes()
        server.files["map.nii.gz"] = body
        dataset = made_up(server, registry={"map.nii.gz": hashlib.sha256(body).hexdigest()})
        monkeypatch.setitem(datasets.DATASETS, "made_up", dataset)
        (subject,) = load_subjects("made_up", root=tmp_path)
        assert subject.labels.shape == (1, 2, 3, 4)
        assert int(subject.labels.data.max()) == 23
        assert subject.metadata["name"] == "map.nii.gz"


class TestRoot:
    def test_an_argument_wins_over_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("SYNTHSR_DATA", "elsewhere")
        assert data_root(tmp_path) == tmp_path

    def test_the_environment_wins_over_the_cache(
        self, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("SYNTHSR_DATA", str(tmp_path / "data"))
        paths = made_up(server).fetch()
        assert paths[0] == tmp_path / "data" / "made_up" / "a_labels.nii.gz"

    def test_the_cache_is_the_last_resort(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SYNTHSR_DATA", raising=False)
        assert "synthsr" in data_root().parts


class TestRegistry:
    @pytest.mark.parametrize("name", list(DATASETS))
    def test_entries_are_complete(self, name: str) -> None:
        dataset = DATASETS[name]
        assert dataset.name == name
        assert dataset.base_url.startswith("https://")
        assert list(dataset.registry) == sorted(dataset.registry)
        assert all(len(bytes.fromhex(checksum)) == 32 for checksum in dataset.registry.values())

    @needs_shared_data
    @pytest.mark.parametrize(
        ("name", "folder"),
        [
            ("synthsr_labels", "synthsr_labels"),
            ("synthsr_priors", "priors/synthsr"),
            ("synthseg_labels", "synthseg_labels"),
        ],
    )
    def test_checksums_are_those_of_the_real_files(self, name: str, folder: str) -> None:
        found = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (SHARED_DATA / folder).iterdir()
        }
        assert found == dict(DATASETS[name].registry)
