"""Folders of ``save_pretrained``: read and written by this project and by diffusers."""

import json

import diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.formats.files import adapter, randomise, same_state, unet2d
from unet_motion import MotionAdapter, UNetMotionModel, load_motion_module, load_unet
from unet_motion.formats import FileFormatError, KeyMismatchError, WrongKindError

SMALL = {
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "norm_num_groups": 16,
    "motion_max_seq_length": 20,
    "num_attention_heads": (2, 4),
    "motion_num_attention_heads": 4,
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def model(seed=0, **changes):
    return randomise(UNetMotionModel(**{**SMALL, **changes}), seed)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def as_list(value):
    return list(value) if isinstance(value, tuple) else value


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip_of_bits_and_configuration(tmp_path):
    first = model(resnet_norm_scope="clip")
    first.save_pretrained(tmp_path)
    assert names(tmp_path) == ["config.json", WEIGHTS]
    again = UNetMotionModel.from_pretrained(tmp_path)
    assert same_state(first.state_dict(), again.state_dict())
    assert again.config == first.config
    assert again.config.resnet_norm_scope == "clip"
    assert not again.training
    assert all(p.requires_grad for p in again.parameters())
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    text = (tmp_path / "config.json").read_text()
    config = json.loads(text)
    assert config["_class_name"] == "UNetMotionModel"
    assert config["block_out_channels"] == [32, 64]
    assert text == json.dumps(config, indent=2, sort_keys=True) + "\n"


def test_diffusers_reads_our_folder(tmp_path):
    ours = model()
    ours.save_pretrained(tmp_path / "unet")
    theirs, info = diffusers.UNetMotionModel.from_pretrained(tmp_path / "unet", output_loading_info=True)
    assert not any(info.values())
    assert same_state(dict(theirs.state_dict()), ours.state_dict())
    assert {name: as_list(theirs.config[name]) for name in SMALL} == {k: as_list(v) for k, v in SMALL.items()}
    motion = randomise(MotionAdapter(block_out_channels=(32, 64), use_motion_mid_block=False))
    motion.save_pretrained(tmp_path / "motion")
    theirs = diffusers.MotionAdapter.from_pretrained(tmp_path / "motion")
    assert same_state(dict(theirs.state_dict()), motion.state_dict())
    assert theirs.mid_block is None


def test_we_read_diffusers_folders(tmp_path):
    theirs = randomise(diffusers.UNetMotionModel(**SMALL))
    theirs.save_pretrained(tmp_path / "unet")
    ours = UNetMotionModel.from_pretrained(tmp_path / "unet")
    assert same_state(dict(theirs.state_dict()), ours.state_dict())
    assert (ours.config.resnet_norm_scope, ours.config.motion_norm_scope) == ("frame", "clip")
    motion = adapter(motion_max_seq_length=24)
    motion.save_pretrained(tmp_path / "motion", variant="fp16")
    ours = MotionAdapter.from_pretrained(tmp_path / "motion", variant="fp16")
    assert same_state(dict(motion.state_dict()), ours.state_dict())
    assert ours.config.motion_max_seq_length == 24


def test_shards_are_named_and_indexed_as_diffusers_does(tmp_path):
    ours = model()
    theirs = diffusers.UNetMotionModel(**SMALL)
    theirs.load_state_dict(ours.state_dict())
    ours.save_pretrained(tmp_path / "ours", max_shard_size="300KB")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="300KB")
    assert names(tmp_path / "ours") == names(tmp_path / "theirs")
    assert len(names(tmp_path / "ours")) > 4
    index = "diffusion_pytorch_model.safetensors.index.json"
    ours_index, theirs_index = (json.loads((tmp_path / who / index).read_text()) for who in ("ours", "theirs"))
    assert ours_index["weight_map"].keys() == theirs_index["weight_map"].keys()
    assert ours_index["metadata"] == theirs_index["metadata"]
    assert set(ours_index["weight_map"].values()) == {n for n in names(tmp_path / "ours") if "-of-" in n}
    limit, state = 300_000, ours.state_dict()
    for shard in set(ours_index["weight_map"].values()):
        keys = [k for k, v in ours_index["weight_map"].items() if v == shard]
        assert sum(state[k].nbytes for k in keys) <= limit or len(keys) == 1
    assert same_state(UNetMotionModel.from_pretrained(tmp_path / "theirs").state_dict(), ours.state_dict())
    read = diffusers.UNetMotionModel.from_pretrained(tmp_path / "ours")
    assert same_state(dict(read.state_dict()), ours.state_dict())


