"""The driver with the software card: versions, settings, descriptors, a device that ends."""

import numpy as np
import pytest
import standin

from hdsnic import abi
from hdstack.compile import entry
from hdstack.driver import Card, DeviceProcess, observe, rings
from hdstack.driver.device import NEED_WAKE_WORD
from hdstack.errors import ConfigurationError, DeviceError, ServiceError


@pytest.fixture
def card(tmp_path):
    made = standin.Card(tmp_path)
    host = standin.Host(made).start()
    yield made
    host.stop()


@pytest.fixture
def driver(card, tmp_path):
    device = DeviceProcess(tmp_path)
    yield Card(device)
    device.close()


def test_a_device_of_another_abi_version_is_refused_in_one_sentence(tmp_path):
    host = standin.Host(standin.Card(tmp_path, abi_version=1)).start()
    with pytest.raises(DeviceError, match="ABI 1"):
        DeviceProcess(tmp_path)
    host.stop()


def test_a_card_whose_registers_tell_another_version_is_refused(card, tmp_path, monkeypatch):
    device = DeviceProcess(tmp_path)
    card.version = 7
    with pytest.raises(DeviceError, match=r"version 7 .* this driver version 2; use card and driv"):
        Card(device)
    device.close()


def test_a_card_with_parameters_beyond_the_drivers_knowledge_is_refused(
    card, tmp_path, monkeypatch
):
    monkeypatch.setitem(standin.PARAMETERS, abi.CONTROL.QUEUES, 17)
    device = DeviceProcess(tmp_path)
    with pytest.raises(DeviceError, match="queues = 17; this driver knows 1 to 16"):
        Card(device)
    device.close()


def test_a_missing_device_is_named_with_the_place_that_was_looked_at(tmp_path):
    with pytest.raises(ServiceError, match=r"device\.sock.*is it running"):
        DeviceProcess(tmp_path)


def test_a_device_that_ends_is_noticed_and_does_not_hang_the_driver(card, driver):
    card.stack.close()
    card.stack = card.pages = None
    with pytest.raises(DeviceError, match="ended"):
        driver.arm()
    assert driver.device.gone


def test_queues_are_switched_with_rings_aligned_to_their_size(card, driver):
    driver.start(bytes(range(6)), 0x0A000001)
    driver.enable_queue(3)
    queue = card.queues[3]
    layout = driver.device.header.layout
    assert queue.on and queue.rx == (layout.receive_ring(3), layout.ring_bytes)
    assert queue.tx == (layout.transmit_ring(3), layout.ring_bytes)
    assert not queue.rx[0] % layout.ring_bytes and not queue.tx[0] % layout.ring_bytes
    assert card.registers[abi.CONTROL.MAC_LO.offset] == 0x03020100
    assert card.registers[abi.CONTROL.IRQ_ENABLE.offset] == 1 << 3
    driver.disable_queue(3)
    assert not queue.on


def test_a_queue_used_again_begins_with_doorbells_at_zero(driver):
    driver.enable_queue(2)
    driver.device.doorbells[3 * 1024 : 3 * 1024 + 2] = 77
    driver.disable_queue(2)
    driver.enable_queue(2)
    assert not driver.device.doorbells[3 * 1024 : 3 * 1024 + 2].any()


def test_rules_are_stored_and_taken_away(card, driver):
    driver.store_listener(2, 5, 49152, 50175)
    driver.store_listener(9, 1, 80)
    driver.fence()
    assert card.rules == {2: (49152, 50175, 5), 9: (80, 80, 1)}
    driver.clear_listener(2)
    assert card.rules == {9: (80, 80, 1)}


def test_a_port_range_needs_a_rule_that_can_match_ranges(driver):
    with pytest.raises(ConfigurationError, match="below 8"):
        driver.store_listener(8, 1, 1000, 2000)


def test_the_sleeping_device_is_woken_by_a_register_access(card, driver):
    for _ in range(50):
        driver.arm()
    assert card.registers[abi.CONTROL.IRQ_STATUS.offset] == 0xFFFFFFFF
    assert driver.device.doorbells[NEED_WAKE_WORD] in (0, 1)


def test_an_observer_sees_the_device_without_being_its_stack(card, driver, tmp_path):
    assert observe(tmp_path, "stats")["ok"]
    assert driver.device.ask("stats")["ok"]


@entry
def _put(words, at, length, references):
    rings.put_descriptor(words, at, length, references, 14, 34, True, rings.TCP_CHECKSUM, 0)
    for k in range(references):
        rings.put_reference(words, at, k, 200 + k, 250 + k, 0xFFFFFFF0 + k, 65000 + k)


@pytest.mark.parametrize("references", [0, 1, 3])
def test_descriptors_are_those_of_the_contract(references):
    words = np.full(16, -1, np.int64)
    _put(words, 16, 54, references)
    fields = abi.DESCRIPTOR.unpack(words[2:4].tobytes())
    first = {"ref_offset": 0, "ref_length": 0, "ref_region": 0, "ref_generation": 0}
    pieces = [
        {"offset": 0xFFFFFFF0 + k, "length": 65000 + k, "region": 200 + k, "generation": 250 + k}
        for k in range(references)
    ]
    if references:
        first = {f"ref_{name}": value for name, value in pieces[0].items()}
    assert fields == first | {
        "header_length": 54, "references": references, "l3_offset": 14, "l4_offset": 34,
        "ipv4_checksum": 1, "tcp_checksum": 1, "udp_checksum": 0, "tso": 0,
        "vlan": 0, "spare": 0, "mss": 0,
    }  # fmt: skip
    for k, piece in enumerate(pieces[1:]):
        assert abi.REFERENCE.unpack(words[4 + k : 5 + k].tobytes()) == piece
