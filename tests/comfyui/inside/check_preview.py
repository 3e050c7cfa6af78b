"""The loop of all frames that is shown while a clip is sampled."""

from __future__ import annotations

import io
from functools import partial
from types import SimpleNamespace

import comfy.latent_formats
import comfy.sample
import folder_paths
import latent_preview
import numpy as np
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from comfy_execution.progress import ProgressHandler, get_progress_state, reset_progress_state
from comfy_execution.utils import CurrentNodeContext
from pack.nodes.host.model.bundled import load_bundled_models
from pack.nodes.host.step import preview
from pack.nodes.host.step.settings import with_settings
from pack.nodes.host.step.small_decoder import small_decoder
from pack.unet_motion.bundled import load_bundled
from pack.unet_motion.training.bundled_model.drawn_clips import draw, sample_clips
from PIL import Image
from safetensors.torch import save_file

FRAMES, STEPS = 6, 3


class Seen(ProgressHandler):
    """Keeps what would be sent to the page."""

    def __init__(self):
        super().__init__("seen")
        self.sent = []

    def update_handler(self, node_id, value, max_value, state, prompt_id, image=None):
        self.sent.append((node_id, value, max_value, image))

    @property
    def loops(self):
        return [image for _, _, _, image in self.sent if image and image[0] == "WEBP"]


@pytest.fixture(scope="module")
def loaded():
    return load_bundled_models()


@pytest.fixture
def seen():
    handler = Seen()
    reset_progress_state("prompt", SimpleNamespace())
    get_progress_state().register_handler(handler)
    return handler


@pytest.fixture
def client(monkeypatch):
    """Whose prompt runs: a page that asked for loops."""
    running = SimpleNamespace(client_id="mine")
    monkeypatch.setitem(preview.sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=running)))
    preview._choices.clear()
    preview.choose_preview("mine", True, 8)
    return running


@pytest.fixture
def shown(client, monkeypatch):
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(preview.Pace, "due", lambda self: True)


def sample(loaded, model=None, callback=True, steps=STEPS, frames=FRAMES):
    """A run of the bundled model as core's sampler nodes start it; its latents, and x0 of every step."""
    model, clip = model or loaded[0], loaded[1]
    texts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a red star moving left", "")]
    noise = torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    x0s, report = [], latent_preview.prepare_callback(model, steps)

    def keep(step, x0, x, total):
        x0s.append(x0.clone())
        report(step, x0, x, total)

    with CurrentNodeContext("prompt", "7", 0):
        out = comfy.sample.sample(
            model, noise, steps, 4.0, "euler", "normal", *texts, torch.zeros_like(noise), disable_pbar=True, seed=3,
            callback=keep if callback else None,
        )  # fmt: skip
    return out, x0s


def pictures_of(loop) -> tuple[np.ndarray, float, int]:
    """Frames (F, h, w, 3) of what is sent, milliseconds of one, and how often it is repeated (0: for ever)."""
    file = io.BytesIO()
    loop[1].save(file, format=loop[0], quality=95, compress_level=1)
    with Image.open(file) as picture:
        frames = []
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB")))
        picture.seek(1)
        picture.load()
        return np.stack(frames), picture.info["duration"], picture.info["loop"]


def correlation(a, b) -> float:
    return float(np.corrcoef(np.asarray(a, float).ravel(), np.asarray(b, float).ravel())[0, 1])


def test_every_step_shows_all_frames_of_its_denoised_latents(loaded, seen, shown):
    _, x0s = sample(loaded)
    assert len(seen.loops) == len(x0s) == STEPS
    places = [entry[:3] for entry in seen.sent if entry[3] and entry[3][0] == "WEBP"]
    assert places == [("7", step + 1, STEPS) for step in range(STEPS)]
    for loop, x0 in zip(seen.loops[:-1], x0s[:-1], strict=True):
        frames, duration, repeats = pictures_of(loop)
        assert frames.shape == (FRAMES, 8, 8, 3) and (duration, repeats) == (125, 0) and loop[2] is None
        # Core's own preview of each latent is the reference; it rounds otherwise.
        core = latent_preview.get_previewer(x0.device, loaded[0].model.latent_format)
        expected = np.stack([np.asarray(core.decode_latent_to_preview(frame[None])) for frame in x0])
        assert np.abs(frames.astype(int) - expected).max() <= 1
        assert len({frame.tobytes() for frame in frames}) == FRAMES


