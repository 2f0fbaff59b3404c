"""Autoencoders as they are found in libraries: with a norm that is kept from encoding to decoding, in other types."""
import copy

import pytest
import torch
from torch import nn
from zennit.composites import EpsilonPlus

from crp.attribution import CondAttribution
from crp.concepts import EncodedConcept
from crp.store.fingerprint import fingerprint


class Autoencoder(nn.Module):
    """Normalises what it encodes, and deletes what it needs for that when it has decoded."""

    def __init__(self, centred=False):
        super().__init__()
        torch.manual_seed(1)
        self.centred = centred
        self.encoder, self.decoder = nn.Linear(8, 20), nn.Linear(20, 8)

    def encode(self, x):
        self.mean = x.mean(-1, keepdim=True) if self.centred else 0
        x = x - self.mean
        scale = x.std(-1, keepdim=True) if self.centred else x.norm(dim=-1, keepdim=True)
        self.scale = scale
        return self.encoder(x / scale).relu()

    def decode(self, code):
        decoded = self.decoder(code) * self.scale + self.mean
        del self.scale, self.mean
        return decoded


class WithoutDeletion(Autoencoder):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", None)

    def encode(self, x):
        self.scale = x.norm(dim=-1, keepdim=True)
        return self.encoder(x / self.scale).relu()

    def decode(self, code):
        return self.decoder(code) * self.scale


class InTwoParts:
    """No module itself, and encodes to more than the code."""

    def __init__(self):
        self.parts = Autoencoder().double()
        self.encoder, self.decoder = self.parts.encoder, self.parts.decoder

    def encode(self, x):
        code = self.parts.encode(x)
        return -code, code

    def decode(self, code):
        return self.parts.decode(code)


def functions_of(autoencoder):
    """Those of an autoencoder that keeps norms where no object has them."""
    norms = []

    def encode(x):
        norms.append(x.norm(dim=-1, keepdim=True))
        return autoencoder.encoder(x / norms[-1]).relu()

    return encode, lambda code: autoencoder.decoder(code) * norms.pop()


@pytest.fixture(params=["deleted", "mean and deviation", "kept", "one of two", "functions"])
def found(request):
    """An autoencoder and its concept."""
    if request.param == "one of two":
        autoencoder = InTwoParts()
        return autoencoder, EncodedConcept(lambda x: autoencoder.encode(x)[1], autoencoder.decode)
    autoencoder = WithoutDeletion() if request.param == "kept" else Autoencoder(request.param == "mean and deviation")
    autoencoder.double()
    functions = functions_of(autoencoder) if request.param == "functions" else (autoencoder.encode, autoencoder.decode)
    return autoencoder, EncodedConcept(*functions)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Identity(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()


X = torch.randn(3, 8, dtype=torch.double, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.], [2], [5]])


def stabilized(z):
    return z + torch.copysign(torch.tensor(1e-6, dtype=z.dtype), z)


def expected_of(autoencoder, relevance, kept=None):
    """Relevance of the code, and of the layer where the code is masked, with the norm of each row as a constant."""
    centred = getattr(autoencoder, "centred", False)
    codes, sent = [], []
    for x, of_x in zip(X, relevance):
        scale = (x.std() if centred else x.norm()).item()
        centre = torch.eye(8, dtype=torch.double) - (1 / 8 if centred else 0)
        weight = autoencoder.encoder.weight.detach() @ centre / scale
        code = (weight @ x + autoencoder.encoder.bias.detach()).relu()
        parts = code[:, None] * autoencoder.decoder.weight.detach().T * scale
        parts = torch.cat([parts, (x - parts.sum(0))[None]])
        of_code = parts @ (of_x / stabilized(x))
        codes.append(of_code)
        masked = of_code * torch.tensor([k in (kept or ()) for k in range(21)])
        of_remainder = parts[-1] * (of_x / stabilized(x))
        by_encoder = x * (((code > 0) * masked[:-1] / stabilized(code)) @ weight)
        sent.append(by_encoder + masked[-1] * of_remainder / of_remainder.sum())
    return torch.stack(codes), torch.stack(sent)


