"""hdsnic: the network card, from its contract (`hdsnic.abi`) to its Verilog (`hdsnic.nic`).

Importing this package needs nothing but Python; Amaranth is imported by the modules that describe
hardware, so that drivers can read the contract without a hardware toolchain.
"""
