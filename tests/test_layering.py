"""Imports go one way: the layers of the design, enforced by reading the source, and tried on planted offenders."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Lowest first. A file may import from the lines above its own; files of one line may not import each other.
LAYERS = [
    ["kernels"],
    ["tinytensor.backend", "tinytensor.random"],
    ["tinytensor.cuda"],
    ["tinytensor.tensor"],
    ["tinytensor.ops.arguments", "tinytensor.ops.dtypes"],
    ["tinytensor.ops.elementwise"],
    ["tinytensor.ops." + name for name in ("activations", "indexing", "linalg", "logic", "reduce")],
    ["tinytensor.ops.order", "tinytensor.ops.shape"],
    ["tinytensor.ops.einsum", "tinytensor.ops.scan"],
    ["tinytensor.ops.composed", "tinytensor.ops.fused", "tinytensor.ops.rotary"],
    ["tinytensor.ops.attention", "tinytensor.ops.losses"],
    ["tinytensor.ops"],
    ["tinytensor.methods", "tinytensor.creation"],
    ["tinytensor.nn"],
    ["tinytensor.optim", "tinytensor.gradcheck", "tinytensor.draw"],
    ["tinytensor.parallel"],
    ["tinytensor"],
    ["tinytensor.gpu_check"],
    ["gpt.errors"],
    ["gpt.options", "gpt.files", "gpt.signals"],
    ["gpt.directories"],
    ["gpt.tokenizers", "gpt.model"],
    ["gpt.corpus"],
    ["gpt.weights"],
    ["gpt.generation"],
    ["gpt.inspection", "gpt.dialogs"],
    ["gpt.training"],
    ["gpt.planning"],
    ["gpt.cli"],
    ["gpt.distributed"],
    ["gpt.chat", "gpt.explain", "gpt.export", "gpt.generate", "gpt.prepare"],
    ["gpt.serve"],
    ["gpt.web"],
    ["gpt"],
    ["train", "benchmarks", "learn", "sitecustomize"],
]
MAY_BE_IMPORTED_IN = {
    "cupy": ("kernels.cuda", "tinytensor.backend", "benchmarks"),
    "kernels.cpu.loops": ("kernels.cpu.compiled", "kernels.cpu.loops"),  # numba is optional
    "numba": ("kernels.cpu.loops",),
    "uvicorn": ("gpt.serve.server", "gpt.web.server"),
    "gradio": ("gpt.web.handlers", "gpt.web.page", "gpt.web.server"),
    "torch": ("benchmarks",),
    **dict.fromkeys(("jax", "tensorflow", "pickle", "marshal", "shelve", "dill"), ()),
}
FORBIDDEN_CALLS = ("eval", "exec", "compile", "__import__")
# what may be imported inside a function: optional dependencies, and our files that need one at their top
LAZY = (
    "cupy",
    "datasets",
    "huggingface_hub",
    "pyarrow",
    "tiktoken",
    "tokenizers",
    "matplotlib",
    "mpi4py",
    "jinja2",
    "torch",
    "kernels",
    "benchmarks.torch_gpt",
    "gpt.serve.server",
    "gpt.web.page",
    "gpt.web.server",
)


def sources() -> dict[str, ast.Module]:
    """{module name: syntax tree} of the product."""
    paths = [ROOT / "train.py"]
    for package in ("kernels", "tinytensor", "gpt", "benchmarks", "learn"):
        paths += sorted((ROOT / package).rglob("*.py"))
    return {module_name(path): ast.parse(path.read_text()) for path in paths}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`, which only type checkers read."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            for statement in child.orelse:
                yield from runtime_nodes(statement)
        else:
            yield from runtime_nodes(child)


def imports(tree: ast.AST, known=()) -> set[str]:
    """Every module that is imported, anywhere in a file; `from a import b` is a.b if that is a module."""
    found = set()
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in full}
    return found


def layer_of(module: str) -> int | None:
    """The layer with the longest name that fits; None for a foreign module."""
    fitting = [(len(name), i) for i, layer in enumerate(LAYERS) for name in layer if is_within(module, name)]
    exact = [(size, i) for size, i in fitting if module in LAYERS[i]]
    return max(exact or fitting)[1] if fitting else None


def layer_faults(trees) -> list[str]:
    """Imports that do not go down."""
    faults = []
    for module, tree in trees.items():
        for imported in sorted(imports(tree, trees)):
            own, other = layer_of(module), layer_of(imported)
            same_package = own == other and any(
                is_within(module, name) and is_within(imported, name) for name in LAYERS[own]
            )
            if own is None or (other is not None and other >= own and not same_package):
                faults.append(f"{module} imports {imported}")
    return faults


def module_faults(trees) -> list[str]:
    """Imports and calls that have no place in the product."""
    faults = []
    for module, tree in trees.items():
        for imported in sorted(imports(tree, trees)):
            places = [places for name, places in MAY_BE_IMPORTED_IN.items() if is_within(imported, name)]
            if places and not any(is_within(module, place) for place in places[0]):
                faults.append(f"{module} imports {imported}")
        calls = [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
        faults += [f"{module} calls {name}" for name in calls if name in FORBIDDEN_CALLS]
    return faults


def late_imports(trees) -> list[str]:
    """Imports inside functions, but for optional dependencies."""
    return [
        f"{module} imports {name} inside {function.name}"
        for module, tree in trees.items()
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for name in sorted(imports(function, trees))
        if not any(is_within(name, lazy) for lazy in LAZY)
    ]


def cycle(trees) -> list[str]:
    """Modules in a circle of imports; empty if there is none."""
    edges = {module: {i for i in imports(tree, trees) if i in trees and i != module} for module, tree in trees.items()}
    while removable := [module for module in edges if not edges[module] & edges.keys()]:
        for module in removable:
            del edges[module]
    return sorted(edges)


CHECKS = [layer_faults, module_faults, late_imports, cycle]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_product_is_in_order(check):
    assert check(sources()) == []


def test_every_file_is_in_a_layer():
    trees = sources()
    assert len(trees) > 30
    assert [module for module in trees if layer_of(module) is None] == []
    rooms = {name for layer in LAYERS for name in layer} - {"gpt", "tinytensor"}
    mine = [m for m in trees if is_within(m, "tinytensor") or is_within(m, "gpt")]
    assert [m for m in mine if "." in m and not any(is_within(m, room) for room in rooms)] == []


def test_no_file_of_gpt_lies_beside_more_than_ten_others():
    for folder in {path.parent for path in (ROOT / "gpt").rglob("*.py")}:
        assert len([*folder.glob("*.py")]) <= 11, folder


PLANTED = [
    (layer_faults, "kernels.cpu.bad", "import tinytensor", "kernels.cpu.bad imports tinytensor"),
    (layer_faults, "kernels.bad", "from gpt import model", "kernels.bad imports gpt.model"),
    (layer_faults, "tinytensor.tensor", "from tinytensor.ops import fused", "imports tinytensor.ops.fused"),
    (layer_faults, "tinytensor.tensor", "import tinytensor.methods", "imports tinytensor.methods"),
    (layer_faults, "tinytensor.ops.elementwise", "from tinytensor.ops.shape import stack", "ops.shape"),
    (layer_faults, "tinytensor.ops.reduce", "from tinytensor.ops.shape import stack", "ops.shape"),
    (layer_faults, "tinytensor.nn", "from tinytensor import optim", "imports tinytensor.optim"),
    (layer_faults, "tinytensor.optim", "import tinytensor as tt", "imports tinytensor"),
    (layer_faults, "gpt.model.gpt", "import train", "imports train"),
    (layer_faults, "gpt.model.gpt", "from gpt.weights import load", "imports gpt.weights.load"),
    (layer_faults, "gpt.tokenizers.bpe", "from gpt.model.config import GPTConfig", "imports gpt.model.config"),
    (layer_faults, "gpt.generation.stream", "from gpt import chat", "imports gpt.chat"),
    (layer_faults, "gpt.model.gpt", "def f():\n    from benchmarks import cpu_vs_gpu", "imports benchmarks"),
    (layer_faults, "tinytensor.unheard_of", "import gpt", "imports gpt"),
    (module_faults, "gpt.model.gpt", "import torch.nn", "imports torch.nn"),
    (module_faults, "tinytensor.ops.fused", "import cupy as cp", "imports cupy"),
    (module_faults, "kernels.cpu.gelu", "import numba", "imports numba"),
    (module_faults, "gpt.web.sessions", "import gradio as gr", "imports gradio"),
    (module_faults, "gpt.serve.app", "import uvicorn", "imports uvicorn"),
    (module_faults, "kernels.cpu.gelu", "from kernels.cpu import loops", "imports kernels.cpu.loops"),
    (module_faults, "gpt.corpus.tokens", "from pickle import load", "imports pickle"),
    (module_faults, "gpt.options", "config = eval('1')", "calls eval"),
    (module_faults, "gpt.options", "exec(open('x').read())", "calls exec"),
    (late_imports, "gpt.model.gpt", "def f():\n    import json", "imports json inside f"),
]


@pytest.mark.parametrize(("check", "module", "source", "fault"), PLANTED, ids=[p[1] + " " + p[3] for p in PLANTED])
def test_a_planted_fault_is_found(check, module, source, fault):
    trees = sources()
    (found,) = set(check(trees | {module: ast.parse(source)})) - set(check(trees))
    assert fault in found
    assert found.startswith(module)


def test_a_planted_cycle_is_found():
    planted = {"gpt.one": ast.parse("import gpt.two"), "gpt.two": ast.parse("from gpt import one")}
    assert cycle(sources() | planted) == ["gpt.one", "gpt.two"]
