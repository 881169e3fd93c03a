"""What the page is told before a run, and what of the run it is given to compare."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from comfy_server import Server
from PIL import Image
from workflows import MODELS, PICTURE, UPSCALE, changed, quick, with_node

SOURCE = [77, 67]
COMPARED = "creative_upscaler_compare"


def ask(server: Server, asked: Any, **headers: str) -> tuple[int, Any]:
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    request = Request(
        f"http://{server.client.address}/creative_upscaler/plan",
        body,
        {"Content-Type": "application/json", **headers},
    )
    try:
        with urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.loads(error.read() or "{}")


def asked_of(workflow: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What the page would ask about the upscale node of a workflow."""
    inputs = {n: v for n, v in workflow[UPSCALE]["inputs"].items() if not isinstance(v, list)}
    return {
        "settings": inputs,
        "unknown": [],
        "models": workflow[MODELS]["inputs"],
        "source": SOURCE,
        "pictures": 1,
        **changes,
    }


def test_the_plan_is_what_the_run_does(server: Server) -> None:
    workflow = quick(seed=70, tile_size=128, tile_overlap=48)
    status, answer = ask(server, asked_of(workflow))
    assert (status, answer["warnings"], answer["notes"]) == (200, [], [])
    plan = answer["plan"]
    assert (plan["source"], plan["size"]) == (SOURCE, [154, 134])
    run = server.client.run(workflow)
    totals = {total for node, _, total in run.progress if node == UPSCALE}
    assert plan["evaluations"] in totals and plan["evaluations"] > 2
    assert plan["memory"]["least"] > 2**20


def test_a_family_is_known_by_its_file_and_limits_by_their_folder(server: Server) -> None:
    def plan(**models: str) -> dict[str, Any]:
        return ask(server, asked_of(quick(width=1000), models=models))[1]

    sd15 = plan(checkpoint="v1-5-pruned-emaonly.safetensors", controlnet="control_v11f1e_sd15_tile.pth")
    sdxl = plan(checkpoint="sd_xl_base_1.0.safetensors", controlnet="none")
    last = [answer["plan"]["passes"][-1]["tiles"] for answer in (sd15, sdxl)]
    assert last[0][0] > last[1][0]  # SDXL's tiles are larger
    assert [text for text in sdxl["warnings"] if "needs a tile ControlNet" in text]
    starter = plan(checkpoint="starter (built in)", controlnet="none")
    assert [text for text in starter["notes"] + starter["warnings"] if "suit it better" in text]
    missing = plan(checkpoint="nobody's.safetensors", controlnet="none")
    assert "not there" in missing["warnings"][0] and missing["plan"]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"creativity": 0.7}, "creativity"),
        ({"shape_preservation": 1.6}, "shape_preservation"),
        ({"width": 5000, "height": 5000}, "override_size_limits"),
        ({"tile_size": 128, "tile_overlap": 128}, "tile_overlap"),
        ({"scale": 7}, "from 1 to 5"),
    ],
)
def test_what_hurts_is_warned_of(server: Server, settings: dict[str, Any], word: str) -> None:
    status, answer = ask(server, asked_of(quick(**settings)))
    assert status == 200
    assert [text for text in answer["warnings"] if word in text]
    refused = word not in settings or word == "tile_overlap"
    assert (answer["refused"], answer["plan"] is None) == (refused, refused)


def test_what_is_not_known_gives_no_numbers(server: Server) -> None:
    _, linked = ask(server, asked_of(quick(), unknown=["scale", "no_such"]))
    assert linked["plan"] is None and "scale" in linked["notes"][0] and "no_such" not in linked["notes"][0]
    _, unconnected = ask(server, {"settings": {}})
    assert unconnected["plan"] is None and not unconnected["refused"] and unconnected["warnings"] == []


def test_other_pages_and_nonsense_are_refused(server: Server) -> None:
    good = asked_of(quick())
    assert ask(server, good, Origin="http://example.com")[0] == 403
    assert ask(server, good, **{"Sec-Fetch-Site": "same-site"})[0] == 403
    assert ask(server, good, **{"Content-Type": "text/plain"})[0] == 403
    for wrong in (
        {"source": [0, 5]},
        {"source": [5.5, 5]},
        {"pictures": 10**9},
        {"settings": [1]},
        {"models": 3},
    ):
        status, answer = ask(server, {**good, **wrong})
        assert status == 400 and answer["error"]
    for body in (b"[]", b"{", b'{"settings": {"preset": "' + b"x" * 20000 + b'"}}'):
        assert ask(server, body)[0] == 400


def test_a_run_gives_both_pictures_to_compare(server: Server) -> None:
    workflow = with_node(quick(seed=71), "two", "ImageBatch", image1=[PICTURE, 0], image2=[PICTURE, 0])
    run = server.client.run(changed(workflow, UPSCALE, image=["two", 0]))
    pairs = run.outputs[UPSCALE][COMPARED]
    assert len(pairs) == 2
    for pair in pairs:
        assert (pair["source"], pair["size"], pair["pictures"]) == (SOURCE, [154, 134], 2)
        assert [opened(server, pair[name]).size for name in ("before", "after")] == [(77, 67), (154, 134)]
        assert pair["after"]["type"] == "temp"
    assert "images" not in run.outputs[UPSCALE]  # which ComfyUI would show by itself


def test_a_huge_result_is_reduced_for_the_page(server: Server) -> None:
    run = server.client.run(quick(width=5000, height=20, creativity=0.0))
    (pair,) = run.outputs[UPSCALE][COMPARED]
    assert pair["size"] == [5000, 20]
    assert opened(server, pair["after"]).size == (4096, 16)


def opened(server: Server, file: dict[str, str]) -> Image.Image:
    return Image.open(BytesIO(server.client.fetch("/view?" + urlencode(file))))
