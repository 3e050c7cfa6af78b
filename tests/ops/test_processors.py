"""Attention processors, their choice per layer, and fused projections."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.reference import (
    CONFIGS,
    SD15,
    SDXL,
    TINY,
    assert_close,
    assert_differs,
    make_inputs,
    pair,
    run_ours,
    run_theirs,
)
from unet_motion import ForwardOptions
from unet_motion.model.attention import Attention
from unet_motion.ops import attention
from unet_motion.ops.attention import AttentionProcessor, processors
from unet_motion.ops.attention.processors import (
    PROCESSORS,
    MathProcessor,
    SlicedProcessor,
    available_processors,
    get_processor,
)
from unet_motion.ops.attention.temporal import temporal_attention

EXACT = [name for name in available_processors() if name != "sage"]


class Recorder(MathProcessor):
    """The reference processor, counting what it is asked for."""

    name = "recorder"

    def __init__(self):
        self.shapes = []

    def attend(self, query, key, value, mask, scale):
        self.shapes.append((tuple(query.shape), tuple(key.shape)))
        return super().attend(query, key, value, mask, scale)


class Zero(AttentionProcessor):
    """Attends to nothing: makes visible which layers a rule reached."""

    name = "zero"

    def attend(self, query, key, value, mask, scale):
        return torch.zeros_like(query)


def test_every_named_processor_is_there():
    assert {"auto", "sdpa", "flash", "math", "sliced"} <= set(available_processors())
    assert {"auto", "sdpa", "flash", "mem_efficient", "math", "sliced"} <= set(PROCESSORS)


@pytest.mark.parametrize("processor", EXACT)
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_every_processor_equals_diffusers(name, processor):
    config = CONFIGS[name]
    ours, theirs = pair(config)
    inputs = make_inputs(config, batch=2, frames=5, height=9, width=7)
    expected = run_theirs(theirs, inputs)
    ours.set_attn_processor(processor)
    assert_close(run_ours(ours, inputs), expected, what="as default")
    ours.set_attn_processor("auto")
    assert_close(run_ours(ours, inputs, options=ForwardOptions(attn_processors=processor)), expected, what="option")


@pytest.mark.parametrize("processor", EXACT)
@torch.no_grad()
def test_every_processor_masks(processor):
    ours, theirs = pair(SD15)
    inputs = make_inputs(SD15, batch=2, tokens=6)
    keep = torch.tensor([1, 0, 1, 1, 0, 0])
    short = inputs["encoder_hidden_states"][:, keep.bool()]
    options = ForwardOptions(attn_processors=processor)
    result = run_ours(ours, inputs, attention_mask=keep.expand(2, -1), options=options)
    assert_close(result, run_theirs(theirs, inputs, encoder_hidden_states=short))


@pytest.mark.parametrize("slice_size", [1, 2, 7])
@torch.no_grad()
def test_sliced_with_any_size(slice_size):
    ours, theirs = pair(SD15)
    inputs = make_inputs(SD15, batch=2)
    ours.set_attn_processor(SlicedProcessor(slice_size))
    assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))


def test_sliced_works_on_slices():
    """Rows beyond the slice are not seen together; the first dimension never exceeds the size asked for."""
    seen = []

    class Probe(SlicedProcessor):
        pass

    original = MathProcessor.attend
    try:
        MathProcessor.attend = lambda self, q, k, v, m, s: seen.append(q.shape[0]) or original(self, q, k, v, m, s)
        q = torch.randn(7, 2, 5, 4)
        result = Probe(3).attend(q, q, q, None, 0.5)
    finally:
        MathProcessor.attend = original
    assert seen == [3, 3, 1]
    assert_close(result, original(MathProcessor(), q, q, q, None, 0.5), limit=1e-6)


@pytest.mark.parametrize("processor", EXACT)
@pytest.mark.parametrize("with_mask", [False, True])
@torch.no_grad()
def test_processors_against_softmax_in_float64(processor, with_mask):
    query, key, value = torch.randn(6, 3, 10, 5), torch.randn(6, 3, 7, 5), torch.randn(6, 3, 7, 5)
    mask = torch.where(torch.rand(6, 1, 1, 7) > 0.4, 0.0, -1e4) if with_mask else None
    if with_mask:
        mask[..., 0] = 0
    scores = torch.einsum("nhld,nhsd->nhls", query.double(), key.double()) * 0.3
    if with_mask:
        scores = scores + mask.double()
    expected = torch.einsum("nhls,nhsd->nhld", scores.softmax(-1), value.double())
    assert_close(PROCESSORS[processor].attend(query, key, value, mask, 0.3), expected, limit=2e-6)
    for order in ((3, 2, 1, 0), (0, 1, 3, 2)):  # the numbers of an entry need not lie side by side
        turned = (t.permute(order).contiguous().permute(order) for t in (query, key, value))
        assert_close(PROCESSORS[processor].attend(*turned, mask, 0.3), expected, limit=2e-6)


@pytest.mark.parametrize("processor", EXACT)
@torch.no_grad()
def test_large_batches_are_split(monkeypatch, processor):
    """Some kernels end at 65535 rows; the split is tried here at three."""
    monkeypatch.setattr(attention, "MAX_BATCH", 3)
    ours, theirs = pair(TINY)
    inputs = make_inputs(TINY, batch=2, frames=4, tokens=6, text_rows="frame")
    keep = torch.stack([torch.randperm(6) < 3 for _ in range(8)])
    short = torch.stack([text[mask] for text, mask in zip(inputs["encoder_hidden_states"], keep, strict=True)])
    options = ForwardOptions(attn_processors=processor)
    result = run_ours(ours, inputs, attention_mask=keep, options=options)
    assert_close(result, run_theirs(theirs, inputs, encoder_hidden_states=short))


@torch.no_grad()
def test_named_but_not_available():
    missing = set(PROCESSORS) - set(available_processors())
    assert "mem_efficient" in missing, "on the CPU torch has no memory-efficient kernel"
    ours, _ = pair(TINY)
    for name in missing:
        with pytest.raises(ValueError, match=name):
            run_ours(ours, make_inputs(TINY), options=ForwardOptions(attn_processors=name))


# which layer gets which processor


@pytest.mark.parametrize("name", CONFIGS)
def test_processors_are_listed_under_diffusers_names(name):
    ours, theirs = pair(CONFIGS[name])
    assert list(ours.attn_processors) == list(theirs.attn_processors)
    modules = [m for m in ours.modules() if isinstance(m, Attention)]
    assert len(ours.attn_processors) == len(modules)


@torch.no_grad()
def test_one_processor_for_all_layers():
    ours, theirs = pair(TINY)
    recorder = Recorder()
    ours.set_attn_processor(recorder)
    assert set(ours.attn_processors.values()) == {recorder}
    inputs = make_inputs(TINY)
    assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))
    assert len(recorder.shapes) >= len(ours.attn_processors)


@torch.no_grad()
def test_dict_of_all_layers_is_left_whole():
    ours, _ = pair(TINY)
    given = dict.fromkeys(ours.attn_processors, "math")
    given[next(iter(given))] = recorder = Recorder()
    before = dict(given)
    ours.set_attn_processor(given)
    assert given == before
    run_ours(ours, make_inputs(TINY))
    assert len(recorder.shapes) == 1
    ours.set_attn_processor(ours.attn_processors)
    assert ours.attn_processors[next(iter(before))] is recorder


@torch.no_grad()
def test_patterns_choose_layers():
    ours, theirs = pair(SD15)
    inputs = make_inputs(SD15)
    temporal, spatial = Recorder(), Recorder()
    rules = {"*": spatial, "*.motion_modules.*": temporal}
    result = run_ours(ours, inputs, options=ForwardOptions(attn_processors=rules))
    assert_close(result, run_theirs(theirs, inputs))
    assert {shape[0][2] for shape in temporal.shapes} == {3}, "temporal attention runs over the 3 frames"
    listed = list(ours.attn_processors)
    assert len(temporal.shapes) == sum(".motion_modules." in path for path in listed)
    assert len(spatial.shapes) == sum(".motion_modules." not in path for path in listed)


@torch.no_grad()
def test_rules_act_on_the_layers_they_name_only():
    ours, theirs = pair(TINY)
    inputs = make_inputs(TINY)
    path = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    result = run_ours(ours, inputs, options=ForwardOptions(attn_processors={path: Zero()}))
    assert_differs(result, run_ours(ours, inputs))
    silent = theirs.get_submodule(path)
    silent.to_v.weight.zero_()
    assert_close(result, run_theirs(theirs, inputs))


def test_incomplete_dict_of_exact_paths():
    """diffusers refuses a dict whose size is not the number of layers; so do we, with both numbers."""
    ours, theirs = pair(TINY)
    total = len(ours.attn_processors)
    one_short = dict(list(ours.attn_processors.items())[:-1])
    with pytest.raises(ValueError, match="number of processors"):
        theirs.set_attn_processor(dict(list(theirs.attn_processors.items())[:-1]))
    with pytest.raises(ValueError, match=rf"(?s)(?=.*\b{total}\b)(?=.*\b{total - 1}\b)"):
        ours.set_attn_processor(one_short)


def test_unknown_names():
    ours, _ = pair(TINY)
    with pytest.raises(ValueError, match=r"(?s)(?=.*fastest)(?=.*sdpa)(?=.*math)"):
        ours.set_attn_processor("fastest")
    with pytest.raises(ValueError, match="fastest"):
        ForwardOptions(attn_processors={"*": "fastest"})
    with pytest.raises(ValueError, match="no_such_block"):
        ours.set_attn_processor({"*": "math", "no_such_block.*": "sdpa"})
    with pytest.raises(TypeError):
        ours.set_attn_processor(3)


@torch.no_grad()
def test_refused_dict_changes_nothing():
    ours, _ = pair(TINY)
    before = dict(ours.attn_processors)
    with pytest.raises(ValueError):
        ours.set_attn_processor({"down_blocks.*": "math", "no_such_block.*": "sdpa"})
    assert dict(ours.attn_processors) == before


@torch.no_grad()
def test_default_processor_comes_back():
    ours, theirs = pair(TINY)
    inputs = make_inputs(TINY)
    ours.set_attn_processor(Zero())
    assert_differs(run_ours(ours, inputs), run_theirs(theirs, inputs))
    ours.set_default_attn_processor()
    assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))


@pytest.mark.parametrize("mask", [None, torch.tensor([1, 0, 1, 1, 0, 0])], ids=["plain", "masked"])
@torch.no_grad()
def test_processor_written_for_diffusers(mask):
    ours, theirs = pair(SDXL)
    inputs = make_inputs(SDXL, batch=2, tokens=6)
    ours.set_attn_processor(AttnProcessor2_0())
    if mask is None:
        assert_close(run_ours(ours, inputs), run_theirs(theirs, inputs))
    else:
        short = inputs["encoder_hidden_states"][:, mask.bool()]
        result = run_ours(ours, inputs, attention_mask=mask.expand(2, -1))
        assert_close(result, run_theirs(theirs, inputs, encoder_hidden_states=short))


@pytest.mark.parametrize(("name", "package"), [("xformers", "xformers"), ("sage", "sageattention")])
def test_a_processor_of_a_package_is_there_where_the_package_is(name, package):
    try:
        importlib.import_module(package)
    except ImportError:
        with pytest.raises(ValueError, match=f"unknown attention processor '{name}'"):
            get_processor(name)
        assert name not in available_processors()
    else:
        assert get_processor(name).name == name


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 5, 7, 4), (1, 1, 1, 1, 8), (9, 3, 2, 4, 5)])
def test_packages_get_tensors_in_the_order_of_axes_that_they_document(shape, masked, monkeypatch):
    """Their functions written out as formulas: xformers takes (B, M, H, K), SageAttention in `HND` (B, H, N, D)."""
    batch, heads, queries, keys, dim = shape
    torch.manual_seed(0)
    query, key, value = (torch.randn(batch, heads, n, dim, dtype=torch.float64) for n in (queries, keys, keys))
    bias = torch.randn(batch, 1, queries, keys, dtype=torch.float64) if masked else None

    def formula(q, k, v, bias, scale):
        scores = torch.einsum("bhmd,bhnd->bhmn", q, k) * scale
        return torch.einsum("bhmn,bhnd->bhmd", (scores if bias is None else scores + bias).softmax(-1), v)

    def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None):
        assert query.shape[1:] == (queries, heads, dim) and key.shape[1:] == value.shape[1:] == (keys, heads, dim)
        assert attn_bias is None or attn_bias.shape == (len(query), heads, queries, keys)
        return torch.einsum(
            "bhmd->bmhd", formula(*(torch.einsum("bmhd->bhmd", t) for t in (query, key, value)), attn_bias, scale)
        )

    def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None):
        assert tensor_layout == "HND" and not is_causal
        return formula(q, k, v, None, sm_scale)

    operations = SimpleNamespace(memory_efficient_attention=memory_efficient_attention)
    monkeypatch.setitem(sys.modules, "xformers", SimpleNamespace(ops=operations))
    monkeypatch.setitem(sys.modules, "xformers.ops", operations)
    monkeypatch.setitem(sys.modules, "sageattention", SimpleNamespace(sageattn=sageattn))
    expected = formula(query, key, value, bias, 0.3)
    monkeypatch.setattr(attention, "MAX_BATCH", 4)
    found = processors.XFormersProcessor().attend(query, key, value, bias, 0.3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    sage = processors.SageProcessor()
    if masked:
        with pytest.raises(ValueError, match="'sage' found a mask, expected none"):
            sage.attend(query, key, value, bias, 0.3)
    else:
        torch.testing.assert_close(sage.attend(query, key, value, None, 0.3), expected, rtol=1e-12, atol=1e-12)


# fused projections


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_fuse_and_unfuse_twice_each(name):
    config = CONFIGS[name]
    ours, theirs = pair(config)
    inputs = make_inputs(config, batch=2)
    expected = run_theirs(theirs, inputs)
    keys = list(ours.state_dict())
    ours.unfuse_qkv_projections()
    for _ in range(2):
        ours.fuse_qkv_projections()
        assert list(ours.state_dict()) == keys
        assert_close(run_ours(ours, inputs), expected, what="fused")
    for _ in range(2):
        ours.unfuse_qkv_projections()
        assert list(ours.state_dict()) == keys
        assert_close(run_ours(ours, inputs), expected, what="unfused")
    ours.set_default_attn_processor()
    assert_close(run_ours(ours, inputs), expected, what="default processors")


@pytest.mark.parametrize("how", ["in place", "loaded", "replaced"])
@torch.no_grad()
def test_later_weights_reach_the_fused_path(how):
    ours, theirs = pair(SD15)
    inputs = make_inputs(SD15, batch=2)
    ours.fuse_qkv_projections()
    before = run_ours(ours, inputs)
    for key, value in theirs.state_dict().items():
        if key.endswith(("to_q.weight", "to_k.weight", "to_v.weight")):
            value.copy_(torch.randn_like(value) / value.shape[1] ** 0.5)
    if how == "loaded":
        ours.load_state_dict(theirs.state_dict(), strict=True)
    for path, module in ours.named_modules():
        if isinstance(module, Attention) and how != "loaded":
            for name in ("to_q", "to_k", "to_v"):
                weight = theirs.get_submodule(path).get_submodule(name).weight
                layer = getattr(module, name)
                if how == "in place":
                    layer.weight.copy_(weight)
                else:
                    layer.weight = torch.nn.Parameter(weight.clone())
    result = run_ours(ours, inputs)
    assert_close(result, run_theirs(theirs, inputs))
    assert_differs(result, before)


@torch.no_grad()
def test_fused_with_mask_and_text_per_frame():
    ours, theirs = pair(SD15)
    inputs = make_inputs(SD15, batch=2, tokens=6, text_rows="frame")
    keep = torch.tensor([1, 0, 1, 1, 0, 0])
    short = inputs["encoder_hidden_states"][:, keep.bool()]
    ours.fuse_qkv_projections()
    result = run_ours(ours, inputs, attention_mask=keep.expand(6, -1))
    assert_close(result, run_theirs(theirs, inputs, encoder_hidden_states=short))


def test_fusing_saves_matrix_products():
    """Fusing must do something: fewer, larger products."""

    class Count(TorchDispatchMode):
        products = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.products += func.overloadpacket in flop_registry
            return func(*args, **(kwargs or {}))

    ours, _ = pair(TINY)
    inputs = make_inputs(TINY)
    counts = []
    for change in (ours.unfuse_qkv_projections, ours.fuse_qkv_projections):
        change()
        with torch.no_grad(), Count() as count:
            run_ours(ours, inputs)
        counts.append(count.products)
    assert counts[1] < counts[0]


@pytest.mark.parametrize("frames", [False, True])
def test_the_triton_processor_gives_pytorch_what_its_kernel_declines(frames, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 5, 2, 4) if frames else (2, 3, 5, 4)
    query, key, value = (torch.randn(shape, generator=generator) for _ in range(3))
    kernel = processors.KERNELS["temporal_attention"]
    call = PROCESSORS["triton"].attend_frames if frames else PROCESSORS["triton"].attend
    inputs = (query, key, value, 0.3) if frames else (query, key, value, None, 0.3)
    expected = getattr(PROCESSORS["sdpa"], call.__name__)(*inputs)

    def stands_in(query, key, value, scale, mask=None):
        return torch.full_like(query, 7.0)

    monkeypatch.setattr(processors, "temporal_attention_kernel", stands_in)
    monkeypatch.setattr(kernel, "declines", lambda *tensors: "it cannot")
    assert torch.equal(call(*inputs), expected)
    monkeypatch.setattr(kernel, "declines", lambda *tensors: None)
    out = call(*inputs)
    assert out.shape == expected.shape and (out == 7).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mask", [None, (5, 1, 7, 7), (1, 3, 1, 7)], ids=str)
def test_temporal_attention_without_a_kernel_is_its_definition(dtype, mask):
    query, key, value = torch.randn(3, 5, 7, 3, 11, dtype=torch.float64).to(dtype).transpose(2, 3)
    added = None if mask is None else torch.randn(mask)
    scores = torch.einsum("nhid,nhjd->nhij", query.double(), key.double()) * 0.4 + (0 if added is None else added)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    expected = torch.einsum("nhij,nhjd->nhid", weights, value.double())
    found = temporal_attention(query, key, value, 0.4, added)
    assert found.dtype == dtype and found.shape == query.shape
    assert (found.double() - expected).abs().max() < 8 * max(torch.finfo(dtype).eps, 1e-7 * (dtype == torch.float32))
