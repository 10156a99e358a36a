// The card's ports under names that do not depend on their widths.
//
// Verilator gives a port of up to 64 bits an integer type and a wider one an array of 32-bit words.
// Both lie in memory as little-endian bytes, byte 0 of a beat first, so data moves by memcpy and
// one source serves buses of 8 to 64 bytes.
#pragma once
#include <cstdint>
#include <cstring>

#include "Vhdsnic.h"
#include "abi.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the harness needs a little-endian host");

constexpr unsigned BUS_BYTES = abi::BUS_BYTES;
constexpr uint64_t FULL_STROBE = BUS_BYTES == 64 ? ~0ull : (1ull << BUS_BYTES) - 1;

template <class Port>
inline void put_beat(Port& port, const uint8_t* from) {
  static_assert(sizeof(Port) == BUS_BYTES, "data port as wide as the bus");
  std::memcpy(static_cast<void*>(&port), from, BUS_BYTES);
}

template <class Port>
inline const uint8_t* beat_bytes(const Port& port) {
  static_assert(sizeof(Port) == BUS_BYTES, "data port as wide as the bus");
  return reinterpret_cast<const uint8_t*>(&port);
}

// Accessors of an AXI4 master of the card; the unused attributes (lock, cache, prot, qos) are left.
#define HD_MEMORY_SIGNALS(NAME, PREFIX)             \
  struct NAME {                                     \
    Vhdsnic& top;                                   \
    auto& awid() { return top.PREFIX##awid; }       \
    auto& awaddr() { return top.PREFIX##awaddr; }   \
    auto& awlen() { return top.PREFIX##awlen; }     \
    auto& awsize() { return top.PREFIX##awsize; }   \
    auto& awburst() { return top.PREFIX##awburst; } \
    auto& awvalid() { return top.PREFIX##awvalid; } \
    auto& awready() { return top.PREFIX##awready; } \
    auto& wdata() { return top.PREFIX##wdata; }     \
    auto& wstrb() { return top.PREFIX##wstrb; }     \
    auto& wlast() { return top.PREFIX##wlast; }     \
    auto& wvalid() { return top.PREFIX##wvalid; }   \
    auto& wready() { return top.PREFIX##wready; }   \
    auto& bid() { return top.PREFIX##bid; }         \
    auto& bresp() { return top.PREFIX##bresp; }     \
    auto& bvalid() { return top.PREFIX##bvalid; }   \
    auto& bready() { return top.PREFIX##bready; }   \
    auto& arid() { return top.PREFIX##arid; }       \
    auto& araddr() { return top.PREFIX##araddr; }   \
    auto& arlen() { return top.PREFIX##arlen; }     \
    auto& arsize() { return top.PREFIX##arsize; }   \
    auto& arburst() { return top.PREFIX##arburst; } \
    auto& arvalid() { return top.PREFIX##arvalid; } \
    auto& arready() { return top.PREFIX##arready; } \
    auto& rid() { return top.PREFIX##rid; }         \
    auto& rdata() { return top.PREFIX##rdata; }     \
    auto& rresp() { return top.PREFIX##rresp; }     \
    auto& rlast() { return top.PREFIX##rlast; }     \
    auto& rvalid() { return top.PREFIX##rvalid; }   \
    auto& rready() { return top.PREFIX##rready; }   \
  };

HD_MEMORY_SIGNALS(HeaderSignals, m_axi_hdr_)
HD_MEMORY_SIGNALS(PayloadSignals, m_axi_pay_)
