"""What an editor and `help` see of a Tensor: real definitions with types, although operations are made of Tensors."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import tinytensor as tt
from tinytensor.methods import Methods

ROOT = Path(tt.__file__).resolve().parents[1]
SNIPPET = """
import tinytensor as tt
x = tt.ones(3)
reveal_type((x + 1).exp().sum(axis=0))
reveal_type(x[0] @ x.T)
reveal_type(tt.softmax(x).split(2))
x.smu()
"""


def test_a_type_checker_knows_results_and_misspelt_methods():
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports", "-c", SNIPPET]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    assert found.count('Revealed type is "tinytensor.tensor.Tensor"') == 2
    assert 'Revealed type is "tuple[tinytensor.tensor.Tensor, ...]"' in found
    assert '"Tensor" has no attribute "smu"' in found


@pytest.mark.parametrize("name", sorted(n for n in vars(Methods) if not n.startswith("_") and n not in ("T", "mT")))
def test_every_method_has_a_signature_and_words(name):
    method = getattr(tt.Tensor, name)
    assert method.__doc__
    parameters = list(inspect.signature(method).parameters.values())
    assert parameters[0].name == "self"
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters)
    assert Path(inspect.getsourcefile(inspect.unwrap(method))).name == "methods.py"


@pytest.mark.parametrize("name", [n for n in dir(tt) if inspect.isfunction(getattr(tt, n))])
def test_every_public_function_has_a_signature_types_and_words(name):
    function = getattr(tt, name)
    assert function.__doc__
    signature = inspect.signature(function)
    assert signature.return_annotation is not signature.empty
    assert all(p.annotation is not p.empty for p in signature.parameters.values())
    assert function.__name__ == name or name in ("cat", "clamp")
