"""A model file gets its name only when it is whole and right; what was fetched of it is not fetched again."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save, save_file

from creative_upscaler.pipelines import fetching
from creative_upscaler.pipelines.errors import Cancelled, DownloadError, DownloadRefused, ModelFileError
from creative_upscaler.pipelines.fetching import UrlSource, fetch_file
from creative_upscaler.pipelines.model_urls import MODEL_HOSTS, model_policy, resolve_url
from creative_upscaler.pipelines.runtime import silent
from https_server import HttpsServer, Served, running

BODY = save({"weight": torch.arange(250_000.0)})
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(scope="module")
def shared() -> Iterator[HttpsServer]:
    with running() as server:
        yield server


@pytest.fixture
def server(shared: HttpsServer) -> HttpsServer:
    shared.served = {"/model.safetensors": Served(BODY)}
    shared.asked.clear()
    return shared


def fetch(server: HttpsServer, target: Path, **settings: object) -> Path:
    source = UrlSource(server.url("/model.safetensors"), server.policy())
    return fetch_file(source, target, **{"progress": silent, **settings})


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if not path.name.endswith(".lock"))


def ranges(server: HttpsServer) -> list[str | None]:
    return [asked.get("Range") for asked in server.asked]


def test_a_file_is_fetched_once_and_leaves_nothing_beside_it(server: HttpsServer, tmp_path: Path) -> None:
    told = []
    target = tmp_path / "new" / "m.safetensors"
    progress = lambda stage, done, total, preview=None: told.append((stage, done, total))  # noqa: E731
    assert fetch(server, target, sha256=SHA256, size=len(BODY), progress=progress).read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["m.safetensors"]
    assert ("downloading m.safetensors", len(BODY), len(BODY)) in told
    assert told[-1] == ("checking m.safetensors", len(BODY), len(BODY))
    fetch(server, target)
    assert len(server.asked) == 1


def test_a_connection_that_dies_is_gone_on_with_in_the_same_call(server: HttpsServer, tmp_path: Path) -> None:
    server.served["/model.safetensors"].dies_after = 600_000
    fetch(server, tmp_path / "m.safetensors", sha256=SHA256)
    assert ranges(server) == [None, "bytes=600000-"]
    assert server.asked[1]["If-Range"] == '"1"'


def test_a_later_call_fetches_only_the_rest(server: HttpsServer, tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int, preview: object = None) -> None:
        if done > 300_000:
            raise Cancelled

    target = tmp_path / "m.safetensors"
    with pytest.raises(Cancelled):
        fetch(server, target, progress=stop)
    assert left(target) == ["m.safetensors.part", "m.safetensors.part.json"]
    begun = (tmp_path / "m.safetensors.part").stat().st_size
    assert begun > 300_000
    assert fetch(server, target, sha256=None).read_bytes() == BODY
    assert left(target) == ["m.safetensors"]
    # Without a hash only the version's name allows to go on; with a hash nothing else was kept of the first.
    assert ranges(server) == [None, f"bytes={begun}-"]


def begin(server: HttpsServer, target: Path) -> None:
    """Leave the first half of a file."""
    server.served["/model.safetensors"] = Served(BODY, stalls_after=len(BODY) // 2)
    with pytest.raises(DownloadError, match="silent"):
        fetch(server, target)
    assert (target.parent / (target.name + ".part")).stat().st_size == len(BODY) // 2
    server.asked.clear()


def test_a_file_that_has_changed_meanwhile_is_fetched_from_its_start(
    server: HttpsServer, tmp_path: Path
) -> None:
    begin(server, tmp_path / "m.safetensors")
    changed = save({"weight": torch.ones(250_000)})
    server.served["/model.safetensors"] = Served(changed, etag='"2"')
    assert fetch(server, tmp_path / "m.safetensors").read_bytes() == changed
    assert ranges(server) == [f"bytes={len(BODY) // 2}-"]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_name_for_the_version_nothing_is_pieced_together(
    server: HttpsServer, tmp_path: Path, etag: str | None
) -> None:
    server.served["/model.safetensors"] = Served(BODY, etag=etag, dies_after=600_000)
    target = tmp_path / "m.safetensors"
    with pytest.raises(DownloadError):
        fetch(server, target, progress=lambda stage, done, total, preview=None: _stop_at(done, 500_000))
    server.asked.clear()
    assert fetch(server, target).read_bytes() == BODY
    assert ranges(server) == [None]


def _stop_at(done: int, limit: int) -> None:
    if done > limit:
        raise DownloadRefused("https://models.test", "stopped by the test")


def test_a_part_of_another_address_is_not_gone_on_with(server: HttpsServer, tmp_path: Path) -> None:
    begin(server, tmp_path / "m.safetensors")
    other = save({"weight": torch.ones(250_000)})
    server.served["/other.safetensors"] = Served(other)
    source = UrlSource(server.url("/other.safetensors"), server.policy())
    assert fetch_file(source, tmp_path / "m.safetensors", progress=silent).read_bytes() == other
    assert ranges(server) == [None]


def test_what_is_not_the_published_file_is_thrown_away(server: HttpsServer, tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    with pytest.raises(DownloadRefused, match="SHA-256"):
        fetch(server, target, sha256="0" * 64)
    with pytest.raises(DownloadRefused, match=f"has {len(BODY)} bytes; the published file has 7"):
        fetch(server, target, size=7)
    server.served["/model.safetensors"] = Served(BODY, headers={"Transfer-Encoding": "chunked"})
    assert left(target) == []


def test_a_full_disk_is_told_before_anything_is_written(
    server: HttpsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**28))
    with pytest.raises(DownloadError, match=f"needs {len(BODY)} bytes more"):
        fetch(server, tmp_path / "m.safetensors")
    assert left(tmp_path / "m.safetensors") == []


# Addresses of models


def resolve(server: HttpsServer, cache: Path, path: str = "/model.safetensors") -> Path:
    return resolve_url(server.url(path), server.policy(), cache, silent)


def test_an_address_becomes_a_file_that_is_named_like_it_and_kept(
    server: HttpsServer, tmp_path: Path
) -> None:
    found = resolve(server, tmp_path, "/model.safetensors?token=secret")
    assert found.name == "model.safetensors" and found.read_bytes() == BODY
    assert resolve(server, tmp_path, "/model.safetensors?token=other") == found
    assert len(server.asked) == 1
    assert b"secret" not in b"".join(path.read_bytes() for path in found.parent.iterdir())


def test_a_file_that_was_changed_in_the_cache_is_not_used(server: HttpsServer, tmp_path: Path) -> None:
    found = resolve(server, tmp_path)
    shutil.copyfile(found, tmp_path / "copy")
    shutil.copyfile(tmp_path / "copy", found)  # another time of change, the same content
    assert resolve(server, tmp_path) == found
    save_file({"weight": torch.ones(250_000)}, found)
    with pytest.raises(ModelFileError, match="changed since it was fetched"):
        resolve(server, tmp_path)


def test_nothing_is_fetched_unless_the_settings_allow_it(tmp_path: Path) -> None:
    with pytest.raises(DownloadRefused, match="settings do not allow"):
        resolve_url("https://huggingface.co/a/b.safetensors", None, tmp_path, silent)
    with pytest.raises(DownloadRefused, match="allowed hosts"):
        resolve_url("https://own.test/b.safetensors", model_policy(), tmp_path, silent)
    assert model_policy(["own.test"]).hosts == MODEL_HOSTS | {"own.test"}


@pytest.mark.parametrize(
    "name", ["model.ckpt", "model.pt", "model", "../../model.bin", "model.safetensors.zip"]
)
def test_other_kinds_of_files_are_refused_by_name(server: HttpsServer, tmp_path: Path, name: str) -> None:
    with pytest.raises(DownloadRefused, match=r"does not end in \.safetensors"):
        resolve(server, tmp_path, f"/{name}")
    assert server.asked == []


def test_names_cannot_lead_out_of_the_cache(server: HttpsServer, tmp_path: Path) -> None:
    for path in ("/..%2F..%2Fevil.safetensors", "/.%5C..%5Cevil%00.safetensors", "/models/12345"):
        server.served[path] = Served(BODY)
        found = resolve(server, tmp_path / "cache", path)
        assert found.resolve().is_relative_to(tmp_path / "cache") and found.suffix == ".safetensors"


def pickled(path: Path) -> bytes:
    torch.save({"weight": torch.ones(2)}, path)
    return path.read_bytes()


@pytest.mark.parametrize("case", ["pickle", "truncated", "page", "half", "stalled", "long", "short"])
def test_a_bad_answer_is_an_error_and_no_file(server: HttpsServer, tmp_path: Path, case: str) -> None:
    served, reason = {
        "pickle": (Served(pickled(tmp_path / "p")), "is a pickle"),
        "truncated": (Served(BODY[:-9]), "truncated"),
        "page": (Served(b"<!doctype html>", type="text/html; charset=utf-8"), "is a web page"),
        "half": (Served(BODY, dies_after=0, etag=None), "broke off|ended after"),
        "stalled": (Served(BODY, stalls_after=5000), "silent"),
        "long": (Served(BODY, length=len(BODY) + 99), "broke off|ended after"),
        "short": (Served(BODY, length=len(BODY) - 99), "truncated"),
    }[case]
    server.served["/model.safetensors"] = served
    with pytest.raises((DownloadError, ModelFileError), match=reason):
        resolve(server, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.name == "model.safetensors"] == []
