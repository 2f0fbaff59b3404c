"""Which layers feed which; the door to ``crp.attribution.model_graph``."""
from typing import Any

from crp.attribution.model_graph import ModelGraph, trace_model_graph
from crp.handed_on import HandedOn

__all__ = ["ModelGraph", "dump_pytorch_graph", "trace_model_graph"]
__getattr__ = HandedOn(__name__, {
    "GraphNode": "crp.attribution.model_graph:Call", "List": "typing:List", "torch": "torch",
})
__all__ += __getattr__.installed()


def dump_pytorch_graph(graph: Any) -> None:
    """Print the nodes of a graph of ``torch.jit``, which zennit-crp's graphs were made from: kind, scope, numbers."""
    for node in graph.nodes():
        inputs, outputs = ([value.unique() for value in values] for values in (node.inputs(), node.outputs()))
        print(f"{node.kind():25} {node.scopeName():40} {inputs} -> {outputs}")
