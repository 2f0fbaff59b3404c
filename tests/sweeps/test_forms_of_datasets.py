"""Datasets as people have them: each form is swept, or refused with what would work."""
from shutil import rmtree

import numpy as np
import pytest
import torch
from small_sweeps import images, small_model
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.model.samples import SampleError
from crp.model.targets import Start, list_targets
from crp.store import ReferenceStore, StoreError
from crp.visualization import FeatureVisualization, Stream

pytestmark = pytest.mark.usefixtures("quick")
COUNT = 9
LAYERS = {"conv": ChannelConcept(), "fc": ChannelConcept()}


class Items:
    def __init__(self, items, **attributes):
        self.items = list(items)
        vars(self).update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def view(path, data, model=None, layers=LAYERS, **options):
    return FeatureVisualization(CondAttribution(model or small_model()), data, layers, path=path, **options)


def swept(path, data, model=None, layers=LAYERS, run=None, **options):
    fv = view(path, data, model, layers, **options)
    return fv.run(EpsilonPlusFlat(), batch_size=4, **run or {})


def relevance_of(conditions, layer="conv", model=None, inputs=None, **options):
    """[samples, concepts]: the slow way, a sample at a time."""
    attribution, rows = CondAttribution(model or small_model()), []
    for image, condition in zip(images(COUNT) if inputs is None else inputs, conditions):
        result = attribution(image[None], [condition], EpsilonPlusFlat(), [layer], exclude_parallel=False, **options)
        rows.append(result.relevances[layer].flatten(2).sum(2)[0])
    return torch.stack(rows).numpy()


def check(store, targets, conditions, layer="conv", **options):
    assert store.targets.tolist() == targets
    expected = relevance_of(conditions, layer, **options)
    np.testing.assert_allclose(store.values(layer)[:], expected, rtol=1e-5, atol=1e-6)


def classes():
    return [i % 3 for i in range(COUNT)]


@pytest.mark.parametrize("form", [
    lambda x, y, i: (x, y), lambda x, y, i: [x, y], lambda x, y, i: (x, y, i),
    lambda x, y, i: (x, y, f"{i}.png", {"a": 1}),
    lambda x, y, i: (x, np.int64(y)), lambda x, y, i: (x, torch.tensor([y])), lambda x, y, i: (x, f"class {y}"),
    lambda x, y, i: (x.numpy(), y), lambda x, y, i: (x.tolist(), y),
], ids=["tuple", "list", "index", "name and more", "numpy", "length 1", "names", "array", "lists of numbers"])
def test_inputs_with_a_class(tmp_path, form):
    items = [form(x, y, i) for i, (x, y) in enumerate(zip(images(COUNT), classes()))]
    names = ["class 0", "class 1", "class 2"]
    model = small_model() if isinstance(items[0][0], (torch.Tensor, np.ndarray)) else small_model().float()
    store = swept(tmp_path, Items(items, classes=names), model)
    assert store.targets.tolist() == classes()
    expected = relevance_of([{"y": [y]} for y in classes()])
    np.testing.assert_allclose(store.values("conv")[:], expected, rtol=1e-3, atol=1e-5)


def test_names_of_classes_need_to_be_known(tmp_path):
    items = Items((x, "cat") for x in images(COUNT))
    with pytest.raises(SampleError, match=r"class_names=.* says which output"):
        swept(tmp_path / "a", items)
    with pytest.raises(SampleError, match="'cat', which is none of the class_names dog, owl"):
        swept(tmp_path / "b", items, class_names=["dog", "owl"])
    assert set(swept(tmp_path / "c", items, class_names=["dog", "cat"]).targets) == {1}


@pytest.mark.parametrize("target, expected", [
    (2, [2]), (torch.tensor(2), [2]), ([2], [2]), ([2, 0], [2, 0]), ({0, 1}, [0, 1]), ((3, 5, 4), [3, 5, 4]), ([], []),
    (torch.tensor([0, 1, 1]), [1, 2]), (np.array([True, False]), [0]), (torch.zeros(3), []),
    (torch.tensor([[0, 7], [7, 2]]), [0, 2, 7]), (["a", "c"], [0, 2]), ("b", [1]), (1.5, [Start.ALL_OUTPUTS]),
    (torch.tensor(0.), [Start.ALL_OUTPUTS]), (torch.tensor([.3, .7]), [Start.ALL_OUTPUTS]),
    ([.5, 2.], [Start.ALL_OUTPUTS]), (np.float32(1), [Start.ALL_OUTPUTS]), (None, [Start.PREDICTION]),
])
def test_what_targets_mean(target, expected):
    assert list_targets(target, ["a", "b", "c"]) == expected


