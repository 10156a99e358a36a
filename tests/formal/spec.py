"""What a specification is made of: properties, assumptions, a view into a block, and mutants.

A `Spec` wraps real blocks of `hw/hdsnic` and says what holds at their ports for any input. Nothing
of it is part of the card.
"""

import importlib.abc
import importlib.machinery
import inspect
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amaranth.hdl import (
    Array,
    Assert,
    Assume,
    ClockDomain,
    Elaboratable,
    Fragment,
    Module,
    Mux,
    Signal,
)
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

__all__ = [
    "Mutant",
    "Property",
    "Spec",
    "View",
    "as_value",
    "count_ones",
    "mutated",
    "parts_of",
    "specs_of",
]

_ROWS_MAX = 64
"""Rows of a memory that a specification may look at."""


@dataclass(frozen=True)
class Mutant:
    """A block with one rule broken: `old`, found once in the source of `module`, becomes `new`."""

    name: str
    module: str
    old: str
    new: str


@dataclass(frozen=True)
class Property:
    """A sentence about a block that is proven, and the mutants that it must kill.

    `depth`: cycles after reset within which each mutant shows itself.
    """

    name: str
    sentence: str
    mutants: tuple[Mutant, ...]
    depth: int = 12


class MutantError(Exception):
    """The text that a mutant replaces is not there exactly once: adapt the mutant."""


class _MutatingLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname, path, mutant):
        super().__init__(fullname, path)
        self._mutant = mutant

    def get_code(self, fullname):
        text = Path(self.path).read_text()
        found = text.count(self._mutant.old)
        if found != 1:
            raise MutantError(
                f"mutant {self._mutant.name!r}: {self._mutant.old!r} is {found} times in "
                f"{self.path}"
            )
        text = text.replace(self._mutant.old, self._mutant.new)
        return compile(text, self.path, "exec", dont_inherit=True)


class _MutatingFinder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant):
        self._mutant = mutant

    def find_spec(self, fullname, path, target=None):
        if fullname != self._mutant.module:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        found.loader = _MutatingLoader(fullname, found.origin, self._mutant)
        return found


def mutated(mutant):
    """From now on `hdsnic` is imported anew, with the rule of `mutant` broken."""
    for name in [n for n in sys.modules if n == "hdsnic" or n.startswith("hdsnic.")]:
        del sys.modules[name]
    sys.meta_path.insert(0, _MutatingFinder(mutant))


class View:
    """The local names of a block's `elaborate`, as attributes: for helper invariants alone."""

    def __init__(self, names):
        self._names = names

    def __getattr__(self, name):
        try:
            return self._names[name]
        except KeyError:
            raise AttributeError(
                f"the block has no {name!r} (any more); it has {sorted(self._names)}"
            ) from None


@contextmanager
def _watched(names_of):
    """Notes the local names of each method of an Elaboratable that builds its module.

    Small memories get a read port for each row.
    """

    def note(frame, event, _):
        if event == "return" and "m" in frame.f_locals:
            block = frame.f_locals.get("self")
            if isinstance(block, Elaboratable):
                names_of.setdefault(id(block), {}).update(frame.f_locals)

    plain = Memory.elaborate

    def elaborate(memory, platform):
        rows = []
        if memory.depth <= _ROWS_MAX:
            for k in range(memory.depth):
                port = memory.read_port(domain="comb")
                port.addr = Signal.like(port.addr, init=k)  # never driven: a constant
                rows.append(port.data)
        names_of[id(memory)] = {"rows": rows}
        return plain(memory, platform)

    Memory.elaborate = elaborate
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)
        Memory.elaborate = plain