def test_relevance_of_codes_and_behind_them(found, model):
    autoencoder, concept = found
    attribution = CondAttribution(model, heatmap_axis=None)
    plain = attribution(X, [{"y": [0]}], EpsilonPlus(), ["0"])
    result = attribution(X, [{"y": [0]}], EpsilonPlus(), ["0"], {"0": concept})
    codes, _ = expected_of(autoencoder, plain.relevances["0"])
    torch.testing.assert_close(result.relevances["0"], codes, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(result.heatmap, plain.heatmap)
    ids = [*range(0, 20, 3), 20]
    conditions = [{"0": ids, "y": [0]}, {"y": [0]}, {"0": ids, "y": [0]}]
    masked = attribution(X, conditions, EpsilonPlus(), mask_map={"0": concept}).heatmap
    _, sent = expected_of(autoencoder, plain.relevances["0"], ids)
    torch.testing.assert_close(masked[[0, 2]], sent[[0, 2]], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(masked[1], plain.heatmap[1])
    alone = attribution(X[2:], conditions[2:], EpsilonPlus(), mask_map={"0": concept}).heatmap
    torch.testing.assert_close(alone, masked[2:])


def test_layers_can_share_an_autoencoder(found, model):
    _, concept = found
    attribution = CondAttribution(model, heatmap_axis=None)
    both = attribution(X, [{"y": [1]}], EpsilonPlus(), ["0", "1"], {"0": concept, "1": concept})
    for layer in ("0", "1"):
        single = attribution(X, [{"y": [1]}], EpsilonPlus(), [layer], {layer: concept})
        torch.testing.assert_close(both.relevances[layer], single.relevances[layer])
        torch.testing.assert_close(both.activations[layer], single.activations[layer])


def test_autoencoders_stay_as_they_are(found, model):
    autoencoder, concept = found
    before, attributes = fingerprint(concept), set(vars(autoencoder))
    CondAttribution(model, heatmap_axis=None)(X, [{"0": [1], "y": [0]}], EpsilonPlus(), mask_map={"0": concept})
    concept.code_of(X)
    assert fingerprint(concept) == before and set(vars(autoencoder)) == attributes
    copy.deepcopy(autoencoder)


@pytest.mark.parametrize("of_layer, of_autoencoder", [
    (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float32, torch.float64),
])
def test_autoencoders_in_another_type(model, of_layer, of_autoencoder):
    autoencoder = Autoencoder().to(of_autoencoder)
    concept = EncodedConcept(lambda x: autoencoder.encode(x.to(of_autoencoder)), autoencoder.decode)
    attribution = CondAttribution(model.to(of_layer), heatmap_axis=None)
    conditions = [{"0": list(range(21)), "y": [0]}]
    result = attribution(X.to(of_layer), conditions, EpsilonPlus(), ["0"], {"0": concept})
    plain = attribution(X.to(of_layer), [{"y": [0]}], EpsilonPlus(), ["0"])
    codes, sent = expected_of(copy.deepcopy(autoencoder).double(), plain.relevances["0"].double(), range(21))
    torch.testing.assert_close(result.relevances["0"].double(), codes, rtol=.05, atol=.05 * codes.abs().max().item())
    torch.testing.assert_close(result.heatmap.double(), sent, rtol=.05, atol=.05 * sent.abs().max().item())


@pytest.mark.parametrize("encode, decode, message", [
    (lambda x: (x, x), nn.Identity(), "encode gives a tuple.*returns it alone"),
    (lambda x: x[:1], nn.Identity(), r"encode gives \(1, 8\) for \(3, 8\)"),
    (nn.Identity(), lambda code: code[..., :5], r"decode gives \(3, 5\) for the code of \(3, 8\)"),
    (nn.Identity(), lambda code: (code, code), r"decode gives \(\)"),
])
def test_other_functions_are_refused(model, encode, decode, message):
    with pytest.raises((TypeError, ValueError), match=message):
        CondAttribution(model)(X, [{"y": [0]}], EpsilonPlus(), ["0"], {"0": EncodedConcept(encode, decode)})
