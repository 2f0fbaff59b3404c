"""What measurements say of a layer and of its concepts, in words."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from crp.attribution.audit import Audit
from crp.trust.clearness import Clearness
from crp.trust.flipping import Flipping
from crp.trust.intervals import Estimate
from crp.trust.randomisation import Randomisation
from crp.trust.report import Check, is_clear_effect

LOST = .05
"""How much of the relevance may be gone, or come from nowhere."""
ALIKE = .5
"""Rank correlation above which relevance is called the same."""
_NAN = float("nan")


def closed(audit: Audit, total: float, remainder: float) -> Check:
    """Whether relevance adds up on its way through the model."""
    accounted = audit.accounted
    holds = bool(abs(accounted - 1) <= LOST)
    sinks = sum(audit.sinks.values())
    words = f"of relevance 1 at the output, {_number(total)} is in this layer"
    words += f" ({_number(remainder)} of it in the remainder)" if not np.isnan(remainder) else ""
    words += f", {_number(audit.total)} arrives at the input and {_number(sinks)} in biases and other sinks"
    if holds:
        words += "; nothing is lost"
    else:
        worst = audit.faults[0].place if audit.faults else "an unknown place"
        words += f": {_number(accounted)} in all, and not 1; the largest fault is in {worst}"
    words += "".join(f"; {alarm}" for alarm in audit.alarms if not holds)
    score = max(0., 1 - abs(accounted - 1)) if np.isfinite(accounted) else 0.
    return Check(name="closed", holds=holds, score=score, value=float(accounted), lower=_NAN, upper=_NAN, control=_NAN,
                 sentence=f"{words}."[:4096])


def faithful(flipping: Flipping, concepts: int) -> Check:
    """Whether answers follow the concepts that relevance names."""
    gap, activation = flipping.gaps["relevance"], flipping.gaps["activation"]
    chance = float(flipping.random_gaps.mean()) if len(flipping.random_gaps) else _NAN
    if concepts < 2:
        return _unknown("faithful", "one concept has no order.")
    if np.isnan(gap.value):
        return _unknown("faithful", "the answer is the same with all concepts of this layer and without any of them.")
    words = (
        f"the area between inserting and removing the most relevant concepts first is {gap}; by activation "
        f"{activation.value:.2f}, at random {chance:.2f}"
    )
    holds = flipping.beats_chance
    return _check("faithful", holds, float(np.clip(gap.value, 0, 1)), gap, chance,
                  words + ("." if holds else ": no better than at random."))


def sane(randomisation: Randomisation, noise: Estimate) -> Check:
    """Whether relevance depends on the weights above."""
    found = randomisation.correlation
    if not randomisation.modules:
        return _unknown("sane", "no weights are above this layer that could be drawn anew.")
    if not randomisation.relevances:
        return _unknown("sane", "weights above this layer could not be drawn anew: the answers stay the same.")
    if np.isnan(found.value):
        return _unknown("sane", "too few concepts are relevant in a sample for their order to mean anything.")
    same = ALIKE if np.isnan(noise.lower) else max(ALIKE, noise.lower)
    holds = bool(found.upper < same)
    words = (
        f"with the weights of the {randomisation.modules} modules above drawn anew, the order of the concepts "
        f"correlates with the true one by {found}, and its entropy changes by {randomisation.complexity.value:.0%}"
    )
    return _check("sane", holds, float(1 - np.clip(found.value, 0, 1)), found, 0.,
                  words + ("." if holds else ": relevance does not depend on what they have learned."))


def stable(noise: Estimate, has_noise: bool, references: np.ndarray, control: np.ndarray) -> Check:
    """Whether small noise and other samples leave things as they are."""
    kept, chance = _mean(references), _mean(control)
    words = f"references of two halves of the samples are alike by {kept:.2f} (random samples: {chance:.2f})"
    if np.isnan(kept):
        words = "no other concept is relevant at references that could tell them apart"
    if np.isnan(noise.value):
        reason = "too few concepts are relevant in a sample for an order" if has_noise else (
            "inputs are integers, which have no small noise"
        )
        if np.isnan(kept):
            return _unknown("stable", f"{reason}; {words}.")
        return Check(name="stable", holds=bool(kept > chance), score=float(np.clip(kept, 0, 1)), value=kept, lower=_NAN,
                     upper=_NAN, control=chance, sentence=f"{reason}; {words}.")
    holds = bool(noise.lower > ALIKE)
    words = f"with small noise the order of the concepts correlates with that without by {noise}; {words}."
    return _check("stable", holds, float(np.clip(noise.value, 0, 1)), noise, 0., words)


def clear(found: Clearness, concepts: np.ndarray, clarity: np.ndarray) -> Check:
    """What the concepts are like on the whole."""
    dead, duplicate = (float(values[concepts].mean()) for values in (found.dead, found.duplicate))
    purity = found.purity[concepts]
    words = f"{dead:.0%} of the concepts are dead, {duplicate:.0%} do what another one does"
    if not np.isnan(purity).all():
        words += f"; on average {_mean(purity):.0%} of a concept's relevance is of one class"
    if not np.isnan(clarity).all():
        words += f"; clarity of references {_mean(clarity):.2f}"
    value = _mean(clarity) if not np.isnan(clarity).all() else _mean(purity)
    return Check(name="clear", holds=None, score=float(np.clip(value, 0, 1)), value=value, lower=_NAN, upper=_NAN,
                 control=_NAN, sentence=words + ".")


def sentences(columns: Mapping[str, np.ndarray], class_names: Sequence[str] | None) -> list[str]:
    """A sentence for each concept of a table."""
    lines = [dict(zip(columns, line)) for line in zip(*columns.values())]
    return [_sentence(line, class_names) for line in lines]


def _sentence(line: Mapping, class_names: Sequence[str] | None) -> str:
    concept = f"Concept {int(line['concept'])}"
    if line["dead"]:
        return f"{concept} is dead: it is never active, or never relevant, in any sample."
    share, lower, upper = (100 * line[name] for name in ("share", "share_lower", "share_upper"))
    parts = [f"{concept} has {share:.3g}% of the relevance [{lower:.3g}, {upper:.3g}]"]
    if not np.isnan(line["effect"]):
        verb = "falls" if line["effect"] >= 0 else "rises"
        parts.append(
            f"without it the answer {verb} by {abs(line['effect']):.3g} where it matters most (without one at random "
            f"by {line['effect_control']:.3g}{'' if is_clear_effect(line) else ', no clear difference'})"
        )
    if line["serves"] >= 0:
        served = int(line["serves"])
        name = class_names[served] if class_names is not None and served < len(class_names) else str(served)
        parts.append(f"it serves {name} most, with {line['purity']:.0%}")
    if not np.isnan(line["clarity"]):
        parts.append(f"its references are alike by {line['clarity']:.2f}")
    elif not np.isnan(line["references"]):
        parts.append(f"halves of the samples agree on its references by {line['references']:.2f}")
    if line["duplicate"]:
        parts.append(f"concept {int(line['nearest'])} does the same (r {line['similarity']:.2f})")
    return "; ".join(parts) + "."


def _check(name: str, holds: bool, score: float, found: Estimate, control: float, sentence: str) -> Check:
    return Check(name=name, holds=holds, score=score, value=found.value, lower=found.lower, upper=found.upper,
                 control=control, sentence=sentence)


def _unknown(name: str, sentence: str) -> Check:
    return Check(name=name, holds=None, score=_NAN, value=_NAN, lower=_NAN, upper=_NAN, control=_NAN, sentence=sentence)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else _NAN


def _number(value: float) -> str:
    return f"{value:.3g}"
