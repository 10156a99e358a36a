"""The demo's verdicts: what each finding is, and that sound runs have none."""

import pytest

from hdstack.cli.demo.report import (
    describe_memory,
    drops_by_reason,
    judge_card,
    judge_memory,
    payload_touched,
)  # fmt: skip

POOL, POOL_B, HEADER, PAGES, STATE, CHANNEL, CHANNEL_B, POST, POST_B = range(10, 19)


def entry(inode, permissions="rw", size=4096, resident=0):
    kind = {
        HEADER: "header", PAGES: "stack-pages", STATE: "state", POOL: "pool", POOL_B: "pool",
        CHANNEL: "channel", CHANNEL_B: "channel", POST: "post-1", POST_B: "post-2",
    }[inode]  # fmt: skip
    return {
        "name": f"hdsnic-{kind}", "inode": inode, "permissions": permissions, "bytes": size,
        "resident": resident,
    }  # fmt: skip


def sound():
    return {
        "device": [entry(n) for n in (HEADER, PAGES, POOL, POOL_B, POST, POST_B)],
        "stack": [entry(n) for n in (HEADER, PAGES, STATE, CHANNEL, CHANNEL_B)]
        + [entry(POOL, "r"), entry(POOL_B, "r")],
        "A": [entry(POOL), entry(CHANNEL), entry(POST)],
        "B": [entry(POOL_B), entry(CHANNEL_B), entry(POST_B)],
    }


def test_sound_memory_maps_have_no_finding():
    assert judge_memory(describe_memory(sound()), ["A", "B"]) == []


@pytest.mark.parametrize(
    ("process", "seen"),
    [
        ("stack", entry(POOL, "rw")),
        ("A", entry(HEADER, "r")),
        ("B", entry(POOL, "r")),
        ("A", entry(POST_B)),
        ("B", entry(CHANNEL)),
        ("A", entry(STATE, "r")),
    ],
)
def test_a_memory_in_the_wrong_map_is_found(process, seen):
    maps = sound()
    maps[process].append(seen)
    assert judge_memory(describe_memory(maps), ["A", "B"])


@pytest.mark.parametrize("process", ["device", "stack", "A", "B"])
def test_maps_that_show_nothing_are_a_finding_too(process):
    maps = sound()
    maps[process] = []
    assert judge_memory(describe_memory(maps), ["A", "B"])


def test_pages_of_pools_that_a_process_touched_are_summed_and_others_are_not():
    maps = {"stack": [entry(POOL, "r", resident=4096), entry(POOL_B, "r", resident=8192)]}
    maps["stack"].append(entry(HEADER, resident=65536))
    assert payload_touched(describe_memory(maps), "stack") == 12288
    assert payload_touched(describe_memory(sound()), "stack") == 0


def counters(**changes):
    sound = {
        "rx": {"0": {"not_ip": 2}, "1": {"split": 90, "header_only": 10}, "port": {"no_rule": 1}},
        "tx": {"1": {"sent": 50}},
        "post": {"1": {"accepted": 90}},
        "port": {"rx_frames": 103, "tx_frames": 50},
    }
    for path, count in changes.items():
        kind, row, label = path.split("__")
        sound[kind].setdefault(row, {})[label] = count
    return sound


def test_sound_counters_have_no_finding():
    assert judge_card("card", {"header_errors": 0}, counters()) == []


def test_what_place_moved_is_not_a_second_frame():
    assert judge_card("card", {}, counters(rx__1__placed=5)) == []


def test_a_frame_that_is_not_accounted_for_is_found():
    found = judge_card("card", {}, counters(rx__1__split=89))
    assert found == ["card: 103 frames came, 102 were accounted for"]


@pytest.mark.parametrize(
    "change", ["rx__port__l4_checksum", "tx__1__bad_owner", "post__1__bad_owner"]
)
def test_an_outcome_that_means_a_fault_is_found(change):
    changed = counters(**{change: 1})
    changed["port"]["rx_frames"] += change.startswith("rx")
    assert len(judge_card("card", {}, changed)) == 1


def test_a_bus_error_of_the_simulation_is_found():
    assert judge_card("card", {"payload_errors": 3}, counters()) == [
        "card: 3 accesses outside the registered pools"
    ]


def test_drops_are_summed_over_queues_and_records_are_not_drops():
    changed = counters(rx__1__no_buffer=3, rx__2__no_buffer=4)
    assert drops_by_reason(changed) == {"rx no_buffer": 7}
