// C interface of the hardware benchmark: the Verilated card between pipelined memories, a wire that
// gives frames as fast as the card takes them, and a register master. No software runs beside it:
// all rings are filled before, all results are read after, every event is logged with its cycle.
//
// The clock works as in the device process: inputs of the next cycle are set before the edge, and a
// register at every input (hdsim.wrapper) takes them over on it.
#include <memory>
#include <vector>

#include "lite.h"
#include "memory_port.h"
#include "ports.h"
#include "stats.h"

double sc_time_stamp() { return 0; }  // Verilator's runtime asks for it; there is no simulated time

namespace {

// Frames for the card, back to back, as long as fewer than `window` wait for their payload to be
// written: so the card is always busy, and its frame buffer never overflows.
struct Wire {
  const uint8_t* bytes = nullptr;
  const uint64_t* offsets = nullptr;  // frame k is bytes[offsets[k]] to bytes[offsets[k + 1]] - 1
  uint64_t* taken = nullptr;          // cycle at which the card took the last beat of frame k
  uint64_t count = 0, window = 0, interval = 0, payload = 1, written = 0;
  uint64_t next = 0, at = 0, earliest = 0, offered = ~0ull;
  bool valid = false;
};

// One queue's receive ring as a driver sees it: the producer index in its slot.
struct Watch {
  unsigned queue = 0;
  uint32_t cells = 1;  // of a record
  uint32_t seen = 0;
};

class Bench {
 public:
  Bench() {
    for (unsigned i = 0; i < 16; ++i) {
      model_->rst = i < 8;
      cycle();
    }
  }
  ~Bench() { model_->final(); }

  int access(bool write, uint32_t address, uint32_t* value) {
    write ? lite_.begin_write(address, *value) : lite_.begin_read(address);
    ended_ = false;
    for (unsigned i = 0; i < ACCESS_CYCLES; ++i) {
      cycle();
      if (!ended_) continue;
      *value = lite_.value();
      return lite_.good() ? 0 : 1;
    }
    return 2;
  }

  void map(unsigned slot, uint8_t* base, uint64_t bytes) {
    (slot == 0 ? header.memories[0] : payload.memories[slot]) = {base, bytes};
  }

  // Frames visible in all watched queues. Logs the cycle for those that have become visible.
  void look() {
    if (!watches_.empty() && header.memories[0].base) {
      for (Watch& w : watches_) {
        uint32_t producer;
        std::memcpy(&producer, header.memories[0].base + w.queue * slot_bytes_, 4);
        for (; w.seen + w.cells <= producer; w.seen += w.cells) {
          if (visible_log_ && visible_ < visible_room_) visible_log_[visible_] = stats.cycles;
          ++visible_;
        }
      }
    }
  }

  void watch(unsigned queue, uint32_t cells, uint32_t slot_bytes) {
    uint32_t producer;
    std::memcpy(&producer, header.memories[0].base + queue * slot_bytes, 4);
    watches_.push_back({queue, cells, producer});
    slot_bytes_ = slot_bytes;
  }

  void unwatch(uint64_t* log, uint64_t room) {
    watches_.clear();
    visible_ = 0;
    visible_log_ = log;
    visible_room_ = room;
  }

  // Until `received` records are visible and `sent` frames have left, or `cycles` have passed.
  bool run(uint64_t received, uint64_t sent, uint64_t cycles) {
    const uint64_t end = stats.cycles + cycles;
    while (stats.cycles < end) {
      if (visible_ >= received && out_cycles.size() >= sent) return true;
      cycle();
    }
    return false;
  }

  Stats stats;
  Wire wire;
  std::vector<uint8_t> out_bytes;
  std::vector<uint64_t> out_ends, out_cycles;  // of each frame that left
  uint64_t out_bad = 0;

 private:
  static constexpr unsigned ACCESS_CYCLES = 100000;

  VerilatedContext context_;
  std::unique_ptr<Vhdsnic> model_{new Vhdsnic(&context_)};

 public:
  MemoryPort<HeaderSignals> header{*model_, stats.header_write_bytes, stats.header_read_bytes,
                                   stats.header_errors, stats.protocol_errors};
  MemoryPort<PayloadSignals> payload{*model_, stats.payload_write_bytes, stats.payload_read_bytes,
                                     stats.payload_errors, stats.protocol_errors};

 private:
  void cycle() {
    Vhdsnic& m = *model_;
    const uint64_t now = ++stats.cycles;
    header.sample(now);
    payload.sample(now);
    sample_wire(now);
    sample_out(now);
    if (!lite_.idle() && lite_.sample()) ended_ = true;
    look();
    header.drive(now);
    payload.drive(now);
    drive_wire(now);
    m.m_axis_tx_tready = 1;
    lite_.drive();
    m.clk = 1;
    m.eval();
    m.clk = 0;
    m.eval();
  }

