"""Whether relevance adds up in a model."""
from __future__ import annotations

import numpy as np

from crp.explorer.documents import AuditFault, AuditPage
from crp.explorer.source import Source
from crp.explorer.worker import Progress
from crp.model.numbers import spread_evenly
from crp.model.samples import join_samples

MOST_SAMPLES = 8


def audit(source: Source, progress: Progress) -> AuditPage:
    """Follow relevance through the model, operation by operation, on samples from all over the dataset."""
    fv, composite = source.need_model()
    progress(.1)
    samples = source.known_samples[spread_evenly(len(source.known_samples), MOST_SAMPLES)].tolist()
    with source.reading:
        inputs = [fv.get_data_sample(sample)[0] for sample in samples]
    try:
        data = join_samples(inputs, samples)
    except ValueError:  # they have several sizes
        data, samples = inputs[0], samples[:1]
    found = fv.attribution.audit(data, composite, start_layer=fv.start_layer)
    conserved = not found.faults and bool(np.abs(found.accounted - 1) <= found.tolerance)
    return AuditPage(
        conserved=conserved, total=found.total, accounted=found.accounted, sinks=dict(found.sinks), faults=[
            AuditFault(operation=fault.operation, module=fault.module, imbalance=fault.imbalance)
            for fault in found.faults
        ],
        notes=[note for note in (found.vanishing, *found.notes) if note], samples=len(samples),
    )
