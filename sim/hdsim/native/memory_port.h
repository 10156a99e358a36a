// An AXI4 memory port of the card, working straight on memory that other processes map too.
//
// Many transactions may be outstanding; each is answered `latency` cycles after its last write beat
// or its address, in order. An access outside the mapped memories touches nothing, is answered with
// DECERR, and is counted. Writes store exactly the strobed bytes: bytes beside them may belong to
// a concurrent writer in another process.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "ports.h"

template <class Item, unsigned Size>
class Ring {  // bounded queue without allocation; Size is a power of two
 public:
  bool empty() const { return begin_ == end_; }
  bool full() const { return end_ - begin_ >= Size - 2; }  // two may come in a cycle
  Item& front() { return items_[begin_ % Size]; }
  Item& push() { return items_[end_++ % Size]; }
  void pop() { ++begin_; }

 private:
  std::array<Item, Size> items_;
  uint32_t begin_ = 0, end_ = 0;
};

// Memories by the upper half of the bus address: header memory is slot 0; region r is slot r + 1.
struct Memory {
  uint8_t* base = nullptr;
  uint64_t bytes = 0;
};

constexpr uint8_t RESP_OKAY = 0, RESP_SLVERR = 2, RESP_DECERR = 3;

template <class Signals>
class MemoryPort {
 public:
  MemoryPort(Vhdsnic& top, uint64_t& written, uint64_t& read, uint64_t& refused, uint64_t& breaches)
      : s_{top}, written_(written), read_(read), refused_(refused), breaches_(breaches) {}

  std::array<Memory, abi::REGIONS + 1> memories;

  // `rate` is in beats per 65536 cycles, for each direction; 65536 is every cycle.
  void configure(uint32_t latency, uint32_t rate) {
    latency_ = latency;
    rate_ = rate;
  }

  // No transaction is under way, as far as this side can tell.
  bool idle() const {
    return bursts_.empty() && early_.empty() && answers_.empty() && reads_.empty();
  }

  // Before the clock edge: take what is handed over on it. Returns whether anything moved or waits.
  bool sample(uint64_t now) {
    if (!(s_.awvalid() | s_.wvalid() | s_.arvalid()) && idle()) return false;
    if (s_.awvalid() && awready_) take_write_address(now);
    if (s_.wvalid() && wready_) {
      if (bursts_.empty()) {  // AXI lets data come before its address
        EarlyBeat& e = early_.push();
        std::memcpy(e.data, beat_bytes(s_.wdata()), BUS_BYTES);
        e.strobe = s_.wstrb();
        e.last = s_.wlast();
      } else {
        take_beat(beat_bytes(s_.wdata()), s_.wstrb(), s_.wlast(), now);
      }
      if (rate_ != UNLIMITED) write_credit_ -= ONE_BEAT;
    }
    if (bvalid_ && s_.bready()) {
      answers_.pop();
      bvalid_ = false;
    }
    if (s_.arvalid() && arready_) take_read_address(now);
    if (rvalid_ && s_.rready()) {
      rvalid_ = false;
      Read& r = reads_.front();
      read_ += BUS_BYTES;
      if (rate_ != UNLIMITED) read_credit_ -= ONE_BEAT;
      if (r.beats-- == 1) reads_.pop();
      else if (r.from) r.from += BUS_BYTES;
    }
    return true;
  }

  // After the clock edge: drive what holds until the next one.
  void drive(uint64_t now) {
    if (rate_ != UNLIMITED) earn(now);
    s_.awready() = awready_ = !bursts_.full();
    s_.wready() = wready_ = !early_.full() && !answers_.full() && write_credit_ >= 0;
    if (!bvalid_ && !answers_.empty() && answers_.front().due <= now) {
      bvalid_ = true;
      s_.bid() = answers_.front().id;
      s_.bresp() = answers_.front().resp;
    }
    s_.bvalid() = bvalid_;
    s_.arready() = arready_ = !reads_.full();
    if (!rvalid_ && !reads_.empty() && reads_.front().due <= now && read_credit_ >= 0) {
      Read& r = reads_.front();
      rvalid_ = true;
      s_.rid() = r.id;
      s_.rresp() = r.resp;
      s_.rlast() = r.beats == 1;
      put_beat(s_.rdata(), r.from ? r.from : NOTHING);
    }
    s_.rvalid() = rvalid_;
  }

 private:
  struct Burst {
    uint8_t* to;  // nullptr: refused
    uint32_t beats;
    uint8_t id, resp;
  };
  struct EarlyBeat {
    uint8_t data[BUS_BYTES];
    uint64_t strobe;
    bool last;
  };
  struct Answer {
    uint64_t due;
    uint8_t id, resp;
  };
  struct Read {
    const uint8_t* from;  // nullptr: refused
    uint64_t due;
    uint32_t beats;
    uint8_t id, resp;
  };

