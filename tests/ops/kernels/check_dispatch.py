"""What is chosen and why: fallbacks, training, PyTorch's own checks of operators and compiled code."""

import pytest
import torch
from torch import library

pytest.importorskip("triton")

from poison import DEVICE, pictures, random

from unet_motion import kernels
from unet_motion.ops import dispatch
from unet_motion.ops import mode as modes
from unet_motion.ops.attention.processors import PROCESSORS
from unet_motion.ops.attention.temporal import temporal_attention, temporal_attention_eager, temporal_attention_kernel
from unet_motion.ops.feed_forward import geglu, geglu_kernel, geglu_product, geglu_product_kernel
from unet_motion.ops.float8 import rounded, rounded_kernel
from unet_motion.ops.freeu import FreeU, freeu_concat, freeu_concat_kernel
from unet_motion.ops.group_norm import group_norm, group_norm_kernel, scoped_group_norm
from unet_motion.ops.layer_norm import add_layer_norm, add_layer_norm_kernel, layer_norm, layer_norm_kernel
from unet_motion.ops.proof import wanted
from unet_motion.ops.residual import add_residual, residual_sum_kernel

NAMES = ("float8", "freeu", "geglu", "geglu_product", "group_norm", "layer_norm", "residual_sum", "temporal_attention")


@pytest.fixture(autouse=True)
def triton_kernels():
    with kernels.use("triton"):
        yield


def operators():
    """Each operator with arguments."""
    tokens = random(1, 2, 5, 8, strided=True)
    views = [random(2, 1, 5, 8) for _ in range(3)]
    hidden, skip = pictures(1, 4, 3, 3), pictures(1, 6, 3, 3)
    return {
        "temporal_attention": (temporal_attention_kernel, (*views, 0.3, random(1, 1, 5, 5))),
        "group_norm": (group_norm_kernel, (tokens[0], random(8), random(8), 4, 1e-6, True, random(1, 8))),
        "float8": (rounded_kernel, (tokens,)),
        "geglu": (geglu_kernel, (tokens,)),
        "geglu_product": (geglu_product_kernel, (tokens, random(6, 8), random(6))),
        "layer_norm": (layer_norm_kernel, (tokens, random(8), None, random(2, 8), 1e-5)),
        "add_layer_norm": (add_layer_norm_kernel, (tokens, random(1, 2, 5, 8), random(8), random(8), None, 1e-5)),
        "residual_sum": (residual_sum_kernel, (hidden, pictures(1, 4, 3, 3), random(4))),
        "freeu": (freeu_concat_kernel, (hidden, skip, 1.5, 0.2, True, torch.tensor(True, device=DEVICE))),
    }


def public():
    """Each operation as a function of its first tensor."""
    views = [random(2, 1, 5, 8) for _ in range(3)]
    mask, weight, bias, rows = random(1, 1, 5, 5), random(8), random(8), random(2, 8)
    skip, freeu = pictures(1, 6, 3, 3), FreeU(0.3, 1, 1.5, 1, "v2")
    hidden, row, wide = pictures(1, 4, 3, 3), random(4), random(6, 8)
    return {
        "temporal_attention": (lambda x: temporal_attention(x, *views[1:], 0.3, mask), views[0]),
        "group_norm": (lambda x: group_norm(x, weight, bias, 4, 1e-6, True), random(2, 5, 8)),
        "float8": (lambda x: rounded(x).to(x.dtype), random(2, 8)),
        "geglu": (geglu, random(2, 8)),
        "geglu_product": (lambda x: geglu_product(x, wide, None), random(2, 8)),
        "layer_norm": (lambda x: layer_norm(x, weight, bias, 1e-5, rows, x)[1], random(1, 2, 5, 8)),
        "residual_sum": (lambda x: add_residual(x, hidden, row, False), pictures(1, 4, 3, 3)),
        "freeu": (lambda x: freeu_concat(x, skip, freeu, 0), pictures(1, 4, 3, 3)),
    }


@pytest.mark.parametrize("name", operators())
def test_pytorch_accepts_the_operator(name):
    # The interpreter computes on numpy arrays, which the functional tensors of the last check are not.
    tests = ["test_schema", "test_faketensor", "test_autograd_registration"]
    if not dispatch.interpreted():
        tests.append("test_aot_dispatch_dynamic")
    operator, arguments = operators()[name]
    library.opcheck(operator, arguments, test_utils=tests)
    if name == "freeu":
        library.opcheck(operator, (*arguments[:4], False, None), test_utils=tests)


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_that_needs_gradients_runs_as_its_twin(name, caplog):
    caplog.set_level("INFO")
    dispatch.KERNELS[name]._told.clear()
    function, x = public()[name]
    gradients = []
    for mode in ("triton", "eager"):
        with kernels.use(mode):
            y = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
            function(y).square().sum().backward()
            gradients.append(y.grad)
    assert gradients[0].abs().sum() > 0 and torch.equal(*gradients)
    assert f"{name} runs as plain PyTorch: gradients are asked for" in [r.message for r in caplog.records]
    with torch.no_grad():
        assert not function(x.requires_grad_()).requires_grad


def test_weights_alone_may_need_gradients():
    for function in (
        lambda w: group_norm(random(1, 3, 8), w, None, 2, 1e-6),
        lambda w: layer_norm(random(1, 3, 8), w, None, 1e-5)[1],
    ):
        weight = random(8).requires_grad_()
        function(weight).sum().backward()
        assert weight.grad is not None


