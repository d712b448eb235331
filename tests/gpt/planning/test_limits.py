"""What memory there is, read from the files of /proc and of the cgroups, which are made up here."""

import resource

import pytest

from gpt.planning.limits import Limit, host_limit, process_limit, resident

MIB = 1 << 20


def system(root, cgroup="", files=(), available=1000, own=10):
    """A made-up /proc with MiB of memory available and held by this process, and files {path: content} of cgroups."""
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal: 4000000 kB\nMemAvailable:   {available * 1024} kB\nHugePages_Total: 0\n"
    )
    (proc / "status").write_text(f"Name:\tpython\nRssAnon:\t{own * 1024} kB\nRssShmem:\t0 kB\n")
    (proc / "cgroup").write_text(cgroup)
    for path, content in dict(files).items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(content))
    return root


def test_without_cgroups_it_is_what_the_machine_has_available_and_this_process_holds(tmp_path):
    assert host_limit(system(tmp_path)) == Limit(1010 * MIB, "this machine")


def test_the_smallest_cgroup_on_the_path_counts_and_cached_files_are_free(tmp_path):
    files = {
        "a/b/memory.max": "max\n",
        "a/b/memory.current": 50 * MIB,
        "a/memory.max": 300 * MIB,
        "a/memory.current": 100 * MIB,
        "a/memory.stat": f"anon 1\nactive_file {20 * MIB}\ninactive_file {30 * MIB}\nshmem 5\n",
    }
    # 300 of which 100 are used, 50 of them by cached files; 10 are ours
    assert host_limit(system(tmp_path, "0::/a/b\n", files)) == Limit(260 * MIB, "the cgroup of this process")


def test_cgroups_of_version_1(tmp_path):
    files = {
        "memory/c/memory.limit_in_bytes": 200 * MIB,
        "memory/c/memory.usage_in_bytes": 80 * MIB,
        "memory/c/memory.stat": f"inactive_file 1\ntotal_inactive_file {60 * MIB}\ntotal_active_file 0\n",
        "memory/memory.limit_in_bytes": 9223372036854771712,
    }
    cgroup = "9:name=systemd:/\n4:cpu,memory:/c\n0::/\n"
    assert host_limit(system(tmp_path, cgroup, files)) == Limit(190 * MIB, "the cgroup of this process")


def test_a_container_sees_its_own_cgroup_as_the_topmost(tmp_path):
    files = {"memory.max": 400 * MIB, "memory.current": 0}
    assert host_limit(system(tmp_path, "0::/../docker/1234\n", files)).bytes == 410 * MIB
    assert host_limit(system(tmp_path / "other", "0::/docker/1234\n", files)).bytes == 410 * MIB


@pytest.mark.parametrize("content", ["", "nonsense\n", "-1\n"])
def test_what_cannot_be_read_is_no_limit(tmp_path, content):
    files = {"a/memory.max": "max", "a/memory.current": content, "a/memory.stat": content}
    assert host_limit(system(tmp_path, "0::/a\n", files)).name == "this machine"


def test_a_system_without_proc_has_no_limit(tmp_path):
    assert host_limit(tmp_path) is None


def test_this_machine_has_one():
    assert host_limit().bytes > resident() > MIB


def test_an_address_space_is_a_limit_of_each_process(monkeypatch):
    assert process_limit() is None or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 40, 1 << 40))
    assert (1 << 40) - (1 << 38) < process_limit().bytes < 1 << 40
