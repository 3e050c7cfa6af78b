"""Windows shared by processes of torch.distributed, over gloo: the values of one, whoever draws which window."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist

from tests.sampling.test_pipeline import Autoencoder, TextEncoder, Tokenizer, clip, pipeline, unet  # noqa: F401
from unet_motion import ContextWindows, MotionPipeline, WindowPart
from unet_motion.sampling import FreeInit
from unet_motion.sampling.ranks import Ranks
from unet_motion.sampling.windowed import windowed

TIMESTEPS = torch.tensor([999.0, 500.0, 1.0], dtype=torch.float64)
SETTINGS = [
    (ContextWindows(5, 2, schedule="looped_uniform"), 12, 1),
    (ContextWindows(7, 3, 2), 23, 3),  # strides: an odd number of windows, some of them in one call
    (ContextWindows(5, 1, schedule="standard_static"), 9, 1),  # two windows
    (ContextWindows(5, 1), 5, 2),  # one window
]
NEAR, FAR = ContextWindows(8, 3), ContextWindows(8, 3, 2, schedule="looped_uniform")
CALLS = [
    {"windows": NEAR},
    {"windows": FAR, "windows_at_once": 2, "sampler": "euler_ancestral", "free_init": FreeInit(2)},
    {"windows": [WindowPart(NEAR, end=0.5), WindowPart(NEAR, start=0.5, views=True)], "noise": "free_noise"},
]


def toy(rows, timestep, group):
    """Of another value in each window and place."""
    values = [window[0] + 10.0 * place for window in group for place in range(len(group[0]))]
    return rows * timestep + torch.tensor(values).view(-1, 1, 1, 1)


def latents(unet, frames=19, **call):  # noqa: F811
    """What a pipeline samples, before its autoencoder."""
    pipe = MotionPipeline(unet, TextEncoder(), Tokenizer(), Autoencoder())
    pipe.decode = lambda found: found
    return clip(pipe, frames=frames, **call)


def clip_of(frames):
    return torch.randn(frames, 1, 2, 2, generator=torch.Generator().manual_seed(frames))


def on_rank(number, count, store, unet):  # noqa: F811
    """Everything as one of the processes; gives what it found, its windows, and how often the ranks added up."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=count)
    add_up, sums = dist.all_reduce, []
    dist.all_reduce = lambda *args, **named: sums.append(1) or add_up(*args, **named)
    try:
        pair, found = dist.new_group([0, 1]), []
        for group, members in ((None, count), (pair, 2)):
            if number >= members:
                with pytest.raises(ValueError, match="this process is not in the `group`"):
                    Ranks(group)
                continue
            ranks = Ranks(group)
            assert (ranks.count, ranks.number) == (members, number)
            for windows, frames, at_once in SETTINGS:
                seen = []
                note = lambda rows, t, group, seen=seen: seen.extend(group) or toy(rows, t, group)  # noqa: E731
                model = windowed(note, windows, frames, TIMESTEPS, at_once, ranks)
                found.append(([model(clip_of(frames), t) for t in TIMESTEPS], seen, len(sums)))
                sums.clear()
        own = Ranks()
        return found, [(latents(unet, **call, ranks=own), len(sums), sums.clear())[:2] for call in CALLS]
    finally:
        dist.all_reduce = add_up
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(unet, tmp_path_factory):  # noqa: F811
    """What each of three processes found."""
    store = tmp_path_factory.mktemp("ranks") / "store"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        others = [pool.apply_async(on_rank, (number, 3, store, unet)) for number in (1, 2)]
        return [on_rank(0, 3, store, unet), *(other.get(300) for other in others)]


def test_ranks_find_the_weighted_mean_of_all_windows_and_add_up_once_a_step(processes):
    for position, (windows, frames, _) in enumerate(SETTINGS):
        x = clip_of(frames).double()
        expected, plans = [], []
        for step, timestep in enumerate(TIMESTEPS):
            total = x * timestep
            for window, weights in windows.plan(frames, step):
                plans.append(window)
                for place, (frame, weight) in enumerate(zip(window, weights, strict=True)):
                    total[frame] += weight * (window[0] + 10.0 * place)
            expected.append(total)
        for begin, members in ((0, 3), (len(SETTINGS), 2)):
            drawn = []
            for found, _ in processes[:members]:
                results, seen, sums = found[begin + position]
                assert sums == len(TIMESTEPS)
                for result, wanted in zip(results, expected, strict=True):
                    assert (result - wanted).abs().max() < 1e-6 * wanted.abs().max()
                drawn.append(seen)
            assert sorted(sum(drawn, [])) == sorted(plans)
            assert max(map(len, drawn)) - min(map(len, drawn)) <= len(TIMESTEPS)
    assert any(not seen for found, _ in processes for _, seen, _ in found), "no process without a window"


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_ranks_draw_the_clip_that_one_process_draws(processes, unet, number):  # noqa: F811
    alone = latents(unet, **CALLS[number])
    first = processes[0][1][number][0]
    assert alone.std() > 0.1 and (first - alone).abs().max() < 1e-6 * alone.abs().max()
    for _, clips in processes:
        found, sums = clips[number]
        assert torch.equal(found, first) and sums == (6 if "free_init" in CALLS[number] else 3)


def test_ranks_need_a_group_and_windows_to_share(pipeline, monkeypatch):  # noqa: F811
    with pytest.raises(ValueError, match="torch.distributed has not begun"):
        Ranks()
    with pytest.raises(ValueError, match="`ranks` is 2, expected Ranks"):
        clip(pipeline, frames=19, windows=NEAR, ranks=2)
    ranks = object.__new__(Ranks)
    for given, words in (({}, "there are no `windows`"), ({"views": NEAR}, "are one call"),
                         ({"windows": [WindowPart(NEAR, views=True)]}, "are one call")):  # fmt: skip
        with pytest.raises(ValueError, match=f"`ranks` share the windows of a step, but .*{words}"):
            clip(pipeline, frames=8, ranks=ranks, **given)


def test_items_are_shared_evenly():
    for count in range(1, 6):
        for items in range(12):
            ranks = [object.__new__(Ranks) for _ in range(count)]
            for number, rank in enumerate(ranks):
                rank.number, rank.count = number, count
            shares = [list(rank.share(range(items))) for rank in ranks]
            assert sum(shares, []) == list(range(items)) and max(map(len, shares)) - min(map(len, shares)) <= 1
