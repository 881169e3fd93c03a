"""What else can be plugged into the nodes: batches, transparency, upscale models, SDXL, LoRAs, embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comfy_client import ComfyClient, Run
from comfy_server import Server
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.Compact import Compact
from workflows import MODELS, PICTURE, SAVE, UPSCALE, Workflow, changed, quick, with_node

import tiny_checkpoints
from lora_files import kohya_file, make_networks


def test_each_picture_of_a_batch_is_what_it_would_be_alone(server: Server) -> None:
    batch = with_node(quick(seed=100), "two", "RepeatImageBatch", image=[PICTURE, 0], amount=2)
    both = succeed(server.client, changed(batch, UPSCALE, image=["two", 0]))
    first, second = (pixels(server.client.picture(both, SAVE, index)) for index in (0, 1))
    for seed, picture in ((100, first), (101, second)):
        alone = pixels(server.client.picture(succeed(server.client, quick(seed=seed)), SAVE))
        assert np.abs(alone - picture).max() <= 1
    assert np.abs(first - second).mean() > 0.1


def test_transparency_is_kept(server: Server) -> None:
    ramp = Image.linear_gradient("L").resize((40, 30))
    opaque = Image.open(server.folder / "input" / "example.png").resize((40, 30))
    opaque.putalpha(ramp)
    opaque.save(server.folder / "input" / "transparent.png")
    workflow = changed(quick(seed=110), PICTURE, image="transparent.png")
    workflow = with_node(workflow, "join", "JoinImageWithAlpha", image=[PICTURE, 0], alpha=[PICTURE, 1])
    run = succeed(server.client, changed(workflow, UPSCALE, image=["join", 0]))
    picture = server.client.picture(run, SAVE)
    assert (picture.mode, picture.size) == ("RGBA", (80, 60))
    expected = ramp.resize((80, 60), Image.Resampling.LANCZOS)
    assert np.abs(pixels(picture)[..., 3] - pixels(expected)).mean() < 2


def test_an_upscale_model_enlarges_before_the_redraw(server: Server) -> None:
    torch.manual_seed(0)
    compact = Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=2, upscale=4)
    save_file(compact.state_dict(), server.models("upscale_models") / "tiny_compact.safetensors")
    workflow = with_node(
        quick(seed=120), "esrgan", "UpscaleModelLoader", model_name="tiny_compact.safetensors"
    )
    workflow = changed(workflow, UPSCALE, upscale_model=["esrgan", 0])
    with_model = pixels(server.client.picture(succeed(server.client, workflow), SAVE))
    without = pixels(server.client.picture(succeed(server.client, quick(seed=120)), SAVE))
    assert with_model.shape == without.shape
    assert np.abs(with_model - without).mean() > 0.1


def test_sdxl_runs_with_previews_of_its_own_colours(server: Server) -> None:
    workflow = changed(
        quick(seed=130, shape_preservation=0.0),
        MODELS,
        checkpoint="sd_xl_base_1.0.safetensors",
        controlnet="none",
    )
    run = succeed(server.client, workflow)
    assert server.client.picture(run, SAVE).size == (154, 134)
    assert run.previews


def test_a_checkpoint_of_another_family_than_asked_for_is_refused(server: Server) -> None:
    run = server.client.run(changed(quick(seed=131), MODELS, model_type="SDXL"))
    assert (run.outcome, run.error["node_id"]) == ("execution_error", MODELS)
    assert "v1-5-pruned-emaonly.safetensors" in run.error["exception_message"]


def test_creativity_zero_only_resizes(server: Server) -> None:
    run = succeed(server.client, quick(seed=132, creativity=0.0))
    source = Image.open(server.folder / "input" / "example.png")
    resized = source.resize((154, 134), Image.Resampling.LANCZOS)
    assert np.abs(pixels(server.client.picture(run, SAVE)) - pixels(resized)).mean() < 1.5


def test_loras_of_one_branch_do_not_reach_another(server: Server) -> None:
    for number in (1, 2):
        torch.manual_seed(number)
        lora = kohya_file(make_networks("sd15"))
        save_file(lora, server.models("loras") / f"lora_{number}.safetensors")
    plain = pixels(server.client.picture(succeed(server.client, quick(seed=140)), SAVE))
    workflow = with_node(quick(seed=140), "one", "CreativeUpscaler_AddLora", **lora_inputs(MODELS, 1))
    workflow = with_node(workflow, "two", "CreativeUpscaler_AddLora", **lora_inputs("one", 2))
    pictures = {}
    for source in ("one", "two"):
        branch = changed(workflow, UPSCALE, models=[source, 0])[UPSCALE]["inputs"]
        workflow = with_node(workflow, f"upscale {source}", "CreativeUpscaler_Upscale", **branch)
        workflow = with_node(
            workflow, f"save {source}", "SaveImage", images=[f"upscale {source}", 0], filename_prefix=source
        )
    # Another tile batch gives the same picture, but it is not served from the cache.
    run = succeed(server.client, changed(workflow, UPSCALE, tile_batch=1))
    for source in ("one", "two"):
        pictures[source] = pixels(server.client.picture(run, f"save {source}"))
    afterwards = succeed(server.client, quick(seed=140, tile_batch=2))
    for unaffected in (run, afterwards):
        assert np.abs(pixels(server.client.picture(unaffected, SAVE)) - plain).max() <= 1
    assert np.abs(pictures["one"] - plain).mean() > 0.1
    assert np.abs(pictures["two"] - pictures["one"]).mean() > 0.1


def test_a_changed_lora_weight_loads_no_models_again(server: Server) -> None:
    torch.manual_seed(1)
    save_file(kohya_file(make_networks("sd15")), server.models("loras") / "lora_1.safetensors")
    workflow = with_node(quick(seed=141), "one", "CreativeUpscaler_AddLora", **lora_inputs(MODELS, 1))
    workflow = changed(workflow, UPSCALE, models=["one", 0])
    succeed(server.client, workflow)
    run = succeed(server.client, changed(workflow, "one", weight=0.5))
    assert run.executed == ["one", UPSCALE, SAVE]
    assert MODELS in run.cached


def test_an_embedding_is_a_word_of_the_prompt(server: Server) -> None:
    vectors = torch.randn(2, tiny_checkpoints.CLIP_L_WIDTH)
    save_file({"emb_params": vectors}, server.models("embeddings") / "Sharpest.safetensors")
    pictures = []
    for embedding in ("none", "Sharpest.safetensors"):
        workflow = quick(seed=150, prompt="a sharpest face", guidance_scale=15.0)
        run = succeed(server.client, changed(workflow, MODELS, embedding=embedding))
        pictures.append(pixels(server.client.picture(run, SAVE)))
    assert np.abs(pictures[0] - pictures[1]).max() > 0


@pytest.fixture(autouse=True)
def no_leaks(server: Server) -> None:
    yield
    assert "Potential memory leak" not in server.log.read_text()


def succeed(client: ComfyClient, workflow: Workflow) -> Run:
    run = client.run(workflow)
    assert run.outcome == "execution_success", run.error.get("exception_message")
    return run


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def lora_inputs(source: str, number: int) -> dict[str, object]:
    return {"models": [source, 0], "lora": f"lora_{number}.safetensors", "weight": 1.0}
