"""Motion LoRAs whose strength is data of a call, in float64, against layers that compute every frame by itself."""

import pytest
import torch
from torch import nn

from tests.formats.files import randomise, relative_error
from unet_motion import ForwardOptions, UNetMotionModel, apply_motion_lora, load_motion_lora

BLOCK = "down_blocks.0.motion_modules.0"
INNER = f"{BLOCK}.transformer_blocks.0"
ATTENTION = [f"{INNER}.attn{n}.{leaf}" for n in (1, 2) for leaf in ("to_q", "to_k", "to_v", "to_out.0")]
LAYERS = [f"{BLOCK}.proj_in", f"{BLOCK}.proj_out", *ATTENTION, f"{INNER}.ff.net.0.proj", f"{INNER}.ff.net.2"]
SPATIAL = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
FRAMES, CLIPS = 3, 2


def made():
    torch.manual_seed(0)
    unet = UNetMotionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        cross_attention_dim=24,
    )
    return randomise(unet).double()


@pytest.fixture(scope="module")
def unet():
    return made()


def file(unet, layers=LAYERS, rank=3, seed=1, alpha=None):
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for path in layers:
        rows, columns = unet.get_submodule(path).weight.shape
        tensors[f"unet.{path}.lora_A.weight"] = 0.3 * torch.randn(rank, columns, generator=generator).double()
        tensors[f"unet.{path}.lora_B.weight"] = 0.3 * torch.randn(rows, rank, generator=generator).double()
        if alpha is not None:
            tensors[f"unet.{path}.alpha"] = torch.tensor(alpha)
    return tensors


def run(unet, loras=(), **options):
    generator = torch.Generator().manual_seed(4)
    sample = torch.randn(CLIPS, 4, FRAMES, 8, 8, generator=generator).double()
    text = torch.randn(CLIPS, 5, 24, generator=generator).double()
    with torch.no_grad():
        return unet(sample, 300, text, options=ForwardOptions(motion_loras=loras, **options)).sample


