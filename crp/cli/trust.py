"""Whether the concepts of a sweep can be trusted."""
from __future__ import annotations

from pathlib import Path

from crp.cli.runs import specified_visualization
from crp.cli.specs import errors_of_users, load_spec
from crp.cli.trust_answers import TrustAnswer, TrustCheck, TrustedConcept, TrustOfLayer
from crp.trust import TrustReport, trust_report


def trust(
    spec: str, store: str | None, layers: list[str] | None, folder: str, *, held_out: str | None, samples: int,
    most: int, batch_size: int,
) -> TrustAnswer:
    """Check layers of what a function specifies, on samples of its dataset or of another function. Their files are
    executed.
    """
    fv, composite = specified_visualization(spec, store)
    others = None
    if held_out is not None:
        function = load_spec(held_out)
        with errors_of_users(held_out):
            others = function()
    opened = fv.open_store(composite)
    reports = [
        trust_report(fv, layer, composite=composite, held_out=others, samples=samples, batch_size=batch_size)
        for layer in (opened.layers if layers is None else layers)
    ]
    Path(folder).mkdir(parents=True, exist_ok=True)
    found = [_of_layer(report, Path(folder) / f"trust-{opened.entry(report.layer).key}.png", most)
             for report in reports]
    rows = max(report.rows for report in reports)
    return TrustAnswer(store=opened.path, rows=rows, held_out=held_out is not None, layers=found)


def _of_layer(report: TrustReport, picture: Path, most: int) -> TrustOfLayer:
    report.plot().savefig(picture, bbox_inches="tight")
    return TrustOfLayer(
        layer=report.layer, holds=report.holds, score=report.score, of=len(report), picture=picture,
        checks=[TrustCheck(**check.model_dump(exclude={"score"})) for check in report.checks],
        concepts=[
            TrustedConcept(
                concept=int(report["concept"][i]), share=report["share"][i], effect=report["effect"][i],
                dead=bool(report["dead"][i]), duplicate=bool(report["duplicate"][i]), sentence=report.sentences[i],
            ) for i in report.order("share")[:most]
        ],
    )
