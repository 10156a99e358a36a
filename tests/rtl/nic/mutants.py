"""Cards with one rule broken, which random traffic must tell from a sound one: `make mutants`.

    python tests/rtl/nic/mutants.py [--seeds 12] [name ...]

One card is built in which each mutant is a switch of the simulation: the broken rule is in the
source with a register beside it that nothing drives, and which a plus-argument sets at the start.
The card's own source has no such switch. Each mutant meets seeds 1, 2, .. until a case fails; the
exit status is 0 if every mutant was caught, and the card without any passed.
"""

import argparse
import importlib.abc
import importlib.machinery
import re
import sys
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))
BUS_BYTES = 8
_SWITCHES = '''

def _mutable():
    """A module with the switch of each mutant of this file: 1 if the simulation began with it."""
    from amaranth.hdl import Module, Signal

    m = Module()
    m._mutants = {name: Signal(name=f"mutant_{name}", reset_less=True) for name in _MUTANTS}
    m.d.sync += [switch.eq(switch) for switch in m._mutants.values()]
    return m
'''


@dataclass(frozen=True)
class Mutant:
    """`old`, found once in the source of `module`, becomes `new`; `MUTANT` in it is the switch.

    `rule`: what it breaks.
    """

    name: str
    rule: str
    module: str
    old: str
    new: str


MUTANTS = (
    Mutant(
        "header_from_the_lane_before", "I1", "rx.egress",
        "job.shift.eq(frame.header_length[:lane_bits])",
        "job.shift.eq((frame.header_length - MUTANT)[:lane_bits])",
    ),
    Mutant(
        "buffer_of_the_next_element", "I2", "rx.place",
        "buffer.address.eq(row.base + (handle.at.element <<",
        "buffer.address.eq(row.base + ((handle.at.element + MUTANT) <<",
    ),
    Mutant(
        "payload_port_not_waited_for", "I3", "rx.commit",
        "& (~both | payload.output.valid)", "& (~both | payload.output.valid | MUTANT)",
    ),
    Mutant(
        "header_port_not_waited_for", "I3", "rx.commit",
        "& (~written | header.output.valid)", "& (~written | header.output.valid | MUTANT)",
    ),
    Mutant(
        "double_post_accepted", "I4, R23", "rx.post",
        "fresh = (settled.outcome == PostOutcome.ACCEPTED) & ~self.marked_before",
        "fresh = (settled.outcome == PostOutcome.ACCEPTED) & (~self.marked_before | MUTANT)",
    ),
    Mutant(
        "dropped_frame_takes_a_buffer", "I4", "rx.place",
        "self.pop.eq(out.claimed)", "self.pop.eq(out.claimed | (found & MUTANT))",
    ),
    Mutant(
        "bad_checksum_kept", "I5", "rx.verify",
        "verdict.on_l4 & (~good[1] | verdict.l4_missing)",
        "verdict.on_l4 & (~good[1] | verdict.l4_missing) & ~MUTANT",
    ),
    Mutant(
        "revoke_does_not_wait", "I6", "csr.settings",
        "still = self.idle", "still = self.idle | MUTANT",
    ),
    Mutant(
        "ring_space_not_looked_at", "R12", "rx.place",
        "space.eq(used + needed <= cells)", "space.eq((used + needed <= cells) | MUTANT)",
    ),
    Mutant(
        "fence_does_not_wait", "R15", "csr.fence",
        "counting.eq((ahead != 0) | (left != 0))",
        "counting.eq(((ahead != 0) | (left != 0)) & ~MUTANT)",
    ),
    Mutant(
        "fence_does_not_wait_for_indices", "R15", "csr.fence",
        "| self.behind[k])", "| (self.behind[k] & ~MUTANT))",
    ),
    Mutant(
        "drop_not_counted", "R16", "rx.ingress",
        "self.outcome.valid.eq(dropped | ",
        "self.outcome.valid.eq((dropped & ~(MUTANT & (verdict.frame.reason == 17))) | ",
    ),
    Mutant(
        "congestion_flag_in_every_segment", "R18", "tx.segment",
        "& Mux(beat.opening, 0xFFFF, 0xFFFF ^ _CWR)",
        "& Mux(beat.opening | MUTANT, 0xFFFF, 0xFFFF ^ _CWR)",
    ),
    Mutant(
        "bytes_of_another_owner_sent", "R19", "tx.check",
        "(row.owner != owner_read.data) | (row.owner == 0)",
        "((row.owner != owner_read.data) & ~MUTANT) | (row.owner == 0)",
    ),
    Mutant(
        "bytes_behind_the_region_sent", "R19", "tx.check",
        "((end > size) |", "(((end > size) & ~MUTANT) |",
    ),
    Mutant(
        "doorbell_beyond_the_ring_taken", "R23", "rx.post",
        "accepted.eq(rung & enabled.bit_select(bell.queue, 1) & ~beyond",
        "accepted.eq(rung & enabled.bit_select(bell.queue, 1) & (~beyond | MUTANT)",
    ),
)  # fmt: skip


