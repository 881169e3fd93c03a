"""A missing model is downloaded by the loader in a real ComfyUI, from a hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import comfy_server
import pytest
import torch
from comfy_server import Server, find_hosts
from PIL import Image
from safetensors.torch import save
from workflows import MODELS, changed, quick

import hub_server
from hub_server import HubServer
from lora_files import kohya_file, make_networks
from tiny_checkpoints import write_controlnet, write_sd15

REPOSITORY, FILE = "philz1337x/loras", "more_details.safetensors"
RANK = 800
"""Large enough for a file of several pieces."""


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    def make(shape: torch.Size) -> dict[str, torch.Tensor]:
        width = shape[1] if len(shape) == 2 else shape[1:].numel()
        up, down = torch.randn(shape[0], RANK) * 0.01, torch.randn(RANK, width) * 0.01
        alpha = torch.tensor(float(RANK))
        return {"lora_up.weight": up, "lora_down.weight": down, "alpha": alpha}

    with hub_server.running(REPOSITORY) as server:
        server.files = {FILE: save(kohya_file(make_networks("sd15"), ("to_q", "to_k", "to_v"), make=make))}
        yield server


@pytest.fixture(scope="module")
def downloading(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose hub is the one on this machine; of one ComfyUI, for what is tested is ours."""
    hosts = find_hosts()
    if not hosts:
        pytest.skip("no ComfyUI")
    folder = tmp_path_factory.mktemp("downloading")
    models = tmp_path_factory.mktemp("few") / "models"
    for kind in ("checkpoints", "controlnet", "loras"):
        (models / kind).mkdir(parents=True)
    write_sd15(models / "checkpoints" / "v1-5-pruned-emaonly.safetensors")
    write_controlnet(models / "controlnet" / "control_v11f1e_sd15_tile_fp16.safetensors")
    plain = comfy_server.host_environment

    def environment(folder: Path) -> dict[str, str]:
        return {**plain(folder), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy_server, "host_environment", environment)
        with comfy_server.running(hosts[0], folder, models) as server:
            Image.new("RGB", (40, 30), "gray").save(server.folder / "input" / "example.png")
            yield server


def test_a_download_can_be_interrupted_and_is_gone_on_with(downloading: Server, hub: HubServer) -> None:
    workflow = changed(quick(seed=1), MODELS, detail_lora=FILE, download_missing=True)
    size, folder = len(hub.files[FILE]), downloading.models("loras")
    assert size > 3 * 2**20
    hub.pause_seconds = 0.5
    run = downloading.client.run(
        workflow, interrupt_when=lambda run: any(done for _, done, _ in run.progress)
    )
    assert run.outcome == "execution_interrupted"
    assert f"downloading {FILE}" in run.texts
    begun = (folder / f"{FILE}.part").stat().st_size
    assert 0 < begun < size and not (folder / FILE).exists()
    hub.pause_seconds = 0.0
    run = downloading.client.run(changed(workflow, MODELS, download_missing=True))
    assert run.outcome == "execution_success", run.error
    assert (MODELS, size, size) in run.progress
    assert (folder / FILE).read_bytes() == hub.files[FILE]
    assert hub.ranges(FILE) == [None, f"bytes={begun}-"]
    assert sorted(path.name for path in folder.iterdir()) == [FILE]
