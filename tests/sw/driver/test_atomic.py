"""Indices between two processes: nothing is lost, reordered or torn, and no wake-up is missed."""

import os
import select
import socket
import subprocess
import sys

import numpy as np

from hdstack import memory
from hdstack.atomic import load_acquire, prepare_sleep, publish, store_release

COUNT = 30_000
CELLS = 64
PRODUCER, CONSUMER, WAKE_CONSUMER, WAKE_PRODUCER, DATA = 0, 16, 32, 48, 64

PRODUCER_CODE = f"""
import select, socket, sys
from hdstack import memory
from hdstack.atomic import load_acquire, prepare_sleep, publish, store_release
fd, wake = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
words = memory.Mapping(fd, 4096).words
sent = 0
while sent < {COUNT}:
    consumer = load_acquire(words, {CONSUMER})
    if sent - consumer == {CELLS}:
        if prepare_sleep(words, {WAKE_PRODUCER}, {CONSUMER}) == consumer:
            assert select.select([wake], [], [], 20)[0], "a wake-up of the producer was lost"
            wake.recv(64)
        store_release(words, {WAKE_PRODUCER}, 0)
        continue
    words[{DATA} + sent % {CELLS}] = sent * 2654435761 % 2**32
    sent += 1
    if publish(words, {PRODUCER}, sent, {WAKE_CONSUMER}):
        try:
            wake.send(b"x", socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
"""


def test_a_ring_between_two_processes_that_sleep_and_wake_loses_nothing():
    fd = memory.create("ring", 4096)
    words = memory.Mapping(fd, 4096).words
    wake, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = subprocess.Popen(
        [sys.executable, "-c", PRODUCER_CODE, str(fd), str(far.fileno())],
        pass_fds=(fd, far.fileno()),
    )
    far.close()
    taken = slept = 0
    try:
        while taken < COUNT:
            producer = load_acquire(words, PRODUCER)
            if producer == taken:
                if prepare_sleep(words, WAKE_CONSUMER, PRODUCER) == taken:
                    slept += 1
                    assert select.select([wake], [], [], 20)[0], "a wake-up was lost"
                    wake.recv(64)
                store_release(words, WAKE_CONSUMER, 0)
                continue
            while taken < producer:
                assert words[DATA + taken % CELLS] == taken * 2654435761 % 2**32
                taken += 1
            if publish(words, CONSUMER, taken, WAKE_PRODUCER):
                wake.send(b"x", socket.MSG_DONTWAIT)
        assert child.wait(20) == 0
        assert slept, "the consumer never slept: the test proved nothing"
    finally:
        child.kill()
        child.wait()
        os.close(fd)


def test_indices_keep_their_32_bits():
    words = np.zeros(4, np.uint32)
    store_release(words, 1, 0xFFFFFFFF)
    assert load_acquire(words, 1) == 0xFFFFFFFF
    store_release(words, 1, 0x1_0000_0002)
    assert load_acquire(words, 1) == 2
    assert words.tolist() == [0, 2, 0, 0]


def test_publishing_tells_whether_the_other_side_sleeps():
    words = np.zeros(4, np.uint32)
    assert publish(words, 0, 9, 1) == 0
    assert prepare_sleep(words, 1, 0) == 9
    assert publish(words, 0, 10, 1) == 1
