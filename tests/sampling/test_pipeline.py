"""The pipeline with a tiny random UNet: guidance, seeds, options and clear errors."""

import numpy as np
import pytest
import torch

from unet_motion import ForwardOptions, FreeU, MotionPipeline, UNetMotionModel
from unet_motion.sampling import NoiseSchedule, frame_noise, get_sampler, seeded_generator
from unet_motion.schedule import Curve

WIDTH = 16


class Tokenizer:
    words = ["a", "red", "star"]

    def encode_all(self, prompts):
        rows = [[self.words.index(word) + 1 for word in prompt.split() if word in self.words] for prompt in prompts]
        return torch.tensor([(row + [0] * 4)[:4] for row in rows])

    def unknown_words(self, prompt):
        return [word for word in prompt.split() if word not in self.words]


class TextEncoder:
    def __call__(self, ids):
        table = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(3))
        return table[ids], table[ids].sum(1)


class Autoencoder:
    """Latents to pictures by taking three channels and enlarging: invertible enough to check values."""

    def decode(self, latents):
        return (latents[:, :3] * 0.1 + 0.5).repeat_interleave(8, -1).repeat_interleave(8, -2)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(11)
    model = UNetMotionModel(
        in_channels=4, out_channels=4,
        block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=WIDTH, num_attention_heads=4, motion_num_attention_heads=4,
        motion_max_seq_length=8,
    ).eval()  # fmt: skip
    with torch.no_grad():  # a fresh motion module ends in zeros; give it something to say
        for name, parameter in model.named_parameters():
            if "motion_modules" in name and "proj_out" in name:
                parameter.normal_(std=0.2)
    return model


@pytest.fixture
def pipeline(unet):
    return MotionPipeline(unet, TextEncoder(), Tokenizer(), Autoencoder())


def clip(pipeline, **changes):
    return pipeline(
        **{"prompt": "a red star", "frames": 4, "steps": 3, "width": 32, "height": 24, "progress": False, **changes}
    )


def test_frames_have_the_asked_size_and_type(pipeline):
    frames = clip(pipeline)
    assert frames.shape == (4, 24, 32, 3) and frames.dtype == np.uint8
    assert frames.std() > 5


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "ddim", "lcm"])
def test_same_seed_same_frames_and_another_seed_others(pipeline, sampler):
    first = clip(pipeline, seed=2**63 + 5, sampler=sampler)
    assert np.array_equal(first, clip(pipeline, seed=2**63 + 5, sampler=sampler))
    assert not np.array_equal(first, clip(pipeline, seed=6, sampler=sampler))


