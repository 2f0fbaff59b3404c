"""Reports: what they say, and that they can be kept."""
import copy

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import TensorDataset
from trusted import dataset, network, swept

from crp.attribution import Contrast
from crp.composites import LanguageModel
from crp.concepts import ChannelConcept
from crp.store import ReferenceStore, StoreError, verify
from crp.trust import COLUMNS, TrustReport, clarity, trust_report
from crp.trust.randomisation import _draw_anew, modules_above
from crp.trust.rows import SampledRows

pytestmark = pytest.mark.usefixtures("quick")
QUICK = {"samples": 12, "per_concept": 2, "steps": 3, "random": 3, "draws": 1, "verbose": False}


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """A visualization, its composite, and the report of a layer."""
    fv, composite = swept(tmp_path_factory.mktemp("trust") / "store")
    return fv, composite, trust_report(fv, "5", composite=composite, held_out=dataset(20, seed=3), **QUICK)


def test_a_report_is_a_table_with_a_sentence_for_each_concept(checked):
    _, _, report = checked
    frame = report.to_frame()
    assert len(report) == 10 and list(frame.index) == list(range(10))
    assert list(frame.columns) == [*list(COLUMNS)[1:], "sentence"]
    assert (np.diff(report["share"][report.order("share")]) <= 0).all()
    assert (np.diff(report["purity"][report.order("purity", ascending=True)][:5]) >= 0).all()
    assert all(report.sentence(c).startswith(f"Concept {c} ") for c in range(10))
    assert [check.name for check in report.checks] == ["closed", "faithful", "sane", "stable", "clear"]
    assert report.check("closed").holds and report.rows == 12
    assert "Layer '5'" in str(report) and report.check("faithful").sentence in str(report)
    assert isinstance(report.plot(), Figure)
    with pytest.raises(KeyError, match="no column 'colour'; there are concept, share"):
        report["colour"]
    with pytest.raises(KeyError, match="concept 10 was not checked"):
        report.sentence(10)


def test_nothing_stays_on_the_model(checked, model_state):
    fv, composite, _ = checked
    before = model_state(fv.attribution.model)
    trust_report(fv, "1", [0], composite, save=False, **QUICK)
    assert model_state(fv.attribution.model) == before


def test_shares_are_those_of_the_store_and_lie_in_their_intervals(checked):
    fv, composite, report = checked
    relevance = np.abs(np.asarray(fv.open_store(composite).values("5", normalised=False), np.float64))
    shares = relevance / relevance.sum(1, keepdims=True)
    np.testing.assert_allclose(report["share"], shares.mean(0), rtol=1e-5)
    assert (report["share_lower"] <= report["share"] + 1e-9).all()
    assert (report["share"] <= report["share_upper"] + 1e-9).all()


def test_the_store_keeps_reports_bound_to_its_sweep(checked, tmp_path):
    fv, composite, report = checked
    store = fv.open_store(composite)
    again = TrustReport.load(store, "5")
    assert repr(again.checks) == repr(report.checks)  # of which NaN is a part
    assert again.sentences == report.sentences and again.options == report.options
    for name in COLUMNS:
        np.testing.assert_array_equal(again[name], report[name])
    assert again.score == report.score
    report.save(tmp_path / "report.npz")
    assert TrustReport.load(tmp_path / "report.npz").sentences == report.sentences
    assert verify(store.path) == []
    other, _ = swept(tmp_path / "other", network(1))
    with pytest.raises(ValueError, match="this report is not of"):
        report.save(ReferenceStore(other.path))
    with pytest.raises(StoreError, match=r"holds no report of '1': make it with trust_report\(fv, '1'\)"):
        TrustReport.load(ReferenceStore(other.path), "1")
    with pytest.raises(TypeError, match="reports by layer"):
        TrustReport.load(store)


def test_files_of_others_are_no_reports(checked, tmp_path):
    _, _, report = checked
    path = tmp_path / "report.npz"
    report.save(path)
    for changed, told in (
        (TrustReport(**(vars(report) | {"checks": report.checks[1:]})), "each check once"),
        (TrustReport(**(vars(report) | {"columns": report.columns | {"share": np.zeros(3)}})), "'share' is not"),
        (TrustReport(**(vars(report) | {"curves": report.curves | {"random": np.zeros((2, 9))}})), "'random' does not"),
    ):
        changed.save(path)
        with pytest.raises(ValueError, match=told):
            TrustReport.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="holds no 'crp-trust 1'"):
        TrustReport.load(path)