def test_variants_and_old_shards(tmp_path):
    full, half = model(), model(seed=4).half()
    full.save_pretrained(tmp_path, max_shard_size=200_000)
    half.save_pretrained(tmp_path, variant="fp16", max_shard_size=200_000)
    sharded = names(tmp_path)
    assert "diffusion_pytorch_model.safetensors.index.fp16.json" in sharded
    assert any(n.startswith("diffusion_pytorch_model.fp16-00001-of-") for n in sharded)
    half.save_pretrained(tmp_path, variant="fp16")
    left = [n for n in sharded if "fp16" not in n]
    assert names(tmp_path) == sorted([*left, "diffusion_pytorch_model.fp16.safetensors"])
    assert same_state(
        UNetMotionModel.from_pretrained(tmp_path, variant="fp16", dtype="auto").state_dict(), half.state_dict()
    )
    assert same_state(UNetMotionModel.from_pretrained(tmp_path).state_dict(), full.state_dict())
    half.save_pretrained(tmp_path)
    assert WEIGHTS in names(tmp_path)
    assert not any("-of-" in n or "index" in n for n in names(tmp_path))
    assert UNetMotionModel.from_pretrained(tmp_path, dtype="auto").dtype == torch.float16
    assert UNetMotionModel.from_pretrained(tmp_path).dtype == torch.float32
    with pytest.raises(
        OSError, match=r"no file named diffusion_pytorch_model\.bf16\.safetensors or .*found diffusion_"
    ):
        UNetMotionModel.from_pretrained(tmp_path, variant="bf16")


def test_bin_files(tmp_path):
    ours = model()
    ours.save_pretrained(tmp_path / "ours", safe_serialization=False)
    assert names(tmp_path / "ours") == ["config.json", "diffusion_pytorch_model.bin"]
    assert same_state(UNetMotionModel.from_pretrained(tmp_path / "ours").state_dict(), ours.state_dict())
    ours.save_pretrained(tmp_path / "shards", safe_serialization=False, max_shard_size="200KB")
    assert same_state(UNetMotionModel.from_pretrained(tmp_path / "shards").state_dict(), ours.state_dict())
    theirs = adapter()
    theirs.save_pretrained(tmp_path / "theirs", safe_serialization=False)
    assert same_state(MotionAdapter.from_pretrained(tmp_path / "theirs").state_dict(), dict(theirs.state_dict()))
    with pytest.raises(OSError, match=r"no file named diffusion_pytorch_model\.safetensors, found"):
        MotionAdapter.from_pretrained(tmp_path / "theirs", use_safetensors=True)


def test_a_loaded_model_can_be_saved_over_its_own_files(tmp_path):
    model().save_pretrained(tmp_path)
    loaded = UNetMotionModel.from_pretrained(tmp_path)
    before = {k: v.clone() for k, v in loaded.state_dict().items()}
    loaded.save_pretrained(tmp_path, max_shard_size="200KB")
    assert same_state(loaded.state_dict(), before)
    assert same_state(UNetMotionModel.from_pretrained(tmp_path).state_dict(), before)
    again = UNetMotionModel.from_pretrained(tmp_path)
    with torch.no_grad():
        again.conv_in.weight.add_(1)
    assert same_state(UNetMotionModel.from_pretrained(tmp_path).state_dict(), before)


def test_channels_last_weights_are_saved(tmp_path):
    ours = model().to(memory_format=torch.channels_last)
    ours.save_pretrained(tmp_path)
    assert same_state(UNetMotionModel.from_pretrained(tmp_path).state_dict(), ours.state_dict())


def test_dtypes(tmp_path):
    ours = model()
    ours.save_pretrained(tmp_path)
    for arguments in ({"torch_dtype": torch.float16}, {"dtype": torch.float16}, {"dtype": "float16"}):
        loaded = UNetMotionModel.from_pretrained(tmp_path, **arguments)
        assert {v.dtype for v in loaded.state_dict().values()} == {torch.float16}
        assert torch.equal(loaded.conv_in.weight, ours.conv_in.weight.half())
    with pytest.raises(ValueError, match="`dtype` is 'half-ish'"):
        UNetMotionModel.from_pretrained(tmp_path, dtype="half-ish")


def test_absent_tables_are_computed_in_float32(tmp_path):
    ours = model(motion_max_seq_length=32)
    state = {k: v for k, v in ours.state_dict().items() if not k.endswith(".pe")}
    ours.save_pretrained(tmp_path)
    save_file(state, tmp_path / WEIGHTS)
    loaded = UNetMotionModel.from_pretrained(tmp_path, torch_dtype=torch.float16).state_dict()
    for key, value in ours.state_dict().items():
        if key.endswith(".pe"):
            assert torch.equal(loaded[key], value.half())


