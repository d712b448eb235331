"""Public first lessons that were written for PyTorch run here, rewritten only in their import lines.

Each is run with PyTorch too, where that is installed, so that the cells are known to be PyTorch's; what is no matter of
chance agrees to the digit.
"""

import math
import random
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import tinytensor as tt
from tinytensor.nn import functional as F

LESSONS = Path(__file__).parent / "lessons"
TEXT = "the cat sat on the mat and the dog ate the hat of the man that had the fat cat. " * 60


def rewritten(source: str) -> str:
    """A lesson with PyTorch's name in its import lines replaced by ours."""
    source = re.sub(r"^import torch$", "import tinytensor as torch", source, flags=re.MULTILINE)
    return re.sub(r"^(import|from) torch\.", r"\1 tinytensor.", source, flags=re.MULTILINE)


def run(name: str, folder: Path, monkeypatch, rewrite=rewritten) -> dict:
    """The names that a lesson defines, run in `folder`, which has a text."""
    (folder / "input.txt").write_text(TEXT)
    (folder / "lesson.py").write_text(rewrite((LESSONS / f"{name}.py").read_text()))
    monkeypatch.chdir(folder)
    random.seed(0)
    tt.manual_seed(0)
    return runpy.run_path(str(folder / "lesson.py"))


@pytest.fixture(params=["tinytensor", "torch"])
def lesson(request, tmp_path, monkeypatch):
    """A function that runs a lesson by its name."""
    if request.param == "torch":
        torch = pytest.importorskip("torch", reason="PyTorch (pip install -e '.[bench]') runs the lessons as they are")
        torch.manual_seed(0)
        return lambda name: run(name, tmp_path, monkeypatch, rewrite=lambda source: source)
    return lambda name: run(name, tmp_path, monkeypatch)


def test_only_import_lines_are_rewritten():
    for path in LESSONS.glob("*.py"):
        source = path.read_text()
        changed = [a for a, b in zip(source.splitlines(), rewritten(source).splitlines(), strict=True) if a != b]
        assert changed, path
        assert all(re.match("(import|from) torch", line) for line in changed)


def the_basics(names):
    np.testing.assert_allclose(np.asarray(names["product"]), names["by_numpy"], rtol=1e-5)
    assert names["samples"].shape == (10,)
    assert names["joined"].tolist() == [1, 2, 3, 4, 5]
    assert names["lower"].tolist() == np.tri(5).tolist() == names["back"].tolist()
    assert names["upper"].tolist() == np.triu(np.ones((5, 5))).tolist()
    assert names["masked"].tolist() == np.where(np.tri(5), 0, -np.inf).tolist()
    assert (names["first"].shape, names["last"].shape) == ((3, 2, 4), (2, 4, 3))
    assert names["stacked"].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    np.testing.assert_allclose(names["softened"].tolist(), [0.09003057, 0.24472847, 0.66524096], rtol=1e-6)
    assert names["embedded"].shape == (4, 6)
    assert names["both"].tolist() == [[27, 30, 33], [61, 68, 75], [95, 106, 117]]
    assert str(names["int_64"].dtype).endswith("int64")
    assert names["mixed"].tolist() == names["again"].tolist()
    assert names["halves"].tolist() == [0.5, 1.0, 1.5]
    assert str(names["halves"].dtype).endswith("float32")
    assert (names["a"].shape, names["flat"].shape) == ((2, 3, 5), (32, 10))
    np.testing.assert_allclose(names["squashed"].tolist(), [1.0])


def it_learns(names):
    assert all(map(math.isfinite, names["history"]))
    assert names["history"][-1] < names["history"][0] - 0.2


def it_writes(names):
    it_learns(names)
    assert set(names["generated"]) <= set(TEXT)
    assert len(names["generated"]) > 20


def the_gradients_are_the_lessons(names):
    it_learns(names)
    np.testing.assert_allclose(names["o"].data.item(), 0.7071066904050358, rtol=1e-12)
    np.testing.assert_allclose(names["gradients"], [-1.5000003, 1.0000002, 0.5000001, 0.0, 0.5000001], rtol=1e-6)
    assert len(names["mlp"].parameters()) == 41
    np.testing.assert_allclose(names["history"][0], 6.005403, rtol=1e-6)  # `random` drew the weights


def the_network_approaches_the_counts(names):
    it_learns(names)
    counts = names["N"].numpy()
    assert counts.sum() == names["num"] == names["n"]
    share = counts / counts.sum(1, keepdims=True).clip(1)
    entropy = -(counts * np.log(np.where(counts, share, 1))).sum() / counts.sum()
    assert entropy < names["counted_loss"]
    assert entropy < names["history"][-1]


CHECKS = {
    "course_tensors": the_basics,
    "course_bigram": it_writes,
    "course_gpt": it_writes,
    "video_bigram": it_writes,
    "video_gpt": it_writes,
    "micrograd_neuron": the_gradients_are_the_lessons,
    "makemore_bigrams": the_network_approaches_the_counts,
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_lesson_runs(lesson, name):
    CHECKS[name](lesson(name))


def test_every_lesson_is_run():
    assert {path.stem for path in LESSONS.glob("*.py")} == set(CHECKS)


# ---- F has PyTorch's meaning where that is not ours ------------------------------------------------------------------


def test_functional_takes_pytorchs_arguments():
    rng = np.random.default_rng(0)
    x, images = tt.tensor(rng.standard_normal((3, 4))), tt.tensor(rng.standard_normal((2, 3, 5)))
    w, b = tt.tensor(rng.standard_normal(4)), tt.tensor(rng.standard_normal(4))
    np.testing.assert_array_equal(F.layer_norm(x, (4,), w, b).data, tt.layer_norm(x, w, b).data)
    np.testing.assert_array_equal(F.layer_norm(x, 4).data, tt.layer_norm(x).data)
    np.testing.assert_array_equal(F.gelu(x).data, tt.gelu(x, "none").data)
    np.testing.assert_array_equal(tt.nn.GELU()(x).data, tt.gelu(x, "none").data)
    np.testing.assert_array_equal(tt.nn.GELU(approximate="tanh")(x).data, tt.gelu(x).data)
    classes = tt.tensor(rng.integers(3, size=(2, 5)))
    expected = tt.cross_entropy(images.transpose(1, 2), classes)
    np.testing.assert_allclose(F.cross_entropy(images, classes).data, expected.data)
    assert F.dropout(x, 0.5, training=False) is x
    assert 0 < (F.dropout(tt.ones(100)).data == 0).sum() < 100
    with pytest.raises(ValueError, match=r"normalized_shape \(3, 4\): must be \(4,\), the last axis of x"):
        F.layer_norm(x, (3, 4))
