"""The oracle for captures does find what is wrong, so that its silence means something."""

import pytest
from captures import addresses, faulty_frames
from scapy.all import IP, TCP, Ether, Raw, raw, wrpcapng


def frame(**changes):
    made = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02", type=0x0800)
    made /= IP(src="10.77.0.1", dst="10.77.0.2", **changes.pop("ip", {}))
    return raw(made / TCP(sport=7000, dport=8080, **changes) / Raw(b"payload"))


def capture(tmp_path, *frames):
    path = tmp_path / "some.pcapng"
    wrpcapng(str(path), [Ether(data) for data in frames])
    return path


@pytest.fixture(params=["tshark", "scapy"])
def oracle(request, monkeypatch):
    import shutil

    if request.param == "scapy":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    elif not shutil.which("tshark"):
        pytest.skip("tshark is not installed (apt install tshark)")


def test_sound_frames_are_not_faulty(oracle, tmp_path):
    path = capture(tmp_path, frame(), frame(flags="SA"))
    assert faulty_frames(path) == []
    assert addresses(path) == {("10.77.0.1", "10.77.0.2"): 2}


def test_a_sum_of_zero_may_stand_as_0xffff(oracle, tmp_path):
    """As Linux sends it, about once in 65,536 segments."""
    zero = frame(window=Ether(frame(window=0))[TCP].chksum)
    changed = Ether(zero)
    assert changed[TCP].chksum == 0
    changed[TCP].chksum = 0xFFFF
    assert faulty_frames(capture(tmp_path, zero, raw(changed))) == []


@pytest.mark.parametrize("wrong", [{"chksum": 0x1234}, {"ip": {"chksum": 0x1234}}])
def test_a_wrong_checksum_is_found(oracle, tmp_path, wrong):
    assert len(faulty_frames(capture(tmp_path, frame(), frame(**wrong), frame()))) == 1


def test_a_flipped_byte_of_payload_is_found(oracle, tmp_path):
    broken = bytearray(frame())
    broken[-1] ^= 0x80
    assert len(faulty_frames(capture(tmp_path, frame(), bytes(broken)))) == 1