class FrameByFrame(nn.Module):
    """A linear layer with a dense weight of its own for each frame of each clip."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.changes = layer, []
        # With a hook on it the layer is called with all tokens in their shape.
        self.register_forward_hook(lambda *_: None)

    def forward(self, x):
        out = torch.empty(*x.shape[:-1], self.layer.weight.shape[0], dtype=x.dtype)
        for clip in range(CLIPS):
            for frame in range(FRAMES):
                weight = self.layer.weight
                for change, strength in self.changes:
                    weight = weight + strength[clip][frame] * change
                out[clip, frame] = x[clip, frame] @ weight.T + (0 if self.layer.bias is None else self.layer.bias)
        return out


def by_frame(*loras):
    """The output for files and their strengths (clips, frames), alpha being twice the rank where there is one."""
    unet = made()
    for path in LAYERS:
        unet.set_submodule(path, FrameByFrame(unet.get_submodule(path)))
    for tensors, strength in loras:
        for path in LAYERS:
            if f"unet.{path}.lora_A.weight" in tensors:
                factor = 2.0 if f"unet.{path}.alpha" in tensors else 1.0
                up, down = (tensors[f"unet.{path}.lora_{half}.weight"] for half in "BA")
                unet.get_submodule(path).changes.append((factor * up @ down, strength))
    return run(unet)


def test_each_frame_of_each_clip_gets_its_own_strength_of_each_lora(unet):
    first, second = file(unet), file(unet, ATTENTION[:4], rank=5, seed=2, alpha=10.0)
    per_clip = torch.tensor([[0.0, 0.5, 1.5], [-1.0, 0.25, 0.0]], dtype=torch.float64)
    per_frame = [0.7, 0.0, -0.3]
    loras = [load_motion_lora(unet, first).at(per_clip), load_motion_lora(unet, second).at(per_frame)]
    # Numbers in a list are float32.
    known = torch.tensor(per_frame).double().expand(CLIPS, -1)
    expected = by_frame((first, per_clip), (second, known))
    assert relative_error(run(unet, loras), expected) < 1e-12
    plain = run(unet)
    assert relative_error(plain, expected) > 1e-2
    assert relative_error(run(unet, loras[:1]), expected) > 1e-4 < relative_error(run(unet, loras[1:]), expected)


@pytest.mark.parametrize("path", LAYERS)
def test_every_motion_layer_is_reached(unet, path):
    tensors = file(unet, [path])
    strength = torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.5, 1.0]], dtype=torch.float64)
    out = run(unet, [load_motion_lora(unet, tensors).at(strength)])
    assert relative_error(out, by_frame((tensors, strength))) < 1e-12 < 1e-6 < relative_error(out, run(unet))


def test_one_strength_everywhere_is_that_of_the_weights_and_zero_changes_no_bit(unet):
    tensors, plain = file(unet, alpha=1.5), run(unet)
    lora = load_motion_lora(unet, tensors)
    applied = made()
    apply_motion_lora(applied, tensors, 0.75)
    expected = run(applied)
    for strength in (0.75, torch.tensor(0.75), [0.75] * FRAMES, torch.full((CLIPS, FRAMES), 0.75)):
        assert relative_error(run(unet, [lora.at(strength)]), expected) < 1e-12
    for zero in (0.0, [0.0] * FRAMES):
        assert torch.equal(run(unet, [lora.at(zero)]), plain)
        assert relative_error(run(unet, [lora.at(zero), lora.at(0.75)]), expected) < 1e-12
    assert torch.equal(run(unet), plain)


@pytest.mark.parametrize("chunking", [(5, 0), (2, 1)])
def test_chunks_and_fused_projections_give_the_same(chunking, monkeypatch):
    unet = made()
    lora = load_motion_lora(unet, file(unet)).at([0.5, -1.0, 2.0])
    expected = run(unet, [lora])
    assert relative_error(run(unet, [lora], forward_chunking=chunking), expected) < 1e-12
    monkeypatch.setattr("unet_motion.ops.feed_forward.cpu.CPU_ROWS", 50)
    monkeypatch.setattr("unet_motion.ops.feed_forward.cpu.CPU_CHUNK", 1)
    assert relative_error(run(unet, [lora]), expected) < 1e-12
    unet.fuse_qkv_projections()
    assert relative_error(run(unet, [lora]), expected) < 1e-12


def test_a_strength_that_changes_is_data_of_one_compiled_graph():
    unet, graphs = made(), []
    lora = load_motion_lora(unet, file(unet))

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(unet, backend=backend, fullgraph=True)
    for strength in ([0.0, 0.0, 0.0], [0.5, -1.0, 2.0], [2.0, 2.0, 2.0]):
        assert relative_error(run(compiled, [lora.at(strength)]), run(unet, [lora.at(strength)])) < 1e-12
    assert len(graphs) == 1
    torch.compiler.reset()


def test_strengths_and_layers_that_do_not_fit_are_refused(unet):
    lora = load_motion_lora(unet, file(unet))
    for strength in (torch.ones(4), torch.ones(FRAMES, CLIPS)):
        with pytest.raises(ValueError, match=r"LoRA: `strength` has shape .*, expected one number, \(3,\) for the"):
            run(unet, [lora.at(strength)])
    with pytest.raises(ValueError, match="`strength` is nan, expected a finite number"):
        lora.at(float("nan"))
    with pytest.raises(ValueError, match=f"only motion layers take a strength that varies, but it changes {SPATIAL}"):
        load_motion_lora(unet, file(unet, [SPATIAL]))
    narrow = UNetMotionModel(
        block_out_channels=(32,), down_block_types=("DownBlockMotion",), up_block_types=("UpBlockMotion",),
        cross_attention_dim=24, use_motion_mid_block=False,
    )  # fmt: skip
    layer = "mid_block.motion_modules.0.proj_in"
    middle = load_motion_lora(unet, file(unet, [layer]))
    with pytest.raises(ValueError, match=f"changes {layer}, which is no motion layer of this UNet"):
        narrow(torch.zeros(1, 4, 2, 8, 8), 1, torch.zeros(1, 5, 24), options=ForwardOptions(motion_loras=[middle]))
    with pytest.raises(ValueError, match="function knows nothing of motion LoRAs in `motion_loras`"):
        run(unet, [lora], attn_processors={"*.motion_modules.*": lambda attention, hidden, **_: hidden})
