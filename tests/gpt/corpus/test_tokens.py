"""Token files as training opens them: complete, unchanged, and also those of earlier versions."""

import json

import numpy as np
import pytest

from gpt.corpus.tokens import is_prepared, link_tokens, open_tokens
from gpt.errors import UserError


@pytest.fixture
def directory(tmp_path):
    """Token files with the `meta.json` that the first version of train.py wrote."""
    np.arange(90, dtype="<u2").tofile(tmp_path / "train.bin")
    np.arange(10, dtype="<u2").tofile(tmp_path / "val.bin")
    content = {"format": "tinytensor tokens 1", "source": "a.txt", "dtype": "<u2", "train": 90, "val": 10}
    (tmp_path / "meta.json").write_text(json.dumps(content))
    return tmp_path


def test_token_files_of_the_first_version_open(directory):
    tokens = open_tokens(directory)
    assert isinstance(tokens.train, np.memmap)
    assert (tokens.train.tolist(), tokens.val.tolist()) == ([*range(90)], [*range(10)])
    assert (tokens.source, tokens.unreadable) == ("a.txt", 0)
    assert is_prepared(directory)


def test_a_corrupt_or_missing_token_file_is_named(directory):
    with open(directory / "val.bin", "r+b") as file:
        file.truncate(10)
    with pytest.raises(UserError, match=r"val\.bin: corrupt, 10 bytes instead of 20"):
        open_tokens(directory)
    (directory / "val.bin").unlink()
    with pytest.raises(UserError, match=r"meta\.json: corrupt or missing .*val\.bin"):
        open_tokens(directory)


@pytest.mark.parametrize(
    ("text", "reason"), [(None, "is missing"), ("{", r"is corrupt \(.*\)"), ("{}", "is something else")]
)
def test_token_files_without_their_description_are_no_folder_of_texts(directory, text, reason):
    meta = directory / "meta.json"
    meta.unlink() if text is None else meta.write_text(text)
    with pytest.raises(UserError, match=f"has token files, but their meta.json {reason}: restore it from a copy"):
        is_prepared(directory)


def test_a_link_refuses_tokens_that_have_changed(directory, tmp_path_factory):
    meta = directory / "meta.json"
    content = json.loads(meta.read_text())
    meta.write_text(json.dumps({**content, "sha256": {"train": "1", "val": "2"}}))
    run = tmp_path_factory.mktemp("run")
    link_tokens(directory, run)
    np.testing.assert_array_equal(open_tokens(run).train, open_tokens(directory).train)
    meta.write_text(json.dumps({**content, "sha256": {"train": "3", "val": "2"}}))
    with pytest.raises(UserError, match="describes other tokens than those that the run was created with"):
        open_tokens(run)