def test_embeddings_of_references_give_the_scores_of_semanticlens(checked):
    fv, composite, _ = checked
    seen = []

    def embed(pictures):
        seen.extend(pictures)
        return torch.tensor([[np.asarray(p, float).mean(), np.asarray(p, float).std(), p.width] for p in pictures])

    report = trust_report(fv, "1", [0, 2], composite, embed_images=embed, references=4, save=False, **QUICK)
    assert len(seen) == 8 and all(picture.mode == "RGB" for picture in seen)
    expected = clarity(embed(seen[:8]).numpy().reshape(2, 4, 3))
    np.testing.assert_allclose(report["clarity"], expected, atol=1e-5)
    assert not np.isnan(report["redundancy"]).any() and not np.isnan(report["polysemanticity"]).any()
    assert "alike by" in report.sentence(0) or report["dead"][0]


@pytest.mark.parametrize("y", [None, "prediction", 1, Contrast(0, 2)])
def test_relevance_that_starts_elsewhere_is_checked_where_it_starts(tmp_path, y):
    fv, composite = swept(tmp_path, y=y)
    report = trust_report(fv, "5", composite=composite, **QUICK)
    assert report.check("closed").holds and np.isfinite(report.check("faithful").value)


def test_an_inner_layer_may_be_the_start(tmp_path):
    model = nn.Sequential(*network(), nn.Softmax(1)).eval()
    fv, composite = swept(tmp_path, model, start_layer="6")
    report = trust_report(fv, "5", composite=composite, **QUICK)
    plain, of_plain = swept(tmp_path / "plain")
    expected = trust_report(plain, "5", composite=of_plain, **QUICK)
    np.testing.assert_allclose(report["effect"], expected["effect"], atol=1e-5)
    assert report.check("faithful").value == pytest.approx(expected.check("faithful").value, abs=1e-4)


def test_texts_have_no_small_noise_and_no_classes_no_purity(tmp_path):
    model = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    data = TensorDataset(torch.randint(7, (30, 3)))
    fv, composite = swept(tmp_path, model, {"3": ChannelConcept()}, data, LanguageModel())
    report = trust_report(fv, "3", composite=composite, **QUICK)
    assert "integers, which have no small noise" in report.check("stable").sentence
    assert np.isnan(report["noise"]).all()


@pytest.mark.parametrize("options, error, told", [
    ({"layer": "4.5"}, ValueError, "no layer '4.5'"),
    ({"concepts": [10]}, (IndexError, StoreError, ValueError), "10"),
    ({"samples": 0}, ValueError, "samples is a whole number and at least 1, not 0"),
    ({"noise": 0.}, ValueError, "noise is above 0"),
    ({"samples": 1}, ValueError, "1 of the samples have a target, but two at least are needed"),
    ({"held_out": []}, ValueError, "held_out is empty"),
    ({"random_state": -1}, ValueError, "random_state is None or a whole number"),
    ({"embed_images": 5}, ValueError, "embed_images is a function"),
    ({"embed_images": len, "references": 1}, ValueError, "compares two references at least"),
    ({"embed_images": lambda pictures: np.zeros(3)}, ValueError, r"embed_images gives finite numbers \["),
])
def test_what_cannot_be_checked_is_refused(checked, options, error, told):
    fv, composite, _ = checked
    options = {"layer": "5"} | options
    with pytest.raises(error, match=told):
        trust_report(fv, options.pop("layer"), options.pop("concepts", None), composite, **(QUICK | options))


def test_scores_count_only_what_rests_on_what_holds(checked):
    _, _, report = checked

    def with_checks(**holds):
        checks = [
            check.model_copy(update={"holds": holds.get(check.name, True), "score": 1.}) for check in report.checks
        ]
        return TrustReport(**(vars(report) | {"checks": checks}))

    assert with_checks().score == 1
    assert with_checks(faithful=False).score == pytest.approx(.5)
    assert with_checks(closed=False).score == pytest.approx(.25)
    assert with_checks(closed=None).score == 1
    assert not with_checks(sane=False).holds and with_checks(clear=None).holds


def test_concepts_are_told_once_and_counted_from_the_first(checked):
    fv, composite, report = checked
    some = trust_report(fv, "5", [1, 1, -8], composite, held_out=dataset(20, seed=3), save=False, **QUICK)
    assert some["concept"].tolist() == [1, 2]
    np.testing.assert_allclose(some["effect"], report["effect"][[1, 2]])
    with pytest.raises(TypeError, match="not a ReferenceStore"):
        trust_report(fv.open_store(composite), "5")


