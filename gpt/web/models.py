"""The models that are loaded: one copy of each, which all sessions share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tinytensor as tt
from gpt.errors import UserError
from gpt.planning.check import check_generation
from gpt.tokenizers.load import Tokenizer
from gpt.training.manifest import find_verified
from gpt.web.folder import Folder
from gpt.weights.directory import WEIGHTS_FILE
from gpt.weights.load import INDEX_FILE, find_directory, load_model, model_config

CAPACITY = 2  # models kept in memory


class LoadedModel:
    """A model in evaluation mode and its tokenizer. Each session has a KV cache of its own; the weights are shared."""

    def __init__(self, model: Any, tokenizer: Tokenizer, device: tt.Device):
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self.block_size: int = model.config.block_size
        self._lock = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the model for as long as one token takes, so that several users take turns."""
        with self._lock:
            self.device.use()  # the current GPU is a property of the thread
            yield


class Models:
    """Loads models by name, and again when a training has saved a better one."""

    def __init__(self, folder: Folder, device: tt.Device):
        self.folder, self.device = folder, device
        self._loaded: dict[str, tuple[object, LoadedModel]] = {}  # the most recently used last
        self._lock = threading.Lock()

    def get(self, name: str | None) -> LoadedModel:
        """The newest model of a run, or a model directory's. Raises UserError."""
        entry = self.folder.find(name)
        if not entry.has_model:
            raise UserError(f"{entry.name}: has no model yet; the first evaluation of the training saves it")
        with self._lock:
            version = version_of(entry.path)
            before, model = self._loaded.pop(entry.name, (None, None))
            if model is None or before != version:
                model = self._load(entry.path)
            self._loaded[entry.name] = version, model
            while len(self._loaded) > CAPACITY:
                del self._loaded[next(iter(self._loaded))]
            return model

    def _load(self, path: Path) -> LoadedModel:
        directory = find_verified(path)
        kind, config = model_config(directory)
        check_generation(kind, config, self.device, 1, config.block_size, 1)
        return LoadedModel(*load_model(directory, self.device), self.device)


def version_of(path: Path) -> object:
    """What tells the weights in a run or model directory from those that replace them."""
    directory = find_directory(path)
    files = [file for name in (WEIGHTS_FILE, INDEX_FILE) if (file := directory / name).exists()]
    return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in map(Path.stat, files)]