@pytest.mark.parametrize("target", [
    -1, [0, 1], (1, 0, 0), [2, 2], [1, None], torch.tensor([3, 7]), torch.tensor([[.5, 1.]]), object(), [[1, 2]],
    [-2, 4],
])
def test_targets_that_could_be_misread_are_refused(target):
    with pytest.raises((TypeError, ValueError)):
        list_targets(target)


def test_several_classes_give_a_row_each(tmp_path):
    lists = [[0, 2], [1], [], {0, 1}, [2], [0], [1], [2], [0]]
    store = swept(tmp_path, Items(zip(images(COUNT), lists)))
    pairs = [(i, y) for i, ys in enumerate(lists) for y in sorted(ys)]
    assert list(zip(store.rows()["sample"].tolist(), store.targets.tolist())) == pairs
    inputs = images(COUNT)[[i for i, _ in pairs]]
    expected = relevance_of([{"y": [y]} for _, y in pairs], inputs=inputs)
    np.testing.assert_allclose(store.values("conv")[:], expected, rtol=1e-5, atol=1e-6)
    assert len(store.rows("activation")) == COUNT


@pytest.mark.parametrize("items, options", [
    (lambda x: list(x), {}), (lambda x: [(image,) for image in x], {}), (lambda x: [(image, None) for image in x], {}),
    (lambda x: [{"input": image} for image in x], {"target_key": None}), (lambda x: TensorDataset(x), {}),
], ids=["inputs", "tuples of one", "None", "dicts", "TensorDataset"])
def test_without_targets_relevance_is_that_of_the_prediction(tmp_path, items, options):
    store = swept(tmp_path, Items(items(images(COUNT))), **options)
    predicted = small_model()(images(COUNT)).argmax(1).tolist()
    check(store, predicted, [{"y": [y]} for y in predicted])
    assert store.predictions.tolist() == predicted


def test_relevance_of_the_prediction_by_choice(tmp_path):
    store = swept(tmp_path, Items(zip(images(COUNT), classes())), y="prediction")
    predicted = small_model()(images(COUNT)).argmax(1).tolist()
    assert predicted != classes()
    check(store, predicted, [{"y": [y]} for y in predicted])
    with pytest.raises(ValueError, match="y is 'prediction' or names outputs by number"):
        swept(tmp_path / "other", Items(zip(images(COUNT), classes())), y="predicted")


def test_samples_with_and_without_targets_may_alternate(tmp_path):
    targets = [None, 1, None, None, 2, 1.5, None, 0, None]
    store = swept(tmp_path, Items(zip(images(COUNT), targets)))
    predicted = small_model()(images(COUNT)).argmax(1).tolist()
    named = [y if isinstance(y, int) else -1 if y else predicted[i] for i, y in enumerate(targets)]
    check(store, named, [{"y": [0, 1, 2] if y == -1 else [y]} for y in named])


@pytest.mark.parametrize("targets", [
    torch.linspace(-1, 3, COUNT), torch.arange(COUNT) / 4, torch.rand(COUNT, 3), [0.] * COUNT,
], ids=["numbers", "some whole", "vectors", "zeros"])
def test_float_targets_are_explained_from_all_outputs(tmp_path, targets):
    store = swept(tmp_path / "all", Items(zip(images(COUNT), targets)))
    check(store, [-1] * COUNT, [{"y": [0, 1, 2]}] * COUNT)
    assert store.class_means("conv", 0, "relevance", 3)[0].tolist() == [-1]
    store = swept(tmp_path / "one", Items(zip(images(COUNT), targets)), y=2)
    check(store, [2] * COUNT, [{"y": [2]}] * COUNT)
    store = swept(tmp_path / "two", Items(zip(images(COUNT), targets)), y=[0, 2])
    check(store, [-1] * COUNT, [{"y": [0, 2]}] * COUNT)


def test_one_class_of_a_mask(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 1)).double().eval()
    masks = [torch.randint(4, (6, 6), generator=torch.Generator().manual_seed(i)) for i in range(COUNT)]
    masks[3] = torch.full((6, 6), 2)
    data, layers = Items(zip(images(COUNT), masks)), {"0": ChannelConcept()}
    store = swept(tmp_path / "one", data, model, layers, y=3)
    check(store, [3] * COUNT, [{"y": [3]}] * COUNT, "0", model=model)
    store = swept(tmp_path / "each", data, model, layers)
    assert store.targets[store.rows()["sample"] == 3].tolist() == [2]
    assert store.targets[store.rows()["sample"] == 0].tolist() == masks[0].unique().tolist()


