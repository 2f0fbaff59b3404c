"""Integers of the data, and of which element of the data they are when something is looked up."""
import gc
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

from crp.attribution import CondAttribution
from crp.composites import LanguageModel

WORDS, FEATURES = 20, 8


class Net(nn.Module):
    """A linear model of what is looked up: the relevance of an integer is its contribution to the output."""

    def __init__(self, lookup):
        super().__init__()
        self.table, self.head, self.lookup = nn.Embedding(WORDS, FEATURES), nn.Linear(FEATURES, 3, bias=False), lookup
        self.map = nn.Buffer(torch.randperm(WORDS))

    def forward(self, ids):
        return self.head(self.lookup(self, ids).sum(1))


def shifted_right(ids):
    shifted = ids.new_zeros(ids.shape)
    shifted[:, 1:] = ids[:, :-1].clone()
    shifted[:, 0] = 3
    return shifted


def written_to(ids):
    ids = ids.clone()
    ids[ids == 2] = 4
    return ids.add_(1).clamp_(max=WORDS - 1)


STEPS, FEATURE_NUMBERS = torch.arange(4.)[:, None], torch.arange(8.)


def weight(net):
    return net.table.weight


def rows(net, ids):
    return net.table.weight[ids]


def but_last(found):
    return torch.cat([found[:, :-1], torch.zeros_like(found[:, :1])], 1)


def filled_through_a_view(ids):
    ids = ids.clone()
    ids[:, 1:].fill_(3)
    return ids


def shifted_through_a_view(ids):
    shifted = ids.new_zeros(ids.shape)
    shifted[:, 1:].copy_(ids[:, :-1])
    return shifted


def added_to_another(ids):
    return torch.add(ids, 1, out=torch.empty_like(ids)).clamp(max=WORDS - 1)


