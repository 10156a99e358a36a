"""A card of a page of Verilog, with the ports of the real one, for the tests of the simulation.

Registers are a RAM (what is written reads back; REVOKE reads 0), received frames go straight out
again, and an engine behind page 0x3000 makes one AXI4 burst at a command, so that a test can ask
for exactly the access that it wants to see answered.
"""

from hdsnic import abi
from hdsnic.parameters import Parameters

ENGINE = 0x3000
ADDRESS_LO, ADDRESS_HI, BEATS, COMMAND, STROBE_LO, STROBE_HI = range(ENGINE, ENGINE + 24, 4)
STATUS, SUM, CYCLES, IRQ = range(ENGINE + 24, ENGINE + 40, 4)
PAYLOAD, WRITE, DATA_FIRST = 1, 2, 4
"""Bits of COMMAND."""
DONE = 1 << 8
"""Bit of STATUS; the response is in bits 1:0."""


def _master(prefix: str) -> str:
    return f"""
  output reg [3:0] {prefix}awid, output reg [39:0] {prefix}awaddr, output reg [7:0] {prefix}awlen,
  output [2:0] {prefix}awsize, output [1:0] {prefix}awburst, output {prefix}awlock,
  output [3:0] {prefix}awcache, output [2:0] {prefix}awprot, output [3:0] {prefix}awqos,
  output reg {prefix}awvalid, input {prefix}awready,
  output reg [8*W-1:0] {prefix}wdata, output reg [W-1:0] {prefix}wstrb, output reg {prefix}wlast,
  output reg {prefix}wvalid, input {prefix}wready,
  input [3:0] {prefix}bid, input [1:0] {prefix}bresp, input {prefix}bvalid, output {prefix}bready,
  output reg [3:0] {prefix}arid, output reg [39:0] {prefix}araddr, output reg [7:0] {prefix}arlen,
  output [2:0] {prefix}arsize, output [1:0] {prefix}arburst, output {prefix}arlock,
  output [3:0] {prefix}arcache, output [2:0] {prefix}arprot, output [3:0] {prefix}arqos,
  output reg {prefix}arvalid, input {prefix}arready,
  input [3:0] {prefix}rid, input [8*W-1:0] {prefix}rdata, input [1:0] {prefix}rresp,
  input {prefix}rlast, input {prefix}rvalid, output {prefix}rready,"""


def _engine(prefix: str, port: int) -> tuple[str, str]:
    """Declarations, and the body of the clocked process."""
    return (
        f"""
  assign {prefix}awsize = $clog2(W); assign {prefix}awburst = 1; assign {prefix}awlock = 0;
  assign {prefix}awcache = 0; assign {prefix}awprot = 0; assign {prefix}awqos = 0;
  assign {prefix}arsize = $clog2(W); assign {prefix}arburst = 1; assign {prefix}arlock = 0;
  assign {prefix}arcache = 0; assign {prefix}arprot = 0; assign {prefix}arqos = 0;
  assign {prefix}bready = 1; assign {prefix}rready = 1;
  reg [7:0] beat{port}, hold{port};
""",
        f"""
    if (hold{port} != 0) hold{port} <= hold{port} - 1;
    if (hold{port} == 1) {prefix}awvalid <= 1;
    if ({prefix}awvalid && {prefix}awready) {prefix}awvalid <= 0;
    if ({prefix}arvalid && {prefix}arready) {prefix}arvalid <= 0;
    if ({prefix}wvalid && {prefix}wready) begin
      beat{port} <= beat{port} + 1;
      {prefix}wlast <= beat{port} + 1 == {prefix}awlen;
      for (i = 0; i < W; i = i + 1) {prefix}wdata[8*i +: 8] <= {prefix}wdata[8*i +: 8] + W;
      if ({prefix}wlast) {prefix}wvalid <= 0;
    end
    if ({prefix}bvalid) begin status <= 'h100 | {prefix}bresp; cycles <= timer; end
    if ({prefix}rvalid) begin
      sum <= sum + {prefix}rdata[31:0];
      if ({prefix}rlast) begin status <= 'h100 | {prefix}rresp; cycles <= timer; end
    end
    if (start && command[0] == {port}) begin
      status <= 0; sum <= 0; timer <= 0; beat{port} <= 0;
      {prefix}awaddr <= address; {prefix}araddr <= address;
      {prefix}awlen <= beats; {prefix}arlen <= beats; {prefix}awid <= 5; {prefix}arid <= 6;
      for (i = 0; i < W; i = i + 1) {prefix}wdata[8*i +: 8] <= i;
      {prefix}wstrb <= strobe;
      {prefix}wlast <= beats == 0;
      if (command[1]) begin
        {prefix}wvalid <= 1;
        if (command[2]) hold{port} <= 40; else {prefix}awvalid <= 1;
      end else {prefix}arvalid <= 1;
    end
    if (rst) begin
      {prefix}awvalid <= 0; {prefix}wvalid <= 0; {prefix}arvalid <= 0; hold{port} <= 0;
    end""",
    )


