"""Stores of digits and of texts, servers of them, and a browser."""
import os
import shutil
from pathlib import Path

import pytest
import torch
from served import ask_for, digits, sentences, serving

from crp.explorer.source import Source

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-webgl", "--disable-background-networking", "--no-first-run"]


@pytest.fixture(scope="session")
def digit_sweep(tmp_path_factory):
    """A model that reads digits, its sweep with all that a store can keep, and its rules."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield digits(tmp_path_factory.mktemp("digits") / "store")
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sentence_sweep(tmp_path_factory):
    """A small Llama, its sweep with a row for each token, and its rules."""
    return sentences(tmp_path_factory.mktemp("sentences") / "store")


@pytest.fixture(scope="session")
def with_model(digit_sweep):
    return Source.of(*digit_sweep)


@pytest.fixture(scope="session")
def store_alone(digit_sweep, tmp_path_factory):
    """A copy of the store, with nobody who knows the model."""
    path = tmp_path_factory.mktemp("alone") / "store"
    shutil.copytree(digit_sweep[0].path, path)
    return Source.of(path)


@pytest.fixture(scope="session")
def answers(with_model):
    """A function that asks the server of digits without a socket: path -> answer, once there is one."""
    return ask_for([with_model])


@pytest.fixture(scope="session")
def address(with_model, store_alone):
    """Of a server of the digits, with the model and without."""
    with serving([with_model]) as found:
        yield found


@pytest.fixture(scope="session")
def browser():
    """Chromium without a GPU; where there is none, tests that need it are skipped, and say so."""
    name = os.environ.get("CRP_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if name is None or not Path(name).exists():
        reason = "there is no Chromium: apt-get install chromium, or set CRP_CHROMIUM to its path"
        if os.environ.get("CRP_BROWSERS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        found = player.chromium.launch(executable_path=name, args=OPTIONS)
        yield found
        found.close()
