"""The demo writes what it promises, from the command line."""
import copy
import functools
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch
from PIL import Image

from crp.cli import main
from crp.demo import run as demo_run
from crp.demo.digits import accuracy, digit_datasets, train_digit_network

PICTURES = 13
FEWER_EPOCHS = 8

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits():
    return digit_datasets()


@functools.cache
def trained(**options):
    """The network of the demo, and the state of torch's random numbers before and after its training."""
    before = torch.random.get_rng_state()
    return train_digit_network(digit_datasets()[0], **options), before, torch.random.get_rng_state()


@pytest.fixture(scope="module", params=["here", "in a process"])
def demo(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    if request.param == "here":
        network, *_ = trained(epochs=FEWER_EPOCHS)
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as output:
            patch.setattr(demo_run, "train_digit_network", lambda training: copy.deepcopy(network))
            main(["demo", "--out", str(folder)])
        return folder, output.getvalue()
    run = subprocess.run(
        [sys.executable, "-m", "crp", "demo", "--out", str(folder)], capture_output=True, text=True, check=True
    )
    return folder, run.stdout


def test_writes_pictures_and_a_page_that_holds_them(demo):
    folder, _ = demo
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == PICTURES
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.width > 500 and len(image.convert("L").getcolors()) > 20
    page = (folder / "index.html").read_text()
    assert page.count("data:image/png;base64,") == PICTURES
    assert "src=\"http" not in page and page.count("<h2>") == PICTURES
    assert page.index("Why is this read as 4?") < page.index("Where the network looks")
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_says_what_it_found_and_where(demo):
    folder, output = demo
    assert "held-out digits are read correctly" in output
    assert output.count("% of the relevance; in ") == output.count("% of its relevance; ") == 4
    assert str(folder / "index.html") in output


@pytest.mark.parametrize("options", [{"epochs": FEWER_EPOCHS}, {}], ids=str)
def test_network_reads_held_out_digits(digits, options):
    model, before, after = trained(**options)
    assert torch.equal(before, after)
    assert accuracy(model, digits[1]) >= 0.97
    assert not model.training


def test_held_out_digits_are_not_trained_on(digits):
    training, held_out = digits
    assert len(training) + len(held_out) == 1797
    seen = {image.numpy().tobytes() for image in training.tensors[0]}
    assert sum(image.numpy().tobytes() in seen for image in held_out.tensors[0]) == 0


def test_command_line_help_and_version():
    for arguments, expected in ((["--help"], "demo"), (["--version"], "crp ")):
        run = subprocess.run([sys.executable, "-m", "crp", *arguments], capture_output=True, text=True, check=True)
        assert expected in run.stdout