class _Loader(importlib.machinery.SourceFileLoader):
    """Puts all mutants of a module into its source as it is imported."""

    def get_code(self, fullname):
        text = Path(self.path).read_text().replace("m = Module()", "m = _mutable()")
        here = [mutant for mutant in MUTANTS if fullname == f"hdsnic.{mutant.module}"]
        for mutant in here:
            if text.count(mutant.old) != 1:
                raise SystemExit(
                    f"mutant {mutant.name}: {mutant.old!r} is {text.count(mutant.old)} times in"
                    f" {self.path}; it must be there once"
                )
            text = text.replace(
                mutant.old, mutant.new.replace("MUTANT", f"m._mutants[{mutant.name!r}]")
            )
        names = [mutant.name for mutant in here]
        return compile(
            text + f"{_SWITCHES}\n_MUTANTS = {names}\n", self.path, "exec", dont_inherit=True
        )


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname not in {f"hdsnic.{mutant.module}" for mutant in MUTANTS}:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        found.loader = _Loader(fullname, found.origin)
        return found


def mutable_card():
    """Verilog of the card with a switch for each mutant."""
    sys.meta_path.insert(0, _Finder())
    from hdsnic.parameters import Parameters
    from hdsnic.verilog import generate

    verilog = generate(Parameters(bus_bytes=BUS_BYTES))
    for mutant in MUTANTS:
        name = f"mutant_{mutant.name}"
        verilog, found = re.subn(
            rf"reg {name} = 1'h0;",
            f'reg {name}; initial {name} = $test$plusargs("{name}") != 0;',
            verilog,
        )
        if not found:
            raise SystemExit(f"mutant {mutant.name}: its switch is not in the Verilog")
    return verilog


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12, help="cases that a mutant meets at most")
    parser.add_argument("names", nargs="*", help="mutants; default: all")
    options = parser.parse_args()
    verilog = mutable_card()
    from rtl.nic.test_nic import random_case  # imports the card, which must be mutable by then

    survived = []
    for mutant in (None, *MUTANTS):
        if options.names and mutant and mutant.name not in options.names:
            continue
        caught = None
        for seed in range(1, options.seeds + 1 if mutant else 3):
            plusargs = [f"+mutant_{mutant.name}"] if mutant else []
            try:
                random_case(verilog, BUS_BYTES, seed, name="nic-mutants", plusargs=plusargs)
            except AssertionError:
                caught = seed
                break
        if mutant is None:
            sound = caught is None
            print(f"the card as it is: {'passed' if sound else f'FAILED at seed {caught}'}")
            if not sound:
                survived.append("the card as it is")
        else:
            fate = f"caught by seed {caught}" if caught else "NOT CAUGHT"
            print(f"{mutant.rule:8} {mutant.name}: {fate}", flush=True)
            if not caught:
                survived.append(mutant.name)
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
