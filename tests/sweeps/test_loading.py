"""Samples and options that are refused."""
import pytest
import torch
from PIL import Image
from small_sweeps import SAMPLES, Items, hooks_of, images, small_model, sweep, visualization
from zennit.composites import EpsilonPlusFlat

from crp.concepts import ChannelConcept
from crp.model.samples import SampleError
from crp.store import StoreError

pytestmark = pytest.mark.usefixtures("quick")


def check_refused(tmp_path, error, match, **arguments):
    model = small_model()
    with pytest.raises(error, match=match):
        sweep(tmp_path / "store", model=model, **arguments)
    assert not (tmp_path / "store" / "seal.json").exists()
    assert hooks_of(model) == []
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_samples_of_different_shapes_are_named(tmp_path):
    items = [(image, 0) for image in images(6)]
    items[3] = (torch.rand(1, 7, 6).double(), 0)
    message = r"sample 3: .*samples 0 and 3 .*\(1, 6, 6\).*\(1, 7, 6\)"
    check_refused(tmp_path, SampleError, message, data=Items(items), batch_size=6)


@pytest.mark.parametrize("value, name", [("a text", "str"), (object(), "object"), (None, "NoneType")])
def test_inputs_that_are_no_arrays_are_refused(tmp_path, value, name):
    check_refused(tmp_path, SampleError, name, data=Items([(value, 0)] * 3))


def test_pil_inputs_are_refused_with_advice(tmp_path):
    check_refused(tmp_path, SampleError, "ToTensor", data=Items([(Image.new("RGB", (6, 6)), 0)] * 3))


@pytest.mark.parametrize("target", [
    "cat", torch.eye(2), object(), torch.tensor([3, 7])
])
def test_targets_that_name_no_class_are_refused(tmp_path, target):
    check_refused(tmp_path, SampleError, "multitarget_to_single", data=Items([(image, target) for image in images(3)]))


def test_a_target_beyond_the_outputs_is_refused(tmp_path):
    check_refused(tmp_path, IndexError, "0 to 2", data=Items([(image, 3) for image in images(3)]))


@pytest.mark.parametrize("item", [(images(1)[0], images(1)[0], images(1)[0]), object(), ()])
def test_items_of_other_forms_are_refused(tmp_path, item):
    check_refused(tmp_path, SampleError, "target", data=Items([item] * 2))


def test_a_dict_without_the_target_key_is_refused(tmp_path):
    check_refused(tmp_path, SampleError, "target_key", data=Items([{"image": images(1)[0], "species": 1}] * 2))


@pytest.mark.parametrize("start, stop", [(0, SAMPLES + 1), (-1, 3), (4, 4), (5, 2), (SAMPLES, SAMPLES)])
def test_a_range_outside_of_the_dataset_is_refused(tmp_path, start, stop):
    fv = visualization(tmp_path / "store")
    for run in (fv.run, fv.run_distributed):
        with pytest.raises(ValueError, match=f"{SAMPLES}"):
            run(EpsilonPlusFlat(), start, stop)
    assert not (tmp_path / "store").exists()


def test_an_unknown_layer_is_refused_with_the_nearest_name(tmp_path):
    check_refused(tmp_path, ValueError, "did you mean 'conv'", layer_map={"conf": ChannelConcept()})
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"checkpoint": 0}, {"max_target": "mean"}])
def test_impossible_options_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        sweep(tmp_path / "store", **arguments)
    assert not (tmp_path / "store").exists()


def test_nothing_to_sweep_is_said(tmp_path):
    with pytest.raises(ValueError, match="dataset is empty"):
        visualization(tmp_path, data=[]).run(EpsilonPlusFlat(), 0, 0)
    with pytest.raises(ValueError, match="layer_map is empty"):
        visualization(tmp_path, layer_map={}).run(EpsilonPlusFlat(), 0, 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        sweep(tmp_path / "file")