def test_the_preview_looks_like_the_decoded_pictures():
    autoencoder = load_bundled().autoencoder
    clips = draw(sample_clips(np.random.default_rng(77), 24))[0].flatten(0, 1)[::4]
    latents = autoencoder.encode(clips)
    cells = torch.nn.functional.avg_pool2d(autoencoder.decode(latents).clamp(0, 1), 8).movedim(1, -1)
    ours = preview.motion_frames(latents, load_bundled_models()[0].model.latent_format)
    found = correlation(ours, cells)
    assert found > 0.75
    # Factors of another autoencoder are no better than chance.
    assert correlation(preview.motion_frames(latents, comfy.latent_formats.SD15()), cells) < found - 0.3


def test_the_latents_are_the_same_with_and_without_a_preview(loaded, seen, shown, monkeypatch):
    with_preview, _ = sample(loaded)
    assert seen.loops
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.NoPreviews)
    preview.choose_preview("mine", False, 8)
    count = len(seen.sent)
    without, _ = sample(loaded)
    assert torch.equal(with_preview, without)
    assert all(image is None for *_, image in seen.sent[count:])


def test_a_sampler_that_reports_no_steps_shows_nothing(loaded, seen, shown):
    sample(loaded, callback=False)
    assert not seen.loops


def test_a_page_can_turn_it_off_and_set_its_speed(loaded, seen, shown):
    preview.choose_preview("mine", False, 8)
    sample(loaded)
    assert not seen.loops
    preview.choose_preview("mine", True, 20)
    sample(loaded)
    assert [pictures_of(loop)[1] for loop in seen.loops] == [50] * STEPS


@pytest.mark.parametrize("method", [LatentPreviewMethod.NoPreviews, LatentPreviewMethod.Latent2RGB])
@pytest.mark.parametrize("who", ["mine", "a program", None])
def test_loops_go_to_those_who_asked_for_them_whatever_comfyuis_own_previews_are(
    loaded, seen, shown, client, monkeypatch, method, who
):
    """ComfyUI calls each preview a JPEG or a PNG; without a client it sends them to everybody."""
    monkeypatch.setattr(args, "preview_method", method)
    client.client_id = who
    sample(loaded)
    assert len(seen.loops) == (STEPS if who == "mine" else 0)


def test_a_choice_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="fps is 0, expected a number from 1 to 60"):
        preview.choose_preview("mine", True, 0)
    with pytest.raises(ValueError, match="motion is 'yes', expected true or false"):
        preview.choose_preview("mine", "yes", 8)
    before = dict(preview._choices)
    odd = {"x" * 129: "129 characters", "": "0 characters", ("a",): "a tuple", None: "a NoneType"}
    for client, found in odd.items():
        with pytest.raises(ValueError, match=f"client is {found}, expected a text of 1 to 128 characters"):
            preview.choose_preview(client, True, 8)
    assert preview._choices == before


def test_only_the_latest_pages_are_remembered():
    preview._choices.clear()
    for number in range(preview.CLIENTS_REMEMBERED + 3):
        preview.choose_preview(str(number), True, 8)
    assert len(preview._choices) == preview.CLIENTS_REMEMBERED and "0" not in preview._choices


def test_clips_of_one_batch_stand_side_by_side(loaded, seen, shown):
    _, x0s = sample(loaded, with_settings(loaded[0], frames_per_clip=3))
    assert pictures_of(seen.loops[0])[0].shape == (3, 8, 16, 3)
    assert pictures_of(seen.loops[-1])[0].shape == (3, 64, 128, 3)
    both = preview.motion_frames(x0s[-1], loaded[0].model.latent_format, 3)
    each = [preview.motion_frames(clip, loaded[0].model.latent_format) for clip in x0s[-1].split(3)]
    assert torch.equal(both, torch.cat(each, dim=2))


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (4, 3, 8, 8), (1, 4, 5, 8, 8)])
def test_what_is_no_clip_of_these_latents_is_not_shown(shape):
    assert preview.motion_frames(torch.zeros(shape), comfy.latent_formats.SD15()) is None


