"""A full-size SD1.5 checkpoint with random weights through core's loader and Apply Motion Module."""

from __future__ import annotations

import io
import json

import torch
from PIL import Image

from tests.comfyui.graphs import Graph, from_workflow, sample
from tests.comfyui.installations import ROOT

APPLY = {"norm_scope": "auto", "beta_schedule": "auto"}
FRAMES = 2


def base_graph():
    graph = Graph()
    checkpoint = graph.add("CheckpointLoaderSimple", "checkpoint", ckpt_name="sd15.safetensors")
    needs = {**graph.prompts((checkpoint, 1), "a boat", "blurry"), "latent_image": graph.frames(FRAMES)}
    graph.add("UNetMotion_LoadMotionModule", "motion", motion_module="v2.safetensors")
    return graph, needs


def apply(graph, model, motion="motion"):
    return graph.add("UNetMotion_ApplyMotionModule", model=(model, 0), motion_module=(motion, 0), **APPLY), 0


def test_motion_loras_and_the_plain_model_side_by_side(server, files):
    server.free()
    graph, needs = base_graph()
    lora = graph.add("LoraLoaderModelOnly", model=("checkpoint", 0), lora_name="style.safetensors", strength_model=1.0)
    moving = apply(graph, "checkpoint")
    after = graph.add("LoraLoaderModelOnly", model=moving, lora_name="style.safetensors", strength_model=1.0)
    models = {"plain": ("checkpoint", 0), "moving": moving, "lora before": apply(graph, lora), "lora after": (after, 0)}
    for name, model in models.items():
        sample(graph, {**needs, "model": model}, name, cfg=1.0)
    decoded = graph.add("VAEDecode", samples=("moving sampler", 0), vae=("checkpoint", 2))
    graph.add("PreviewImage", "pictures", images=(decoded, 0))
    run = server.run(graph)
    assert run.error is None, run.error
    latents = {name: server.latent(run, name) for name in models}
    for name, tensor in latents.items():
        assert tensor.shape == (FRAMES, 4, 8, 8) and torch.isfinite(tensor).all() and tensor.std() > 0.01, name
    assert not torch.allclose(latents["plain"], latents["moving"], rtol=1e-2)
    assert not torch.allclose(latents["moving"], latents["lora after"], rtol=1e-3)
    assert torch.equal(latents["lora before"], latents["lora after"])
    assert len(run.outputs["pictures"]["images"]) == FRAMES
    assert "missing" not in server.log().split("got prompt")[-1]


def test_load_unet_gives_the_same_model_as_loading_and_applying(server, files):
    graph, needs = base_graph()
    sample(graph, {**needs, "model": apply(graph, "checkpoint")}, "applied", steps=1, cfg=1.0)
    options = {"unet_name": "sd15.safetensors", "motion_module": "v2.safetensors", **APPLY}
    loaded = graph.add("UNetMotion_LoadUNet", **options)
    sample(graph, {**needs, "model": (loaded, 0)}, "loaded", steps=1, cfg=1.0)
    run = server.run(graph)
    assert run.error is None, run.error
    applied, loaded = server.latent(run, "applied"), server.latent(run, "loaded")
    assert float((applied - loaded).norm() / applied.norm()) < 1e-5
    server.free()


def small_example(server, name, motion_module="v2.safetensors"):
    """The graph of an example workflow with the files of these tests, at a size for a CPU.

    Args:
        motion_module: None for the one that the workflow names.
    """
    workflow = json.loads((ROOT / "example_workflows" / f"{name}.json").read_text())
    graph = from_workflow(workflow, server.get("/object_info"))
    smaller = {
        "CheckpointLoaderSimple": {"ckpt_name": "sd15.safetensors"},
        "UNetMotion_LoadMotionModule": {"motion_module": motion_module} if motion_module else {},
        "LoraLoader": {"lora_name": "every attention.safetensors"},
        "ControlNetLoader": {"control_net_name": "canny.safetensors"},
        "EmptyLatentImage": {"width": 64, "height": 64},
        "ImageScale": {"width": 64, "height": 64},
        "KSampler": {"steps": 1, "cfg": 1.0},
    }
    for node in graph.values():
        node["inputs"] |= smaller.get(node["class_type"], {})
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"]["batch_size"] = min(node["inputs"]["batch_size"], FRAMES)
    return graph