def test_value_equals_a_loop_written_by_hand(pipeline, unet):
    """Guided DDIM restated with the 5-D entry and two separate calls instead of one batch of two."""
    schedule = NoiseSchedule.named()
    steps = schedule.steps(3, "trailing")
    texts = [TextEncoder()(Tokenizer().encode_all([p]))[0] for p in ("", "a red star")]
    x = torch.randn(4, 4, 3, 4, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        for i, t in enumerate(steps.timesteps):
            clip_view = x.permute(1, 0, 2, 3)[None]
            none, some = (unet(clip_view, t.float(), text).sample[0].permute(1, 0, 2, 3) for text in texts)
            noise = none + 2.5 * (some - none)
            x0 = (x - steps.sigmas[i].float() * noise) / steps.alphas[i].float()
            x = steps.alphas[i + 1].float() * x0 + steps.sigmas[i + 1].float() * noise
    expected = (Autoencoder().decode(x).clamp(0, 1) * 255).permute(0, 2, 3, 1).numpy()
    ours = clip(pipeline, seed=9, guidance=2.5, sampler="ddim")
    assert expected.std() > 5
    assert np.abs(ours - expected).max() <= 0.51  # rounding to whole numbers


def test_guidance_one_ignores_the_negative_prompt_and_more_does_not(pipeline):
    assert np.array_equal(clip(pipeline, guidance=1), clip(pipeline, guidance=1, negative_prompt="red"))
    assert not np.array_equal(clip(pipeline, guidance=3), clip(pipeline, guidance=3, negative_prompt="red"))


def test_no_negative_prompt_is_an_empty_one_as_in_diffusers(pipeline):
    empty = clip(pipeline, negative_prompt="")
    assert np.array_equal(clip(pipeline, negative_prompt=None), empty)
    assert not np.array_equal(clip(pipeline, negative_prompt="a blue ring"), empty)
    assert np.array_equal(clip(pipeline, prompt=["a red star"], negative_prompt=None)[0], empty)


def test_options_reach_the_model_and_leave_it_as_it_was(pipeline):
    plain = clip(pipeline)
    freeu = clip(pipeline, options=ForwardOptions(freeu=FreeU(s1=0.3, s2=0.2, b1=1.5, b2=1.6)))
    assert not np.array_equal(plain, freeu)
    assert np.array_equal(plain, clip(pipeline))
    exact = clip(pipeline, options=ForwardOptions(attn_processors="math")).astype(int)
    assert np.abs(plain - exact).max() <= 1


def test_added_cond_gets_the_pooled_text_of_both_conditions(unet):
    seen = []

    def added_cond(pooled, rows):
        seen.append((pooled, rows))
        return {}

    clip(MotionPipeline(unet, TextEncoder(), Tokenizer(), Autoencoder(), added_cond=added_cond))
    (pooled, rows), = seen  # fmt: skip
    assert rows == 2
    assert torch.equal(pooled, TextEncoder()(Tokenizer().encode_all(["", "a red star"]))[1])


def test_latent_scale_divides_before_decoding(unet):
    half = MotionPipeline(unet, TextEncoder(), Tokenizer(), Autoencoder(), latent_scale=0.5)
    latents = torch.full((1, 4, 2, 2), 0.3)
    assert half.decode(latents).flatten()[0] == round((0.6 * 0.1 + 0.5) * 255)


def test_half_precision_model_stays_close(unet):
    import copy

    low = copy.deepcopy(unet).to(torch.bfloat16)

    class LowText(TextEncoder):
        def __call__(self, ids):
            hidden, pooled = super().__call__(ids)
            return hidden.bfloat16(), pooled.bfloat16()

    reference = clip(MotionPipeline(unet, TextEncoder(), Tokenizer(), Autoencoder())).astype(int)
    ours = clip(MotionPipeline(low, LowText(), Tokenizer(), Autoencoder())).astype(int)
    assert 0 < np.abs(ours - reference).mean() < 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_run_starts_from_float32_noise_whatever_the_model_computes_in(unet, dtype, monkeypatch):
    import copy

    started = []

    class Watched:
        spacing = "linspace"

        def run(self, model, start, *_):
            started.append(start.clone())
            return start

    monkeypatch.setattr("unet_motion.sampling.pipeline.get_sampler", lambda name: Watched())
    clip(MotionPipeline(copy.deepcopy(unet).to(dtype), TextEncoder(), Tokenizer(), Autoencoder()), seed=42)
    expected = torch.randn(4, 4, 3, 4, generator=torch.Generator().manual_seed(42))
    assert started[0].dtype == torch.float32 and torch.equal(started[0], expected)


def test_noise_is_the_stream_that_comfyui_draws():
    ours = frame_noise(seeded_generator(42), 16, 4, 8, 8)
    torch.manual_seed(42)
    expected = torch.randn(16, 4, 8, 8)
    assert torch.equal(ours, expected)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):  # drawn once, and then rounded
        assert torch.equal(frame_noise(seeded_generator(42), 16, 4, 8, 8, dtype=dtype), expected.to(dtype))


