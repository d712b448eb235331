"""What the tests of gpt share: a small text, and flags for a model that trains in a moment."""

import pytest

WORDS = ["to", "be", "or", "not", "that", "is", "the", "question", "whether", "nobler", "in", "mind", "suffer"]

TINY = {
    "--n-layer": 1,
    "--n-head": 2,
    "--n-embd": 8,
    "--block-size": 8,
    "--batch-size": 2,
    "--warmup-steps": 2,
    "--eval-batches": 2,
    "--device": "cpu",
    "--processes": 1,
}


@pytest.fixture(scope="session")
def text():
    """Six thousand characters that a model can learn something from."""
    return "".join(WORDS[i * i % 17 % len(WORDS)] + " \n"[i % 7 == 0] for i in range(1300))


@pytest.fixture(scope="session")
def text_file(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny(text_file):
    """Flags of a tiny model on the small text."""
    return [str(word) for item in (*TINY.items(), ("--data", text_file)) for word in item]
