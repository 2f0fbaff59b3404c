import pytest
import torch
import torchvision
from torch import nn
from zennit.composites import EpsilonPlus, EpsilonPlusFlat, GuidedBackprop
from zennit.torchvision import ResNetCanonizer

from crp.attribution import CondAttribution
from crp.composites import default_composite, gives_relevance


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


def is_merged(model, composite):
    """Whether each batch norm is the identity while the composite is on the model; outputs stay the same."""
    takes_images = next(model.parameters()).ndim == 4
    x = torch.randn((2, 3, 32, 32) if takes_images else (2, 5), dtype=torch.double)
    expected = model(x)
    with composite.context(model):
        torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)
        return {
            name: bool(torch.all(module.running_var + module.eps == 1) and not module.running_mean.any())
            for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
        }


def test_batch_norms_are_merged_exactly():
    model = with_statistics(nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=.1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6),
    ).double())
    assert is_merged(model, default_composite(model, verbose=False)) == {"1": True, "4": True}
    assert model[1].eps == .1 and model[1].running_mean.any()


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
    composite = default_composite(model, verbose=False)
    assert composite.canonizers[0].name_map == [(["first"], "norm_of_first"), (["second"], "norm_of_second")]
    assert all(is_merged(model, composite).values())


def test_a_layer_that_feeds_others_too_keeps_its_parameters():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5)

        def forward(self, x):
            x = self.layer(x)
            return x + self.norm(x)

    model = with_statistics(Both().double())
    assert is_merged(model, default_composite(model, verbose=False)) == {"norm": False}


def test_models_that_cannot_be_traced():
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6))
            self.head, self.other = nn.Linear(6, 2), nn.BatchNorm1d(2)

        def forward(self, x):
            if x.sum() > 0:
                x = x * 1
            return self.other(self.head(self.body(x)))

    model = with_statistics(Untraceable().double())
    assert is_merged(model, default_composite(model, verbose=False)) == {"body.1": True, "body.3": False, "other": True}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_residual_networks_as_by_zennits_canonizer(name):
    model = with_statistics(getattr(torchvision.models, name)(num_classes=5)).double()
    composite = default_composite(model, verbose=False)
    assert all(is_merged(model, composite).values())
    images = torch.randn(2, 3, 32, 32, dtype=torch.double)
    ours, zennits = (
        CondAttribution(model)(images, [{"y": [1]}], rules).heatmap
        for rules in (composite, EpsilonPlusFlat(canonizers=[ResNetCanonizer()]))
    )
    assert (ours - zennits).abs().max() < 1e-3 * zennits.abs().max()  # zennit's merged batch norms keep their epsilon


def test_it_says_what_it_chose(capsys):
    default_composite(torchvision.models.resnet18())
    assert capsys.readouterr().out.splitlines() == [
        "rules: EpsilonPlusFlat (ZPlus in convolutions, Epsilon in linear layers, Flat in 'conv1')",
        "canonizer: MergeNamedBatchNorm (20 of 20 batch norms merged)",
        "canonizer: ResNetBasicBlockCanonizer (additions of 8 residual blocks)",
    ]


def test_a_first_layer_that_is_no_convolution_keeps_its_weights(capsys):
    composite = default_composite(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    assert type(composite) is EpsilonPlus and composite.canonizers == []
    assert capsys.readouterr().out == "rules: EpsilonPlus (ZPlus in convolutions, Epsilon in linear layers)\n"


def test_models_without_linear_layers():
    with pytest.raises(ValueError, match="no linear layer"):
        default_composite(nn.Sequential(nn.ReLU()))


def test_batch_norms_without_parameters_stay():
    model = with_statistics(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False))).double()
    assert is_merged(model, default_composite(model, verbose=False)) == {"1": False}


def test_the_model_stays_as_it_is(model_state):
    model = torchvision.models.resnet18().eval()
    before = model_state(model)
    default_composite(model, verbose=False)
    assert model_state(model) == before


def test_which_composites_give_relevance():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU())
    assert gives_relevance(EpsilonPlus(), model) and gives_relevance(EpsilonPlusFlat(), model)
    assert not gives_relevance(GuidedBackprop(), model)