def test_unknown_words_are_found(pipeline):
    assert pipeline.unknown_words("a purple star") == ["purple"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"frames": 0}, ["frames is 0", "1 to 8"]),
        ({"frames": 9}, ["frames is 9", "1 to 8"]),
        ({"width": 30}, ["width is 30", "multiple of 8"]),
        ({"height": 0}, ["height is 0", "multiple of 8"]),
        ({"guidance": -1}, ["guidance is -1"]),
        ({"steps": 0}, ["steps is 0"]),
        ({"steps": 2.5}, ["steps is 2.5", "whole number"]),
        ({"frames": "3"}, ["frames is '3'", "whole number"]),
        ({"width": 64.0}, ["width is 64.0", "whole number"]),
        ({"windows_at_once": 1.5}, ["windows_at_once is 1.5", "whole number"]),
        ({"guidance": None}, ["guidance is None", "a number or curves"]),
        ({"guidance": torch.tensor(3.0)}, ["guidance is a Tensor", "a number or curves"]),
        ({"guidance": Curve.parse("g", "0:1, 2:-5")}, ["guidance: the value at 2 is -5", "0 to 100"]),
        ({"noise": 3}, ["`noise` is 3", "NoiseMix"]),
        ({"noise": ["default"]}, ["`noise` is ['default']", "NoiseMix"]),
        ({"options": 3}, ["`options` is 3", "ForwardOptions"]),
        ({"prompt": None}, ["`prompt` is None", "PromptSchedule"]),
        ({"prompt": ["a", 3]}, ["`prompt` is 3", "PromptSchedule"]),
        ({"negative_prompt": ["a"]}, ["`negative_prompt` is ['a']", "PromptSchedule"]),
        ({"prompt": ["a"], "seed": [1]}, ["`seed` is [1]", "whole number"]),
        ({"seed": 1, "generator": torch.Generator()}, ["`seed` and `generator`", "one of them"]),
        ({"free_init": 2}, ["`free_init` is 2", "FreeInit(iterations=3)"]),
        ({"windows": 16}, ["`windows` is 16", "list of WindowPart"]),
        ({"windows": [16]}, ["`windows` is [16]", "list of WindowPart"]),
        ({"injection": 3}, ["`injection` is 3", "ImageInjection"]),
        ({"views": True}, ["`views` is True", "expected ContextWindows"]),
        ({"seed": -1}, ["seed is -1"]),
        ({"seed": 2**64}, ["seed is", str(2**64 - 1)]),
        ({"sampler": "fast"}, ["'fast'", "euler"]),
        ({"spacing": "even"}, ["'even'", "linspace"]),
    ],
)
def test_bad_arguments_are_named(pipeline, change, words):
    with pytest.raises(ValueError) as error:
        clip(pipeline, **change)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_numbers_of_numpy_are_numbers(pipeline):
    given = {"frames": np.int64(3), "steps": np.int32(2), "guidance": np.float32(2.5)}
    assert np.array_equal(clip(pipeline, **given), clip(pipeline, frames=3, steps=2, guidance=2.5))


def test_progress_says_one_line_where_nobody_watches(pipeline, capsys):
    clip(pipeline, progress=True)
    assert "sampling: 3 of 3" in capsys.readouterr().err
    clip(pipeline, progress=False)
    assert capsys.readouterr().err == ""


def test_every_sampler_has_a_default_spacing_that_works():
    for name in ("euler", "euler_ancestral", "dpmpp_2m", "ddim", "lcm"):
        assert len(NoiseSchedule.named().steps(7, get_sampler(name).spacing)) == 7


def test_check_refuses_what_a_call_refuses_and_samples_nothing(pipeline, monkeypatch):
    wrong = [
        {"frames": 9}, {"seed": -1}, {"seed": "1"}, {"steps": 0}, {"steps": 1001}, {"steps": 2.5}, {"width": 30},
        {"sampler": "fast"}, {"spacing": "wide"}, {"guidance": 101}, {"noise": "pink"}, {"free_init": 3},
        {"frames_at_once": 0}, {"options": 3}, {"prompt": 3}, {"windows": 3}, {"windows_at_once": 0}, {"ranks": 3},
        {"options": ForwardOptions(attn_processors={"*.nowhere.*": "math"})},
    ]  # fmt: skip
    monkeypatch.setattr(pipeline.unet, "forward_frames", lambda *_, **__: pytest.fail("computed"))
    for arguments in wrong:
        with pytest.raises(ValueError) as called:
            clip(pipeline, **arguments)
        with pytest.raises(ValueError) as checked:
            pipeline.check(**{"prompt": "a red star", "frames": 4, "width": 32, "height": 24, **arguments})
        assert str(checked.value) == str(called.value), arguments
    assert pipeline.check("a red star", width=32, height=24, frames=8) is None


def test_float8_products_are_asked_for_by_a_word(unet):
    wide = UNetMotionModel(**{**vars_of(unet), "block_out_channels": (32, 128)}).eval()
    MotionPipeline(wide, TextEncoder(), Tokenizer(), Autoencoder())
    assert all(weight.dtype == torch.float32 for weight in wide.parameters())
    pipeline = MotionPipeline(wide, TextEncoder(), Tokenizer(), Autoencoder(), float8_products=True)
    rounded = [name for name, weight in wide.named_parameters() if weight.dtype == torch.float8_e4m3fn]
    assert rounded and all(name.endswith("ff.net.0.proj.weight") for name in rounded)  # 1024 outputs
    pipeline.to(torch.bfloat16)
    assert [name for name, weight in wide.named_parameters() if weight.dtype == torch.float8_e4m3fn] == rounded
    assert wide.dtype == torch.bfloat16 and clip(pipeline).dtype == np.uint8


def vars_of(unet):
    return {name: unet.config[name] for name in unet.config.field_names()}
