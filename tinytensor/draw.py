"""Draws the graph behind a tensor, for looking at what `backward` will walk.

Needs the package `graphviz` (extra `plot`), and Graphviz' own `dot` program to turn DOT into SVG or PNG.
"""

from __future__ import annotations

from typing import Any

from tinytensor.tensor import Function, Tensor


def draw(tensor: Tensor) -> Any:
    """The graph of `tensor` as a `graphviz.Digraph`: boxes are leaves with their shapes, ellipses are operations.

    `draw(loss).source` is the DOT text, `draw(loss).render("graph", format="svg")` writes a picture, and a notebook
    shows it by itself. Call it before `backward`, which frees the graph. Raises ImportError without `graphviz`.
    """
    try:
        import graphviz
    except ImportError:
        raise ImportError("draw needs the package graphviz; install it with pip install -e '.[plot]'") from None
    graph = graphviz.Digraph(graph_attr={"rankdir": "LR"}, node_attr={"fontname": "monospace", "fontsize": "10"})
    root = tensor if tensor.function is None else tensor.function
    _add_node(graph, root)
    seen, stack = {_id(root)}, [root]
    while stack:
        function = stack.pop()
        for node, shape, _ in filter(None, getattr(function, "_edges", ())):
            graph.edge(_id(node), _id(function), label=" x ".join(map(str, shape)) or "scalar")
            if _id(node) not in seen:
                seen.add(_id(node))
                _add_node(graph, node)
                stack.append(node)
    return graph


def _id(node: Function | Tensor) -> str:
    return f"n{id(node)}"


def _add_node(graph: Any, node: Function | Tensor) -> None:
    if isinstance(node, Function):
        graph.node(_id(node), type(node).__name__)
    else:
        graph.node(_id(node), f"{type(node).__name__}\n{tuple(node.shape)} {node.dtype}", shape="box")
