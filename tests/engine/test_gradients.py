"""Every operation of the table in `cases.py`: its values, gradients and contracts; and that the table is complete."""

import gc
from contextlib import contextmanager

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import tinytensor as tt
from tests.engine.cases import CASES

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
data = st.data()


def is_differentiated(x) -> bool:
    return x.dtype.kind == "f"


def run(case, call, arrays):
    """The result for Tensors of these arrays, and the Tensors."""
    tensors = [tt.Tensor(x, requires_grad=True) if is_differentiated(x) else x for x in arrays]
    return case.fn(*tensors, **call.options), [x for x in tensors if isinstance(x, tt.Tensor)]


@every_case
@hypothesis.given(data=data)
def test_values_and_gradients(case, data):
    call = data.draw(case.calls)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        y, _ = run(case, call, call.arrays)
        np.testing.assert_allclose(y.data, case.reference(*call.arrays, **call.options), rtol=1e-10, atol=1e-12)
        tt.gradcheck(lambda *xs: case.fn(*xs, **call.options), *call.arrays)


@every_case
@hypothesis.given(data=data)
def test_arrays_are_kept_apart(case, data):
    """No input changes, and no gradient shares memory with another, with data, or with the incoming gradient."""
    call = data.draw(case.calls)
    before = [x.copy() for x in call.arrays]
    y, tensors = run(case, call, call.arrays)
    g = np.random.default_rng(0).standard_normal(y.shape)
    result, incoming = y.data.copy(), g.copy()
    y.backward(g)
    for x, copy in zip([*call.arrays, y.data, g], [*before, result, incoming], strict=True):
        np.testing.assert_array_equal(x, copy)
    grads = [x.grad for x in tensors]
    for i, grad in enumerate(grads):
        for other in [*grads[:i], *call.arrays, y.data, g]:
            assert not np.shares_memory(grad, other)
        grad += 1  # a gradient is its tensor's own, to be written to


@every_case
@hypothesis.given(data=data)
def test_float32_stays_float32(case, data):
    call = data.draw(case.calls)
    options = call.options | ({"dtype": "float32"} if "dtype" in call.options else {})
    arrays = [x.astype(np.float32) if is_differentiated(x) else x for x in call.arrays]
    tensors = [tt.Tensor(x, requires_grad=True) if is_differentiated(x) else x for x in arrays]
    y = case.fn(*tensors, **options)
    y.backward(np.ones(y.shape))
    assert y.dtype == np.float32
    for x in tensors:
        if isinstance(x, tt.Tensor):
            assert isinstance(x.grad, np.ndarray)
            assert x.grad.dtype == np.float32
            assert x.grad.shape == x.shape


@contextmanager
def recorded():
    """The set of Functions applied inside."""
    used, apply = set(), tt.Function.__call__

    def record(function, *inputs):
        used.add(type(function))
        return apply(function, *inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tt.Function, "__call__", record)
        yield used


def functions_of_the_table() -> set[type]:
    @hypothesis.settings(max_examples=5)
    @hypothesis.given(data=data)
    def try_every_case(data):
        for case in CASES:
            call = data.draw(case.calls)
            run(case, call, call.arrays)

    with recorded() as used:
        try_every_case()
    return used


def all_functions(base=tt.Function) -> set[type]:
    """The operations of the library; bases that only share code begin with an underscore."""
    below = set().union(*[all_functions(kind) for kind in base.__subclasses__()])
    own = base.__module__.startswith("tinytensor.ops") and not base.__name__.startswith("_")
    return below | {base} if own else below


def unchecked() -> list[str]:
    return sorted(function.__name__ for function in all_functions() - functions_of_the_table())


def test_every_function_is_in_the_table():
    assert unchecked() == []


def test_a_function_without_a_case_is_named():
    planted = type("Planted", (tt.ops.reduce.Sum,), {"__module__": "tinytensor.ops.planted"})
    assert unchecked() == ["Planted"]
    del planted
    gc.collect()  # classes are in reference cycles