CASES = {  # how ids are looked up, and what each of them finds
    "as they are": (lambda net, ids: net.table(ids), rows),
    "transposed": (lambda net, ids: net.table(ids.t().contiguous()).transpose(0, 1), rows),
    "padded": (lambda net, ids: net.table(functional.pad(ids, (0, 2)))[:, :-2], rows),
    "padded with words": (lambda net, ids: net.table(functional.pad(ids, (1, 2), value=3)), rows),
    "offsets": (lambda net, ids: net.table(ids + torch.tensor([0, 5, 10, 15])),
                lambda net, ids: rows(net, ids + torch.tensor([0, 5, 10, 15]))),
    "clamped": (lambda net, ids: net.table(ids.clamp(1, 3)), lambda net, ids: rows(net, ids.clamp(1, 3))),
    "cast": (lambda net, ids: net.table(ids.int().long().to(torch.int32)), rows),
    "shifted by cat": (lambda net, ids: net.table(torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], 1)),
                       lambda net, ids: but_last(rows(net, ids))),
    "shifted by writing": (lambda net, ids: net.table(shifted_right(ids)),
                           lambda net, ids: but_last(rows(net, ids))),
    "rolled": (lambda net, ids: net.table(ids.roll(1, 1)) * STEPS, lambda net, ids: rows(net, ids) * STEPS.roll(-1, 0)),
    "flipped": (lambda net, ids: net.table(ids.flip(1)) * STEPS, lambda net, ids: rows(net, ids) * STEPS.flip(0)),
    "where": (lambda net, ids: net.table(torch.where(ids > 2, ids, ids - 1 + 1)), rows),
    "written to": (lambda net, ids: net.table(written_to(ids)),
                   lambda net, ids: rows(net, ids.clamp(max=18) + 1) * (ids != 2)[..., None]),
    "filled through a view": (lambda net, ids: net.table(filled_through_a_view(ids)),
                              lambda net, ids: rows(net, ids) * torch.tensor([1, 0, 0, 0])[:, None]),
    "shifted through a view": (lambda net, ids: net.table(shifted_through_a_view(ids)),
                               lambda net, ids: but_last(rows(net, ids))),
    "added to another": (lambda net, ids: net.table(added_to_another(ids)),
                         lambda net, ids: rows(net, ids.clamp(max=18) + 1)),
    "hashed": (lambda net, ids: net.table(ids * 7 % 11), lambda net, ids: rows(net, ids * 7 % 11)),
    "mapped": (lambda net, ids: net.table(net.map[ids]), lambda net, ids: rows(net, net.map[ids])),
    "repeated": (lambda net, ids: net.table(ids.repeat(1, 2)), lambda net, ids: 2 * rows(net, ids)),
    "expanded": (lambda net, ids: net.table(ids[:, None].expand(-1, 3, -1)).flatten(1, 2),
                 lambda net, ids: 3 * rows(net, ids)),
    "columns": (lambda net, ids: torch.stack([net.table(ids[:, i]) for i in range(ids.shape[1])], 1), rows),
    "unbound": (lambda net, ids: torch.stack([net.table(column) for column in ids.unbind(1)], 1), rows),
    "parts": (lambda net, ids: torch.cat([net.table(ids[:, :3]), 2 * net.table(ids[:, 3:])], 1),
              lambda net, ids: rows(net, ids) * torch.tensor([1, 1, 1, 2])[:, None]),
    "twice": (lambda net, ids: net.table(ids) + weight(net).flip(0)[ids],
              lambda net, ids: rows(net, ids) + weight(net).flip(0)[ids]),
    "one by one": (lambda net, ids: torch.stack([net.table(word) for row in ids for word in row]).view(*ids.shape, 8),
                   rows),
    "functional.embedding": (lambda net, ids: functional.embedding(ids, weight(net)), rows),
    "weight[ids]": (lambda net, ids: weight(net)[ids], rows),
    "weight[ids, :]": (lambda net, ids: weight(net)[ids, :], rows),
    "weight.T[:, ids]": (lambda net, ids: weight(net).T[:, ids].movedim(0, -1), rows),
    "one feature": (lambda net, ids: weight(net)[:, 0][ids][..., None] * FEATURE_NUMBERS,
                    lambda net, ids: weight(net)[ids][..., :1] * FEATURE_NUMBERS),
    "index_select": (lambda net, ids: weight(net).index_select(0, ids.flatten()).view(*ids.shape, 8), rows),
    "gather": (lambda net, ids: weight(net).expand(len(ids), -1, -1).gather(1, ids[..., None].expand(-1, -1, 8)), rows),
    "take_along_dim": (lambda net, ids: torch.take_along_dim(weight(net)[None], ids[..., None], 1), rows),
    "one hot": (lambda net, ids: functional.one_hot(ids, WORDS).to(weight(net)) @ weight(net), rows),
    "one hot, some": (lambda net, ids: functional.one_hot(ids, WORDS)[..., :9].double() @ weight(net)[:9],
                      lambda net, ids: rows(net, ids) * (ids < 9)[..., None]),
    "bags": (lambda net, ids: functional.embedding_bag(ids, weight(net))[:, None], lambda net, ids: rows(net, ids) / 4),
    "weighted bags": (
        lambda net, ids: functional.embedding_bag(
            ids, weight(net), mode="sum", padding_idx=2, per_sample_weights=torch.arange(8.).double().view(2, 4)
        )[:, None],
        lambda net, ids: rows(net, ids) * torch.arange(8.).view(2, 4, 1) * (ids != 2)[..., None],
    ),
}
IDS = {"distinct": [[7, 2, 11, 5], [3, 13, 17, 0]], "few": [[2, 0, 2, 1], [1, 1, 2, 0]], "equal": [[3] * 4] * 2}


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("name", CASES)
def test_relevance_comes_back_to_the_integers_that_look_something_up(name, kind):
    lookup, finds = CASES[name]
    model, ids = Net(lookup).double().eval(), torch.tensor(IDS[kind])
    if name == "offsets":
        ids = ids % 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heatmap = CondAttribution(model)(ids, [{"y": [1]}], LanguageModel(1e-12)).heatmap
    torch.testing.assert_close(heatmap, (finds(model, ids) * model.head.weight[1]).sum(-1), rtol=1e-6, atol=1e-9)


class Columns(nn.Module):
    """A table of real numbers, some columns of which are categories."""

    def __init__(self, category):
        super().__init__()
        self.table, self.head, self.category = nn.Embedding(WORDS, 4), nn.Linear(6, 3, bias=False), category

    def forward(self, x):
        return self.head(torch.cat([x[:, 1:2], self.table(self.category(x)), x[:, 2:]], 1))


