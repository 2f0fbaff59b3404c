"""Which results of a sweep are meant; the door to ``crp.visualization.results``."""
from crp.handed_on import HandedOn, names_of
from crp.visualization.results import Statistics

__all__ = ["Statistics"]
__getattr__ = HandedOn(__name__, {
    **names_of("typing", "List Tuple"), **names_of("tqdm.auto", "tqdm"), "Path": "pathlib:Path",
    "gc": "gc", "np": "numpy", "os": "os", "torch": "torch",
})
__all__ += __getattr__.installed()
