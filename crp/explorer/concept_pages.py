"""Pages of layers and concepts, from a store alone."""
from __future__ import annotations

import numpy as np

from crp.explorer.documents import (
    Check,
    ClassShare,
    Column,
    ConceptPage,
    Effect,
    Histogram,
    LayerPage,
    Neighbour,
    Neighbours,
    ReferenceGroup,
)
from crp.explorer.pattern_pages import pattern_of_concepts
from crp.explorer.portraits import SHOWN, Portraits, draw, kept_portraits
from crp.explorer.source import Source, remember
from crp.explorer.summaries import Summary, columns_of, summary
from crp.model.numbers import spread_evenly
from crp.pictures.words import in_words
from crp.store.matrix import floored
from crp.trust.report import COLUMNS as TRUST_COLUMNS
from crp.trust.report import is_clear_effect

MOST_CLASSES, MOST_NEIGHBOURS = 12, 6
_GROUP_NAMES = "middle of those that are not zero", "at random", "lowest"
COMPARED_ROWS = 1024
_AT_A_TIME = 36


def layer_page(source: Source, number: int, quantity: str) -> LayerPage:
    """What is said of the concepts of a layer."""
    columns, _ = layer_columns(source, number, quantity)
    report = source.trust(source.layer(number))
    names = [name for found in source.names(number).values() for name in found]
    checks = [] if report is None else [
        Check(name=check.name, holds=check.holds, sentence=check.sentence) for check in report.checks
    ]
    return LayerPage(columns=columns, names=names, checks=checks)


def layer_columns(source: Source, number: int, quantity: str) -> tuple[list[Column], np.ndarray]:
    """What the columns are, and their values [columns, C]."""
    report = source.trust(source.layer(number))
    found = summary_of(source, number, quantity)
    columns, values = columns_of(found, None if report is None else report.columns, TRUST_COLUMNS)
    of_patterns = pattern_of_concepts(source, number, quantity)
    if of_patterns is not None:
        columns.append(Column(name="pattern", meaning="the pattern in which its mean is most above that of all"))
        values = np.concatenate([values, of_patterns[None]])
    return columns, values


def summary_of(source: Source, number: int, quantity: str) -> Summary:
    """The summary of a layer; the last ones are remembered."""
    key = number, quantity
    if key not in source.summaries:
        found = summary(source.store, source.kept, source.layer(number), quantity)
        return remember(source.summaries, key, found, _AT_A_TIME)
    return source.summaries[key]


def shares_of_class(source: Source, number: int, quantity: str, target: int) -> np.ndarray:
    """[C] float32, what each concept holds of a class, with its sign; absolute values add up to 1."""
    return summary_of(source, number, quantity).classes.of_class(target).astype(np.float32)


def references(
    source: Source, number: int, quantity: str, concepts: list[int], k: int, target: int | None
) -> np.ndarray:
    """[concepts, k] int32: the samples at which concepts are strongest; -1 where there are fewer."""
    found = np.full((len(concepts), k), -1, np.int32)
    for row, concept in enumerate(concepts):
        samples = source.store.top(source.layer(number), concept, quantity, k, target).samples
        found[row, :len(samples)] = samples
    return found


def column(source: Source, number: int, quantity: str, concept: int) -> np.ndarray:
    """[rows] float32, raw values of a concept."""
    return np.asarray(source.store.values(source.layer(number), quantity)[:, concept], np.float32)


def _portrait(source: Source, number: int, quantity: str, concept: int) -> Portraits | None:
    """The portrait of a concept: one that is kept, or drawn now; None where the store keeps no matrices."""
    key = number, quantity
    if source.store.options["keep"] == "top":
        return None
    if key not in source.portraits:
        found = kept_portraits(source.store, source.kept, source.layer(number), quantity)
        if found is None:
            totals = floored(source.store.totals(source.layer(number), quantity))
            return draw(column(source, number, quantity, concept)[None], totals, range(concept, concept + 1))
        remember(source.portraits, key, found, _AT_A_TIME)
    return source.portraits[key].of(concept)


def concept_page(source: Source, number: int, quantity: str, concept: int) -> ConceptPage:
    """All that a store knows of a concept, but for concepts that are like it."""
    layer = source.layer(number)
    found = summary_of(source, number, quantity)
    portrait = _portrait(source, number, quantity, concept)
    trust, effect = _trust(source, layer, concept)
    return ConceptPage(
        concept=concept, sentence=_sentence(source, number, quantity, concept, found),
        names=source.names(number).get(concept, []), share=found.columns["share"][concept],
        rank=found.rank[concept], classes=_classes(source, found, concept),
        histogram=_histogram(portrait), references=_reference_groups(source, number, quantity, concept, portrait),
        trust=trust, effect=effect,
    )


def _trust(source: Source, layer: str, concept: int) -> tuple[str, Effect | None]:
    """What the trust report says of a concept, and of answers without it."""
    report = source.trust(layer)
    places = [] if report is None else np.flatnonzero(report["concept"] == concept).tolist()
    if report is None or not places:
        return "", None
    line = {name: values[places[0]] for name, values in report.columns.items()}
    effect = None if np.isnan(line["effect"]) else Effect(
        mean=line["effect"], lower=line["effect_lower"], upper=line["effect_upper"], control=line["effect_control"],
        is_clear=is_clear_effect(line),
    )
    return report.sentences[places[0]], effect


