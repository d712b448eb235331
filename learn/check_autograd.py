"""Checks an autograd puzzle: the learner's Function, given its forward, must have the right VJP.

`tt.gradcheck` decides. Before it, the VJP is called once by itself: the engine would sum a gradient that has the shape
of the result down to that of the input, which in a puzzle is the learner's work.
"""

import inspect
import runpy
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import tinytensor as tt
from learn.puzzle import Puzzle, Refused

EPS = 1e-5  # the step of the finite differences that are printed, the same as gradcheck's


@dataclass(frozen=True)
class AutogradPuzzle(Puzzle):
    """A Function of which the learner writes `vjp`.

    function: the name of the class in the learner's file.
    forward: the same in NumPy, since a learner may change forward, too.
    inputs: a tuple of arrays for each time that the Function is applied; small, so that every element is checked.
    """

    function: str
    forward: Callable[..., np.ndarray]
    inputs: Sequence[tuple]
    kind: ClassVar[str] = "autograd"
    suffix: ClassVar[str] = ".py"

    def check(self, path: Path) -> None:
        """Raise Refused unless the Function in the file `path` has this forward, and the VJP that belongs to it."""
        function = load(path, self.function)

        def apply(*inputs: Any) -> tt.Tensor:
            return function()(*inputs)

        apply.__name__ = self.function
        for inputs in self.inputs:
            with refusing_errors(path):
                analytic, names = call_vjp(function, self.forward, inputs)
                try:
                    tt.gradcheck(apply, *inputs)
                except tt.GradientMismatch as mismatch:
                    raise Refused(f"{mismatch}\n{compared(apply, inputs, analytic, names)}") from None


def load(path: Path, name: str) -> type[tt.Function]:
    """The Function `name` that the Python file `path` defines; this runs the file."""
    with refusing_errors(path):
        function = runpy.run_path(str(path), run_name=path.stem).get(name)
    if not (isinstance(function, type) and issubclass(function, tt.Function)):
        raise Refused(f"{path.name} has no class {name}(Function): keep the name that the task gives it")
    return function


@contextmanager
def refusing_errors(path: Path) -> Iterator[None]:
    """Within it, an exception that the code of a file raises becomes Refused, with its line."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        if isinstance(error, SyntaxError):
            lines.append(error.lineno)
        where = f" at {path.name}:{lines[-1]}" if lines else ""
        raise Refused(f"{type(error).__name__}{where}: {error}") from None


def call_vjp(function: type[tt.Function], forward: Callable, inputs: tuple) -> tuple[tuple, list[str]]:
    """(gradients that the VJP returns for the g that gradcheck draws, names of the inputs); Refused if it is no VJP."""
    node = function()
    names = list(inspect.signature(node.forward).parameters)
    originals = [x.copy() for x in inputs]
    tensors = [tt.Tensor(x, requires_grad=True) if x.dtype.kind == "f" else x for x in inputs]
    y = node(*tensors).data
    expected = forward(*inputs)
    if y.shape != expected.shape or not np.allclose(y, expected, rtol=1e-9, atol=1e-12):
        raise Refused("forward does not compute the formula any more: restore it from the task")
    g = np.random.default_rng(0).standard_normal(y.shape)
    g_before = g.copy()
    gradients = node.vjp(g)
    if not isinstance(gradients, tuple) or len(gradients) != len(inputs):
        raise Refused(
            f"vjp must return a tuple with a gradient for each input ({', '.join(names)}): {describe(gradients)}"
        )
    for name, x, gx in zip(names, inputs, gradients, strict=True):
        if gx is ...:
            raise Refused(f"the gradient of {name} is still ...: write it")
        if x.dtype.kind == "f" and np.shape(gx) != x.shape:
            raise Refused(
                f"the gradient of {name} has shape {np.shape(gx)}, but {name} has {x.shape}, y and g {y.shape}"
            )
    if not np.array_equal(g, g_before) or not all(map(np.array_equal, inputs, originals)):
        raise Refused("vjp or forward changes g or an input in place: others use these arrays, so make new ones")
    return gradients, names


def describe(value: object) -> str:
    """What a VJP returned instead of a tuple of the right length."""
    return f"it returned {len(value)} values" if isinstance(value, tuple) else f"it returned a {type(value).__name__}"


def compared(apply: Callable, inputs: tuple, analytic: tuple, names: list[str]) -> str:
    """For the inputs whose gradients differ: shape, gradient by finite differences, gradient by the VJP."""
    g = np.random.default_rng(0).standard_normal(apply(*inputs).shape)
    lines = []
    for i, (name, gx) in enumerate(zip(names, analytic, strict=True)):
        if inputs[i].dtype.kind == "f":
            numeric = finite_differences(apply, inputs, i, g)
            if not np.allclose(numeric, gx, rtol=1e-5, atol=1e-7):
                lines += [f"dL/d{name} {numeric.shape} by finite differences:", indented(numeric)]
                lines += ["by your vjp:", indented(np.asarray(gx))]
    return "\n".join(lines)


def finite_differences(apply: Callable, inputs: tuple, i: int, g: np.ndarray) -> np.ndarray:
    """dL/d(input i) for L = sum(g * y), each element by a central difference; the shape of that input."""
    gradient = np.zeros(inputs[i].shape)
    for element in np.ndindex(gradient.shape):
        losses = []
        for step in (EPS, -EPS):
            moved = inputs[i].copy()
            moved[element] += step
            losses.append(np.sum(g * apply(*inputs[:i], moved, *inputs[i + 1 :]).data))
        gradient[element] = (losses[0] - losses[1]) / (2 * EPS)
    return gradient


def indented(array: np.ndarray) -> str:
    """An array's numbers, below one another."""
    text = np.array2string(array, precision=4, suppress_small=True, max_line_width=110, threshold=60)
    return "    " + text.replace("\n", "\n    ")
