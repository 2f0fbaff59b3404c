"""A KeyboardInterrupt at any moment leaves the model, the thread and the composite as they were."""
import warnings

import pytest
import torch
from interrupts_of_calls import interrupt_calls, state_of
from torch import nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlusFlat

from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept, EncodedConcept
from crp.graph import trace_model_graph
from crp.rules.restoring import run_undone, undoing

IMAGES = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
CONDITIONS = [{"conv": [1], "y": [1]}]


class Network(nn.Module):
    """With what needs rules, patches and merged batch norms; and an attribute of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 5, 3, padding="same"), nn.BatchNorm2d(5)
        self.relu, self.fc, self.out = nn.ReLU(), nn.Linear(180, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = torch.vmap(lambda row: row * 2)(x)
        return self.out(nn.functional.softmax(self.fc(x.flatten(1)), -1))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(10, 8), nn.Linear(8, 3)
        self.conv = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, ids):
        return self.out(self.conv(self.embedding(ids)).mean(1))


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 10), nn.Linear(10, 4)

    def encode(self, x):
        self.norm = x.norm(dim=-1, keepdim=True)
        return self.encoder(x / self.norm).relu()

    def decode(self, code):
        return self.decoder(code) * self.norm


def call(model, composite):
    attribution = CondAttribution(model)
    return lambda: attribution(IMAGES, CONDITIONS, composite, ["conv", "fc"])


def call_with_zennits_rules(model, composite):
    attribution = CondAttribution(model, accelerate=False)
    return lambda: attribution(IMAGES, CONDITIONS, composite, ["conv"])


def call_that_finds_samples(model, composite):
    return lambda: CondAttribution(model)(IMAGES, CONDITIONS, composite, ["conv"])


def call_from_a_layer(model, composite):
    attribution = CondAttribution(model)
    return lambda: attribution(IMAGES, [{"conv": [1]}], composite, start_layer="fc", record_layer=["conv"])


def call_without_gradients(model, composite):
    attribution = CondAttribution(model)

    def run():
        with torch.no_grad():
            attribution(IMAGES, CONDITIONS, composite, ["conv"])

    return lambda: run_undone(run)  # contexts of users have gaps of their own


def call_with_an_autoencoder(model, composite):
    autoencoder, attribution = Autoencoder(), CondAttribution(model)
    concept = EncodedConcept(autoencoder.encode, autoencoder.decode)
    model.encoder = autoencoder  # so that its state is compared
    return lambda: attribution(IMAGES, [{"fc": [1], "y": [1]}], composite, ["fc"], mask_map={"fc": concept})


def generate(model, composite):
    attribution, conditions = CondAttribution(model), [{"conv": [i], "y": [1]} for i in range(5)]
    return lambda: list(attribution.generate(IMAGES[:1], conditions, composite, batch_size=2, verbose=False))


def calls_in_a_context(model, composite):
    attribution = CondAttribution(model)

    def run():
        with attribution.attached(composite, IMAGES[:1]):
            attribution(IMAGES, CONDITIONS, composite, ["conv"])

    return lambda: run_undone(run)


def audit(model, composite):
    attribution = CondAttribution(model)
    return lambda: attribution.audit(IMAGES, composite)


def trace(model, composite):
    return lambda: trace_model_graph(model, IMAGES[:1], ["conv", "fc"])


def call_of_tokens(model, composite):
    attribution, ids = CondAttribution(model, functional="attnlrp"), torch.arange(6).view(2, 3)
    return lambda: attribution(ids, CONDITIONS, composite, ["conv"], mask_map=ChannelConcept(-1))


WAYS = [
    call, call_with_zennits_rules, call_that_finds_samples, call_from_a_layer, call_without_gradients,
    call_with_an_autoencoder, generate, calls_in_a_context, audit, trace,
]


def check(way, tries, model=None, training=False, canonizers=()):
    torch.manual_seed(0)
    model = (Network() if model is None else model).train(training)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_()
    composite = EpsilonPlusFlat(canonizers=list(canonizers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function = way(model, composite)
        interrupted, leftovers = interrupt_calls(function, lambda: state_of(model, composite), tries)
        assert interrupted > tries / 4
        for error, differences in leftovers:
            raise AssertionError(f"{len(leftovers)} of {interrupted} leave something: {differences}") from error
        function()


@pytest.mark.parametrize("way", WAYS)
def test_nothing_stays_when_interrupted(way):
    check(way, 40)


@pytest.mark.parametrize("options", [
    {"training": True}, {"canonizers": [SequentialMergeBatchNorm()]},
])
def test_nothing_stays_of_what_rules_change(options):
    check(call, 40, **options)
    check(call_with_zennits_rules, 40, **options)


def test_nothing_stays_on_a_transformer():
    check(call_of_tokens, 40, Transformer())


@pytest.mark.slow
@pytest.mark.parametrize("way", [call, audit])
def test_nothing_stays_in_thousands_of_tries(way):
    check(way, 2000)


def test_undoing_goes_on_when_it_is_interrupted():
    begun, undone = [], []

    def undo():
        begun.append(1)
        if len(begun) == 1:
            raise KeyboardInterrupt
        undone.append(1)

    with pytest.raises(KeyboardInterrupt):
        run_undone(lambda: None, undo)
    assert begun == [1, 1] and undone == [1]


def test_all_is_undone_where_one_thing_cannot_be():
    undone = []

    def fail():
        raise ValueError("cannot")

    with pytest.raises(ValueError, match="cannot"):
        run_undone(lambda: None, fail, lambda: undone.append(1))
    assert undone
    guard = undoing(lambda: undone.clear())
    guard.close()
    assert undone  # it had not begun


def test_what_users_attach_between_results_stays():
    model = Network().eval()
    attribution, seen = CondAttribution(model), []
    results = attribution.generate(
        IMAGES[:1], [{"y": [i]} for i in range(3)], EpsilonPlusFlat(), batch_size=1, verbose=False
    )
    next(results)
    model.conv.register_forward_hook(lambda module, args, output: seen.append(1))
    model.conv.note = "mine"
    results.close()
    model(IMAGES)
    assert seen == [1] and model.conv.note == "mine"
