"""The registration service of the device process: its rules, and what hostile clients achieve."""

import contextlib
import os
import socket
import struct

import pytest
from parties import PAGE, SECONDS, Application, Client, Stack, sealed, wait_for

from hdsnic import abi
from hdstack import memory


def still_serves(device):
    """Another party can work as if nothing had happened."""
    with Application(device) as application:
        application.live_pool()
    assert device.alive()


def test_an_application_gets_a_queue_and_brings_a_pool_in_two_steps(device):
    with Application(device) as application:
        assert 1 <= application.queue <= 15
        assert application.hello["bus_bytes"] == 8
        fd, answer = application.pool()
        assert answer["step"] == "seal"
        region = {"op": "activate", "region": answer["region"]}
        assert "0x17" in application.refused(region)  # not sealed yet
        memory.add_seals(fd, memory.SEAL_FUTURE_WRITE | memory.SEAL_SEAL)
        assert application.ask(region) == {"ok": True}
        assert "live already" in application.refused(region)
        assert application.ask({"op": "revoke", "region": answer["region"]}) == {"ok": True}
        assert "not one of yours" in application.refused(region)


def test_the_stack_hears_of_every_application_and_region_and_of_their_end(device):
    with Application(device) as early:
        fd, region = early.live_pool()
        with Stack(device) as stack:
            first, _ = stack.notice()
            assert (first["notice"], first["queue"]) == ("application", early.queue)
            assert (first["token"], first["pid"]) == (early.hello["token"], os.getpid())
            second, (pool,) = stack.notice()
            assert (second["notice"], second["region"]) == ("region", region)
            assert os.fstat(pool).st_ino == os.fstat(fd).st_ino
            with pytest.raises(PermissionError):  # the kernel keeps the stack from writing
                memory.Mapping(pool, PAGE)
            with Application(device) as late:
                assert stack.notice()[0]["queue"] == late.queue
                _, other = late.live_pool()
                assert stack.notice()[0]["region"] == other
                assert late.ask({"op": "revoke", "region": other}) == {"ok": True}
                assert stack.notice()[0] == {"notice": "revoked", "region": other}
            gone = {"notice": "gone", "queue": late.queue, "owner": late.owner}
            assert stack.notice()[0] == gone


def test_the_death_of_an_application_revokes_what_it_had(device):
    with Stack(device) as stack:
        child = os.fork()
        if child == 0:
            try:
                application = Application(device)
                application.live_pool()
                application.wake.recv(1)  # until it is killed
            finally:
                os._exit(1)
        try:
            assert stack.notice()[0]["notice"] == "application"
            region = stack.notice()[0]
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert stack.notice()[0] == {"notice": "revoked", "region": region["region"]}
        assert stack.notice()[0]["notice"] == "gone"
        with Client(device) as observer:
            observer.ask({"role": "observer"})
            maps = observer.ask({"op": "maps"})["maps"]
        assert not [entry for entry in maps if entry["name"] == "pool"]


def test_a_region_number_comes_back_with_another_generation(device):
    seen = set()
    with Application(device) as application:
        for _ in range(18):  # more than there are regions
            _, answer = application.pool()
            place = answer["region"], answer["generation"]
            assert place not in seen
            seen.add(place)
            application.ask({"op": "revoke", "region": answer["region"]})


def test_a_pool_that_its_owner_could_still_truncate_is_refused(device):
    request = {"op": "register", "element_bytes": 2048, "elements": 8, "postable": 8}
    with Application(device) as application:
        for seals in (0, memory.SEAL_SHRINK, memory.SEAL_GROW):
            fd = sealed(4 * PAGE, seals)
            assert "seals" in application.refused(request, [fd])
            os.close(fd)
    still_serves(device)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"element_bytes": 1000}, "element_bytes"),
        ({"element_bytes": 128}, "element_bytes"),
        ({"element_bytes": True}, "element_bytes"),
        ({"elements": 0}, "elements"),
        ({"elements": 33}, "pool has"),
        ({"elements": 1 << 60}, "elements"),
        ({"elements": "8"}, "elements"),
        ({"elements": 8.0}, "elements"),
        ({"postable": -1}, "postable"),
        ({"postable": 33}, "more than"),
        ({"postable": 1 << 20}, "postable"),
        ({"post_ring_offset": 65536 - 4096, "post_ring_bytes": 6000}, "power of two"),
        ({"post_ring_offset": 61440 + 16, "post_ring_bytes": 4096}, "multiple"),
        ({"post_ring_offset": 0, "post_ring_bytes": 4096}, "between"),
        ({"post_ring_offset": 65536, "post_ring_bytes": 4096}, "between"),
    ],
)  # fmt: skip
def test_a_pool_of_impossible_shape_is_refused_by_name(device, change, word):
    with Application(device) as application:
        _, answer = application.pool(**change)
        assert answer["ok"] is False and word in answer["error"]
        application.live_pool(post_ring_offset=61440, post_ring_bytes=4096)  # the good one