@pytest.mark.parametrize("category", [
    lambda x: x[:, 0].long(), lambda x: x[..., 0].round().int(), lambda x: x.unbind(1)[0].to(torch.int64),
    lambda x: x.t()[0].type(torch.long).clamp(0, WORDS - 1), lambda x: x[:, :1].long().squeeze(1),
    lambda x: torch.bucketize(x[:, 0].contiguous(), torch.arange(1., 18).double()),
    lambda x: torch.searchsorted(torch.arange(1., 18).double(), x[:, 0].contiguous()),
], ids=["long", "round", "to", "type", "squeeze", "bucketize", "searchsorted"])
def test_columns_of_categories_in_a_table_of_real_numbers(category):
    model, x = Columns(category).double().eval(), torch.randn(3, 3, dtype=torch.double)
    x[:, 0] = torch.tensor([3., 17, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attribution = CondAttribution(model, heatmap_axis=None)
        heatmap = attribution(x, [{"y": [1]}], LanguageModel(1e-12)).heatmap
        assert attribution.audit(x, LanguageModel()).total == pytest.approx(1, abs=1e-4)
    w = model.head.weight[1]
    expected = torch.stack([model.table(category(x)) @ w[1:5], w[0] * x[:, 1], w[5] * x[:, 2]], 1)
    torch.testing.assert_close(heatmap, expected, rtol=1e-6, atol=1e-9)
    leaf = x.clone().requires_grad_()
    attribution(leaf, [{"y": [1]}], LanguageModel(1e-12))
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-6, atol=1e-9)


def test_real_numbers_that_become_integers_and_look_nothing_up_are_named():
    model = Columns(lambda x: (x[:, 0].long() > 3).long()).double().eval()
    with pytest.warns(UserWarning, match=r"ends at a cast to torch.int64 \(test_lookups.py:\d+\)"):
        CondAttribution(model, heatmap_axis=None)(torch.rand(2, 3, dtype=torch.double), [{"y": [1]}], LanguageModel())


class Pair(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.table, self.head, self.join = nn.Embedding(WORDS, FEATURES), nn.Linear(FEATURES, 3, bias=False), join

    def forward(self, first, second):
        return self.head(self.join(self.table, first, second).sum(1))


@pytest.mark.parametrize("join", [
    lambda table, first, second: table(first) - 2 * table(second).roll(1, 2),
    lambda table, first, second: table(torch.cat([second, first], 1)) * torch.tensor([-2., -2, -2, 1, 1, 1])[:, None],
], ids=["apart", "joined"])
def test_two_inputs_that_show_the_same_memory(join):
    ids = torch.randint(WORDS, (2, 5))
    model, data = Pair(join).double().eval(), (ids[:, :3], ids[:, 2:])
    first, second = CondAttribution(model)(data, [{"y": [1]}], LanguageModel(1e-12)).heatmap
    rows = [model.table(part) for part in data]
    rows[1] = rows[1].roll(1, 2) if join(model.table, *data).shape[1] == 3 else rows[1]
    for heatmap, found, factor in zip((first, second), rows, (1, -2)):
        torch.testing.assert_close(heatmap, factor * found @ model.head.weight[1], rtol=1e-6, atol=1e-9)


def test_integers_that_stand_for_several_are_named():
    model = Pair(lambda table, first, second: table((first * 31 + second) % WORDS)).double().eval()
    ids = torch.randint(WORDS, (2, 3))
    with pytest.raises(ValueError, match="relevance reaches none of the data: they are integers"):
        CondAttribution(model)((ids, ids.flip(1)), [{"y": [1]}], LanguageModel())


def test_positions_that_are_counted_from_ids_get_no_relevance():
    positions = nn.Embedding(9, FEATURES)

    def lookup(net, ids):
        mask = ids.ne(1).int()
        steps = torch.arange(4).expand_as(ids)
        return net.table(ids) + positions((mask.cumsum(1) * mask).long() + 1) + positions(steps)

    model, ids = Net(lookup).double().eval(), torch.tensor(IDS["few"])
    positions.double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heatmap = CondAttribution(model)(ids, [{"y": [1]}], LanguageModel(1e-12)).heatmap
    torch.testing.assert_close(heatmap, rows(model, ids) @ model.head.weight[1], rtol=1e-6, atol=1e-9)


def test_masks_get_none_and_features_are_kept_on_request():
    model = Pair(lambda table, ids, mask: table(ids) * mask.unsqueeze(-1).to(table.weight)).double().eval()
    ids, mask = torch.tensor(IDS["few"]), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    attribution = CondAttribution(model, heatmap_axis=None)
    heatmap, of_mask = attribution((ids, mask), [{"y": [1]}], LanguageModel(1e-12)).heatmap
    assert of_mask is None
    expected = model.table(ids) * mask[..., None] * model.head.weight[1]
    torch.testing.assert_close(heatmap, expected, rtol=1e-6, atol=1e-9)


def test_features_of_different_lookups_do_not_add_up():
    narrow = nn.Embedding(WORDS, 4).double()
    model = Net(lambda net, ids: net.table(ids) + narrow(ids).repeat(1, 1, 2)).double().eval()
    with pytest.raises(ValueError, match=r"heatmap_axis=None.*\(8,\), \(4,\)"):
        CondAttribution(model, heatmap_axis=None)(torch.tensor(IDS["few"]), [{"y": [1]}], LanguageModel())
    heatmap = CondAttribution(model)(torch.tensor(IDS["few"]), [{"y": [1]}], LanguageModel(1e-9)).heatmap
    torch.testing.assert_close(heatmap.sum(1), model(torch.tensor(IDS["few"]))[:, 1].detach(), rtol=1e-5, atol=1e-9)


def test_the_data_stay_as_they_are():
    ids = torch.tensor(IDS["few"])

    def lookup(net, ids):
        ids[:, 0] = 5
        return net.table(ids)

    heatmap = CondAttribution(Net(lookup).eval())(ids, [{"y": [1]}], LanguageModel()).heatmap
    assert ids.tolist() == IDS["few"] and not heatmap[:, 0].any() and heatmap[:, 1:].all()


@pytest.mark.parametrize("take", [lambda ids: ids[:, :2] * 1, lambda ids: ids[:, :2]], ids=["copied", "as it is"])
def test_views_of_what_is_written_to(take):
    def lookup(net, ids):
        first, last, rest = ids[:, :2], ids[:, -1:], ids[:, 2:]
        rest[:, 1:] = 3
        rest += 1
        return torch.cat([net.table(take(first)), net.table(last), net.table(rest)], 1)

    model, ids = Net(lookup).double().eval(), torch.tensor(IDS["few"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heatmap = CondAttribution(model)(ids.clone(), [{"y": [1]}], LanguageModel(1e-12)).heatmap
    found = torch.cat([rows(model, ids[:, :2]), rows(model, ids[:, 2:3] + 1), torch.zeros(2, 1, FEATURES)], 1)
    torch.testing.assert_close(heatmap, found @ model.head.weight[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("other", [
    lambda ids: ids.cumsum(1) % WORDS, lambda ids: (ids.roll(1, 1) * 31 + ids) % WORDS, lambda ids: ids.sort(1).values,
    lambda ids: torch.unique(ids, return_inverse=True)[1],
], ids=["cumsum", "pairs", "sort", "unique"])
def test_lookups_by_integers_that_stand_for_several_are_named(other):
    model = Net(lambda net, ids: net.table(ids) + net.table(other(ids))).double().eval()
    with pytest.warns(UserWarning, match="relevance ends at embedding.*integers others stand is not known"):
        CondAttribution(model)(torch.tensor(IDS["few"]), [{"y": [1]}], LanguageModel())


def test_positions_that_are_counted_from_a_mask_get_no_relevance():
    class Masked(Pair):
        def forward(self, ids, mask):
            return self.head((self.table(ids) + self.table((mask.cumsum(1) * mask).long() + 1)).sum(1))

    ids, mask = torch.tensor(IDS["few"]), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, of_mask = CondAttribution(Masked(None).eval())((ids, mask), [{"y": [1]}], LanguageModel()).heatmap
    assert of_mask is None


@pytest.mark.parametrize("options", [{"sparse": True}, {"padding_idx": -18}, {"padding_idx": 2}], ids=str)
def test_options_of_bags(options):
    model = Net(lambda net, ids: functional.embedding_bag(ids, weight(net), mode="sum", **options)[:, None])
    model, ids = model.double().eval(), torch.tensor(IDS["few"])
    result = CondAttribution(model)(ids, [{"y": [1]}], LanguageModel(1e-12))
    torch.testing.assert_close(result.prediction, model(ids).detach())
    counted = (ids != 2) if "padding_idx" in options else torch.ones_like(ids)
    expected = rows(model, ids) @ model.head.weight[1] * counted
    torch.testing.assert_close(result.heatmap, expected, rtol=1e-6, atol=1e-9)


def test_nothing_of_the_data_is_kept_in_circles():
    kept = []

    class Patches(Columns):
        def forward(self, x):
            moved = x.t().contiguous().t()
            kept.append(weakref.ref(moved))
            return super().forward(moved)

    model = Patches(lambda x: x[:, 0].long()).eval()
    attribution, x = CondAttribution(model, heatmap_axis=None), torch.ones(2, 3)
    attribution(x, [{"y": [1]}], LanguageModel())
    gc.collect()
    gc.disable()
    try:
        kept.clear()
        attribution(x, [{"y": [1]}], LanguageModel())
        assert kept and all(reference() is None for reference in kept)
    finally:
        gc.enable()


def test_a_column_that_is_written_to_after_it_was_taken():
    class Zeroed(Columns):
        def forward(self, x):
            x = x.clone()
            x[:, 2] = 1
            category = x[:, 0].long()
            x[:, 0] = 0
            return self.head(torch.cat([x[:, 1:2], self.table(category), x[:, :1]], 1))

    model, x = Zeroed(None).double().eval(), torch.tensor([[3., .5, 1], [7, -1, 2]], dtype=torch.double)
    heatmap = CondAttribution(model, heatmap_axis=None)(x, [{"y": [1]}], LanguageModel(1e-12)).heatmap
    w = model.head.weight[1]
    expected = torch.stack([model.table(x[:, 0].long()) @ w[1:5], w[0] * x[:, 1], 0 * x[:, 2]], 1)
    torch.testing.assert_close(heatmap, expected, rtol=1e-6, atol=1e-9)
