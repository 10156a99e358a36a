"""The library of the bridge, compiled once; packetdrill where there is one."""

import os
import resource

import pytest
from drill_build import build, compiler, find_packetdrill


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    if compiler() is None:
        pytest.skip("no C++ compiler: install the Debian package g++")
    return build(tmp_path_factory.mktemp("drill"))


@pytest.fixture(scope="session")
def packetdrill():
    found = find_packetdrill()
    if found is None:
        pytest.skip("no packetdrill ($PACKETDRILL, PATH): docs/packetdrill.md says how to build it")
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if os.geteuid() and limit != resource.RLIM_INFINITY:
        pytest.skip("packetdrill locks its memory: be root, or raise `ulimit -l` to unlimited")
    return found
