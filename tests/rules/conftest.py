"""Fixtures that several test files share."""
import pytest
import torch
from torch import nn


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def conv():
    return nn.Conv2d(3, 16, 3, padding=1).double()


@pytest.fixture
def image():
    return torch.randn(2, 3, 7, 7, dtype=torch.float64)


@pytest.fixture
def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6),
        nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(24, 10), nn.ReLU(inplace=True), nn.Linear(10, 4),
    ).double().eval()