  void sample_wire(uint64_t now) {
    if (!wire.valid || !model_->s_axis_rx_tready) return;
    wire.at += BUS_BYTES;
    if (wire.offsets[wire.next] + wire.at < wire.offsets[wire.next + 1]) return;
    wire.taken[wire.next++] = now;
    wire.at = 0;
  }

  void drive_wire(uint64_t now) {
    if (wire.next != wire.offered) {  // a frame may begin
      const uint64_t placed = (stats.payload_write_bytes - wire.written) / wire.payload;
      if (wire.next >= wire.count || wire.next - placed >= wire.window || now < wire.earliest) {
        model_->s_axis_rx_tvalid = wire.valid = false;
        return;
      }
      wire.offered = wire.next;
      wire.earliest = now + wire.interval;
    }
    const uint64_t from = wire.offsets[wire.next] + wire.at;
    const uint64_t left = wire.offsets[wire.next + 1] - from;
    put_beat(model_->s_axis_rx_tdata, wire.bytes + from);
    model_->s_axis_rx_tkeep = left >= BUS_BYTES ? FULL_STROBE : (1ull << left) - 1;
    model_->s_axis_rx_tlast = left <= BUS_BYTES;
    model_->s_axis_rx_tuser = 0;
    model_->s_axis_rx_tvalid = wire.valid = true;
  }

  void sample_out(uint64_t now) {
    if (!model_->m_axis_tx_tvalid || !out_ready_) {
      out_ready_ = true;
      return;
    }
    const uint64_t keep = model_->m_axis_tx_tkeep;
    const uint8_t* beat = beat_bytes(model_->m_axis_tx_tdata);
    out_bytes.insert(out_bytes.end(), beat, beat + __builtin_popcountll(keep));
    if (keep & (keep + 1)) ++out_bad;  // kept bytes with a gap
    if (!model_->m_axis_tx_tlast) return;
    if (model_->m_axis_tx_tuser) ++out_bad;
    out_ends.push_back(out_bytes.size());
    out_cycles.push_back(now);
  }

  Lite lite_{*model_, stats};
  std::vector<Watch> watches_;
  uint32_t slot_bytes_ = 0;
  uint64_t visible_ = 0, visible_room_ = 0;
  uint64_t* visible_log_ = nullptr;
  bool ended_ = false, out_ready_ = false;
};

Bench* bench(void* handle) { return static_cast<Bench*>(handle); }

}  // namespace

#define HB_API extern "C" __attribute__((visibility("default")))

HB_API void* hb_open() { return new Bench; }
HB_API void hb_close(void* h) { delete bench(h); }
HB_API int hb_access(void* h, int write, uint32_t address, uint32_t* value) {
  return bench(h)->access(write, address, value);
}
HB_API void hb_map(void* h, unsigned slot, uint8_t* base, uint64_t bytes) {
  bench(h)->map(slot, base, bytes);
}
// A response comes `latency` cycles after its address or its last beat of data, at least 1.
HB_API void hb_latency(void* h, uint32_t latency) {
  bench(h)->header.configure(latency - 1, 65536);
  bench(h)->payload.configure(latency - 1, 65536);
}
// Forget what was watched and logged; records that become visible are logged in `log` from here.
HB_API void hb_begin(void* h, uint64_t* log, uint64_t room) {
  Bench& b = *bench(h);
  b.unwatch(log, room);
  b.wire = Wire();
  b.out_bytes.clear(), b.out_ends.clear(), b.out_cycles.clear();
  b.out_bad = 0;
}
HB_API void hb_watch(void* h, unsigned queue, uint32_t cells, uint32_t slot_bytes) {
  bench(h)->watch(queue, cells, slot_bytes);
}
HB_API void hb_receive(void* h, const uint8_t* bytes, const uint64_t* offsets, uint64_t count,
                       uint64_t payload, uint64_t window, uint64_t interval, uint64_t* taken) {
  Wire& w = bench(h)->wire;
  w = Wire();
  w.payload = payload, w.written = bench(h)->stats.payload_write_bytes;
  w.bytes = bytes, w.offsets = offsets, w.count = count, w.window = window;
  w.interval = interval, w.taken = taken;
}
HB_API int hb_run(void* h, uint64_t received, uint64_t sent, uint64_t cycles) {
  return bench(h)->run(received, sent, cycles);
}
HB_API uint64_t hb_sent(void* h, const uint8_t** bytes, const uint64_t** ends,
                        const uint64_t** cycles, uint64_t* bad) {
  Bench& b = *bench(h);
  *bytes = b.out_bytes.data(), *ends = b.out_ends.data(), *cycles = b.out_cycles.data();
  *bad = b.out_bad;
  return b.out_cycles.size();
}
HB_API const char* hb_stat_names() { return stat_names(); }
HB_API const Stats* hb_stats(void* h) { return &bench(h)->stats; }
