"""Clips in windows: against each window alone, with several windows in a call."""

import pytest
import torch

from tests.sampling.test_pipeline import Autoencoder, TextEncoder, Tokenizer, clip, pipeline, unet  # noqa: F401
from unet_motion import ContextWindows, ForwardOptions, MotionPipeline, Views
from unet_motion.forward.lora import MotionLora
from unet_motion.sampling import FUSES, NoiseSchedule, frame_noise, seeded_generator
from unet_motion.sampling.windowed import options_of, step_of, viewed, windowed

TIMESTEPS = torch.tensor([999.0, 500.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("fuse", FUSES)
@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "looped_uniform", "batched"])
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_model_that_gives_back_its_input_gives_back_the_clip(fuse, schedule, at_once):
    x = torch.randn(23, 2, 3, 3)
    model = windowed(lambda rows, t, group: rows, ContextWindows(7, 3, 2, schedule, fuse=fuse), 23, TIMESTEPS, at_once)
    for timestep in TIMESTEPS:
        torch.testing.assert_close(model(x, timestep), x, rtol=1e-6, atol=1e-6)


def test_predictions_are_averaged_with_the_windows_weights_of_the_step():
    windows, x = ContextWindows(5, 2, schedule="looped_uniform"), torch.randn(12, 1, 2, 2)
    seen = []

    def predict(rows, timestep, group):
        seen.append(group)
        # Of another value in each window, so that a wrong weight shows.
        values = [window[0] + 10.0 * place for window in group for place in range(5)]
        return rows + torch.tensor(values).view(-1, 1, 1, 1)

    for step, timestep in enumerate(TIMESTEPS):
        expected = x.double().clone()
        for window, weights in windows.plan(12, step):
            for place, (frame, weight) in enumerate(zip(window, weights, strict=True)):
                expected[frame] += weight * (window[0] + 10.0 * place)
        found = [windowed(predict, windows, 12, TIMESTEPS, at_once)(x, timestep) for at_once in (1, 2, 9)]
        for result in found:
            torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    assert max(map(len, seen)) > 2 and step_of(TIMESTEPS, torch.tensor([510.0])) == 1


def test_strengths_over_the_frames_follow_their_frames():
    lora = MotionLora("test", {}, torch.arange(6.0))
    options = ForwardOptions(motion_loras=[lora, MotionLora("one", {}, 0.5)])
    of_frames, one = options_of(options, [[4, 5, 0], [1, 2, 3]], 6, 2).motion_loras
    assert of_frames.strength.tolist() == [[4, 5, 0], [1, 2, 3], [4, 5, 0], [1, 2, 3]] and one.strength == 0.5
    both = ForwardOptions(motion_loras=[lora.at(torch.stack([torch.arange(6.0), torch.arange(6.0) + 10]))])
    (rows,) = options_of(both, [[4, 5, 0], [1, 2, 3]], 6, 2).motion_loras
    assert rows.strength.tolist() == [[4, 5, 0], [1, 2, 3], [14, 15, 10], [11, 12, 13]]
    with pytest.raises(ValueError, match=r"`strength` has shape \(4,\), expected one number, \(6,\) for the frames"):
        options_of(ForwardOptions(motion_loras=[lora.at(torch.ones(4))]), [[0, 1]], 6, 1)


def test_a_clip_of_one_window_is_that_of_no_windows(pipeline):  # noqa: F811
    assert (clip(pipeline, frames=8, windows=ContextWindows(8, 2)) == clip(pipeline, frames=8)).all()
    assert (clip(pipeline, frames=5, windows=ContextWindows(8, 2)) == clip(pipeline, frames=5)).all()


def test_windows_far_apart_are_clips_of_their_own(unet):  # noqa: F811
    """Without overlap no window sees another: each part of the clip is drawn as if alone."""
    pipe, found = MotionPipeline(unet, TextEncoder(), Tokenizer(), Autoencoder()), []
    predict = pipe._guided(["", "a red star"], 20, 2.0, None)
    plan = NoiseSchedule.named().steps(3, "leading")
    x = frame_noise(seeded_generator(3), 20, 4, 4, 4)
    model = windowed(predict, ContextWindows(8, schedule="batched"), 20, plan.timesteps, at_once=2)
    with torch.inference_mode():
        whole = model(x, plan.timesteps[1])
        for window in ContextWindows(8, schedule="batched").windows(20):
            alone = pipe._guided(["", "a red star"], len(window), 2.0, None)
            found.append(alone(x[window], plan.timesteps[1], [window]))
    torch.testing.assert_close(whole, torch.cat(found), rtol=1e-5, atol=1e-5)


def test_several_windows_in_a_call_give_the_same_clip(pipeline):  # noqa: F811
    windows = ContextWindows(8, 3, schedule="looped_uniform", closed_loop=True)
    one, many = (clip(pipeline, frames=19, windows=windows, windows_at_once=n).astype(int) for n in (1, 3))
    assert one.shape[0] == 19 and abs(one - many).max() <= 1


def test_a_clip_beyond_the_table_needs_windows_that_fit_it(pipeline):  # noqa: F811
    with pytest.raises(ValueError, match="frames is 9, expected 1 to 8, the rows of the model's position table"):
        clip(pipeline, frames=9)
    with pytest.raises(ValueError, match="windows of 9 frames, expected at most 8, the rows of the model's position"):
        clip(pipeline, frames=30, windows=ContextWindows(9, 2))
    with pytest.raises(ValueError, match="windows_at_once is 0, expected at least 1"):
        clip(pipeline, frames=30, windows=ContextWindows(8, 2), windows_at_once=0)
    with pytest.raises(ValueError, match="noise is 'pink', expected one of default, "):
        clip(pipeline, noise="pink")


# windows inside the motion modules


def test_views_draw_a_clip_of_any_length_and_one_view_is_the_usual_clip(pipeline):  # noqa: F811
    views = ContextWindows(8, 3, schedule="standard_uniform")
    long = clip(pipeline, frames=19, views=views, noise="free_noise")
    assert long.shape[0] == 19
    assert (clip(pipeline, frames=8, views=views) == clip(pipeline, frames=8)).all()
    windowed_clip = clip(pipeline, frames=19, windows=views, noise="free_noise")
    assert (long != windowed_clip).any()
    with pytest.raises(ValueError, match="found `windows` and `views`, expected one of them"):
        clip(pipeline, frames=19, windows=views, views=views)
    with pytest.raises(ValueError, match="windows of 9 frames, expected at most 8, the rows of the model's position"):
        clip(pipeline, frames=30, views=ContextWindows(9, 2))


def test_views_move_with_the_steps():
    seen, views = [], ContextWindows(5, 2, schedule="looped_uniform")

    def predict(rows, timestep, windows, views):
        seen.append(views)
        return rows

    model = viewed(predict, views, 12, TIMESTEPS)
    for timestep in TIMESTEPS:
        model(torch.zeros(12, 1, 2, 2), timestep)
    assert seen == [Views.of(views.plan(12, step)) for step in range(3)] and seen[0] != seen[1]


def test_a_few_frames_at_a_time_draw_the_same_clip(pipeline):  # noqa: F811
    few, all_ = (clip(pipeline, frames=7, frames_at_once=n).astype(int) for n in (3, None))
    assert abs(few - all_).max() <= 1
    with pytest.raises(ValueError, match="`frames_at_once` is 0"):
        clip(pipeline, frames_at_once=0)
