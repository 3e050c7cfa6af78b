"""What a file is, told from the names of its tensors: every kind, with the prefix and the name that decided."""

import pytest

from unet_motion.formats.detect import KINDS, Detection, detect

BLOCK = "down_blocks.0.motion_modules.0"
LDM = ["input_blocks.0.0.weight", "time_embed.0.weight"]
UNET = ["down_blocks.0.resnets.0.conv1.weight", "time_embedding.linear_1.weight"]


def under(prefix, *names):
    return [prefix + name for name in names]


# (names, kind, prefix, which name decided)
FOUND = [
    (["a.lora_up.weight", "b.weight"], "unknown", "", 0),
    (["x.lora_up.weight"], "lora", "", 0),
    (["x.alpha", "x.lora_down.weight", "x.lora_up.weight"], "lora", "", 1),
    ([f"{BLOCK}.to_q_lora.up.weight", "x.lora.down.weight"], "motion_lora", "", 0),
    (["a_lora.down.x", "temporal_transformer.lora_A.x"], "motion_lora", "", 1),
    (["x.hada_w1_a"], "lora", "", 0),
    (["x.lokr_w2"], "lora", "", 0),
    (["x.oft_diag"], "lora", "", 0),
    (["x.dora_scale"], "lora", "", 0),
    (["x.lora_linear_layer.up"], "lora", "", 0),
    (["controlnet_down_blocks.0.weight"], "controlnet", "", 0),
    (["m.x", "control_model.input_hint_block.0.weight"], "controlnet", "", 1),
    (["a.zero_convs.0.0.weight", *LDM], "controlnet", "", 0),
    (["controlnet_cond_embedding.conv_in.weight", f"{BLOCK}.norm.weight"], "sparsectrl", "", 1),
    (["a.b.qkv_merge.weight"], "camera", "", 0),
    (["cc_projection.weight"], "camera", "", 0),
    (LDM, "ldm_unet", "", 0),
    (under("model.diffusion_model.", *LDM), "ldm_unet", "model.diffusion_model.", 0),
    ([*LDM, "motion.mid_block.x"], "ldm_unet_motion", "", 2),
    ([*LDM, "input_blocks.1.1.time_stack.0.x"], "video_unet", "", 2),
    ([*LDM, "a.time_mixer.x"], "video_unet", "", 2),
    ([*LDM, "zero_convs.0.x", "output_blocks.0.0.in_layers.0.weight"], "ldm_unet", "", 0),
    (UNET, "unet2d", "", 0),
    (under("unet.", *UNET), "unet2d", "unet.", 0),
    ([*UNET, f"{BLOCK}.proj_in.weight"], "unet_motion", "", 2),
    ([*UNET, f"{BLOCK}.temporal_transformer.norm.weight"], "animatediff_unet", "", 2),
    ([*UNET, "mid_block.motion_modules.0.temporal_transformer.norm.weight"], "animatediff_unet", "", 2),
    ([*UNET, "down_blocks.0.temporal_attentions.0.norm.weight"], "animatediff_unet", "", 2),
    ([*UNET, "down_blocks.0.temp_convs.0.x"], "video_unet", "", 2),
    (UNET[:1], "unknown", "", 0),
    ([f"{BLOCK}.temporal_transformer.proj_in.weight"], "motion_module", "", 0),
    ([f"module.{BLOCK}.temporal_transformer.proj_in.weight"], "motion_module", "module.", 0),
    (["a.mid_block.motion_modules.0.temporal_transformer.norm.weight"], "motion_module", "a.", 0),
    (["unet.up_blocks.1.temporal_attentions.0.x"], "motion_module", "unet.", 0),
    ([f"{BLOCK}.proj_in.weight"], "motion_adapter", "", 0),
    (["x.up_blocks.2.motion_modules.1.transformer_blocks.0.x"], "motion_adapter", "x.", 0),
    (["fps_embedding.linear.weight", f"{BLOCK}.x"], "fancyvideo", "", 0),
    (["img_encoder.body.0.block1.weight"], "i2v_encoder", "", 0),
    (["image_proj.norm.weight"], "ip_adapter", "", 0),
    (["ip_adapter.1.to_k_ip.weight"], "ip_adapter", "", 0),
    (["body.3.in_conv.weight"], "t2i_adapter", "", 0),
    (["adapter.body.0.resnets.0.block1.weight"], "t2i_adapter", "", 0),
    (["model.double_blocks.0.x"], "transformer", "", 0),
    (["first_stage_model.decoder.mid.x"], "vae", "", 0),
    (["taesd_encoder.0.weight"], "vae", "", 0),
    (["decoder.layers.1.conv.0.weight"], "vae", "", 0),
    (["clip.vision_model.x"], "image_encoder", "", 0),
    (["cond.text_model.x"], "text_encoder", "", 0),
    (["encoder.block.11.layer.0.x"], "text_encoder", "", 0),
    (["clip_l"], "embedding", "", 0),
    (["emb_params"], "embedding", "", 0),
    (["RRDB_trunk.0.x"], "upscaler", "", 0),
    # what stands inside a name, or in a part of a word, decides nothing
    (["x.image_proj.norm.weight"], "unknown", "", 0),
    (["x.emb_params"], "unknown", "", 0),
    (["clip_large"], "unknown", "", 0),
    (["my_zero_convs.0.x"], "unknown", "", 0),
    (["a.model.0.weight"], "unknown", "", 0),
    ([], "unknown", "", None),
]


@pytest.mark.parametrize(("names", "kind", "prefix", "decided"), FOUND)
def test_names_say_what_a_file_is(names, kind, prefix, decided):
    found = detect(iter(names))
    assert found == Detection(kind, prefix, "" if decided is None else names[decided])
    assert found.words == (KINDS[kind] if decided is None else f"{KINDS[kind]} ({names[decided]}, ...)")


def test_every_kind_is_among_them():
    assert {kind for _, kind, _, _ in FOUND} == KINDS.keys()