def test_missing_extra_and_mismatched_tensors(tmp_path):
    ours = model()
    ours.save_pretrained(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    lost = state.pop("mid_block.resnets.1.conv2.bias")
    save_file({**state, "odd.weight": lost}, tmp_path / WEIGHTS)
    with pytest.raises(
        KeyMismatchError, match=r"1 tensors of the model are missing: mid_block\.resnets\.1\.conv2\.bias"
    ):
        UNetMotionModel.from_pretrained(tmp_path)
    with pytest.warns(UserWarning) as caught:
        loaded, info = UNetMotionModel.from_pretrained(tmp_path, allow_missing=True, output_loading_info=True)
    said = "\n".join(str(w.message) for w in caught)
    assert "mid_block.resnets.1.conv2.bias" in said
    assert "odd.weight" in said
    assert info["missing_keys"] == ["mid_block.resnets.1.conv2.bias"]
    assert info["unexpected_keys"] == ["odd.weight"]
    assert torch.isfinite(loaded.mid_block.resnets[1].conv2.bias).all()
    assert torch.equal(loaded.conv_in.weight, ours.conv_in.weight)
    ours.save_pretrained(tmp_path)
    edit_config(tmp_path, in_channels=9)
    with pytest.raises(KeyMismatchError, match=r"conv_in\.weight is \[32, 4, 3, 3\], expected \[32, 9, 3, 3\]"):
        UNetMotionModel.from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="conv_in.weight"):
        loaded, info = UNetMotionModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True, output_loading_info=True)
    assert info["mismatched_keys"] == [("conv_in.weight", (32, 4, 3, 3), (32, 9, 3, 3))]
    assert loaded.conv_in.weight.std() > 0


def test_arguments(tmp_path):
    ours = model()
    ours.save_pretrained(tmp_path / "pipeline" / "unet")
    loaded = UNetMotionModel.from_pretrained(
        tmp_path / "pipeline", subfolder="unet", local_files_only=True, low_cpu_mem_usage=True, sample_size=8
    )
    assert loaded.config.sample_size == 8
    with pytest.raises(TypeError, match="no argument sampel_size"):
        UNetMotionModel.from_pretrained(tmp_path / "pipeline" / "unet", sampel_size=8)


def test_unknown_and_default_entries_of_the_configuration(tmp_path):
    model().save_pretrained(tmp_path)
    edit_config(tmp_path, new_thing=3, _diffusers_version="0.42.1", _name_or_path="x", act_fn="gelu",
                _use_default_values=["act_fn"])  # fmt: skip
    with pytest.warns(UserWarning, match="unknown configuration keys are ignored: new_thing"):
        loaded = UNetMotionModel.from_pretrained(tmp_path)
    assert loaded.config.act_fn == "silu"


def test_missing_files_have_a_sentence_each(tmp_path):
    with pytest.raises(OSError, match="guoyww/animatediff is no folder on this computer"):
        MotionAdapter.from_pretrained("guoyww/animatediff")
    with pytest.raises(OSError, match="no file named config.json"):
        MotionAdapter.from_pretrained(tmp_path)
    ours = model()
    ours.save_pretrained(tmp_path, max_shard_size="200KB")
    shard = next(file for file in sorted(tmp_path.iterdir()) if "-00002-" in file.name)
    shard.unlink()
    with pytest.raises(OSError, match=rf"{shard.name} does not exist, but .*index\.json lists it"):
        UNetMotionModel.from_pretrained(tmp_path)
    for file in tmp_path.iterdir():
        if file.name != "config.json":
            file.unlink()
    with pytest.raises(OSError, match="found no weights at all"):
        UNetMotionModel.from_pretrained(tmp_path)


def test_other_classes_and_broken_json(tmp_path):
    unet2d().save_pretrained(tmp_path / "unet2d")
    with pytest.raises(WrongKindError, match=r"UNet2DConditionModel, expected UNetMotionModel \(load_unet reads it\)"):
        UNetMotionModel.from_pretrained(tmp_path / "unet2d")
    adapter().save_pretrained(tmp_path / "motion")
    with pytest.raises(WrongKindError, match="that of a MotionAdapter, expected UNetMotionModel"):
        UNetMotionModel.from_pretrained(tmp_path / "motion")
    (tmp_path / "motion" / "config.json").write_text("{")
    with pytest.raises(FileFormatError, match="config.json: is not JSON"):
        MotionAdapter.from_pretrained(tmp_path / "motion")


