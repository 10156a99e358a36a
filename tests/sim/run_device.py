"""Runs a device process around the tiny card: `python run_device.py '<json of main's arguments>'`.

The real `hdsim.device.main`, with only the Verilog exchanged.
"""

import json
import sys

from tiny_card import tiny_verilog

from hdsim import build, device
from hdsnic.parameters import Parameters


def tiny_model(parameters, waves=False, progress=None):
    """In place of `hdsim.build.native_model`."""
    return build.build_library(tiny_verilog(parameters), parameters, waves, progress)


if __name__ == "__main__":
    build.native_model = tiny_model
    arguments = json.loads(sys.argv[1])
    parameters = Parameters(**arguments.pop("parameters", {}))
    device.main(parameters=parameters, **arguments)
