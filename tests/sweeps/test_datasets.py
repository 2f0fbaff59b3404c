"""Datasets of other libraries are swept as they are."""
import numpy as np
import pytest
import torch
from large_sweeps import Images, network, run, visualization
from PIL import Image
from zennit.composites import EpsilonPlusFlat

from crp.model.samples import SampleError

pytestmark = pytest.mark.usefixtures("quick")


def test_hugging_face_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    items = [Images()[i] for i in range(10)]
    table = datasets.Dataset.from_dict({
        "x": [image.tolist() for image, _ in items], "label": [target for _, target in items]
    })

    class Named(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, module in network().named_children():
                self.add_module(name, module)

        def forward(self, x):
            for module in self.children():
                x = module(x)
            return x

    options = {"visualization_options": {"model": Named().eval(), "target_key": "label"}}
    found = run(tmp_path / "table", table.with_format("torch"), **options)
    expected = run(tmp_path / "list", items)
    for layer in expected.layers:
        np.testing.assert_allclose(found.values(layer)[:], expected.values(layer)[:], rtol=1e-5, atol=1e-7)
    with pytest.raises(SampleError, match=r"name the target's key with target_key"):
        run(tmp_path / "unnamed", table.with_format("torch"))
    with pytest.raises(TypeError, match="can only be read from the start"):
        run(tmp_path / "stream", table.to_iterable_dataset(), **options)


@pytest.fixture
def folder(tmp_path):
    for target in range(2):
        (tmp_path / "images" / str(target)).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(target * 3 + number).integers(0, 255, (6 + number, 6), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / str(target) / f"{number}.png")
    return tmp_path / "images"


def test_folders_of_torchvision_with_images_of_different_sizes(folder, tmp_path):
    from torchvision import datasets, transforms

    to_tensor = transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])
    images = datasets.ImageFolder(folder, to_tensor)
    with pytest.raises(SampleError, match=r"samples 0 and 1 have the shapes \(1, 6, 6\) and \(1, 7, 6\); bring"):
        run(tmp_path / "as they are", images)
    resize = transforms.Resize((6, 6), antialias=True)
    store = run(tmp_path / "resized", images, visualization_options={"preprocess_fn": resize})
    assert store.targets.tolist() == [0, 0, 0, 1, 1, 1]
    model, expected = network(), []
    for image, _ in images:
        expected.append(model.conv(resize(image[None])).sum((2, 3))[0])
    found = store.values("conv", "activation")[:]
    np.testing.assert_allclose(found, torch.stack(expected).detach(), rtol=1e-4, atol=1e-5)
    fv = visualization(tmp_path / "resized", images, preprocess_fn=resize)
    assert len(fv.get_max_reference(0, "conv", "relevance", (0, 3), EpsilonPlusFlat(), plot_fn=None)[0][0]) == 3


def test_a_folder_without_a_transform(folder, tmp_path):
    from torchvision import datasets

    with pytest.raises(SampleError, match="sample 0: TypeError: .*ToTensor"):
        run(tmp_path / "store", datasets.ImageFolder(folder))
