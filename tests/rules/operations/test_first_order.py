"""The rule of operations that have none of their own: that of their linear part; the remainder is a sink."""
import pytest
import torch
from operations_by_contribution import Function, by_contributions, composite, random, send_back, stabilize
from torch import nn
from torch.nn import functional

from crp.attribution import CondAttribution

WEIGHT, PLACES, CONSTANT = random(4, 6), torch.tensor([2, 0, 2]), torch.zeros(2, 8, dtype=torch.double)
SOLVED = random(4, 4) + 4 * torch.eye(4, dtype=torch.double)


def written(base, write):
    """What is written to a copy of a constant, in place."""
    base = base.clone()
    return write(base)


@pytest.mark.parametrize("function, shapes", [
    (lambda x: torch.zeros(5, 4, dtype=x.dtype).index_add(0, PLACES, x), [(3, 4)]),
    (lambda x: written(torch.zeros(5, 4, dtype=x.dtype), lambda base: base.index_add_(0, PLACES, x)), [(3, 4)]),
    (lambda x: torch.zeros(5, 4, dtype=x.dtype).scatter_add(0, PLACES[:, None].expand(3, 4), x), [(3, 4)]),
    (lambda x: torch.zeros(5, 4, dtype=x.dtype).scatter_reduce(
        0, PLACES[:, None].expand(3, 4), x, "mean", include_self=False), [(3, 4)]),
    (lambda x: torch.zeros(5, 4, dtype=x.dtype).index_put((PLACES,), x, accumulate=True), [(3, 4)]),
    (lambda x: torch.zeros(5, 4, dtype=x.dtype).index_put((PLACES,), x, True), [(3, 4)]),
    (lambda x: x.nansum(1), [(3, 4)]), (lambda x: x.nanmean(0), [(3, 4)]),
    (lambda x: torch.trapezoid(x, dx=2.), [(3, 4)]), (lambda x: torch.gradient(x)[0], [(5,)]),
    (lambda x: torch.linalg.cross(x, WEIGHT[:3, :3]), [(3, 3)]), (lambda x: torch.kron(x, WEIGHT), [(2, 2)]),
    (lambda x: torch.linalg.solve(SOLVED, x), [(4, 2)]),
    (lambda x: torch.linalg.multi_dot([WEIGHT, x, WEIGHT]), [(6, 4)]),
    (lambda x: functional.bilinear(x, WEIGHT[:2], WEIGHT.view(1, 4, 6)), [(2, 4)]),
    (lambda x: functional.embedding_bag(PLACES[None], x, mode="mean"), [(4, 5)]),
    (lambda x: torch.fft.rfft(x).real, [(2, 6)]),
    (lambda x: torch.sparse.mm(WEIGHT.to_sparse(), x), [(6, 2)]),
    (lambda x, y: torch.block_diag(x, y).sum(0), [(2, 3), (1, 2)]),
])
def test_operations_that_are_linear_send_to_each_input_what_it_contributes(function, shapes):
    inputs = [random(*shape) for shape in shapes]
    found, output, relevance = send_back(function, inputs)
    for sent, expected in zip(found, by_contributions(function, inputs, relevance)):
        torch.testing.assert_close(sent, expected)


@pytest.mark.parametrize("function", [
    lambda x: torch.fft.fft(x), lambda x: torch.fft.ifft2(x), lambda x: torch.fft.rfft(x),
    lambda x: torch.conj_physical(torch.view_as_complex(x.view(2, 4, 2))), lambda x: torch.complex(x, CONSTANT),
])
def test_relevance_of_a_complex_number_is_that_of_its_parts(function):
    """Through what is linear, and then through ``abs``, which is so of the parts at each place."""
    def parts(x):
        return torch.view_as_real(function(x))

    x = random(2, 8)
    found, output, relevance = send_back(parts, [x])
    torch.testing.assert_close(found[0], by_contributions(parts, [x], relevance)[0])
    found, output, relevance = send_back(lambda x: function(x).abs(), [x])
    z = parts(x)
    s = (relevance / stabilize(output))[..., None] * z ** 2 / output[..., None]  # of the parts of z
    torch.testing.assert_close(found[0], by_contributions(parts, [x], s)[0])


@pytest.mark.parametrize("function", [
    lambda x: torch.logaddexp(x, torch.ones_like(x)), lambda x: torch.logsumexp(x, 1), lambda x: x.var(1),
    lambda x: functional.softmin(x, 1), lambda x: torch.cdist(x, WEIGHT[:, :4]), lambda x: x.logcumsumexp(1),
    lambda x: functional.local_response_norm(x[:, None], 2), lambda x: x.erfinv_(),
])
def test_the_remainder_of_others_is_a_sink_of_their_name(function):
    x = random(3, 4).tanh()
    model = Function(lambda x: function(x[0] * 1).reshape(1, -1))
    audit = CondAttribution(model).audit(x[None], composite())
    assert audit.accounted == pytest.approx(1) and not audit.faults
    found, output, relevance = send_back(lambda x: function(x * 1), [x])
    leaf = x.clone().requires_grad_()
    gradient, = torch.autograd.grad(function(leaf * 1), leaf, relevance / stabilize(output))
    torch.testing.assert_close(found[0], x * gradient)
    assert any("remainder" in name and abs(amount) > 1e-6 for name, amount in audit.sinks.items())