def test_descriptors_of_the_wrong_kind_or_number_are_refused(device, tmp_path):
    request = {"op": "register", "element_bytes": 2048, "elements": 2, "postable": 1}
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, PAGE)
    pipe, other = os.pipe()
    read_only_base = sealed(PAGE)
    read_only = os.open(f"/proc/self/fd/{read_only_base}", os.O_RDONLY)
    try:
        with Application(device) as application:
            for fd in (file, pipe, read_only):
                application.refused(request, [fd])
            assert "0 descriptors" in application.refused(request)
            assert "2 descriptors" in application.refused(request, [file, pipe])
        with Client(device) as client:
            assert "wake" in client.refused({"role": "application"}, [pipe])
            assert "wake" in client.refused({"role": "application"}, [file])
            assert "2 are needed" in client.refused({"role": "stack"}, [file])
    finally:
        for fd in (file, pipe, other, read_only, read_only_base):
            os.close(fd)
    still_serves(device)


def test_an_application_reaches_only_its_own_regions_and_only_its_role(device):
    with Application(device) as owner, Application(device) as stranger:
        _, region = owner.live_pool()
        assert "not one of yours" in stranger.refused({"op": "revoke", "region": region})
        assert "not one of yours" in stranger.refused({"op": "revoke", "region": True})
        assert "role" in stranger.refused({"op": "attach"})
        assert owner.owner != stranger.owner
        assert owner.hello["token"] != stranger.hello["token"]


def test_there_is_one_stack_at_a_time_and_another_abi_version_is_refused(device):
    with Stack(device) as first, Client(device) as second:
        header = sealed(PAGE)
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = [header, ends[0].fileno()]
        assert "already" in second.refused({"role": "stack", "abi": abi.ABI_VERSION}, fds)
        assert "ABI version 2" in second.refused({"role": "stack", "abi": 1}, fds)
        first.close()
        wait_for(lambda: second.ask({"role": "stack"}, fds)["ok"], "the place of the stack")
        os.close(header)
        for end in ends:
            end.close()


@pytest.mark.parametrize(
    "message",
    [b"\0\xff not json", b"[1, 2]", b'"role"', b"[" * 8000, b'{"role":' + b"9" * 8000, b"1" * 9000],
    ids=["bytes", "list", "string", "deep", "cut", "long"],
)
def test_what_is_no_message_ends_that_connection_alone(device, message):
    with Application(device) as bystander, Client(device) as client:
        client.send(message)
        assert client.is_closed()
        bystander.live_pool()


def test_too_many_descriptors_end_that_connection_alone(device):
    with Client(device) as client, open(os.devnull) as null:
        client.send({"role": "observer"}, [null.fileno()] * 30)
        assert client.is_closed()
    still_serves(device)


def test_a_storm_of_requests_ends_the_one_who_makes_it(device):
    with Client(device) as client:
        client.ask({"role": "observer"})
        client.socket.settimeout(SECONDS)
        with contextlib.suppress(OSError):
            for _ in range(2000):
                client.send({"op": "stats"})
        assert client.is_closed()
    still_serves(device)


def test_a_client_that_never_reads_its_answers_is_parted_with(device):
    with Stack(device) as deaf:
        for _ in range(3):
            with Application(device):
                pass
        deaf.socket.shutdown(socket.SHUT_RD)
        still_serves(device)


def test_a_storm_on_doorbells_and_wakes_leaves_the_mailbox_working(device):
    with Stack(device) as stack, Application(device) as hostile:
        hostile.wake.setblocking(False)
        hostile.live_pool(post_ring_offset=61440, post_ring_bytes=4096)
        for value in range(1, 3000):
            struct.pack_into("<I", hostile.page, 0, value)
            with contextlib.suppress(BlockingIOError):
                hostile.wake.send(b"x" * 100)
            if value % 100 == 0:
                assert stack.access(1, abi.CONTROL.MAGIC.offset) == (0, abi.MAGIC)
        hostile.wake.close()
        assert stack.access(1, abi.CONTROL.BUS_BYTES.offset) == (0, 8)


def test_the_mailbox_reaches_the_stacks_pages_and_nothing_else(device):
    with Stack(device) as stack:
        assert stack.access(2, abi.CONTROL.MAC_LO.offset, 0x12345678)[0] == 0
        assert stack.access(1, abi.CONTROL.MAC_LO.offset) == (0, 0x12345678)
        assert stack.access(1, abi.COUNTERS_PAGE)[0] == 0
        for op, address in (
            (1, abi.MANAGEMENT_PAGE),
            (2, abi.MANAGEMENT_PAGE + abi.MANAGEMENT.REVOKE.offset),
            (2, abi.COUNTERS_PAGE),
            (2, abi.DOORBELLS_PAGE),
            (1, abi.COUNTERS_PAGE - 4),
            (1, 2),
            (3, 0),
            (2, 0xFFFFFFFC),
        ):
            assert stack.access(op, address, 1)[0] == 1, f"op {op} at {address:#x}"


def test_a_queue_that_the_stack_still_steers_to_is_not_given_to_the_next_application(device):
    with Stack(device) as stack:
        queues = set()
        for _ in range(15):
            with Application(device) as application:
                switch = abi.CONTROL.QUEUE_SWITCH.at(application.queue)
                assert stack.access(2, switch, 1)[0] == 0
                queues.add(application.queue)
        assert queues == set(range(1, 16))
        with Client(device) as client:
            ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            hello = {"role": "application"}
            assert "switched on" in client.refused(hello, [ends[1].fileno()])
            assert stack.access(2, abi.CONTROL.QUEUE_SWITCH.at(7), 0)[0] == 0
            assert client.ask(hello, [ends[1].fileno()])["queue"] == 7
            for end in ends:
                end.close()