def test_from_the_input_of_a_softmax(tmp_path):
    inner = small_model()
    model = nn.Sequential(*inner, nn.Softmax(1)).eval()
    data, layers = Items(zip(images(COUNT), classes())), {"0": ChannelConcept()}
    store = swept(tmp_path / "logits", data, model, layers, start_layer="6:in")
    check(store, classes(), [{"y": [y]} for y in classes()], "0", model=nn.Sequential(*inner))
    assert store.predictions.tolist() == inner(images(COUNT)).argmax(1).tolist()
    with pytest.raises(Exception, match="start_layer is '6:in' there and absent here"):
        view(tmp_path / "logits", data, model, layers).get_max_reference(0, "0", composite=EpsilonPlusFlat())
    with pytest.raises(ValueError, match="'conv9'"):
        swept(tmp_path / "other", data, model, layers, start_layer="conv9")
    with pytest.raises(IndexError, match="concept id 4 is out of range"):
        swept(tmp_path / "class", Items([(images(1)[0], 4)] * 2), model, layers, start_layer="6:in")
    free = swept(tmp_path / "free", Items(images(COUNT)), model, layers, start_layer="6:in")
    predicted = inner(images(COUNT)).argmax(1).tolist()
    check(free, predicted, [{"y": [y]} for y in predicted], "0", model=nn.Sequential(*inner))


def test_a_sweep_from_a_softmax_warns(tmp_path):
    model = nn.Sequential(*small_model(), nn.Softmax(1)).eval()
    with pytest.warns(UserWarning, match="start_layer='6:in'"):
        swept(tmp_path, Items(zip(images(COUNT), classes())), model, {"0": ChannelConcept()})


def test_a_sweep_from_a_sigmoid_warns(tmp_path):
    model = nn.Sequential(*small_model(), nn.Sigmoid()).eval()
    with pytest.warns(UserWarning, match="turned signs.*start_layer='6:in'"):
        swept(tmp_path, Items(zip(images(COUNT), classes())), model, {"0": ChannelConcept()})


class Shards(IterableDataset):
    """A stream that is read from the start, and counts how much."""

    def __init__(self, count=COUNT, **attributes):
        self.items, self.read = list(zip(images(count), classes())), 0
        vars(self).update(attributes)

    def __iter__(self):
        for item in self.items:
            self.read += 1
            yield item


class Sized(Shards):
    def __len__(self):
        return len(self.items)


@pytest.mark.parametrize("stream", [lambda: Stream(Shards(), COUNT), Sized], ids=["of known length", "with a length"])
def test_streams_are_swept_and_go_on_at_their_shards(tmp_path, stream):
    whole = swept(tmp_path / "whole", Items(zip(images(COUNT), classes())), run={"checkpoint": 1})
    data = stream()
    fv = view(tmp_path / "stream", data)
    fv.run_distributed(EpsilonPlusFlat(), 0, 4, 4, 1)
    store = fv.run(EpsilonPlusFlat(), 0, COUNT, 4, 1)
    for quantity in ("relevance", "activation"):
        np.testing.assert_array_equal(store.values("conv", quantity)[:], whole.values("conv", quantity)[:])
    references = fv.get_max_reference(0, "conv", "activation", (0, 3), plot_fn=None)[0]
    expected = view(tmp_path / "whole", Items(zip(images(COUNT), classes()))).get_max_reference(
        0, "conv", "activation", (0, 3), plot_fn=None
    )[0]
    torch.testing.assert_close(references, expected)


def test_what_is_wrong_with_a_stream_is_told(tmp_path):
    with pytest.raises(TypeError, match=r"Stream\(dataset, length\)"):
        view(tmp_path / "a", Shards())
    with pytest.raises(TypeError, match=r"Stream\(dataset, length\)"):
        view(tmp_path / "b", (item for item in []))
    with pytest.raises(SampleError, match="sample 9: IndexError: the stream ends after 9 .* its length is 12"):
        swept(tmp_path / "c", Stream(Shards(), 12))
    with pytest.raises(ValueError, match="num_workers=0"):
        swept(tmp_path / "d", Stream(Shards(), COUNT), run={"num_workers": 2})
    with pytest.raises(ValueError, match="at least 1"):
        Stream(Shards(), 0)


def test_a_stream_is_read_once_in_order_and_anew_for_what_lies_before():
    source = Shards()
    stream = Stream(source, COUNT)
    assert [stream[i][1] for i in (0, 1, 1, 5)] == [0, 1, 1, 2] and source.read == 6
    assert stream[2][1] == 2 and source.read == 9
    assert stream[-1][1] == 2 and len(list(stream)) == COUNT


