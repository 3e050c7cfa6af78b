"""What the page's script asks the server: previews, and what the files are that are chosen on loaders."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from tests.comfyui.big_files import checkpoint_shapes, lora_shapes, write_sparse
from tests.comfyui.server import Server
from unet_motion import MotionAdapterConfig
from unet_motion.formats.shapes import adapter_shapes

SDXL = MotionAdapterConfig(block_out_channels=(320, 640, 1280), use_motion_mid_block=False)
V3 = MotionAdapterConfig(use_motion_mid_block=False, motion_max_seq_length=32)


def ask(server: Server, method: str, path: str, **options) -> tuple[int, dict]:
    async def request():
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"http://{server.address}/unet_motion/{path}", **options) as answer,
        ):
            return answer.status, await answer.json()

    return asyncio.run(request())


@pytest.fixture(scope="module")
def files(elsewhere):
    """Full-size files that hold their names and shapes, and no values on the disk."""
    motion = elsewhere / "animatediff_models"
    made = [
        write_sparse(motion / "v3.safetensors", adapter_shapes(V3)),
        write_sparse(motion / "xl.safetensors", adapter_shapes(SDXL)),
        write_sparse(motion / "really a lora.safetensors", lora_shapes()),
        write_sparse(elsewhere / "checkpoints" / "sparse.safetensors", checkpoint_shapes()),
        write_sparse(elsewhere / "loras" / "sparse lora.safetensors", lora_shapes()),
    ]
    broken = dict(adapter_shapes(V3))
    broken.pop(next(name for name in broken if name.endswith("proj_in.weight")))
    made.append(write_sparse(motion / "incomplete.safetensors", broken))
    yield
    for path in made:
        path.unlink()


def info(server, node, **chosen):
    status, found = ask(server, "GET", "file_info", params={"node": node, **chosen})
    assert status == 200, found
    return found


def test_a_motion_module_is_told_by_its_content(server, files):
    found = info(server, "UNetMotion_LoadMotionModule", motion_module="v3.safetensors")
    assert found == {
        "motion_module": {
            "text": "AnimateDiff v3 motion module for SD1.5 · up to 32 frames · group norms over: resnets frame, "
            "motion frame · float16",
            "problem": None,
        }
    }


@pytest.mark.parametrize(
    ("node", "field", "name", "text", "problem"),
    [
        ("LoadMotionModule", "motion_module", "really a lora.safetensors", "a LoRA", "expected a motion module"),
        ("LoadUNet", "unet_name", "sparse.safetensors", "UNet of SD1.5 · float16", None),
        ("LoadLoRA", "lora_name", "sparse lora.safetensors", "LoRA of 1 layer · rank 4 · float16", None),
        ("LoadMotionLoRA", "lora_name", "sparse lora.safetensors", "LoRA of 1 layer · rank 4 · float16", None),
        ("LoadLoRA", "lora_name", "gone.safetensors", "gone.safetensors", "is not in the model folders"),
    ],
)
def test_each_kind_of_file_is_told_and_a_wrong_one_marked(server, files, node, field, name, text, problem):
    found = info(server, f"UNetMotion_{node}", **{field: name})[field]
    assert found["text"] == text
    assert found["problem"] is None if problem is None else problem in found["problem"]


def test_missing_weights_are_counted_and_one_named(server, files):
    found = info(server, "UNetMotion_LoadMotionModule", motion_module="incomplete.safetensors")["motion_module"]
    assert found["problem"] == "weights are 1 missing (down_blocks.0.motion_modules.0.proj_in.weight)"


def test_a_motion_module_that_does_not_fit_the_unet_is_marked(server, files):
    chosen = {"unet_name": "sparse.safetensors", "motion_module": "xl.safetensors"}
    found = info(server, "UNetMotion_LoadUNet", **chosen)
    assert found["unet_name"]["problem"] is None
    assert found["motion_module"] == {
        "text": "SDXL motion module",
        "problem": "does not fit the UNet: it is for SDXL, the UNet is SD1.5",
    }
    fitting = info(server, "UNetMotion_LoadUNet", **{**chosen, "motion_module": "v3.safetensors"})
    assert fitting["motion_module"]["problem"] is None


def test_no_file_is_nothing_to_tell_and_other_inputs_are_refused(server):
    assert info(server, "UNetMotion_LoadUNet", motion_module="none") == {}
    status, found = ask(server, "GET", "file_info", params={"node": "UNetMotion_LoadUNet", "norm_scope": "auto"})
    assert (status, found["error"]) == (400, "node 'UNetMotion_LoadUNet' has no input 'norm_scope' that names a file.")


def test_nothing_outside_the_model_folders_is_read(server, elsewhere):
    outside = elsewhere / "outside.safetensors"
    write_sparse(outside, lora_shapes())
    for name in ("../outside.safetensors", str(outside)):
        found = info(server, "UNetMotion_LoadMotionModule", motion_module=name)["motion_module"]
        assert "is not in the model folders" in found["problem"]


def test_a_page_says_what_it_wants_to_see_and_nonsense_is_refused(server):
    good = {"client": "a page", "motion": True, "fps": 12}
    assert ask(server, "POST", "preview", json=good) == (200, {})
    status, found = ask(server, "POST", "preview", json={**good, "fps": 0})
    assert (status, found["error"]) == (400, "fps is 0, expected a number from 1 to 60.")
    for body in ({"client": "a page"}, [], "x"):
        assert ask(server, "POST", "preview", data=json.dumps(body))[0] == 400


ODD = {
    "deep": "[" * 4000,
    "deep inside": json.dumps({"client": "a page", "motion": True})[:-1] + ', "fps": ' + "[" * 3000 + "]" * 3000 + "}",
    "many digits": '{"client": "a page", "motion": true, "fps": 1' + "0" * 4000 + "}",
    "no UTF-8": b'{"client": "\xff", "motion": true, "fps": 8}',
    "NaN": '{"client": "a page", "motion": true, "fps": NaN}',
    "long": json.dumps({"client": "a page", "motion": True, "fps": 8, "more": "x" * 1_000_000}),
    "a long client": json.dumps({"client": "x" * 1000, "motion": True, "fps": 8}),
    "a client of another type": json.dumps({"client": ["a"], "motion": True, "fps": 8}),
    "nothing": "",
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_a_request_that_nobody_means_is_a_short_sentence(server, body):
    status, found = ask(server, "POST", "preview", data=body)
    assert status == 400 and 10 < len(found["error"]) < 600


@pytest.mark.parametrize("charset", ["no-such-charset", "utf-16", "base64"])
def test_json_is_utf_8_whatever_a_client_says(server, charset):
    body = json.dumps({"client": "a page", "motion": True, "fps": 8}).encode()
    kind = {"Content-Type": f"application/json; charset={charset}"}
    assert ask(server, "POST", "preview", data=body, headers=kind) == (200, {})


@pytest.mark.parametrize("name", ["gone.safetensors", "../gone.safetensors", "/etc/gone", "a\0b", "x" * 5000, "\udcff"])
def test_a_name_that_is_nowhere_tells_nothing_of_the_servers_folders(server, elsewhere, name):
    nodes = ("LoadMotionModule", "motion_module"), ("LoadUNet", "unet_name"), ("LoadLoRA", "lora_name")
    for node, field in nodes:
        query = {"node": f"UNetMotion_{node}", field: name.encode("utf-8", "surrogatepass").decode("utf-8", "replace")}
        found = info(server, query.pop("node"), **query)[field]
        assert "is not in the model folders" in found["problem"] and len(found["problem"]) < 600
        assert str(server.base) not in found["problem"] and str(elsewhere) not in str(found)
