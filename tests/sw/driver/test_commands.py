"""Commands, completions, exact rules, scaling and modes, with the software card."""

from random import Random

import pytest
import standin
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from hdsnic import abi
from hdsnic.abi import CompletionKind, RxOutcome
from hdstack.driver import Card, DeviceProcess, Flow
from hdstack.driver.exact import ExactRules
from hdstack.errors import ConfigurationError, DeviceError

LOCAL = bytes([10, 9, 0, 1])


@pytest.fixture
def card(tmp_path):
    made = standin.Card(tmp_path)
    host = standin.Host(made).start()
    yield made
    host.stop()


@pytest.fixture
def driver(card, tmp_path):
    device = DeviceProcess(tmp_path)
    driver = Card(device)
    driver.start(bytes(range(6)), int.from_bytes(LOCAL, "big"))
    driver.enable_queue(0)
    driver.commands.start()
    yield driver
    device.close()


def records(driver, queue, count):
    """The next `count` records of a queue that was never read: (fields, header)."""
    layout = driver.device.header.layout
    ring = driver.device.header.rings[2 * queue * 2 * layout.ring_bytes :]
    out, cell = [], 0
    while len(out) < count:
        driver.fence()  # the card has had a turn
        while cell != driver.device.header.slots[16 * queue] and len(out) < count:
            at = cell * abi.CELL_BYTES
            fields = abi.RECORD.unpack(ring[at : at + abi.RECORD.bytes].tobytes())
            header = at + abi.RECORD.bytes + 8 * fields["extensions"]
            out.append((fields, ring[header : header + fields["header_length"]].tobytes()))
            cell += abi.record_cells(fields["header_length"], fields["extensions"])
    return out


def frame(port=80, sport=4000, payload=b"data", kind=TCP):
    layer = (
        TCP(sport=sport, dport=port, flags="PA") if kind is TCP else UDP(sport=sport, dport=port)
    )
    return bytes(Ether() / IP(src="10.9.0.2", dst="10.9.0.1") / layer / Raw(payload))


def flow(number, udp=False):
    return Flow(bytes([10, 9, 0, 2]), number, LOCAL, 80, udp)


def test_the_card_tells_its_features_and_sizes(driver):
    p = driver.parameters
    assert (p.exact_ways, p.exact_rows, p.chain_max) == (4, 512, 10)
    assert {"exact_rules", "rss", "commands", "tso"} <= set(p.features)


def test_commands_complete_in_their_order_around_the_ring(card, driver):
    commands = driver.commands
    cells = driver.device.header.layout.small_ring_bytes // abi.CELL_BYTES
    for turn in range(cells):  # 5 cells a turn
        rule = commands.store_rule(slot=turn % 2048, valid=1, queue=3)
        fence = commands.fence()
        commands.wait(fence)
        assert commands.done(rule)
    assert card.log.count(("fence",)) == cells
    assert set(card.commands.exact) == set(range(cells))


def test_many_commands_wait_for_room_in_the_ring(card, driver):
    cookies = [driver.commands.store_rule(slot=n, valid=1) for n in range(200)]
    driver.commands.wait(cookies[-1])
    assert all(driver.commands.done(cookie) for cookie in cookies[:-1])
    assert len(card.commands.exact) == 200


def test_cells_of_the_ring_are_free_when_their_commands_are_done_or_read(card, driver):
    commands = driver.commands
    cells = commands.free_cells
    assert cells == driver.device.header.layout.small_ring_bytes // abi.CELL_BYTES
    commands.wait(commands.fence())
    assert commands.free_cells == cells
    step, card.commands.step = card.commands.step, lambda: False
    cookies = [commands.store_rule(slot=n, valid=1) for n in range(3)]
    assert commands.free_cells == cells - 12 and commands.status(cookies[0]) is None
    with pytest.raises(DeviceError, match="took more than"):
        commands.wait(cookies[0], 0.05)
    commands.look()
    assert commands.free_cells == cells - 12
    card.commands.step = step
    commands.wait(cookies[1])
    assert commands.free_cells >= cells - 4 and commands.status(cookies[0]) == 0
    commands.wait(cookies[2])
    assert commands.free_cells == cells


def test_a_place_has_the_cookie_that_it_is_given_and_others_never_get_one_like_it(card, driver):
    given = 1 << 31 | 7
    driver.commands._cookie = 0x7FFFFFFF
    assert driver.commands.fence() == 0
    area = driver.device.header.layout.area
    assert driver.commands.place(0, [(area, 8)], given) == given
    driver.commands.wait(given)