def test_collate_fn_joins_what_the_dataset_gives(tmp_path):
    def collate(items):
        return torch.stack([torch.tensor(pixels).view(1, 6, 6) for pixels, _ in items]), [label for _, label in items]

    data = Items((image.flatten().tolist(), y) for image, y in zip(images(COUNT), classes()))
    store = swept(tmp_path / "a", data, small_model().float(), collate_fn=collate)
    expected = relevance_of([{"y": [y]} for y in classes()])
    np.testing.assert_allclose(store.values("conv")[:], expected, rtol=1e-3, atol=1e-5)
    data.items[4] = ("no pixels", 0)
    with pytest.raises(SampleError, match="^sample 4: "):
        swept(tmp_path / "b", data, small_model().float(), collate_fn=collate)
    left = swept(tmp_path / "c", data, small_model().float(), collate_fn=collate, run={"on_error": "skip"})
    assert list(left.skipped) == [4] and len(left.targets) == COUNT - 1
    with pytest.raises(SampleError, match="collate_fn made a batch of"):
        swept(tmp_path / "d", data, small_model().float(), collate_fn=lambda items: (torch.rand(3, 1, 6, 6), [0]))


def test_samples_of_several_sizes_go_together_where_they_can(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    model = model.double().eval()
    inputs = [torch.rand(1, size, 7).double() for size in (5, 5, 6, 6, 5, 8, 6, 6, 6)]
    data, layers = Items(zip(inputs, classes())), {"0": ChannelConcept()}
    fv = view(tmp_path, data, model, layers)
    with pytest.warns(UserWarning, match="samples have different shapes.*sorted by size"):
        store = fv.run(EpsilonPlusFlat(), 0, COUNT, 4)
    check(store, classes(), [{"y": [y]} for y in classes()], "0", model=model, inputs=inputs)
    options = {"mode": "activation", "r_range": (0, COUNT), "composite": EpsilonPlusFlat(), "rf": True}
    found, heatmaps = fv.get_max_reference(1, "0", plot_fn=None, **options)[1]
    top = store.top("0", 1, "activation", COUNT)
    for sample, position, heatmap in zip(top.samples, top.positions, heatmaps):
        expected = CondAttribution(model)(
            inputs[sample][None], [{"0": {1: [int(position)]}}], EpsilonPlusFlat(), mask_map=ChannelConcept.mask_rf,
            start_layer="0",
        ).heatmap[0]
        torch.testing.assert_close(heatmap, expected)
    pictures = fv.get_max_reference(1, "0", "activation", (0, 4), EpsilonPlusFlat())[1]
    assert [len(part) for part in pictures] == [4, 4]


def test_tables(tmp_path):
    pandas = pytest.importorskip("pandas")
    columns = {"age": [3., 5., 8., 1.], "size": [1., 2., 0., 4.], "kind": list("abca"), "y": [0, 1, 1, 0]}
    table = pandas.DataFrame(columns)
    table["code"] = table["kind"].astype("category").cat.codes

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.kinds, self.fc, self.out = nn.Embedding(3, 2), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, numbers, code):
            return self.out(self.fc(torch.cat([numbers, self.kinds(code)], 1)).relu())

    rows = [
        ({"numbers": row[["age", "size"]].to_numpy(np.float32), "code": row["code"]}, row["y"])
        for _, row in table.iterrows()
    ]
    store = swept(tmp_path / "rows", Items(rows), Net().eval(), {"fc": ChannelConcept()})
    assert store.targets.tolist() == [0, 1, 1, 0]
    with pytest.raises(TypeError, match=r"pandas table.*TensorDataset.*cat.codes"):
        view(tmp_path / "table", table)
    with pytest.raises(SampleError, match="kind hold text: categories go as numbers"):
        swept(tmp_path / "text", Items((row[["age", "kind"]], 0) for _, row in table.iterrows()))
    with pytest.raises(SampleError, match="the dataset gives text under 'kind'"):
        swept(tmp_path / "dict", Items(({"kind": "a"}, 0) for _ in range(3)))


