"""Scenes of the whole system: a kernel as peer, a card, a stack, applications."""

import os

import pytest

from hdstack.cli.demo.peer import NoKernelPeer, open_peer
from hdstack.cli.demo.scene import PEER_UID, Scene

PEER_ADDRESS, STACK_ADDRESS = "10.77.0.1", "10.77.0.2"
STACK_MAC = "02:68:64:73:00:02"


@pytest.fixture(scope="module")
def kernel():
    """A Linux kernel in a network namespace of its own; skips where the system allows none."""
    try:
        peer = open_peer(f"{PEER_ADDRESS}/24", uid=PEER_UID if os.geteuid() == 0 else None)
    except NoKernelPeer as error:
        pytest.skip(f"no kernel peer can be had here: {error}")
    with peer:
        yield peer


@pytest.fixture(scope="module")
def scene(kernel):
    """A card and a stack on the kernel's wire, with a capture; applications are up to the test."""
    with Scene() as made:
        made.capture = made.file("card.pcapng", "device")
        made.start_device(kernel.link_fd, 64, made.capture)
        made.start_stack(f"{STACK_ADDRESS}/24", STACK_MAC)
        yield made
