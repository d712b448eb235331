"""Machine code is loaded only from folders that nobody else can write to."""

import hashlib
import os
import stat

import pytest

from kernels import emulator
from kernels.caches import make_private
from kernels.emulator import CompileError
from kernels.emulator.compiler import compile_shared, object_directory

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def _another_user(monkeypatch):
    """Everything belongs to another user than this one."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


def test_a_new_folder_is_this_users_alone(tmp_path):
    before = os.umask(0)
    try:
        assert make_private(tmp_path / "a/b")
    finally:
        os.umask(before)
    assert mode(tmp_path / "a/b") == 0o700


@pytest.mark.parametrize(("before", "kept"), [(0o700, True), (0o755, True), (0o775, False), (0o777, False)])
def test_what_others_could_have_written_is_deleted(tmp_path, before, kept):
    folder = tmp_path / "cache"
    (folder / "key").mkdir(parents=True)
    for name in ("kernel.so", "key/kernel.so"):
        (folder / name).write_text("machine code")
    (folder / "link").symlink_to(tmp_path)
    folder.chmod(before)
    assert make_private(folder)
    assert mode(folder) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == (["kernel.so", "key", "link"] if kept else [])
    assert tmp_path.exists()


@pytest.mark.usefixtures("_another_user")
def test_the_emulator_refuses_the_folder_of_another_user(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYTENSOR_CACHE", str(tmp_path))
    with pytest.raises(CompileError, match="belongs to another user; set TINYTENSOR_CACHE to a directory of your own"):
        object_directory()


@pytest.mark.parametrize("permissions", [0o755, 0o777])
def test_a_folder_that_was_named_keeps_what_is_in_it(tmp_path, monkeypatch, permissions):
    monkeypatch.setenv("TINYTENSOR_CACHE", str(tmp_path))
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(permissions)
    assert object_directory() == tmp_path / "emulator"
    assert mode(tmp_path / "emulator") == 0o700
    assert (tmp_path / "thesis.tex").exists()
    assert mode(tmp_path) == permissions


@pytest.mark.skipif(not emulator.available(), reason=emulator.MISSING)
def test_a_planted_object_is_compiled_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYTENSOR_CACHE", str(tmp_path))

    def build():
        return compile_shared("x.cpp", "int x;\n", ["-fPIC"])

    path = build()
    planted = b"another's" + hashlib.sha256(b"another's").digest()
    path.write_bytes(planted)
    assert build().read_bytes() == planted  # nobody else could have written it
    (tmp_path / "emulator").chmod(0o777)
    assert build() == path
    assert path.read_bytes() != planted


@pytest.fixture
def jit(tmp_path, monkeypatch):
    """The module that compiles loops, and a folder for numba to cache in."""
    module = pytest.importorskip("kernels.cpu.loops.jit")
    monkeypatch.setattr(module.numba.config, "CACHE_DIR", str(tmp_path))
    return module


def test_numba_caches_where_nobody_else_can_write(jit, tmp_path):
    assert jit.may_cache()
    (folder,) = tmp_path.iterdir()
    assert mode(folder) == 0o700
    (folder / "planted.nbi").touch()
    assert jit.may_cache()
    assert os.listdir(folder) == ["planted.nbi"]
    folder.chmod(0o777)
    assert jit.may_cache()
    assert os.listdir(folder) == []


def test_numba_does_not_cache_where_permissions_cannot_be_changed(jit, tmp_path, monkeypatch):
    assert jit.may_cache()
    (folder,) = tmp_path.iterdir()
    folder.chmod(0o777)
    monkeypatch.setattr(type(folder), "chmod", lambda *_: os.chmod(-1, 0))
    assert not jit.may_cache()


@pytest.mark.usefixtures("_another_user")
def test_numba_does_not_cache_in_the_folder_of_another_user(jit):
    assert not jit.may_cache()


def test_the_folder_of_the_sources_own_byte_code_is_left_as_it_is(jit, monkeypatch):
    monkeypatch.setattr(jit.numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(jit, "make_private", None)
    assert jit.may_cache()