def tiny_verilog(parameters: Parameters) -> str:
    """Verilog of the small card."""
    header, payload = _engine("m_axi_hdr_", 0), _engine("m_axi_pay_", 1)
    return f"""
// Numbers here are 32 bits wide for the reader's sake; every port cuts them to its own width.
/* verilator lint_off WIDTHTRUNC */
/* verilator lint_off WIDTHEXPAND */
module hdsnic #(parameter W = {parameters.bus_bytes}) (
  input clk, input rst, output irq,
  input [8*W-1:0] s_axis_rx_tdata, input [W-1:0] s_axis_rx_tkeep, input s_axis_rx_tvalid,
  output s_axis_rx_tready, input s_axis_rx_tlast, input s_axis_rx_tuser,
  output reg [8*W-1:0] m_axis_tx_tdata, output reg [W-1:0] m_axis_tx_tkeep,
  output reg m_axis_tx_tvalid, input m_axis_tx_tready, output reg m_axis_tx_tlast,
  output m_axis_tx_tuser,
  {_master("m_axi_hdr_")}
  {_master("m_axi_pay_")}
  input [17:0] s_axil_awaddr, input [2:0] s_axil_awprot, input s_axil_awvalid,
  output s_axil_awready, input [31:0] s_axil_wdata, input [3:0] s_axil_wstrb, input s_axil_wvalid,
  output s_axil_wready, output [1:0] s_axil_bresp, output reg s_axil_bvalid, input s_axil_bready,
  input [17:0] s_axil_araddr, input [2:0] s_axil_arprot, input s_axil_arvalid,
  output s_axil_arready, output reg [31:0] s_axil_rdata, output [1:0] s_axil_rresp,
  output reg s_axil_rvalid, input s_axil_rready
);
  integer i;
  assign m_axis_tx_tuser = 0;
  assign s_axis_rx_tready = !m_axis_tx_tvalid || m_axis_tx_tready;
  always @(posedge clk) begin
    if (s_axis_rx_tready) begin
      m_axis_tx_tdata <= s_axis_rx_tdata; m_axis_tx_tkeep <= s_axis_rx_tkeep;
      m_axis_tx_tlast <= s_axis_rx_tlast; m_axis_tx_tvalid <= s_axis_rx_tvalid;
    end
    if (rst) m_axis_tx_tvalid <= 0;
  end

  reg [31:0] ram [0:65535];
  reg [31:0] status, sum, timer, cycles;
  reg start;
  wire [39:0] address = {{ram[{ADDRESS_HI // 4}][7:0], ram[{ADDRESS_LO // 4}]}};
  wire [7:0] beats = ram[{BEATS // 4}][7:0];
  wire [2:0] command = ram[{COMMAND // 4}][2:0];
  wire [127:0] strobes = {{64'd0, ram[{STROBE_HI // 4}], ram[{STROBE_LO // 4}]}};
  wire [W-1:0] strobe = strobes[W-1:0];
  assign irq = ram[{IRQ // 4}][0];
  wire write = s_axil_awvalid && s_axil_wvalid && !s_axil_bvalid;
  wire read = s_axil_arvalid && !s_axil_rvalid;
  assign s_axil_awready = write;
  assign s_axil_wready = write;
  assign s_axil_arready = read;
  assign s_axil_bresp = 0;
  assign s_axil_rresp = 0;
  always @(posedge clk) begin
    start <= 0;
    if (s_axil_bready) s_axil_bvalid <= 0;
    if (s_axil_rready) s_axil_rvalid <= 0;
    if (write) begin
      ram[s_axil_awaddr[17:2]] <= s_axil_wdata;
      s_axil_bvalid <= 1;
      start <= s_axil_awaddr == {COMMAND};
    end
    if (read) begin
      s_axil_rvalid <= 1;
      case (s_axil_araddr)
        {abi.CONTROL.MAGIC.offset}: s_axil_rdata <= {abi.MAGIC};
        {abi.CONTROL.ABI_VERSION.offset}: s_axil_rdata <= {abi.ABI_VERSION};
        {abi.CONTROL.BUS_BYTES.offset}: s_axil_rdata <= W;
        {abi.MANAGEMENT_PAGE + abi.MANAGEMENT.REVOKE.offset}: s_axil_rdata <= 0;
        {STATUS}: s_axil_rdata <= status;
        {SUM}: s_axil_rdata <= sum;
        {CYCLES}: s_axil_rdata <= cycles;
        default: s_axil_rdata <= ram[s_axil_araddr[17:2]];
      endcase
    end
    if (rst) begin s_axil_bvalid <= 0; s_axil_rvalid <= 0; start <= 0; end
  end
  initial for (i = 0; i < 65536; i = i + 1) ram[i] = 0;
  {header[0]}
  {payload[0]}
  always @(posedge clk) begin
    timer <= timer + 1;
    {header[1]}
    {payload[1]}
  end
endmodule
"""