def test_the_example_workflow_runs_with_a_checkpoint_and_a_motion_module(server, files):
    run = server.run(small_example(server, "sd15_text_to_animation"))
    assert run.error is None, run.error
    assert_is_a_clip(server, run)


def assert_is_a_clip(server, run):
    (entry,) = (image for output in run.outputs.values() for image in output.get("images", ()) if "animated" in output)
    with Image.open(io.BytesIO(server.file(entry))) as clip:
        assert clip.size == (64, 64) and clip.n_frames == FRAMES


def nodes_of(graph, class_type):
    return [name for name, node in graph.items() if node["class_type"] == class_type]


def test_in_the_example_workflow_the_lora_and_the_controlnet_act_and_each_frame_follows_its_own_hint(server, files):
    graph = small_example(server, "lora_and_controlnet")
    ((lora,), (control,), (canny,), (save,), (show,)) = (
        nodes_of(graph, kind)
        for kind in ("LoraLoader", "ControlNetApplyAdvanced", "Canny", "SaveAnimatedWEBP", "PreviewImage")
    )
    samples = graph[graph[save]["inputs"]["images"][0]]["inputs"]["samples"]
    graph.add("SaveLatent", "latents", samples=tuple(samples), filename_prefix="latents/controlled")
    run = server.run(graph)
    assert run.error is None, run.error
    assert_is_a_clip(server, run)
    everything = server.latent(run, "latents")
    assert everything.shape == (FRAMES, 4, 8, 8) and torch.isfinite(everything).all()

    del graph[save], graph[show]
    graph.add("ImageFromBatch", "first hint", image=(canny, 0), batch_index=0, length=1)
    graph.add("EmptyImage", "white hint", width=64, height=64, batch_size=1, color=0xFFFFFF)
    graph.add("ImageBatch", "another second hint", image1=("first hint", 0), image2=("white hint", 0))

    def change_of_each_frame(node, **inputs):
        run = server.run({**graph, node: {**graph[node], "inputs": {**graph[node]["inputs"], **inputs}}})
        assert run.error is None, run.error
        difference = server.latent(run, "latents") - everything
        return torch.linalg.vector_norm(difference, dim=(1, 2, 3)) / everything[0].norm()

    assert change_of_each_frame(control, strength=0.0).min() > 0.01
    first, second = change_of_each_frame(control, image=["another second hint", 0])
    assert second > 0.01 and second > 2 * first
    assert change_of_each_frame(lora, strength_model=0.0).min() > 0.01
    log = server.log()
    assert not [words for words in ("lora key not loaded", "controlnet keys", "leftover keys") if words in log]
    server.free()


def test_an_sdxl_motion_module_on_sd15_is_one_sentence(server, files):
    graph, needs = base_graph()
    graph.add("UNetMotion_LoadMotionModule", "sdxl", motion_module="sdxl.safetensors")
    sample(graph, {**needs, "model": apply(graph, "checkpoint", "sdxl")}, "never")
    message = server.run(graph).message
    assert message.startswith("sdxl.safetensors is a motion module for SDXL (3 levels")
    assert "`model` is SD1.5 (4 levels" in message and "\n" not in message


def test_options_on_a_model_without_motion_modules_are_one_sentence(server, files):
    graph, needs = base_graph()
    choice = {"spatial": "math", "temporal": "auto"}
    model = graph.add("UNetMotion_AttentionProcessor", model=("checkpoint", 0), **choice)
    sample(graph, {**needs, "model": (model, 0)}, "never")
    message = server.run(graph).message
    assert message == "`model` is a UNetModel without motion modules; put Apply Motion Module before this node."
    server.free()