def test_a_refused_command_is_told_in_one_sentence(driver):
    cookie = driver.commands.place(0, [(1 << 31, 8)])
    with pytest.raises(DeviceError, match="a command was refused"):
        driver.commands.wait(cookie)
    with pytest.raises(DeviceError, match="no command with the cookie"):
        driver.commands.done(cookie)


def test_a_range_that_no_command_can_tell_is_refused_before_it_is_sent(driver):
    for ranges in ([], [(0, 1)] * 17, [(0, 0)], [(0, 65536)]):
        with pytest.raises(ConfigurationError):
            driver.commands.place(1, ranges)


def test_without_a_command_ring_commands_are_refused(driver):
    driver.commands.stop()
    with pytest.raises(DeviceError, match="not switched on"):
        driver.commands.fence()


def test_faults_come_out_of_the_ring_of_their_queue(card, driver):
    driver.enable_queue(2)
    fault = {"kind": CompletionKind.RECEIVE_FAULT, "queue": 2, "status": 30, "index": 77}
    card.commands.complete(2, **fault)
    driver.commands.poll()
    (told,) = driver.commands.faults
    assert told == fault | {"cookie": 0, "spare": 0, "cycles": 0}
    driver.commands.wait(driver.commands.fence())


def test_a_queue_that_was_reset_by_command_is_off(card, driver):
    driver.enable_queue(4)
    driver.commands.wait(driver.commands.reset_queue(4))
    assert not card.queues[4].on


def test_an_exact_rule_wins_over_a_listener_rule_and_ends_with_its_clear(driver, card):
    driver.enable_queue(2)
    driver.enable_queue(3)
    driver.store_listener(0, 2, 80)
    driver.commands.wait(driver.exact_rules.store(flow(4000), 3))
    card.deliver(frame(payload=b""))
    ((fields, _),) = records(driver, 3, 1)
    slot = fields["tag"] - abi.EXACT_TAG
    assert slot in driver.exact_rules.slots(flow(4000))
    driver.commands.wait(driver.exact_rules.clear(flow(4000)))
    card.deliver(frame(payload=b""))
    ((fields, _),) = records(driver, 2, 1)
    assert fields["tag"] == 0


class Table:
    """The card's view of rules, checked after every command."""

    def __init__(self, ways, rows):
        self.exact = ExactRules(self, ways, rows)
        self.stored = {}
        self.flows = {}

    def store_rule(self, slot, valid=0, **fields):
        if not valid:
            del self.stored[slot]
            return 0
        moved = Flow(
            fields["remote"].to_bytes(4, "little"), fields["remote_port"],
            fields["local"].to_bytes(4, "little"), fields["local_port"], bool(fields["udp"]),
        )  # fmt: skip
        self.stored[slot] = moved, fields["queue"]
        for flow, queue in self.flows.items():
            found = {self.stored[s][1] for s in self.exact.slots(flow)
                     if s in self.stored and self.stored[s][0] == flow}  # fmt: skip
            assert found == {queue}, "a flow was without its rule for a moment"
        return slot


def test_rules_move_to_make_room_and_no_flow_is_without_its_rule_for_a_moment():
    rng = Random(5)
    table = Table(4, 64)
    moved = 0
    try:
        for _ in range(256):
            new = Flow(rng.randbytes(4), rng.getrandbits(16), LOCAL, 80)
            queue = rng.randrange(16)
            before = dict(table.exact._slots)
            table.exact.store(new, queue)
            table.flows[new] = queue
            moved += any(table.exact._slots[s] != f for s, f in before.items())
    except ConfigurationError as error:
        assert "no room for an exact rule" in str(error)
    assert len(table.exact) > 0.9 * 256, "a table of four ways holds nine tenths at least"
    assert moved > 10
    for flow_ in list(table.flows):
        del table.flows[flow_]
        table.exact.clear(flow_)
    assert not table.stored and not len(table.exact)


def test_a_rule_that_is_stored_again_changes_in_its_place(driver, card):
    driver.commands.wait(driver.exact_rules.store(flow(1), 3))
    driver.commands.wait(driver.exact_rules.store(flow(1), 5))
    ((_, rule),) = card.commands.exact.items()
    assert rule["queue"] == 5 and flow(1) in driver.exact_rules and len(driver.exact_rules) == 1


