"""Work in the background: how far it is, and its end."""
from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from crp.explorer import live as model
from crp.explorer import unit_pages
from crp.explorer.apart import work_apart
from crp.explorer.documents import Job, Jobs, Task
from crp.explorer.routes.common import FAULTS, OfStore, name_of_job
from crp.explorer.source import NotThereError, Source
from crp.explorer.worker import Progress
from crp.neurons.method_names import OF_ONE_MODEL

router = APIRouter(prefix="/api/{store}/jobs", responses=FAULTS)
JobName = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


@router.get("", response_model=Jobs)
def jobs(of: OfStore) -> Jobs:
    """All that is waiting or running."""
    return Jobs(jobs=of.source.worker.jobs())


@router.delete("/{job}", status_code=204, response_class=Response)
def cancel(of: OfStore, job: JobName) -> Response:
    """Cancel work; of work that failed, forget that."""
    if not of.source.worker.cancel(job):
        raise NotThereError("there is no such work")
    return Response(status_code=204)


@router.get("/{job}", response_model=Job)
def job(of: OfStore, job: JobName) -> Job:
    """How far work is."""
    found = of.source.worker.job(job)
    if found is None:
        raise NotThereError("there is no such work")
    return found.document()


@router.post("", response_model=Job, status_code=202)
def begin(of: OfStore, task: Task) -> Job:
    """Begin work whose result the store keeps: patterns, a projection, a ranking or an ablation."""
    what, compute = _work_of(of.source, task)
    return of.source.worker.submit(name_of_job(task.model_dump()), what, compute).document()


def _work_of(source: Source, task: Task) -> tuple[str, Callable[[Progress], Any]]:
    """What a task is, in words, and what does it."""
    layer, quantity = source.layer(task.layer), task.quantity

    def of_store(progress: Progress) -> None:
        work_apart(source.store, task, progress)

    if task.kind == "patterns":
        return f"patterns of the {quantity} of {layer}", of_store
    if task.kind == "projection":
        return f"a map of all samples by the {quantity} of {layer}", of_store
    if task.kind == "ranking":
        if task.method not in OF_ONE_MODEL:
            raise ValueError(f"there is no ranking by {task.method!r}; there are {', '.join(OF_ONE_MODEL)}")
        return f"ranking of {layer} by {task.method}", of_store
    source.need_model()
    known = {ranking.key for ranking in unit_pages.rankings(source).rankings}
    if not task.rankings or not known.issuperset(task.rankings):
        raise NotThereError(f"an ablation goes by rankings that the store keeps, which {task.rankings} are not all")
    return f"ablation by {len(task.rankings)} rankings", lambda progress: source.kept.write(
        unit_pages.ablation_key(task.rankings), model.ablate(source, task.rankings, progress)
    )