@pytest.mark.parametrize("by_name, by_place", [
    (lambda x: torch.baddbmm(input=x, batch1=x, batch2=x), lambda x: torch.baddbmm(x, x, x)),
    (lambda x: torch.lerp(input=x, end=x.exp(), weight=.3), lambda x: torch.lerp(x, x.exp(), .3)),
    (lambda x: torch.addcmul(x, tensor1=x, tensor2=x, value=2), lambda x: torch.addcmul(x, x, x, value=2)),
    (lambda x: torch.bmm(input=x, mat2=x), lambda x: torch.bmm(x, x)),
    (lambda x: torch.matmul(input=x, other=x), lambda x: torch.matmul(x, x)),
    (lambda x: torch.div(input=x, other=x.exp()), lambda x: torch.div(x, x.exp())),
    (lambda x: torch.softmax(input=x, dim=1), lambda x: torch.softmax(x, 1)),
    (lambda x: torch.sub(input=x, other=x.exp(), alpha=2), lambda x: torch.sub(x, x.exp(), alpha=2)),
    (lambda x: torch.ops.aten.add.Tensor(x, x.exp()), lambda x: torch.add(x, x.exp())),
    (lambda x: torch.ops.aten._softmax.default(x, 1, False), lambda x: torch.softmax(x, 1)),
])
def test_arguments_may_have_their_names_and_functions_their_other_names(by_name, by_place):
    x = random(2, 3, 3)
    expected, output, relevance = send_back(by_place, [x])
    found, *_ = send_back(by_name, [x], relevance)
    torch.testing.assert_close(found, expected)


def test_factors_of_a_product_share_and_inputs_of_a_norm_do_not():
    a, b, c = random(2, 3, 4), random(2, 3, 4), random(2, 3, 4)
    product = torch.einsum("ijk,ijk,ijk->i", a, b, c)
    found, output, relevance = send_back(lambda *x: torch.einsum("ijk,ijk,ijk->i", *x), [a, b, c])
    share = (relevance / stabilize(product))[:, None, None] * a * b * c / 3
    for sent in found:
        torch.testing.assert_close(sent, share)
    found, output, relevance = send_back(lambda x, y: torch.hypot(x, y), [a, b])
    torch.testing.assert_close(found[0] + found[1], relevance * output / stabilize(output))


def test_several_outputs_and_named_tuples():
    def function(x):
        found = torch.linalg.slogdet(x)
        values, _ = torch.linalg.eigh(x @ x.mT)
        return torch.cat([found.logabsdet[None], values])

    audit = CondAttribution(Function(lambda x: function(x[0])[None])).audit(
        SOLVED[None], composite(), [{"y": [0, 1, 2, 3, 4]}]
    )
    assert audit.accounted == pytest.approx(1) and not audit.faults
    assert {"remainder: linalg_slogdet", "remainder: linalg_eigh"} <= set(audit.sinks)


def test_views_stay_views():
    def function(x):
        y = x * 1.
        torch.view_as_real(torch.view_as_complex(y))[:, 0] *= 0
        y.swapdims(0, 1)[1] += 1
        return y

    x = random(3, 2)
    found, output, relevance = send_back(function, [x])
    torch.testing.assert_close(output[:, 0], torch.zeros(3, dtype=torch.double))
    torch.testing.assert_close(output[:, 1], x[:, 1] + 1)
    assert not found[0][:, 0].any()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_in_half_precision_denominators_are_in_float32(kind):
    x = random(4, 6).to(kind)
    exact, _, relevance = send_back(lambda x: x.logcumsumexp(1), [x.float()])
    found, _, _ = send_back(lambda x: x.logcumsumexp(1), [x], relevance.to(kind))
    assert torch.isfinite(found[0]).all()
    torch.testing.assert_close(found[0].float(), exact[0], rtol=.05, atol=.05 * exact[0].abs().max().item())


def test_random_numbers_of_the_model_stay_as_they_are():
    def function(x, y):
        return torch.hypot(x, y) + torch.rand(3, 4, dtype=torch.double)

    x, y = random(3, 4), random(3, 4)
    torch.manual_seed(1)
    expected = function(x, y)
    torch.manual_seed(1)
    torch.testing.assert_close(send_back(function, [x, y])[1], expected)


def test_models_that_write_to_what_an_operation_has_read():
    class Writing(nn.Module):
        def __init__(self, writes):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last, self.writes = nn.Linear(4, 6), nn.Linear(6, 3), writes

        def forward(self, x):
            h = self.first(x)
            found = torch.cdist(h, h.detach() + 1) @ h + torch.logcumsumexp(h, 1)
            view = h.unflatten(1, (2, 3))
            h = h.mul_(2.) if self.writes else h * 2.
            view = view if self.writes else h.unflatten(1, (2, 3))
            return self.last(found + h + view.flatten(1))

    x = random(5, 4)
    found, expected = (
        CondAttribution(Writing(writes).double().eval(), heatmap_axis=None)(x, [{"y": [1]}], composite())
        for writes in (True, False)
    )
    torch.testing.assert_close(found.prediction, expected.prediction)
    torch.testing.assert_close(found.heatmap, expected.heatmap)