def _sentence(source: Source, number: int, quantity: str, concept: int, found: Summary) -> str:
    """What a concept does, in words."""
    share, zeros = found.columns["share"][concept], found.columns["zeros"][concept]
    classes, portion = found.classes.served(concept)
    place = f"number {found.rank[concept]} of {len(found.rank)}"
    whole = f"{100 * share:.1f}% of the {quantity} of {source.layer(number)}, {place}"
    if len(classes) == 0:
        return f"Never {'relevant' if quantity == 'relevance' else 'active'}: it is zero in every class."
    names = [source.class_name(target) for target in classes.tolist() if target >= 0]
    hold = "holds" if len(names) == 1 else "hold"
    serves = f"; most in {in_words(names)}, which {hold} {100 * portion:.0f}% of it" if names else ""
    often = "" if not np.isfinite(zeros) else f"; not zero at {100 * (1 - zeros):.0f}% of the samples"
    return f"{whole}{serves}{often}."


def _classes(source: Source, found: Summary, concept: int) -> list[ClassShare]:
    portions, shares = found.classes.portions_of(concept), found.classes.shares[:, concept]
    order = np.argsort(-np.nan_to_num(portions), kind="stable")[:MOST_CLASSES]
    return [
        ClassShare(
            target=target, name=source.class_name(target), share=shares[i], portion=np.nan_to_num(portions[i]),
        ) for i, target in zip(order, found.classes.classes[order].tolist()) if target >= 0
    ]


def _histogram(portrait: Portraits | None) -> Histogram:
    """How often values occur, without those that are exactly zero."""
    if portrait is None:
        return Histogram(edges=[], counts=[], zeros=0)
    if not portrait.counts.any():
        return Histogram(edges=[], counts=[], zeros=portrait.zeros[0])
    return Histogram(
        edges=portrait.edges[0].tolist(), counts=portrait.counts[0].tolist(), zeros=portrait.zeros[0],
    )


def _reference_groups(
    source: Source, number: int, quantity: str, concept: int, portrait: Portraits | None
) -> list[ReferenceGroup]:
    """References by quantile: not maxima only."""
    layer = source.layer(number)
    top = source.store.top(layer, concept, quantity, SHOWN)
    groups = [ReferenceGroup(name="strongest", samples=top.samples.tolist(), values=top.values.tolist())]
    if portrait is None:
        return groups
    samples = source.rows(quantity)["sample"]
    for name, rows, shares in zip(_GROUP_NAMES, portrait.rows[0], portrait.shares[0]):
        shares, rows = shares[rows >= 0], rows[rows >= 0]
        if len(rows):
            groups.append(ReferenceGroup(name=name, samples=samples[rows].tolist(), values=shares.tolist()))
    return groups


def neighbours(source: Source, number: int, concept: int) -> Neighbours:
    """Concepts whose values go with those of a concept over samples, by Pearson correlation over some of them."""
    here = {quantity: _correlations(source, number, number, quantity, concept) for quantity in (
        "activation", "relevance"
    )}
    elsewhere: list[Neighbour] = []
    for other in range(len(source.store.layers)):
        if other != number:
            elsewhere += _strongest(source, other, _correlations(source, other, number, "activation", concept), None)
    elsewhere = sorted(elsewhere, key=lambda found: -found.correlation)[:MOST_NEIGHBOURS]
    return Neighbours(
        by_activation=_strongest(source, number, here["activation"], concept),
        by_relevance=_strongest(source, number, here["relevance"], concept),
        elsewhere=elsewhere, samples=min(len(source.rows("activation")), COMPARED_ROWS),
    )


def _strongest(source: Source, number: int, correlations: np.ndarray, own: int | None) -> list[Neighbour]:
    order = [i for i in np.argsort(-correlations, kind="stable")[:MOST_NEIGHBOURS + 1].tolist() if i != own]
    names = source.names(number)
    return [
        Neighbour(
            layer=number, concept=i, correlation=correlations[i], name=names[i][0].name if i in names else "",
        ) for i in order[:MOST_NEIGHBOURS] if correlations[i] > 0
    ]


def _correlations(source: Source, layer: int, own_layer: int, quantity: str, concept: int) -> np.ndarray:
    """[C], of all concepts of a layer with a concept of another or the same one."""
    return _standardised(source, layer, quantity).T @ _standardised(source, own_layer, quantity)[:, concept]


def _standardised(source: Source, number: int, quantity: str) -> np.ndarray:
    """[some rows, C], with mean 0 and length 1; constant concepts are 0. The last ones are remembered."""
    key = number, quantity
    if key not in source.standardised:
        matrix = source.store.values(source.layer(number), quantity)
        values = np.asarray(matrix[spread_evenly(len(matrix), COMPARED_ROWS)], np.float64)
        changes = values.max(0, initial=-np.inf) > values.min(0, initial=np.inf)
        values -= values.mean(0)
        length = np.sqrt((values ** 2).sum(0))
        found = np.where(changes, values / np.where(length > 0, length, 1), 0).astype(np.float32)
        return remember(source.standardised, key, found, _AT_A_TIME)
    return source.standardised[key]