def test_scaling_deals_flows_out_over_the_queues_of_a_context(driver, card):
    for queue in (2, 3):
        driver.enable_queue(queue)
    key = bytes(range(40))
    driver.store_scaling(6, key, [2, 3])
    driver.store_listener(0, 6, 80, rss=True)
    counts = {2: 0, 3: 0}
    for sport in range(4000, 4032):
        card.deliver(frame(sport=sport, payload=b""))
        hashed = standin.toeplitz(key, bytes([10, 9, 0, 2]) + LOCAL + sport.to_bytes(2) + b"\0P")
        counts[2 + hashed % 2] += 1
    for queue, count in counts.items():
        assert count and len(records(driver, queue, count)) == count


def test_toeplitz_hash_is_that_of_the_published_vectors():
    """Microsoft, "Verifying the RSS Hash Calculation": the first IPv4 row with ports."""
    key = bytes.fromhex(
        "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
    )
    data = bytes([66, 9, 149, 187, 161, 142, 100, 80]) + (2794).to_bytes(2) + (1766).to_bytes(2)
    assert standin.toeplitz(key, data) == 0x51CCC178


def test_modes_of_a_queue_split_udp_and_stamp_records(driver, card):
    driver.set_mode(2, udp_split=True, time_stamps=True)
    driver.enable_queue(2)
    driver.store_listener(0, 2, 53, udp=True)
    card.deliver(frame(port=53, payload=b"", kind=UDP))
    ((fields, header),) = records(driver, 2, 1)
    assert fields["reason"] == RxOutcome.HEADER_ONLY
    assert (fields["extensions"], fields["time_stamp"], len(header)) == (1, 1, 42)
    driver.disable_queue(2)
    driver.set_mode(2)
    driver.enable_queue(2)
    card.deliver(frame(port=53, kind=UDP))
    ((fields, _),) = records(driver, 0, 1)
    assert fields["reason"] == RxOutcome.UDP_WHOLE


def test_place_needs_no_destination_and_its_record_repeats_the_cookie(driver, card):
    driver.enable_queue(2)
    card.regions[0] = standin.Region.__new__(standin.Region)
    region = card.regions[0]
    region.element_bytes, region.memory, region.live = 64, bytearray(64 * 4), True
    card.queues[2].posted = [(0, 3, 1), (0, 1, 1)]
    header = driver.device.header.control
    header[60000:60100] = range(100)
    cookie = driver.commands.place(2, [(60000, 30), (60030, 70)])
    driver.commands.wait(cookie)
    layout = driver.device.header.layout
    ring = driver.device.header.rings[4 * 2 * layout.ring_bytes :]
    fields = abi.RECORD.unpack(ring[:16].tobytes())
    more = abi.CHAINED_BUFFER.unpack(ring[16:24].tobytes())
    assert fields["reason"] == RxOutcome.PLACED and fields["hash"] == cookie
    assert (fields["element"], fields["payload_length"], fields["extensions"]) == (3, 100, 1)
    assert (more["element"], more["length"]) == (1, 36)
    assert bytes(region.memory[192:256] + region.memory[64:100]) == bytes(range(100))
    card.regions[0] = None


def test_shares_moderation_and_watermark_are_told_in_the_units_of_the_registers(driver, card):
    driver.set_share(3, quantum=1500, burst=64, rate=1 << 20)
    driver.set_moderation(3, 8, 5000)
    driver.set_watermark(16384, 2048)
    registers = card.registers
    c = abi.CONTROL
    assert registers[c.TX_SHARE.at(3)] == c.TX_SHARE.pack(quantum=24, burst=1)
    assert registers[c.TX_RATE.at(3)] == 1 << 20
    assert registers[c.IRQ_MODERATION.at(3)] == c.IRQ_MODERATION.pack(updates=8, cycles=5000)
    assert registers[c.RX_WATERMARK.offset] == c.RX_WATERMARK.pack(watermark=256, share=32)


def test_after_a_reset_no_queue_and_no_rule_is_left_and_doorbells_are_zero(driver, card):
    driver.enable_queue(2)
    driver.store_listener(0, 2, 80)
    driver.commands.wait(driver.exact_rules.store(flow(1), 2))
    driver.device.doorbells[3 * 1024 : 3 * 1024 + 3] = 9
    driver.reset()
    assert not any(queue.on for queue in card.queues)
    assert not card.rules and not card.commands.exact and not len(driver.exact_rules)
    assert not driver.device.doorbells[3 * 1024 : 3 * 1024 + 4].any()


def test_errors_are_told_by_name_and_then_cleared(driver, card):
    c = abi.CONTROL.ERROR
    card.registers[c.offset] = c.pack(mac_stalled=1, completion_lost=1)
    assert driver.errors() == ["mac_stalled", "completion_lost"]
