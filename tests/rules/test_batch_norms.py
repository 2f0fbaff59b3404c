import pytest
import torch
from small_architectures import small_architecture
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlus, EpsilonPlusFlat
from zennit.core import Composite
from zennit.rules import Epsilon, Pass
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit.types import BatchNorm, Linear

from crp.attribution import CondAttribution
from crp.rules.batch_norms import find_batch_norms, find_mergeable, merging


def with_statistics(model):
    """A model whose batch norms do something."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, .1)
            module.running_var.uniform_(.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, .5, 1.5)
                nn.init.normal_(module.bias, 0, .1)
    return model.eval()


def merged(model, composite=None):
    """Whether each batch norm is the identity while the composite is on the model; outputs stay the same."""
    composite = EpsilonPlus() if composite is None else composite
    takes_images = next(model.parameters()).ndim == 4
    x = torch.randn((2, 3, 32, 32) if takes_images else (2, 5), dtype=torch.double)
    expected = model(x)
    with merging(composite, model, find_mergeable(model, x)).context(model):
        torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
        return {
            name: bool(torch.all(module.running_var + module.eps == 1) and not module.running_mean.any())
            for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
        }


def test_batch_norms_are_merged_exactly():
    model = with_statistics(nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=.1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6),
    ).double())
    assert merged(model) == {"1": True, "4": True}
    assert model[1].eps == .1 and model[1].running_mean.any()


@pytest.mark.parametrize("layer, norm, shape", [
    (nn.ConvTranspose1d(4, 6, 3, groups=2), nn.BatchNorm1d(6), (2, 4, 5)),
    (nn.ConvTranspose2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6), (2, 6, 5, 5)),
    (nn.ConvTranspose3d(6, 9, 2, groups=3, stride=2), nn.BatchNorm3d(9), (2, 6, 3, 3, 3)),
    (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 5, 5)),
])
def test_batch_norms_after_layers_in_groups(layer, norm, shape, model_state):
    model = with_statistics(nn.Sequential(layer, norm).double())
    x, before = torch.randn(shape, dtype=torch.double), model_state(model)
    expected = model(x)
    with merging(EpsilonPlus(), model, find_mergeable(model, x)).context(model):
        assert torch.all(norm.running_var + norm.eps == 1) and not norm.running_mean.any()
        torch.testing.assert_close(model[0](x), expected)
    after = model_state(model)
    assert after[0].keys() == before[0].keys() and torch.equal(model(x), expected)
    assert [value[-1] for value in after[1].values()] == [value[-1] for value in before[1].values()]


def test_batch_norms_are_merged_in_the_order_of_execution():
    class Crossed(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.norm_of_first, self.first, self.norm_of_second = (
                nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 5), nn.BatchNorm1d(5)
            )

        def forward(self, x):
            return self.norm_of_second(self.second(self.norm_of_first(self.first(x)).relu()))

    model = with_statistics(Crossed().double())
    x = torch.randn(2, 5, dtype=torch.double)
    assert find_mergeable(model, x) == [("first", "norm_of_first"), ("second", "norm_of_second")]
    assert all(merged(model).values())


def test_a_layer_that_feeds_others_too_keeps_its_parameters():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5)

        def forward(self, x):
            x = self.layer(x)
            return x + self.norm(x)

    model = with_statistics(Both().double())
    assert merged(model) == {"norm": False}


def test_models_whose_code_depends_on_the_data():
    class Depending(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6))
            self.head, self.other = nn.Linear(6, 2), nn.BatchNorm1d(2)

        def forward(self, x):
            if x.sum() > 0:
                x = x * 1
            return self.other(self.head(self.body(x)))

    model = with_statistics(Depending().double())
    assert merged(model) == {"body.1": True, "body.3": False, "other": True}


def test_batch_norms_without_parameters_stay():
    model = with_statistics(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False))).double()
    assert merged(model) == {"1": False}


def test_functional_operations_between_do_not_hide_who_takes_what():
    class Between(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm, self.other, self.other_norm = (
                nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 5), nn.BatchNorm1d(5)
            )

        def forward(self, x):
            x = self.norm(self.layer(x).relu())
            assert x.shape[1] == 5
            return self.other_norm(self.other(x))

    assert merged(with_statistics(Between().double())) == {"norm": False, "other_norm": True}


def test_layers_called_twice_stay():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5)

        def forward(self, x):
            return self.layer(self.norm(self.layer(x)))

    assert merged(with_statistics(Twice().double())) == {"norm": False}


def test_a_canonizer_of_the_users_comes_first():
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=.1)).double())
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    composite = EpsilonPlus(canonizers=[SequentialMergeBatchNorm()])
    with composite.context(model):
        alone = model(x)
    with merging(composite, model, find_mergeable(model, x)).context(model):
        torch.testing.assert_close(model(x), alone, rtol=1e-9, atol=1e-9)


def test_a_rule_that_a_composite_has_for_batch_norms_is_kept():
    model = with_statistics(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double())
    rules = {Linear: Epsilon(), BatchNorm: Epsilon()}
    own = Composite(lambda context, name, module: next((r for t, r in rules.items() if isinstance(module, t)), None))
    assert merged(model, own) == {"1": False}
    rules[BatchNorm] = Pass()
    assert merged(model, own) == {"1": True}


def test_batch_norms_in_train_mode_stay():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double().train()
    assert find_mergeable(model, torch.randn(2, 5, dtype=torch.double)) == []


@pytest.mark.parametrize("name, canonizer", [
    ("resnet18", ResNetCanonizer), ("resnet50", ResNetCanonizer), ("vgg11_bn", VGGCanonizer),
])
def test_heatmaps_as_with_zennits_canonizers(name, canonizer):
    model = with_statistics(small_architecture(name, num_classes=5)).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    ours, zennits = (
        CondAttribution(model, functional=functional)(images, [{"y": [1]}], EpsilonPlusFlat(canonizers=given)).heatmap
        for functional, given in ((True, []), (False, [canonizer()]))
    )
    assert (ours - zennits).abs().max() < 1e-3 * zennits.abs().max()  # zennit's merged batch norms keep their epsilon
    both = CondAttribution(model)(images, [{"y": [1]}], EpsilonPlusFlat(canonizers=[canonizer()])).heatmap
    assert (both - zennits).abs().max() < 1e-8 * zennits.abs().max()


def test_layers_before_a_merged_batch_norm_are_read_and_masked_as_with_a_canonizer():
    model = with_statistics(nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 3)
    ).double())
    images, conditions = torch.randn(2, 3, 32, 32, dtype=torch.double), [{"0": [1, 2], "y": [1]}]
    results = [
        CondAttribution(model, functional=functional)(images, conditions, EpsilonPlus(canonizers=given), ["0"])
        for functional, given in ((True, []), (False, [SequentialMergeBatchNorm()]))
    ]
    for name in ("relevances", "activations"):
        ours, zennits = (getattr(result, name)["0"] for result in results)
        torch.testing.assert_close(ours, zennits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*(result.heatmap for result in results), rtol=1e-4, atol=1e-4)


def test_the_model_stays_as_it_is(model_state):
    model = with_statistics(small_architecture("resnet18", num_classes=5))
    before = model_state(model)
    attribution = CondAttribution(model)
    for _ in range(2):
        attribution(torch.randn(2, 3, 32, 32), [{"y": [1]}], EpsilonPlus())
        assert model_state(model) == before


class WrittenOut(nn.Module):
    """A batch norm as scale and shift."""

    def __init__(self, norm):
        super().__init__()
        scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
        self.scale, self.shift = scale[:, None, None], (norm.bias.detach() - norm.running_mean * scale)[:, None, None]

    def forward(self, x):
        return x * self.scale + self.shift


def behind_activations(make=lambda norm: norm):
    torch.manual_seed(0)
    norms = [with_statistics(nn.BatchNorm2d(4).double()) for _ in range(3)]
    for norm in norms:
        nn.init.normal_(norm.bias)
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), make(norms[0]), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.SiLU(),
        nn.AvgPool2d(2), make(norms[1]), nn.Conv2d(4, 4, 1), nn.Identity(), nn.Hardtanh(), nn.Dropout(), make(norms[2]),
        nn.Flatten(), nn.LazyLinear(3),
    ).double().eval()


@pytest.mark.parametrize("options", [{}, {"accelerate": False}])
def test_after_an_activation_the_shift_gets_its_share(options):
    x, results = torch.randn(2, 3, 14, 14, dtype=torch.double), []
    for make in (lambda norm: norm, WrittenOut):
        model = behind_activations(make)
        model(x)
        results.append(CondAttribution(model, **options)(x, [{"y": [1]}], EpsilonPlus(), ["1", "5"]))
        found = find_batch_norms(model, x).after_activation
        assert found == ([] if make is WrittenOut else ["2", "7", "12"])
        audit = CondAttribution(model, **options).audit(x, EpsilonPlus())
        assert not audit.notes and audit.accounted == pytest.approx(1)
    for name in ("1", "5"):
        torch.testing.assert_close(*(result.relevances[name] for result in results), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(*(result.heatmap for result in results), rtol=1e-6, atol=1e-9)


def test_after_an_activation_a_rule_of_the_composite_is_kept():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
    model, x = with_statistics(model.double()), torch.randn(1, 3, 5, 5, dtype=torch.double)

    class OwnPass(Pass):
        pass

    base = EpsilonPlus()
    own = Composite(lambda c, n, m: OwnPass() if isinstance(m, BatchNorm) else base.module_map(c, n, m))
    for functional, composite in ((True, own), (False, EpsilonPlus())):
        result = CondAttribution(model, functional=functional)(x, [{"y": [1]}], composite, ["1", "2"])
        torch.testing.assert_close(result.relevances["1"], result.relevances["2"], rtol=0, atol=0)


def test_other_batch_norms_pass_relevance():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(x + self.conv(x).relu()).mean((2, 3))

    model, x = with_statistics(Residual().double()), torch.randn(1, 3, 5, 5, dtype=torch.double)
    assert find_batch_norms(model, x).after_activation == []
    audit = CondAttribution(model).audit(x, EpsilonPlus())
    assert [operation.rule for operation in audit.operations if operation.module == "norm"] == ["PassThrough"]
    assert audit.notes == ["batch norm is not merged into the layer before it: norm"]