def test_datasets_of_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words, self.fc, self.out = nn.Embedding(9, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, input_ids):
            return self.out(self.fc(self.words(input_ids)).relu().mean(1))

    layers = {"fc": ChannelConcept(-1)}
    ids = torch.randint(9, (6, 5), generator=torch.Generator().manual_seed(0)).tolist()
    plain = datasets.Dataset.from_dict({"input_ids": ids, "label": [0, 1, 0, 1, 1, 0]})
    stores = [
        swept(tmp_path / str(kind), plain.with_format(kind), Net().eval(), layers, target_key="label")
        for kind in (None, "torch", "numpy")
    ]
    for store in stores:
        assert store.targets.tolist() == [0, 1, 0, 1, 1, 0]
        np.testing.assert_array_equal(store.values("fc")[:], stores[0].values("fc")[:])
    streamed = Stream(plain.to_iterable_dataset(), 6)
    store = swept(tmp_path / "stream", streamed, Net().eval(), layers, target_key="label")
    np.testing.assert_array_equal(store.values("fc")[:], stores[0].values("fc")[:])


def store_order(fv):
    return ReferenceStore(fv.path).top("0", 0, "activation", 6).samples.tolist()


def test_images_of_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    plain = datasets.Dataset.from_dict({"image": images(6).tolist(), "label": classes()[:6]}).with_format("torch")
    store = swept(tmp_path, plain, small_model().float(), collate_fn=lambda rows: (
        torch.stack([row["image"] for row in rows]), torch.tensor([row["label"] for row in rows])
    ))
    assert store.targets.tolist() == classes()[:6]
    expected = relevance_of([{"y": [y]} for y in classes()])[:6]
    np.testing.assert_allclose(store.values("conv")[:], expected, rtol=1e-3, atol=1e-5)


def test_images_in_folders(tmp_path):
    from PIL import Image
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    for i, image in enumerate(images(6)):
        folder = tmp_path / "images" / ["cat", "dog"][i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image[0].numpy() * 255).astype(np.uint8)).convert("RGB").save(folder / f"{i}.png")
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 2)).eval()
    fv = view(tmp_path / "store", ImageFolder(tmp_path / "images", ToTensor()), model, {"0": ChannelConcept()})
    assert fv.run(EpsilonPlusFlat(), 0, 6, 4).targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert fv.class_names == ["cat", "dog"]
    figure = fv.plot_references(0, "0", "activation", (0, 6))
    captions = [axis.get_title() for axis in figure.axes]
    expected = [f"#{i} · target {'cat' if i < 3 else 'dog'}" for i in store_order(fv)]
    assert [caption.split("\n")[0] for caption in captions] == expected
    with pytest.raises(SampleError, match="put a transform such as ToTensor"):
        swept(tmp_path / "plain", ImageFolder(tmp_path / "images"), model, {"0": ChannelConcept()})
    later = view(fv.path, fv.dataset, model, {"0": ChannelConcept()})
    rmtree(tmp_path / "images")
    with pytest.raises(StoreError, match="Sample 0 cannot be read: FileNotFoundError"):
        later.get_max_reference(0, "0")


@pytest.mark.parametrize("data, message", [
    (lambda: DataLoader(TensorDataset(images(4))), "collate_fn=loader.collate_fn"),
    (lambda: Items([(images(1)[0], images(1)[0], torch.tensor([1, 0]))] * 3), r"\(\(first, second\), target\)"),
    (lambda: Items([{"x": images(1)[0], "y": 0}] * 3), "target_key=None if there are no targets"),
    (lambda: Items(["a sentence"] * 3), "not a builtins.str"),
    (lambda: Items([("a sentence", 0)] * 3), "tokens of a tokenizer"),
], ids=["DataLoader", "two inputs", "key", "text", "text with target"])
def test_other_forms_are_refused_with_what_would_work(tmp_path, data, message):
    with pytest.raises((TypeError, ValueError, SampleError), match=message):
        swept(tmp_path, data())


@pytest.mark.parametrize("change, message", [
    (lambda x: x[0], "batch axis is missing"), (lambda x: x.repeat(2, 1, 1, 1), "keeps that"),
    (lambda x: x[None], "axis of length 1"), (lambda x: "no tensor", "gives a builtins.str"),
])
def test_a_preprocess_fn_that_changes_the_batch_axis_is_told(tmp_path, change, message):
    with pytest.raises((SampleError, ValueError, TypeError), match=message):
        swept(tmp_path, Items(zip(images(COUNT), classes())), preprocess_fn=change)

def test_a_sweep_in_train_mode_leaves_the_statistics_of_batches_alone(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).train()
    images = torch.rand(6, 3, 5, 5)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fv = FeatureVisualization(
        CondAttribution(model), TensorDataset(images, torch.arange(6) % 3), {"2": ChannelConcept()}, path=tmp_path
    )
    fv.run(EpsilonPlusFlat(), 0, 6, 2)
    assert fv.get_max_reference([0], "2", "relevance", (0, 2), EpsilonPlusFlat())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)
