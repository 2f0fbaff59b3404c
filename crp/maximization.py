"""Which results of a sweep are meant; the door to ``crp.visualization.results``."""
from crp.handed_on import HandedOn, names_of
from crp.visualization.results import Maximization

__all__ = ["Maximization"]
__getattr__ = HandedOn(__name__, {
    **names_of("typing", "List Tuple"), **names_of("tqdm.auto", "tqdm"), **names_of("crp.concepts", "Concept"),
    "Path": "pathlib:Path", "gc": "gc", "np": "numpy", "os": "os", "re": "re", "torch": "torch",
})
__all__ += __getattr__.installed()