def test_models_in_train_mode_are_refused_and_buffers_stay(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    fv, composite = swept(tmp_path, model, {"2": ChannelConcept()})
    model.train()
    before = model[1].running_mean.clone()
    with pytest.raises(ValueError, match="modules are in train mode, such as '1'.*model.eval"):
        trust_report(fv, "2", composite=composite, **QUICK)
    assert torch.equal(model[1].running_mean, before)


def test_answers_of_both_signs_do_not_cancel(tmp_path):
    """The layer's concepts raise half of the answers and lower the others by as much."""
    model = nn.Sequential(nn.Identity(), nn.Linear(6, 2, bias=False)).eval()
    values = torch.randn(40, 6)
    data = TensorDataset(torch.cat([values, -values]), torch.zeros(80, dtype=torch.long))
    fv, composite = swept(tmp_path, model, {"0": ChannelConcept()}, data, LanguageModel())
    report = trust_report(fv, "0", composite=composite, **(QUICK | {"samples": 80}))
    faithful, closed = report.check("faithful"), report.check("closed")
    assert .5 < faithful.value < 5 and faithful.holds
    assert closed.holds and "of relevance 1 at the output, 1 is in this layer" in closed.sentence


def test_weights_that_are_computed_from_others_are_drawn_anew_and_shared_ones_stay(tmp_path):
    torch.manual_seed(0)
    head = nn.utils.weight_norm(nn.Linear(8, 3, bias=False))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), head).eval()
    fv, composite = swept(tmp_path, model, {"2": ChannelConcept()})
    report = trust_report(fv, "2", composite=composite, **QUICK)
    assert report.check("sane").value < .9 and report.check("sane").holds
    shared = nn.Linear(8, 8)
    tied = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), shared, nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3)).eval()
    tied[4].weight = shared.weight
    fv, composite = swept(tmp_path / "tied", tied, {"3": ChannelConcept()})
    rows = SampledRows(fv, "3", composite, None, 8, 8)
    other = copy.deepcopy(tied)
    _draw_anew(other, modules_above(rows), 0)
    assert torch.equal(other[2].weight, shared.weight) and not torch.equal(other[5].weight, tied[5].weight)


def test_where_there_is_nothing_to_decide_nothing_is_decided(tmp_path):
    fv, composite = swept(tmp_path, concepts={"3": ChannelConcept()}, model=nn.Sequential(
        nn.Flatten(), nn.Linear(64, 1), nn.Tanh(), nn.Identity(), nn.Linear(1, 3)
    ).eval())
    report = trust_report(fv, "3", composite=composite, **QUICK)
    assert report.check("faithful").holds is None and "one concept has no order" in report.check("faithful").sentence
    assert "too few concepts" in report.check("sane").sentence and report.check("stable").holds is None
    assert report.holds and 0 <= report.score <= 1


def test_some_samples_may_start_at_the_prediction(tmp_path):
    images, classes = dataset(20).tensors
    data = [(images[0], None), *zip(images[1:], classes[1:].tolist())]
    fv, composite = swept(tmp_path, data=data)
    assert trust_report(fv, "5", composite=composite, **(QUICK | {"samples": 20})).rows == 20


class Padded(nn.Module):
    """A small model of words that looks at an attention mask."""

    def __init__(self):
        super().__init__()
        self.embed, self.up, self.act, self.head = nn.Embedding(9, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        hidden = self.act(self.up(self.embed(input_ids)))
        mixed = hidden + hidden.mean(1, keepdim=True)
        return self.head((mixed * attention_mask[..., None]).sum(1))


def test_padding_does_not_count(tmp_path):
    torch.manual_seed(0)
    ids = torch.randint(1, 9, (24, 5))
    mask = (torch.arange(5) < torch.randint(2, 6, (24, 1))).long()
    items = [{"input_ids": i, "attention_mask": m, "labels": n % 3} for n, (i, m) in enumerate(zip(ids, mask))]
    fv, composite = swept(tmp_path, Padded().eval(), {"act": ChannelConcept(-1)}, items, LanguageModel())
    rows = SampledRows(fv, "act", composite, None, 24, 7)
    expected = np.asarray(fv.open_store(composite).values("act", normalised=False))
    np.testing.assert_allclose(rows.relevance, expected, rtol=1e-4, atol=1e-6)


def test_noise_is_in_units_of_each_input(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.act, self.head = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

        def forward(self, small, large):
            return self.head(self.act(self.up(small + 0 * large)))

    torch.manual_seed(0)
    items = [{"small": torch.rand(6), "large": 1e5 * torch.rand(6), "labels": n % 3} for n in range(20)]
    fv, composite = swept(tmp_path, Two().eval(), {"act": ChannelConcept()}, items, LanguageModel())
    assert trust_report(fv, "act", composite=composite, **QUICK).check("stable").value > .8


def test_layers_that_run_several_times_are_refused(tmp_path):
    shared = nn.ReLU()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), shared, nn.Linear(8, 8), shared, nn.Linear(8, 3)).eval()
    fv, composite = swept(tmp_path, model, {"2": ChannelConcept()})
    with pytest.raises(ValueError, match="layer '2' runs 2 times"):
        trust_report(fv, "2", composite=composite, **QUICK)