@torch.no_grad()
def test_norms_read_their_weights_through_the_host_and_call_a_layer_that_has_a_hook():
    # One group of eight channels: no sums of narrow groups, which read weights through the host too.
    layer, group = torch.nn.LayerNorm(8, device=DEVICE), torch.nn.GroupNorm(1, 8, device=DEVICE)
    tokens, change, x, vector = random(1, 2, 3, 8), random(1, 2, 3, 8), pictures(2, 8, 3, 3), random(1, 8)

    def patched(module, _):
        return module.weight * 3, module.bias + 1

    layer.read_weights = group.read_weights = patched
    results = {}
    for mode in ("triton", "eager"):
        with kernels.use(mode):
            results[mode] = (
                add_layer_norm(layer, tokens, change)[1],
                scoped_group_norm(group, x, 2, "clip", None, vector),
            )
    for patched_norm, plain in zip(*results.values(), strict=True):
        torch.testing.assert_close(patched_norm, 3 * plain + 1, rtol=1e-4, atol=1e-4)
    for norm in (layer, group):
        norm.register_forward_hook(lambda module, args, out: out * 0)
    assert add_layer_norm(layer, tokens, change)[1].abs().sum() == 0
    assert scoped_group_norm(group, x, 2, "clip", None, vector).abs().sum() == 0


@pytest.mark.parametrize("name", NAMES)
def test_float64_runs_as_plain_code(name):
    _, x = public()[name]
    assert dispatch.KERNELS[name].declines(x.double()) == "no kernel for torch.float64"


def test_a_kernel_that_does_not_fit_says_why_once_and_the_twin_runs(caplog):
    caplog.set_level("INFO")
    views = [random(2, 1, 65, 8) for _ in range(3)]
    for _ in range(2):
        torch.testing.assert_close(temporal_attention(*views, 0.3), temporal_attention_eager(*views, 0.3))
    assert [r.message for r in caplog.records].count(
        "temporal_attention runs as plain PyTorch: 65 frames are more than 64"
    ) == 1


def test_constraints_name_what_does_not_fit():
    found = dispatch.KERNELS
    q = random(2, 1, 5, 8)
    assert found["temporal_attention"].declines(q, q, q[:, :, :4], None) == "query and key differ in shape"
    assert found["temporal_attention"].declines(q, q.half(), q, None) == "query and key differ in dtype"
    wide = random(1, 1, 2, 257)
    assert "257 channels are wider" in found["temporal_attention"].declines(wide, wide, wide, None)
    assert "does not broadcast" in found["temporal_attention"].declines(q, q, q, random(1, 1, 5, 4))
    assert found["geglu"].declines(random(8, 6).t()) == "its last axis is strided"
    assert found["geglu"].declines(random(4, 6, 8)[:, :3]) == "its rows lie at several distances"
    strided = random(2, 8, 5).transpose(1, 2)
    assert found["group_norm"].declines(strided, None, None, None) == "its channels are strided"
    assert "not one row of each" in found["group_norm"].declines(random(3, 5, 8), None, None, random(2, 8))
    x = random(2, 3, 5, 8)
    assert found["layer_norm"].declines(x, random(8), None, None, x[:1]) == "the residual differs in shape or dtype"
    assert "not one of each frame" in found["layer_norm"].declines(x, random(8), None, random(2, 8), None)
    assert "8200 channels are more than 8192" in found["layer_norm"].declines(random(1, 8200), None, None, None, None)
    plain = random(1, 4, 3, 3)
    assert found["freeu"].declines(plain, plain, None) == "in channels-last memory its last axis is strided"
    meta = torch.empty(8, device="meta")
    assert found["group_norm"].declines(random(2, 3, 8), meta, None, None) == "its tensors are on several devices"


@pytest.mark.parametrize("name", NAMES)
def test_compiled_code_has_no_graph_break(name):
    function, x = public()[name]
    with torch.no_grad():
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), function(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", operators())
def test_operators_stand_in_compiled_code(name):
    operator, arguments = operators()[name]
    torch.compiler.reset()  # of one function's code only eight are held
    compiled = torch.compile(lambda *a: operator(*a), fullgraph=True, backend="eager")
    for found, expected in zip(compiled(*arguments), operator(*arguments), strict=True):
        assert torch.equal(found, expected)


@torch.no_grad()
def test_the_processor_takes_masks_and_stands_in_compiled_code():
    views, mask = [random(2, 1, 5, 8) for _ in range(3)], random(1, 1, 5, 5)
    processor = PROCESSORS["triton"]
    expected = PROCESSORS["math"].attend(*views, mask, 0.3)
    torch.testing.assert_close(processor.attend(*views, mask, 0.3), expected)
    compiled = torch.compile(lambda *a: processor.attend(*a, 0.3), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*views, mask), expected)


def test_the_mode_is_of_this_thread_and_checked(monkeypatch):
    assert kernels.current_mode() == "triton"
    with kernels.use("eager"):
        assert not wanted(dispatch.KERNELS["geglu"], random(2, 8))
    with pytest.raises(ValueError, match="'fast' are unknown; expected one of eager, triton, proven"):
        kernels.use("fast").__enter__()
    modes._mode.set(None)
    monkeypatch.setenv(modes.VARIABLE, "eager")
    assert kernels.current_mode() == "eager"
    monkeypatch.setenv(modes.VARIABLE, " proven\n")
    assert kernels.current_mode() == "proven"
    monkeypatch.setenv(modes.VARIABLE, "quick")
    with pytest.raises(ValueError, match="environment variable UNET_MOTION_KERNELS, 'quick' are unknown; expected one"):
        kernels.current_mode()
    for nothing in ("", "  "):
        monkeypatch.setenv(modes.VARIABLE, nothing)
        assert kernels.current_mode() == "eager" and kernels.current_mode("proven") == "proven"
    with kernels.use("triton"):
        assert kernels.current_mode() == "triton"