@pytest.mark.parametrize(("rows", "frames"), [(2, None), (2, 2), (6, 2), (6, 3), (6, None)])
def test_frames_are_the_factors_of_their_latents(rows, frames):
    """From two frames on; a gray level is 255 of 2, the factors' sum shifted by one and cut at its ends."""
    form = comfy.latent_formats.SD15()
    x0 = torch.randn(rows, 4, 3, 5)
    bias = torch.zeros(3) if form.latent_rgb_factors_bias is None else torch.tensor(form.latent_rgb_factors_bias)
    levels = (torch.einsum("nchw,cr->nhwr", x0, torch.tensor(form.latent_rgb_factors)) + bias + 1) * 127.5
    frames = frames or rows
    clips = levels.clamp(0, 255).unflatten(0, (-1, frames))
    expected = torch.cat(list(clips), dim=2)
    found = preview.motion_frames(x0, form, frames)
    assert found.shape == (frames, 3, 5 * (rows // frames), 3) and found.dtype == torch.uint8
    assert (found - expected).abs().max() <= 1.01  # cut to whole numbers


def test_previews_take_a_few_percent_of_the_time_however_slow_they_are():
    for cost in (0.001, 0.04, 2.0):
        now, spent, made = 0.0, 0.0, 0
        pace = preview.Pace(clock=lambda: now)  # noqa: B023
        for _ in range(4000):
            now += 0.05
            if pace.due():
                with pace.counted():
                    now += cost
                spent, made = spent + cost, made + 1
        # The first is made before anything is known of its cost.
        assert made >= 2 and (spent - cost) / now <= preview.SHARE * 1.01


def test_previews_are_made_as_seldom_as_what_they_take_wants(loaded, seen, client, monkeypatch):
    """A second a step and a tenth a loop: after a loop 0.1 s * 0.97 / 0.03 pass, which end in the fourth step."""
    now = 0.0
    encode, choice = preview.encode_loop, preview.current_choice

    def tenth(*arguments):
        nonlocal now
        now += 0.1
        return encode(*arguments)

    def second():
        nonlocal now
        now += 1.0
        return choice()

    monkeypatch.setattr(preview, "Pace", partial(preview.Pace, clock=lambda: now))
    monkeypatch.setattr(preview, "encode_loop", tenth)
    monkeypatch.setattr(preview, "current_choice", second)
    sample(loaded, steps=11)
    # The last is always made.
    assert [step for _, step, _, image in seen.sent if image and image[0] == "WEBP"] == [1, 5, 9, 11]


def test_the_last_loop_is_what_the_bundled_decoder_makes_of_the_latents(loaded, seen, shown):
    out, x0s = sample(loaded)
    frames = pictures_of(seen.loops[-1])[0]
    assert frames.shape == (FRAMES, 64, 64, 3)
    assert [pictures_of(loop)[0].shape[1] for loop in seen.loops[:-1]] == [8] * (STEPS - 1)
    decoded = (load_bundled().autoencoder.decode(x0s[-1]).clamp(0, 1) * 255).round().movedim(1, -1)
    # The loop is a lossy WebP.
    assert np.abs(frames - decoded.numpy()).mean() < 4
    assert correlation(frames, decoded) > 0.95
    by_factors = preview.motion_frames(x0s[-1], loaded[0].model.latent_format)
    blown_up = by_factors.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert np.abs(blown_up.numpy().astype(int) - decoded.numpy()).mean() > 8


def test_the_last_loop_comes_whatever_the_pace(loaded, seen, client, monkeypatch):
    monkeypatch.setattr(preview.Pace, "due", lambda self: False)
    sample(loaded)
    assert [pictures_of(loop)[0].shape[1] for loop in seen.loops] == [64]


def test_a_taesd_decoder_is_used_where_its_file_is(tmp_path, monkeypatch):
    """With the bundled weights under TAESD's file name: the reference is the bundled decoder itself."""
    autoencoder = load_bundled().autoencoder
    state = {k.removeprefix("taesd_decoder."): v for k, v in autoencoder.state_dict().items() if "decoder" in k}
    (tmp_path / "vae_approx").mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([str(tmp_path / "vae_approx")], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    latent_format, cpu = comfy.latent_formats.SD15(), torch.device("cpu")
    assert small_decoder(latent_format, cpu) is None
    save_file(state, tmp_path / "vae_approx" / "taesd_decoder.safetensors")
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    latents = torch.randn(6, 4, 5, 7, generator=torch.Generator().manual_seed(2))
    decode = small_decoder(latent_format, cpu)
    torch.testing.assert_close(decode(latents), autoencoder.decode(latents) * 2 - 1, rtol=1e-4, atol=1e-4)
    pictures = preview.motion_frames(latents, latent_format, 3, decode)
    assert pictures.shape == (3, 40, 2 * 56, 3)
    large = decode(torch.randn(1, 4, 60, 30, generator=torch.Generator().manual_seed(3)))
    assert large.shape == (1, 3, 384, 192)
    (tmp_path / "vae_approx" / "taesd_decoder.safetensors").write_bytes(b"damaged")
    assert small_decoder(latent_format, cpu) is None
