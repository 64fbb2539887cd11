"""Data sets: whole files or clear errors, against a server on this machine."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from helpers import (
    SHARED_DATA,
)

from synthsr_transforms.subjects import datasets
from synthsr_transforms.subjects.datasets import DATASETS, Dataset, fetch_dataset
from synthsr_transforms.support import downloads
from synthsr_transforms.support.downloads import DownloadError, WebFile, data_root, fetch

CONTENT = {"a_labels.nii.gz": b"first" * 4000, "b_labels.nii.gz": b"second" * 4000}
needs_shared_data = pytest.mark.skipif(
    not SHARED_DATA.is_dir(), reason=f"example data is not in {SHARED_DATA}"
)


@pytest.fixture
def server(web: Any) -> Any:
    web.files |= CONTENT
    return web


def made_up(server: Any, **changes: object) -> Dataset:
    sums = {name: hashlib.sha256(body).hexdigest() for name, body in CONTENT.items()}
    values = {
        "name": "made_up",
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
    def test_files_are_downloaded_whole_and_in_order(self, server: Any, tmp_path: Path) -> None:
        paths = made_up(server).fetch(root=tmp_path)
        assert paths == [tmp_path / "made_up" / name for name in CONTENT]
        assert [path.read_bytes() for path in paths] == list(CONTENT.values())
        assert files_below(tmp_path) == sorted(CONTENT)

    def test_cached_files_need_no_server(self, server: Any, tmp_path: Path) -> None:
        first = made_up(server).fetch(root=tmp_path)
        server.close()
        assert made_up(server).fetch(root=tmp_path) == first
        assert server.asked == list(CONTENT)

    def test_a_mirror_can_be_named(self, server: Any, tmp_path: Path) -> None:
        dataset = made_up(server, base_url="http://127.0.0.1:9/nowhere")
        assert len(dataset.fetch(root=tmp_path, base_url=f"{server.url}/")) == len(CONTENT)

    def test_a_spoilt_file_is_downloaded_again(self, server: Any, tmp_path: Path) -> None:
        paths = made_up(server).fetch(root=tmp_path)
        paths[0].write_bytes(b"spoilt")
        made_up(server).fetch(root=tmp_path)
        assert paths[0].read_bytes() == CONTENT["a_labels.nii.gz"]
        assert server.asked == [*CONTENT, "a_labels.nii.gz"]

    def test_progress_is_shown_on_standard_error(
        self, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        made_up(server).fetch(root=tmp_path, progressbar=True)
        captured = capsys.readouterr()
        assert "100%" in captured.err
        assert captured.out == ""


class TestFailure:
    def test_wrong_checksum_says_expected_got_and_what_to_do(
        self, server: Any, tmp_path: Path
    ) -> None:
        server.files["b_labels.nii.gz"] = b"something else"
        with pytest.raises(DownloadError) as caught:
            made_up(server).fetch(root=tmp_path)
        message = str(caught.value)
        assert hashlib.sha256(CONTENT["b_labels.nii.gz"]).hexdigest() in message
        assert hashlib.sha256(b"something else").hexdigest() in message
        assert "\n" not in message

    def test_wrong_checksum_leaves_nothing(self, server: Any, tmp_path: Path) -> None:
        server.files["b_labels.nii.gz"] = b"something else"
        with pytest.raises(DownloadError):
            made_up(server).fetch(root=tmp_path)
        assert files_below(tmp_path) == ["a_labels.nii.gz"]

    def test_a_failed_update_keeps_the_file_that_was_there(
        self, server: Any, tmp_path: Path
    ) -> None:
        paths = made_up(server).fetch(root=tmp_path)
        paths[1].write_bytes(b"edited by hand")
        server.files["b_labels.nii.gz"] = b"something else"
        with pytest.raises(DownloadError):
            made_up(server).fetch(root=tmp_path)
        assert paths[1].read_bytes() == b"edited by hand"

    def test_an_interrupted_download_leaves_nothing(self, server: Any, tmp_path: Path) -> None:
        server.cuts = [1000, 1000]
        with pytest.raises(DownloadError, match=r"a_labels\.nii\.gz"):
            made_up(server).fetch(root=tmp_path)
        assert files_below(tmp_path) == []

    def test_a_missing_file_names_its_address_and_the_folder(
        self, server: Any, tmp_path: Path
    ) -> None:
        del server.files["a_labels.nii.gz"]
        with pytest.raises(DownloadError, match="404") as caught:
            made_up(server).fetch(root=tmp_path)
        assert f"{server.url}/a_labels.nii.gz" in str(caught.value)
        assert str(tmp_path / "made_up") in str(caught.value)
        assert files_below(tmp_path) == []

    def test_a_connection_that_broke_once_is_tried_again(self, server: Any, tmp_path: Path) -> None:
        server.cuts = [1000]
        assert len(made_up(server).fetch(root=tmp_path)) == len(CONTENT)
        assert server.asked == ["a_labels.nii.gz", *CONTENT]

    def test_no_server_is_an_error_of_one_line(self, server: Any, tmp_path: Path) -> None:
        server.close()
        with pytest.raises(DownloadError, match="Check the connection") as caught:
            made_up(server).fetch(root=tmp_path)
        assert "\n" not in str(caught.value)


class TestNames:
    def test_a_near_miss_suggests_the_right_name(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'synthsr_labels'"):
            fetch_dataset("synthsr_label")

    def test_a_far_miss_lists_the_names(self) -> None:
        with pytest.raises(ValueError, match="synthsr_labels, synthsr_priors, synthseg_labels"):
            fetch_dataset("zebra")

    def test_a_name_stands_for_the_files(
        self, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(datasets.DATASETS, "made_up", made_up(server))
        paths = fetch_dataset("made_up", root=tmp_path)
        assert [path.name for path in paths] == list(CONTENT)


class TestDisk:
    """Faults of this machine, not of the web."""

    @pytest.fixture
    def file(self, server: Any, tmp_path: Path) -> WebFile:
        name = "a_labels.nii.gz"
        sha256 = hashlib.sha256(CONTENT[name]).hexdigest()
        return WebFile(url=f"{server.url}/{name}", path=tmp_path / "new" / name, sha256=sha256)

    def failure(self, file: WebFile) -> str:
        with pytest.raises(DownloadError) as caught:
            fetch(file)
        assert "\n" not in str(caught.value)
        assert "SYNTHSR_DATA" in str(caught.value)
        assert files_below(file.path.parents[1]) == []
        return str(caught.value)

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
            (requests.ReadTimeout("HTTPConnectionPool(...)"), "ReadTimeout"),
        ],
    )
    def test_a_full_disk_or_a_silent_server_leaves_nothing(
        self, file: WebFile, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
    ) -> None:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(downloads.pooch.HTTPDownloader, "__call__", fail)
        assert f": {reason}." in self.failure(file)

    def test_a_folder_that_cannot_be_made(self, server: Any, file: WebFile) -> None:
        file.path.parent.touch()
        with pytest.raises(DownloadError, match=r"exists|directory"):
            fetch(file)
        assert server.asked == []

    def test_a_server_that_sends_more_than_expected(self, file: WebFile) -> None:
        assert "more bytes than the file has" in self.failure(replace(file, size_bytes=10))

    def test_a_server_that_sends_without_end(
        self, file: WebFile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(downloads, "MAX_BYTES", 10)
        assert "more bytes than the file has" in self.failure(file)

    def test_an_address_that_is_none(self, file: WebFile) -> None:
        assert "somewhere" in self.failure(replace(file, url="somewhere"))


class TestRoot:
    def test_an_argument_wins_over_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("SYNTHSR_DATA", "elsewhere")
        assert data_root(tmp_path) == tmp_path

    def test_the_environment_wins_over_the_cache(
        self, server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