  static constexpr int64_t ONE_BEAT = 65536;
  static constexpr uint32_t UNLIMITED = 65536;
  static constexpr uint8_t NOTHING[BUS_BYTES] = {};
  static constexpr unsigned SIZE = __builtin_ctz(BUS_BYTES);

  // Where a burst begins in memory, or nullptr with `resp` set.
  uint8_t* locate(uint64_t address, uint32_t beats, uint8_t size, uint8_t burst, uint8_t& resp) {
    const uint64_t begin = address & ~uint64_t(BUS_BYTES - 1);
    const uint64_t bytes = uint64_t(beats) * BUS_BYTES;
    if (size != SIZE || burst != 1 || (begin & 4095) + bytes > 4096) {
      ++breaches_;  // the card makes full-width incrementing bursts within 4 KiB, no others
      resp = RESP_SLVERR;
      return nullptr;
    }
    const uint64_t slot = begin >> 32, offset = begin & 0xffffffffu;
    if (slot >= memories.size() || offset + bytes > memories[slot].bytes) {
      ++refused_;
      resp = RESP_DECERR;
      return nullptr;
    }
    resp = RESP_OKAY;
    return memories[slot].base + offset;
  }

  void take_write_address(uint64_t now) {
    Burst& b = bursts_.push();
    b.beats = s_.awlen() + 1u;
    b.id = s_.awid();
    b.to = locate(s_.awaddr(), b.beats, s_.awsize(), s_.awburst(), b.resp);
    while (!early_.empty() && !bursts_.empty()) {
      take_beat(early_.front().data, early_.front().strobe, early_.front().last, now);
      early_.pop();
    }
  }

  void take_read_address(uint64_t now) {
    Read& r = reads_.push();
    r.beats = s_.arlen() + 1u;
    r.id = s_.arid();
    r.due = now + latency_;
    r.from = locate(s_.araddr(), r.beats, s_.arsize(), s_.arburst(), r.resp);
  }

  void take_beat(const uint8_t* data, uint64_t strobe, bool last, uint64_t now) {
    Burst& b = bursts_.front();
    if (b.to) {
      store(b.to, data, strobe);
      b.to += BUS_BYTES;
    }
    if (last != (b.beats == 1)) ++breaches_;
    if (--b.beats == 0) {
      answers_.push() = {now + latency_, b.id, b.resp};
      bursts_.pop();
    }
  }

  void store(uint8_t* to, const uint8_t* data, uint64_t strobe) {
    if (strobe == FULL_STROBE) {
      std::memcpy(to, data, BUS_BYTES);
      written_ += BUS_BYTES;
      return;
    }
    written_ += __builtin_popcountll(strobe);
    // An index is a short write that announces earlier ones: readers must see those first.
    std::atomic_thread_fence(std::memory_order_release);
    while (strobe) {
      const unsigned at = __builtin_ctzll(strobe);
      const uint64_t rest = ~(strobe >> at);
      const unsigned run = rest ? __builtin_ctzll(rest) : 64 - at;
      store_run(to + at, data + at, run);
      strobe = at + run >= 64 ? 0 : strobe >> (at + run) << (at + run);
    }
  }

  // Whole aligned words in one store each, so that a reader never sees half an index.
  static void store_run(uint8_t* to, const uint8_t* from, unsigned bytes) {
    while (bytes >= 8 && reinterpret_cast<uintptr_t>(to) % 8 == 0) {
      uint64_t word;
      std::memcpy(&word, from, 8);
      __atomic_store_n(reinterpret_cast<uint64_t*>(to), word, __ATOMIC_RELAXED);
      to += 8, from += 8, bytes -= 8;
    }
    if (bytes == 4 && reinterpret_cast<uintptr_t>(to) % 4 == 0) {
      uint32_t word;
      std::memcpy(&word, from, 4);
      __atomic_store_n(reinterpret_cast<uint32_t*>(to), word, __ATOMIC_RELAXED);
      return;
    }
    std::memcpy(to, from, bytes);
  }

  void earn(uint64_t now) {
    const int64_t more = std::min<uint64_t>(now - earned_, 1u << 16) * rate_;
    earned_ = now;
    write_credit_ = std::min<int64_t>(write_credit_ + more, 0);
    read_credit_ = std::min<int64_t>(read_credit_ + more, 0);
  }

  Signals s_;
  uint64_t &written_, &read_, &refused_, &breaches_;
  uint32_t latency_ = 16, rate_ = UNLIMITED;
  int64_t write_credit_ = 0, read_credit_ = 0;  // a beat may go while it is not negative
  uint64_t earned_ = 0;
  bool awready_ = false, wready_ = false, arready_ = false, bvalid_ = false, rvalid_ = false;
  Ring<Burst, 512> bursts_;
  Ring<EarlyBeat, 16> early_;
  Ring<Answer, 512> answers_;
  Ring<Read, 512> reads_;
};
