"""Pictures of signals, feature vectors and videos."""
import time

import numpy as np
import pytest
import torch

from crp.image import vis_features, vis_frames, vis_signal


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


def share_of(picture, red):
    """How much of a picture is reddish, or bluish."""
    difference = pixels(picture)[..., 0] - pixels(picture)[..., 2]
    return ((difference if red else -difference) > 20).mean()


# Signals

@pytest.mark.parametrize("length", [50, 5000])
def test_a_signal_without_channels_is_that_of_one_channel(length):
    signals, heatmaps = torch.randn(2, length), torch.randn(2, length)
    for one, other in zip(vis_signal(signals, heatmaps), vis_signal(signals[:, None], heatmaps), strict=True):
        np.testing.assert_array_equal(pixels(one), pixels(other))


@pytest.mark.parametrize("data, heatmaps, message", [
    ((2, 9), (2,), "heatmap_axis=None"), ((2, 3, 9), (2, 3, 9), "sum over the channels"),
    ((2, 3, 4, 9), (2, 9), r"\[N, C, T\]"), ((2,), (2,), r"\[N, C, T\]"),
])
def test_what_is_no_signal_is_refused_in_words(data, heatmaps, message):
    with pytest.raises(ValueError, match=message):
        vis_signal(torch.ones(data), torch.ones(heatmaps))


def test_a_high_tone_is_no_black_block_and_shows_where_relevance_is():
    tone, heatmaps = torch.sin(torch.arange(16000.)[None] * 0.9), torch.zeros(1, 16000)
    heatmaps[:, 4000:8000], heatmaps[:, 12000:] = 1, -1
    picture, = vis_signal(tone, heatmaps)
    assert (pixels(picture).max(2) < 90).mean() < 0.05
    inside = pixels(picture)[40:-40, 60:]
    red, blue = inside[..., 0] - inside[..., 2] > 60, inside[..., 2] - inside[..., 0] > 60
    assert 0.2 < red.mean() < 0.3 and 0.2 < blue.mean() < 0.3
    assert np.nonzero(red)[1].max() < np.nonzero(blue)[1].min()


def test_the_picture_of_a_long_signal_has_the_range_of_each_stretch():
    signal, nothing = torch.zeros(1, 90000), torch.zeros(1, 90000)
    signal[0, 45000] = 1  # one value of many: thinned out by steps it would be lost
    with_spike, without = pixels(vis_signal(signal, nothing)[0]), pixels(vis_signal(signal * 0, nothing)[0])
    assert (with_spike[20:60, 60:330] < 150).all(2).any(0).sum() in range(1, 6)
    assert not (without[20:60, 60:330] < 150).all(2).any(0).any()


@pytest.mark.parametrize("draw", [vis_signal, vis_features])
def test_a_common_scale_gives_colours_and_lengths_one_meaning(draw):
    heatmaps = torch.tensor([[1., 1, 1, 1], [10, 10, 10, 10]])
    data = torch.zeros(2, 4)
    own = [pixels(picture) for picture in draw(data, heatmaps)]
    common = [pixels(picture) for picture in draw(data, heatmaps, common_scale=True)]
    strength = [[int((255 - picture[..., 1]).sum()) for picture in pictures] for pictures in (own, common)]
    assert strength[0][0] == pytest.approx(strength[0][1], rel=0.1)
    assert strength[1][0] < 0.7 * strength[1][1]


# Features

def test_bars_of_features_end_where_their_relevance_says():
    left, right = (share_of(vis_features(torch.ones(1, 3), torch.tensor([relevance]))[0], red=True)
                   for relevance in ([4., 1, 1], [4., 2, 2]))
    assert left / 6 == pytest.approx(right / 8, rel=0.05)


def test_of_many_features_the_strongest_have_bars_and_it_is_quick():
    data, heatmaps = torch.rand(4, 1024), torch.zeros(4, 1024)
    heatmaps[:, ::100] = torch.linspace(-1, 1, 11)
    seconds = []
    for _ in range(4):
        start = time.process_time()
        many = vis_features(data, heatmaps)
        seconds.append(time.process_time() - start)
    assert min(seconds) / len(data) < 0.3
    few = vis_features(data[:, ::100], heatmaps[:, ::100])
    for red in (True, False):
        assert share_of(many[0], red) == pytest.approx(share_of(few[0], red), rel=0.25)
    assert vis_features(data, heatmaps, most=3)[0].height < few[0].height


def test_names_of_features_are_written_and_long_ones_shortened():
    data, heatmaps = torch.rand(1, 2), torch.rand(1, 2)
    plain, named, long, longer = (
        pixels(vis_features(data, heatmaps, feature_names=names)[0])
        for names in (None, ["age", "income"], ["a" * 40, "b"], ["a" * 60, "b"])
    )
    assert (plain != named).any() and (named != long).any()
    np.testing.assert_array_equal(long, longer)


@pytest.mark.parametrize("options, message", [
    ({"feature_names": ["a"]}, "1 feature_names and 3 features"), ({"most": 0}, "most"),
])
def test_names_and_numbers_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        vis_features(torch.rand(1, 3), torch.rand(1, 3), **options)
    with pytest.raises(ValueError, match=r"\[N, F\]"):
        vis_features(torch.rand(1, 2, 3), torch.rand(1, 2, 3))


# Videos

def video(frames=9):
    """Grey frames, each brighter than the one before."""
    return torch.linspace(0, 1, frames)[None, None, :, None, None].expand(1, 1, frames, 20, 30)


def frames_of(strip):
    """The colour in the middle of each of four frames."""
    return [pixels(strip)[-10, 92 * i + 45].tolist() for i in range(4)]


def test_frames_are_evenly_chosen_and_keep_their_brightness():
    heatmaps = torch.zeros(1, 9, 20, 30)
    heatmaps[0, 8], heatmaps[0, 5] = -4, 2
    strip, heatmap = (part[0] for part in vis_frames(video(), heatmaps))
    assert strip.size == heatmap.size and strip.width == 4 * 90 + 3 * 2
    assert [frame[0] for frame in frames_of(strip)] == [round(255 * i / 8) for i in (0, 3, 5, 8)]
    first, _, third, last = frames_of(heatmap)
    assert min(first) >= 250 and last == [0, 0, 255] and third[0] == 255 and 100 < third[2] < 150


def test_frames_are_chosen_where_relevance_is():
    heatmaps = torch.zeros(1, 9, 20, 30)
    heatmaps[0, 2:6] = 1
    strip, _ = (part[0] for part in vis_frames(video(), heatmaps, rf=True))
    assert [frame[0] for frame in frames_of(strip)] == [round(255 * i / 8) for i in (2, 3, 4, 5)]
    assert vis_frames(video(), heatmaps, rf=True, frames=2)[0][0].width == 182


def test_what_is_no_video_is_refused():
    with pytest.raises(ValueError, match=r"\[N, C, T, H, W\]"):
        vis_frames(torch.rand(1, 9, 20, 30), torch.rand(1, 9, 20, 30))
    with pytest.raises(ValueError, match="frames"):
        vis_frames(video(), torch.rand(1, 9, 20, 30), frames=0)
