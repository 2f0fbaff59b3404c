"""Sound: relevance over time and frequency, spectrograms, a player."""
import base64
import io
import math
import re
import wave

import numpy as np
import pytest
import torch
from PIL import Image

from crp.image import SoundHeatmap, relevance_over_frequency, vis_spectrogram

RATE = 1000


def tone(frequency, length=RATE):
    return torch.sin(2 * math.pi * frequency / RATE * torch.arange(length, dtype=torch.float64))


def restated(signal, relevance, window, hop):
    """Relevance of each coefficient of each frame, by its contribution to each value of the signal, one by one."""
    length, half, share = len(signal), window // 2, 1e-3 ** 2 * np.mean(signal ** 2)
    hann = [math.sin(math.pi * i / window) ** 2 for i in range(window)]
    frames = 1 + (length + 2 * half - window) // hop
    inside = [[(i, hop * frame - half + i) for i in range(window) if 0 <= hop * frame - half + i < length]
              for frame in range(frames)]
    overlap = np.zeros(length)
    for places in inside:
        for i, t in places:
            overlap[t] += hann[i] ** 2
    found = np.zeros((window, frames))
    for frame, places in enumerate(inside):
        for k in range(window):
            coefficient = sum(hann[i] * signal[t] * np.exp(-2j * math.pi * k * i / window) for i, t in places)
            for i, t in places:
                synthesis = hann[i] / overlap[t] / window
                contribution = (coefficient * np.exp(2j * math.pi * k * i / window)).real * synthesis
                toned = relevance[t] * signal[t] ** 2 / (signal[t] ** 2 + share)
                found[k, frame] += contribution * relevance[t] * signal[t] / (signal[t] ** 2 + share)
                found[k, frame] += (relevance[t] - toned) * hann[i] * synthesis
    folded = found[:window // 2 + 1].copy()
    for k in range(1, (window + 1) // 2):
        folded[k] += found[window - k]
    return folded


@pytest.mark.parametrize("length, window, hop", [(40, 8, None), (37, 8, 1), (33, 9, 2), (5, 12, 3)])
def test_relevance_of_coefficients_is_that_of_their_contributions(length, window, hop):
    rng = np.random.default_rng(0)
    signal, relevance = rng.normal(size=length), rng.normal(size=length)
    signal[3] = 0
    found = relevance_over_frequency(torch.tensor(signal), torch.tensor(relevance), window, hop)
    expected = restated(signal, relevance, window, hop or window // 4)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("window, hop", [(64, None), (64, 5), (33, 8), (4, 1), (512, None)])
@pytest.mark.parametrize("shape", [(300,), (2, 301), (2, 3, 70)])
def test_relevance_adds_up_to_that_of_the_signal(window, hop, shape):
    generator = torch.Generator().manual_seed(0)
    signals, heatmaps = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    found = relevance_over_frequency(signals, heatmaps, window, hop)
    assert found.shape[:-1] == (*shape[:-1], window // 2 + 1)
    torch.testing.assert_close(found.sum((-1, -2)), heatmaps.sum(-1), rtol=1e-9, atol=1e-7)


def test_relevance_of_a_tone_is_at_its_frequency_and_time():
    signal, gradient = tone(100) + tone(300), tone(300)
    gradient[:500] = 0
    found = relevance_over_frequency(signal, gradient * signal, 100)
    assert found.sum() == pytest.approx(250, rel=0.01)
    at_tone = found[29:32, 20:].sum()  # a bin is 10 Hz, a frame 25 ms
    assert at_tone > 0.97 * found.sum() and found[8:13].abs().sum() < 0.02 * found.sum()


def test_relevance_of_silence_is_divided_evenly():
    found = relevance_over_frequency(torch.zeros(200), torch.ones(200), 16)
    assert found.sum() == pytest.approx(200)
    bins = found.sum(1)
    torch.testing.assert_close(bins, torch.tensor([1., *[2.] * 7, 1.]) * 200 / 16)


@pytest.mark.parametrize("arguments, message", [
    ({"window": 3}, "window"), ({"hop": 0}, "hop"), ({"window": 16, "hop": 5}, "quarter of the window, 4"),
])
def test_windows_that_leave_gaps_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        relevance_over_frequency(torch.rand(99), torch.rand(99), **arguments)
    with pytest.raises(ValueError, match=message):
        vis_spectrogram(torch.rand(1, 99), torch.rand(1, 99), sample_rate=RATE, **arguments)


def test_heatmaps_of_other_shape_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        relevance_over_frequency(torch.rand(2, 99), torch.rand(99))
    with pytest.raises(ValueError, match="one channel, not of 2"):
        vis_spectrogram(torch.rand(1, 2, 99), torch.rand(1, 99), sample_rate=RATE)
    with pytest.raises(ValueError, match="heatmap_axis=None"):
        vis_spectrogram(torch.rand(2, 99), torch.rand(2), sample_rate=RATE)


# Pictures

def reddish(picture):
    pixels = np.asarray(picture).astype(int)
    return np.argwhere(pixels[..., 0] - pixels[..., 2] > 60)


def test_pictures_show_where_relevance_is():
    data = tone(90)[None] + tone(330)
    heatmaps = torch.stack([data[0] * tone(frequency) for frequency in (330, 90)])
    spectrograms, relevance = vis_spectrogram(data.expand(2, -1), heatmaps, sample_rate=RATE, window=64)
    assert spectrograms[0].tobytes() == spectrograms[1].tobytes() and spectrograms[0].size == relevance[0].size
    high, low = (reddish(picture)[:, 0] for picture in relevance)
    assert high.max() < low.min()
    channels = vis_spectrogram(data[:, None].expand(2, 1, -1), heatmaps, sample_rate=RATE, window=64)
    assert channels[1][0].tobytes() == relevance[0].tobytes()


def test_crops_and_common_scales():
    data, heatmaps = tone(100).expand(2, -1), tone(100).square().repeat(2, 1)
    heatmaps[:, 500:] = 0
    heatmaps[1] *= 0.1
    arguments = {"sample_rate": RATE, "window": 64}
    whole, cropped = (vis_spectrogram(data, heatmaps, rf, **arguments)[1] for rf in (False, True))
    assert len(reddish(cropped[0])) > 1.5 * len(reddish(whole[0]))
    assert np.abs(np.subtract(*(np.asarray(picture).astype(int) for picture in whole))).max() <= 2
    common = vis_spectrogram(data, heatmaps, common_scale=True, **arguments)[1]
    assert common[0].tobytes() == whole[0].tobytes() and len(reddish(common[1])) < 0.2 * len(reddish(common[0]))


# The player

def test_a_notebook_gets_a_player_and_pictures():
    signal = 0.25 * tone(100)
    sound = SoundHeatmap(signal[None], signal, RATE, window=64)
    html = sound._repr_html_()
    player, = re.findall(r'<audio controls src="data:audio/wav;base64,([^"]+)"', html)
    with wave.open(io.BytesIO(base64.b64decode(player))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (RATE, 1, RATE)
        samples = np.frombuffer(file.readframes(RATE), "<i2")
    np.testing.assert_allclose(samples / 32767, signal / signal.max(), atol=1e-4)
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == len(sound.to_images()) == 3
    assert all(Image.open(io.BytesIO(base64.b64decode(picture))).size[0] > 100 for picture in pictures)


def test_silence_can_be_played():
    assert len(SoundHeatmap(torch.zeros(99), torch.zeros(99), RATE, window=16).to_wav()) == 44 + 2 * 99


@pytest.mark.parametrize("signal, heatmap", [((2, 99), (99,)), ((99,), (98,)), ((1, 1, 99), (99,))])
def test_what_is_no_sound_is_refused(signal, heatmap):
    with pytest.raises(ValueError, match=r"\[T\]"):
        SoundHeatmap(torch.rand(signal), torch.rand(heatmap), RATE)