def test_an_index_that_leaves_its_folder_is_refused(tmp_path):
    model().save_pretrained(tmp_path / "a", max_shard_size="200KB")
    index = tmp_path / "a" / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["conv_in.weight"] = "../b.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(FileFormatError, match=r"lists the file '\.\./b\.safetensors'"):
        UNetMotionModel.from_pretrained(tmp_path / "a")


def test_a_failed_save_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    first = model()
    first.save_pretrained(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    from unet_motion.files import writing

    calls = []

    def full_disk(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 2:
            raise OSError("No space left on device")
        path.write_bytes(b"half")

    monkeypatch.setattr(writing, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model(seed=3).save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(calls) == 2
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_sizes_and_targets(tmp_path):
    for size in ("10 parsecs", 0, "0GB", None):
        with pytest.raises(ValueError, match="max_shard_size"):
            model().save_pretrained(tmp_path / "a", max_shard_size=size)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="file is a file, expected a folder"):
        model().save_pretrained(tmp_path / "file")


def test_more_entries_in_the_configuration(tmp_path):
    """The norm scopes of training, beside an adapter that any program reads."""
    ours = randomise(MotionAdapter(block_out_channels=(32, 64)))
    scopes = {"resnet_norm_scope": "clip", "motion_norm_scope": "frame"}
    ours.save_pretrained(tmp_path, extra_config=scopes)
    assert load_motion_module(tmp_path).norm_scopes == ("clip", "frame")
    assert MotionAdapter.from_pretrained(tmp_path).config == ours.config
    diffusers.MotionAdapter.from_pretrained(tmp_path)


def test_any_depth_saves_its_motion_modules(tmp_path):
    ours = model(temporal_transformer_layers_per_block=2, temporal_transformer_layers_per_mid_block=3)
    ours.save_motion_modules(tmp_path)
    read = MotionAdapter.from_pretrained(tmp_path)
    assert same_state(read.state_dict(), {k: v for k, v in ours.state_dict().items() if ".motion_modules." in k})
    diffusers.MotionAdapter.from_pretrained(tmp_path)


def test_ip_adapter_weights_come_back(tmp_path):
    ours = model()
    paths = [path for path, layer in ours.attention_layers if layer.is_cross_attention]
    image = {"proj.weight": torch.randn(4 * 24, 12), "proj.bias": torch.randn(96)}
    image |= {"norm.weight": torch.randn(24), "norm.bias": torch.randn(24)}
    layers = {}
    for number, path in enumerate(paths):
        width = ours.get_submodule(path).to_q.weight.shape[0]
        for name in ("to_k_ip", "to_v_ip"):
            layers[f"{2 * number + 1}.{name}.weight"] = torch.randn(width, 24)
    ours.load_ip_adapter({"image_proj": image, "ip_adapter": layers})
    ours.save_pretrained(tmp_path)
    again = UNetMotionModel.from_pretrained(tmp_path)
    assert same_state(again.state_dict(), ours.state_dict())
    sample, text = torch.randn(1, 4, 2, 8, 8), torch.randn(1, 5, 24)
    added = {"image_embeds": [torch.randn(1, 1, 12)]}
    with torch.no_grad():
        expected = ours(sample, 5, text, added_cond_kwargs=added).sample
        # Not to the last bit: some products depend on where in memory the weights lie.
        for loaded in (again, load_unet(tmp_path)):
            out = loaded(sample, 5, text, added_cond_kwargs=added).sample
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_an_ip_adapter_of_another_kind_is_refused(tmp_path):
    model().save_pretrained(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    save_file({**state, "encoder_hid_proj.latents": torch.zeros(1)}, tmp_path / WEIGHTS)
    for load in (UNetMotionModel.from_pretrained, load_unet):
        with pytest.raises(FileFormatError, match=f"{tmp_path}: .*encoder_hid_proj.latents.* not supported"):
            load(tmp_path)


def test_diffusers_keyword_names_are_taken_and_a_hub_is_refused_before_anything_is_written(tmp_path):
    unet = model()
    unet.save_pretrained(save_directory=tmp_path / "unet", push_to_hub=False)
    again = UNetMotionModel.from_pretrained(pretrained_model_name_or_path=tmp_path / "unet")
    assert same_state(again.state_dict(), unet.state_dict())
    with pytest.raises(ValueError, match="`push_to_hub` is True, expected False"):
        unet.save_pretrained(tmp_path / "other", push_to_hub=True)
    assert not (tmp_path / "other").exists()
