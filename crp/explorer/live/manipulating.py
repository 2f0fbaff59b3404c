"""What a model answers when units are set to other values."""
from __future__ import annotations

from typing import Any

from crp.explorer.documents import Manipulated, UnitSetting
from crp.explorer.live.answered import Answered
from crp.explorer.live.outputs import answers, as_picture, last_of, output_of, outputs, outputs_of
from crp.explorer.source import Source
from crp.explorer.worker import Progress
from crp.neurons import Scale, intervene


def manipulate(
    source: Source, data: Any, settings: list[UnitSetting], target: int | None, progress: Progress
) -> Answered:
    """What the model answers with units set to other values, and the heatmap of that; none where nothing is asked."""
    fv, composite = source.need_model()
    progress(.1)
    before, _, start = answers(source, data, target)
    with intervene(fv.attribution.model, changes_of(source, settings), concepts=dict(fv.layer_map)):
        changed = last_of(output_of(source, data))
        progress(.5)
        heatmap = as_picture(fv.attribution(data, [start], composite, start_layer=fv.start_layer).heatmap)
    shown = list(dict.fromkeys(output.target for output in (*before, *outputs_of(source, changed))))
    document = Manipulated(
        before=outputs(source, data, shown), after=outputs_of(source, changed, shown), height=heatmap.shape[0],
        width=heatmap.shape[1],
    )
    return Answered(document, heatmap)


def changes_of(source: Source, settings: list[UnitSetting]) -> dict[str, dict[int, Any]]:
    """What :func:`crp.neurons.intervene` takes."""
    changes: dict[str, dict[int, Any]] = {}
    for setting in settings:
        value = Scale(setting.value) if setting.how == "scale" else setting.value
        source.concepts(setting.layer, [setting.concept])
        changes.setdefault(source.layer(setting.layer), {})[setting.concept] = value
    return changes
