"""Sound with its relevance: spectrograms, and a player for notebooks."""
from __future__ import annotations

import base64
import io
import wave
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from crp.pictures.heatmaps import check_threshold, divide_by_maximum, get_crop_range, in_pairs, scale_limits
from crp.pictures.signals import check_signals, vis_signal
from crp.pictures.small_figures import draw_small, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SILENCE = 1e-3  # of the root mean square: a value about so small has no phase that could be trusted
_DECIBELS = 80  # range of a spectrogram


def relevance_over_frequency(
    signals: torch.Tensor, heatmaps: torch.Tensor, window: int = 512, hop: int | None = None
) -> torch.Tensor:
    r"""Divide the relevance of each moment of signals among the frequencies that sound then.

    The signal is the output of a linear layer, the inverse short-time Fourier transform of its spectrogram, and the
    relevance goes back through that layer: with a window ``w`` of ``n`` values, and the sum ``N[t]`` of its squares
    over the frames that hold ``t``, ::

        R[f, k] = real(X[f, k] * conj(Q[f, k])) / n
        X = stft(x, w),  Q = stft(q / N, w),  q[t] = R[t] / x[t]

    Relevance of moments of silence, where ``x[t]`` is close to zero, has no frequency and is divided evenly. In sum,
    relevance is that of the signal. Rules of the first layer should read the signal, as Epsilon and ZPlus do: where the
    relevance of small values is as large as that of others, as with Flat, frequencies get relevance of either sign that
    cancels.

    Parameters
    ----------
    signals, heatmaps : torch.Tensor
        [..., T]
    window : int, default 512
        Length of the Hann window in values: long ones tell frequencies apart, short ones moments.
    hop : int, optional
        Values between frames; by default a quarter of the window, which is also the most.

    Returns
    -------
    torch.Tensor
        [..., window // 2 + 1, frames], from frequency 0 to half the sample rate. Frame f has its middle at f * hop.

    Raises
    ------
    ValueError
        If signals and heatmaps differ in shape, the window is shorter than 4 values, or ``hop`` is longer than a
        quarter of it.

    References
    ----------
    J. Vielhaben, S. Lapuschkin, G. Montavon, W. Samek (2024). Explainable AI for time series via virtual inspection
    layers. Pattern Recognition 150, 110309. arXiv:2303.06365.
    """
    if signals.shape != heatmaps.shape:
        raise ValueError(f"signals {tuple(signals.shape)} and heatmaps {tuple(heatmaps.shape)} differ in shape")
    hop = _checked_hop(window, hop)
    values, relevance = (tensor.detach().double() for tensor in (signals, heatmaps))
    hann = torch.hann_window(window, dtype=torch.float64, device=signals.device)
    noise = (_SILENCE * values.square().mean(-1, keepdim=True).sqrt()).square()
    factors = relevance * values / (values.square() + noise).clamp_min(torch.finfo(torch.float64).tiny)
    overlap = _squared_windows(values.shape[-1], hann, hop)
    spectrum, backward = _frames(values, hann, hop), _frames(factors / overlap, hann, hop)
    toneless = _frames((relevance - values * factors) / overlap, hann.square(), hop)[..., :1, :].real
    found = ((spectrum * backward.conj()).real + toneless) / window
    found[..., 1:(window + 1) // 2, :] *= 2  # each stands for a negative frequency as well
    return found.to(heatmaps.dtype)


def _checked_hop(window: int, hop: int | None) -> int:
    if window < 4:
        raise ValueError(f"window is a number of values, at least 4, not {window}")
    hop = window // 4 if hop is None else hop
    if not 1 <= hop <= window // 4:
        raise ValueError(f"hop is from 1 to a quarter of the window, {window // 4}, not {hop}")
    return hop


def _frames(values: torch.Tensor, weights: torch.Tensor, hop: int) -> torch.Tensor:
    """The short-time Fourier transform [..., F, frames] of values [..., T]."""
    transformed = torch.stft(
        values.reshape(-1, values.shape[-1]), len(weights), hop, window=weights, pad_mode="constant",
        return_complex=True,
    )
    return transformed.reshape(*values.shape[:-1], *transformed.shape[-2:])


def _squared_windows(length: int, weights: torch.Tensor, hop: int) -> torch.Tensor:
    """[T] the sum of squared windows at each value."""
    start = len(weights) // 2
    frames = weights.new_ones(1, 1, 1 + (length + 2 * start - len(weights)) // hop)
    sums = torch.nn.functional.conv_transpose1d(frames, weights.square()[None, None], stride=hop)[0, 0]
    return sums[start:start + length]


def vis_spectrogram(
    data_batch: torch.Tensor, heatmaps: torch.Tensor, rf: bool = False, crop_th: float = 0.1, *, sample_rate: float,
    window: int = 512, hop: int | None = None, common_scale: bool = False,
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Draw sound as spectrograms, and its relevance over time and frequency: red for positive, blue for negative.

    A ``plot_fn`` for references is ``partial(vis_spectrogram, sample_rate=16000)``.

    Parameters
    ----------
    data_batch : torch.Tensor
        [N, T] or [N, 1, T]
    heatmaps : torch.Tensor
        [N, T]; divided among frequencies by :func:`relevance_over_frequency`.
    rf : bool, default False
        Crop to the frames in which the sum of absolute relevance exceeds ``crop_th`` of its maximum.
    crop_th : float, default 0.1
    sample_rate : float
        Values per second.
    window, hop : int
        As for :func:`relevance_over_frequency`.
    common_scale : bool, default False
        Give colours one meaning in all pictures, instead of the strongest to the strongest relevance of each.

    Returns
    -------
    spectrograms, relevance : list of PIL.Image.Image
        Spectrograms are in decibels, over 80 of them, from white to black.

    Raises
    ------
    ValueError
        If data and heatmaps have other axes, or an argument is out of its range.
    """
    check_threshold("crop_th", crop_th)
    hop = _checked_hop(window, hop)
    check_signals(data_batch, heatmaps)
    signals, relevances, starts = [], [], []
    for signal, heatmap in in_pairs(data_batch, heatmaps):
        if signal.ndim == 2 and len(signal) > 1:
            raise ValueError(f"a spectrogram is of one channel, not of {len(signal)}")
        signal = signal.reshape(-1)
        relevance = relevance_over_frequency(signal, heatmap, window, hop)
        first, stop = 0, relevance.shape[1]
        if rf:
            _, _, first, stop = get_crop_range(divide_by_maximum(relevance.abs().sum(0))[None], crop_th)
        signals.append(_decibels(signal, window, hop)[:, first:stop])
        relevances.append(plain(relevance[:, first:stop]))
        starts.append(first)
    limits = scale_limits(relevances, common_scale)
    draw = partial(_draw, seconds=hop / sample_rate, highest=sample_rate / 2)
    spectrograms = [
        draw_small(partial(draw, cmap="Greys", vmin=-_DECIBELS, vmax=0), *each) for each in zip(signals, starts)
    ]
    return spectrograms, [
        draw_small(partial(draw, cmap="bwr", vmin=-limit, vmax=limit), *each)
        for limit, *each in zip(limits, relevances, starts)
    ]


def _decibels(signal: torch.Tensor, window: int, hop: int) -> torch.Tensor:
    """[F, frames] power relative to the strongest."""
    power = _frames(plain(signal), torch.hann_window(window), hop).abs().square()
    return 10 * (power / power.max().clamp_min(1e-30)).clamp_min(10 ** (-_DECIBELS / 10)).log10()


def _draw(axes: Axes, picture: torch.Tensor, start: int, seconds: float, highest: float, **colours: Any) -> None:
    frames = picture.shape[1]
    extent = ((start - 0.5) * seconds, (start + frames - 0.5) * seconds, 0, highest)
    axes.imshow(picture.numpy(), aspect="auto", origin="lower", extent=extent, **colours)
    axes.set_xlabel("seconds", fontsize=6)
    axes.set_ylabel("Hz", fontsize=6)


class SoundHeatmap:
    """A sound with its relevance: in a notebook a player above the signal, its spectrogram, and the relevance of both.

    Parameters
    ----------
    signal : torch.Tensor
        [T] or [1, T]
    heatmap : torch.Tensor
        [T]
    sample_rate : int
        Values per second.
    window : int, default 512
        As for :func:`relevance_over_frequency`.

    Raises
    ------
    ValueError
        If that is not one signal with a value of relevance for each of its own.
    """

    def __init__(self, signal: torch.Tensor, heatmap: torch.Tensor, sample_rate: int, window: int = 512):
        self.signal, self.heatmap = torch.as_tensor(signal).squeeze(0), torch.as_tensor(heatmap)
        self.sample_rate, self.window = sample_rate, window
        if self.signal.ndim != 1 or self.signal.shape != self.heatmap.shape:
            raise ValueError(f"a sound is [T] or [1, T] with a heatmap [T], not {tuple(signal.shape)} with "
                             f"{tuple(heatmap.shape)}")

    def to_images(self) -> list[Image.Image]:
        """The signal, its spectrogram, and the relevance of the spectrogram."""
        data, heatmaps = self.signal[None], self.heatmap[None]
        spectrogram, relevance = vis_spectrogram(data, heatmaps, sample_rate=self.sample_rate, window=self.window)
        return [*vis_signal(data, heatmaps), *spectrogram, *relevance]

    def to_wav(self) -> bytes:
        """The sound as a WAV file of 16 bits, as loud as it can be."""
        values = plain(self.signal).numpy()
        samples = (values / (np.abs(values).max(initial=0) or 1) * 32767).round().astype("<i2")
        content = io.BytesIO()
        with wave.open(content, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.sample_rate)
            file.writeframes(samples.tobytes())
        return content.getvalue()

    def to_html(self) -> str:
        """A ``<div>`` with a player and pictures, which needs no other files."""
        pictures = "".join(f'<img src="data:image/png;base64,{_png(picture)}">' for picture in self.to_images())
        sound = base64.b64encode(self.to_wav()).decode()
        return f'<div><audio controls src="data:audio/wav;base64,{sound}"></audio><br>{pictures}</div>'

    _repr_html_ = to_html


def _png(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "png")
    return base64.b64encode(content.getvalue()).decode()