class Spec(Elaboratable):
    """Base of the specifications.

    Subclasses name their `properties`, and in `build` make the blocks, say what is assumed of their
    surroundings (`assume`), what is proven (`prove`), and which invariants the induction needs
    besides (`helper`, proven just the same). Free inputs come from `free`.

    `only`: the one property that is asserted, without helpers; for mutants.

    Attributes
    ----------
    depth: cycles of the induction. engine: solver. map_memories: memories become registers, which
    the solver likes better; not for large ones.
    """

    properties: tuple[Property, ...] = ()
    depth = 2
    engine = "yices"
    map_memories = True

    def __init__(self, only=None):
        self.only = only
        self.inputs = []
        self.blocks = []
        self._views = {}
        self._proven = set()

    def build(self, m):
        raise NotImplementedError

    def free(self, shape, name):
        """An input with any value in any cycle."""
        signal = Signal(shape, name=name)
        self.inputs.append(signal)
        return signal

    def free_ports(self, m, component):
        """All inputs of a component are free."""
        for path, member, value in component.signature.flatten(component):
            if member.flow is In:
                bits = as_value(value)
                m.d.comb += bits.eq(self.free(len(bits), "__".join(map(str, path))))

    def constant(self, m, shape, name):
        """An input with any value, the same in all cycles."""
        value = self.free(shape, name)
        before = Signal(shape, name=f"{name}_before")
        raw, raw_before = as_value(value), as_value(before)
        m.d.sync += raw_before.eq(raw)
        self.assume(m, self.started.implies(raw == raw_before))
        return value

    def block(self, m, name, block):
        """Puts a real block into the wrapper; `view` shows its insides."""
        with _watched(self._views):
            fragment = Fragment.get(block, None)
        self.blocks.append(block)  # views go by identity
        m.submodules[name] = fragment
        return block

    @contextmanager
    def opaque(self, *classes):
        """Blocks of these classes that are elaborated meanwhile do anything: outputs are free."""

        def elaborate(block, platform):
            m = Module()
            for path, member, value in block.signature.flatten(block):
                if member.flow is Out:
                    bits = as_value(value)
                    name = "__".join(map(str, (type(block).__name__, len(self.inputs), *path)))
                    m.d.comb += bits.eq(self.free(len(bits), name))
            return m

        plain = {kind: kind.elaborate for kind in classes}
        for kind in classes:
            kind.elaborate = elaborate
        try:
            yield
        finally:
            for kind, method in plain.items():
                kind.elaborate = method

    def view(self, block):
        return View(self._views[id(block)])

    def fifo(self, m, fifo):
        """What lies in a FIFO, oldest first, as (valid, word) pairs; asserts its pointers' "
        "helpers."""
        inner = self.view(fifo)
        rows = Array(self.rows(inner.storage))
        depth = len(rows)
        produce, consume = inner.produce, inner.consume
        level = getattr(inner, "inner_level", fifo.level)
        end = Signal(range(2 * depth + 1))
        m.d.comb += end.eq(consume + level)
        self.helper(m, (produce < depth) & (consume < depth) & (level <= depth))
        self.helper(m, produce == Mux(end >= depth, end - depth, end))
        words = []
        for k in range(depth):
            at, word = Signal(range(2 * depth)), Signal.like(fifo.r_data)
            m.d.comb += [at.eq(consume + k), word.eq(rows[Mux(at >= depth, at - depth, at)])]
            words.append((level > k, word))
        if not hasattr(inner, "inner_level"):
            return words
        # A register of its own stands in front of the rows.
        shifted = [(fifo.r_rdy, fifo.r_data), *words]
        ready = fifo.r_rdy
        return [
            (Mux(ready, v, w), Mux(ready, a, b))
            for (v, a), (w, b) in zip(shifted, [*words, (0, 0)], strict=True)
        ]

    def rows(self, memory):
        """The words of a small memory."""
        return self._views[id(memory)]["rows"]

    def assume(self, m, condition):
        m.d.comb += Assume(condition, src_loc_at=1)

    def prove(self, m, name, condition):
        if name not in {p.name for p in self.properties}:
            raise ValueError(f"{name!r} is none of the properties of {type(self).__name__}")
        self._proven.add(name)
        if self.only in (None, name):
            m.d.comb += Assert(condition, src_loc_at=1)

    def helper(self, m, condition):
        if self.only is None:
            m.d.comb += Assert(condition, src_loc_at=1)

    def stream_holds(self, m, stream):
        """A producer keeps what it offers until it is taken."""
        waiting = Signal()
        payload = Signal(stream.payload.shape())
        now, before = as_value(stream.payload), as_value(payload)
        m.d.sync += [waiting.eq(stream.valid & ~stream.ready), before.eq(now)]
        self.assume(m, waiting.implies(stream.valid & (now == before)))

    def elaborate(self, platform):
        m = Module()
        # Without a reset: the first state is the state after it.
        m.domains.sync = domain = ClockDomain("sync", reset_less=True)
        self.inputs.append(domain.clk)
        self.started = Signal()
        m.d.sync += self.started.eq(1)
        self.build(m)
        missing = {p.name for p in self.properties} - self._proven
        if missing:
            raise ValueError(f"{type(self).__name__} does not prove {sorted(missing)}")
        return m


def as_value(thing):
    """The bits of a value or a view."""
    return thing.as_value() if hasattr(thing, "as_value") else thing


def count_ones(bits):
    return sum((bit for bit in bits), start=0)


def parts_of(module, *but):
    """The components that a module of the card builds from, but some."""
    return {
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Component)
        and value.__module__ != module.__name__
    } - {Component, *but}


def specs_of(module):
    """The specifications that a module defines, in its order."""
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Spec)
        and value is not Spec
        and value.__module__ == module.__name__
    ]
