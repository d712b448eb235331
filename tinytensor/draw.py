"""Draws the graph behind a tensor as SVG, for looking at what `backward` will walk; it needs no other program.

The layout is the usual one in layers (Sugiyama et al. 1981): a node is one column to the right of its deepest input,
an edge that skips columns passes through an invisible node in each, and each column is sorted by the mean position of
its neighbors, which avoids most crossings.
"""

from __future__ import annotations

from collections import Counter
from html import escape
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from tinytensor.tensor import Function, Tensor

COLUMN, ROW, WIDTH, HEIGHT = 190, 56, 116, 34  # distances between nodes, and a node's size, in pixels
GAP = 10  # between two edges that join the same nodes
SWEEPS = 8  # how often the columns are sorted
STYLE = "font:12px monospace;text-anchor:middle;dominant-baseline:middle"

Node = Function | Tensor


class Drawing:
    """The graph of a tensor: boxes are leaves, ellipses are operations, and edges have the shape that passes.

    `save("graph.svg")` writes a picture, `svg()` returns it, and a notebook shows it by itself.
    """

    def __init__(self, root: Node):
        self.nodes: dict[int, Node] = {id(root): root}  # also keeps the nodes alive, so that their ids are unique
        self.edges: list[tuple[int, int, str]] = []  # from, to, label
        stack = [root]
        while stack:
            function = stack.pop()
            for node, shape, _ in filter(None, getattr(function, "_edges", ())):
                label = " x ".join(map(str, shape)) if isinstance(node, Function) else ""  # a leaf's box has its shape
                self.edges.append((id(node), id(function), label))
                if id(node) not in self.nodes:
                    self.nodes[id(node)] = node
                    stack.append(node)

    def svg(self) -> str:
        """The picture as SVG text."""
        columns, chains = self._columns()
        tallest = max(map(len, columns))
        place = {}
        for c, column in enumerate(columns):
            for r, key in enumerate(column):
                place[key] = COLUMN * c + COLUMN // 2, round(ROW * (r + (tallest - len(column) + 1) / 2))
        width, height = COLUMN * len(columns), ROW * tallest
        uses = Counter((chain[0], chain[-1]) for chain, _ in chains)
        body, drawn = [], Counter[tuple]()
        for chain, label in chains:
            ends = chain[0], chain[-1]
            shift = round(GAP * (drawn[ends] - (uses[ends] - 1) / 2))  # two uses of a result are two lines
            drawn[ends] += 1
            body.append(_edge([(x, y + shift) for x, y in map(place.__getitem__, chain)], label))
        body += [_node(node, *place[key]) for key, node in self.nodes.items()]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
            f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n"
        )

    _repr_svg_ = svg  # what notebooks look for

    def save(self, path: str | Path) -> None:
        """Write the picture to a file, whose name should end in .svg."""
        Path(path).write_text(self.svg(), encoding="utf-8")

    def _columns(self) -> tuple[list[list], list[tuple[list, str]]]:
        """The keys of each column from top to bottom, and each edge as the keys that it passes, with its label."""
        depth = {key: node._depth for key, node in self.nodes.items() if isinstance(node, Function)}
        for start, end, _ in self.edges:
            if isinstance(self.nodes[start], Tensor):  # a leaf stands just before its first use
                depth[start] = min(depth.get(start, depth[end]), depth[end] - 1)
        depth = depth or dict.fromkeys(self.nodes, 0)
        first = min(depth.values())
        columns: list[list] = [[] for _ in range(max(depth.values()) - first + 1)]
        for key in self.nodes:
            columns[depth[key] - first].append(key)
        chains: list[tuple[list, str]] = []
        neighbors: dict = {}
        for number, (start, end, label) in enumerate(self.edges):
            chain: list = [start]
            for d in range(depth[start] + 1, depth[end]):
                chain.append((number, d))  # the key of an invisible node
                columns[d - first].append(chain[-1])
            chain.append(end)
            chains.append((chain, label))
            for a, b in pairwise(chain):
                neighbors.setdefault(a, []).append(b)
                neighbors.setdefault(b, []).append(a)
        for sweep in range(SWEEPS):
            for column in columns if sweep % 2 else reversed(columns):
                row = {key: r - len(others) / 2 for others in columns for r, key in enumerate(others)}
                mean_row = {key: fmean(row[n] for n in neighbors.get(key, [key])) for key in column}
                column.sort(key=mean_row.__getitem__)
        return columns, chains


def draw(tensor: Tensor) -> Drawing:
    """The graph of `tensor`; `draw(loss).save("graph.svg")` writes it. Call it before `backward`, which frees it."""
    return Drawing(tensor if tensor.function is None else tensor.function)


def _node(node: Node, x: int, y: int) -> str:
    if isinstance(node, Function):
        shape = f'<ellipse cx="{x}" cy="{y}" rx="{WIDTH // 2}" ry="{HEIGHT // 2}" fill="#dbe9f6" stroke="#4477aa"/>'
        lines = [type(node).__name__]
    else:
        left, top = x - WIDTH // 2, y - HEIGHT // 2
        shape = f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="#f7ecd2" stroke="#bb8833"/>'
        value = f"{node.item():.4g}" if node.numel() == 1 else " x ".join(map(str, node.shape))
        lines = [type(node).__name__, value]
    text = "".join(
        f'<text x="{x}" y="{y + 14 * i - 7 * (len(lines) - 1)}" style="{STYLE}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return shape + text


def _edge(points: list[tuple[int, int]], label: str) -> str:
    """A curve through the points, horizontal at each, with its label at the middle of its first part."""
    (x, y), (x_next, y_next) = points[0], points[1]
    path = f"M{x} {y}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (x0 + x1) // 2
        path += f" C{middle} {y0} {middle} {y1} {x1} {y1}"
    text = (
        f'<text x="{(x + x_next) // 2}" y="{(y + y_next) // 2 - 8}" style="{STYLE};font-size:10px" '
        f'fill="#555">{escape(label)}</text>'
    )
    return f'<path d="{path}" fill="none" stroke="#888"/>{text}'
