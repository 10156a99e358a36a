// AXI4-Lite master: one register access at a time.
#pragma once
#include "ports.h"
#include "stats.h"

class Lite {
 public:
  Lite(Vhdsnic& top, Stats& stats) : top_(top), stats_(stats) {}

  bool idle() const { return state_ == State::IDLE; }

  void begin_write(uint32_t address, uint32_t value) {
    state_ = State::WRITE;
    address_ = address, value_ = value;
    send_address_ = send_data_ = true;
    ++stats_.register_writes;
  }
  void begin_read(uint32_t address) {
    state_ = State::READ;
    address_ = address;
    send_address_ = true;
    ++stats_.register_reads;
  }

  // Before the clock edge. Returns true on the edge at which the access ends; then `value` and
  // `good` tell the answer.
  bool sample() {
    if (state_ == State::IDLE) return false;
    if (state_ == State::WRITE) {
      if (top_.s_axil_awvalid && top_.s_axil_awready) send_address_ = false;
      if (top_.s_axil_wvalid && top_.s_axil_wready) send_data_ = false;
      return top_.s_axil_bvalid && top_.s_axil_bready && end(top_.s_axil_bresp);
    }
    if (top_.s_axil_arvalid && top_.s_axil_arready) send_address_ = false;
    if (!(top_.s_axil_rvalid && top_.s_axil_rready)) return false;
    value_ = top_.s_axil_rdata;
    return end(top_.s_axil_rresp);
  }

  // After the clock edge.
  void drive() {
    if (state_ == State::IDLE && !driven_) return;
    const bool write = state_ == State::WRITE, read = state_ == State::READ;
    driven_ = write || read;
    top_.s_axil_awvalid = write && send_address_;
    top_.s_axil_wvalid = write && send_data_;
    top_.s_axil_bready = write;
    top_.s_axil_arvalid = read && send_address_;
    top_.s_axil_rready = read;
    top_.s_axil_awaddr = top_.s_axil_araddr = address_;
    top_.s_axil_wdata = value_;
    top_.s_axil_wstrb = 15;
  }

  uint32_t address() const { return address_; }
  uint32_t value() const { return value_; }
  bool good() const { return good_; }

 private:
  enum class State { IDLE, WRITE, READ };

  bool end(uint8_t resp) {
    good_ = resp == 0;
    if (!good_) ++stats_.register_errors;
    state_ = State::IDLE;
    return true;
  }

  Vhdsnic& top_;
  Stats& stats_;
  State state_ = State::IDLE;
  uint32_t address_ = 0, value_ = 0;
  bool send_address_ = false, send_data_ = false, driven_ = false, good_ = true;
};
