// The simulated card: the Verilated model, its ports' partners, and the loop that clocks them.
#pragma once
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <memory>

#include "lite.h"
#include "link.h"
#include "memory_port.h"
#include "pages.h"
#include "pcapng.h"
#include "ports.h"
#include "stats.h"
#include "streams.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

class Card {
 public:
  enum Result { CONTROL = 0, FAILED = -1 };
  enum Answer { GOOD = 0, REFUSED = 1, NO_ANSWER = 2 };

  explicit Card(int control_fd) : control_fd_(control_fd) {
    wakes_.fill(-1);
    model_->rst = 1;
    for (unsigned i = 0; i < 16; ++i) cycle();
    model_->rst = 0;
    stats = Stats();
    active_ = 0;
  }
  ~Card() {
    for (int& fd : wakes_) close_fd(fd);
    for (unsigned r = 0; r <= abi::REGIONS; ++r) unmap(r);
    model_->final();
  }

  // Simulate until the control descriptor is readable.
  int run() {
    awake_since_ = clock_ns(CLOCK_MONOTONIC);
    uint64_t look = stats.cycles + CONTROL_CYCLES;
    int result;
    for (;;) {
      for (unsigned i = 0; i < SLICE_CYCLES; ++i) cycle();
      if (stats.cycles >= look) {
        look = stats.cycles + CONTROL_CYCLES;
        pollfd control{control_fd_, POLLIN, 0};
        if (::poll(&control, 1, 0) != 0) {
          result = control.revents & POLLIN ? CONTROL : FAILED;
          break;
        }
      }
      if (stats.cycles - active_ > QUIET_CYCLES && sleep(result)) break;
    }
    stats.awake_ns += clock_ns(CLOCK_MONOTONIC) - awake_since_;
    return result;
  }

  // One register access of the registration service, with everything else going on meanwhile.
  int access(bool write, uint32_t address, uint32_t* value) {
    for (uint32_t i = 0; i < ACCESS_CYCLES; ++i) {
      if (lite_.idle() && service_ == Service::NONE) {
        write ? lite_.begin_write(address, *value) : lite_.begin_read(address);
        service_ = Service::ASKED;
      }
      cycle();
      if (service_ == Service::ANSWERED) {
        service_ = Service::NONE;
        *value = lite_.value();
        return lite_.good() ? GOOD : REFUSED;
      }
    }
    return NO_ANSWER;
  }

  // Read a register until `value & mask == wanted`, for at most `cycles` cycles.
  int await_register(uint32_t address, uint32_t mask, uint32_t wanted, uint64_t cycles) {
    const uint64_t end = stats.cycles + cycles;
    for (;;) {
      uint32_t value = 0;
      const int answer = access(false, address, &value);
      if (answer != GOOD || (value & mask) == wanted) return answer;
      if (stats.cycles >= end) return NO_ANSWER;
      for (unsigned i = 0; i < SLICE_CYCLES; ++i) cycle();
    }
  }

  // Map `fd` as the memory of a slot (0: header memory, r + 1: region r). False: see errno.
  bool map(unsigned slot, int fd, uint64_t bytes) {
    unmap(slot);
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return false;
    madvise(p, bytes, MADV_DONTFORK);
    memory(slot) = {static_cast<uint8_t*>(p), bytes};
    return true;
  }
  void unmap(unsigned slot) {
    Memory& m = memory(slot);
    if (m.base) munmap(m.base, m.bytes);
    m = {};
  }

  // Wake socket of a party: 0 the stack, 1 + q the application of queue q. A copy is kept.
  bool set_wake(unsigned party, int fd) {
    close_fd(wakes_[party]);
    if (fd >= 0) wakes_[party] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return fd < 0 || wakes_[party] >= 0;
  }

  // Leave the link's frames where they are until reception is first switched on.
  void hold_link() { receiver_.hold(); }

#if VM_TRACE
  void waves(const char* path) {
    context_.traceEverOn(true);
    trace_.reset(new VerilatedVcdC);
    model_->trace(trace_.get(), 99);
    trace_->open(path);
  }
#endif

  Stats stats;
  Capture capture;
  Link link{stats};
  Pages pages{stats};

 private:
  static constexpr unsigned SLICE_CYCLES = 64;      // between looks at the quiet counter
  static constexpr unsigned CONTROL_CYCLES = 2048;  // between looks at the control descriptor
  static constexpr unsigned PAGE_CYCLES = 32;       // between looks at the doorbell pages
  static constexpr unsigned QUIET_CYCLES = 1024;    // without activity before sleep
  static constexpr unsigned ACCESS_CYCLES = 100000; // for a register access to be answered
  enum class Service { NONE, ASKED, ANSWERED };

  VerilatedContext context_;
  std::unique_ptr<Vhdsnic> model_{new Vhdsnic(&context_)};
#if VM_TRACE
  std::unique_ptr<VerilatedVcdC> trace_;
#endif

 public:
  MemoryPort<HeaderSignals> header{*model_, stats.header_write_bytes, stats.header_read_bytes,
                                   stats.header_errors, stats.protocol_errors};
  MemoryPort<PayloadSignals> payload{*model_, stats.payload_write_bytes, stats.payload_read_bytes,
                                     stats.payload_errors, stats.protocol_errors};

 private:
  // One clock cycle. Before the edge the ports' partners look at the card's outputs and at what
  // they drive now, and decide what they drive after it: the wrapper around the card has a
  // register at every input, which takes that over on the edge.
  void cycle() {
    Vhdsnic& m = *model_;
    const uint64_t now = ++stats.cycles;
    bool active = header.sample(now);
    active |= payload.sample(now);
    active |= receiver_.sample();
    active |= transmitter_.sample(now);
    if (lite_.idle()) {
      if (--page_wait_ == 0) {
        page_wait_ = PAGE_CYCLES;
        if (service_ == Service::NONE) pages.begin(lite_);
      }
    } else {
      active = true;
      if (lite_.sample()) end_access();
    }
    if (active) active_ = now;
    header.drive(now);
    payload.drive(now);
    receiver_.drive();
    transmitter_.drive();
    lite_.drive();
    if (m.irq != irq_) {
      irq_ = m.irq;
      if (irq_) interrupt();
    }
    m.clk = 1;
    m.eval();
#if VM_TRACE
    if (trace_) trace_->dump(10 * now);
#endif
    m.clk = 0;  // no logic listens to the falling edge: this only re-arms the rising one
    m.eval();
#if VM_TRACE
    if (trace_) trace_->dump(10 * now + 5);
#endif
  }

  void end_access() {
    if (lite_.address() == abi::REG_SWITCHES && lite_.good()) receiver_.receive(lite_.value() & 1);
    if (service_ == Service::ASKED) service_ = Service::ANSWERED;
    else pages.end(lite_);
    page_wait_ = 1;  // another page may wait for its turn
  }

  void interrupt() {
    ++stats.irqs;
    const char byte = 1;  // a full socket holds a wake already
    if (wakes_[0] >= 0) ::send(wakes_[0], &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  // Block until there is something to do. True: `run` returns with `result`.
  //
  // First say that a wake is needed, then look once more, then block: whoever writes a doorbell
  // does the reverse, so one of the two sees the other.
  bool sleep(int& result) {
    pages.need_wake(true);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    bool leave = false;
    if (!pages.pending()) {
      ++stats.sleeps;
      if (capture.is_open()) capture.flush();
      stats.awake_ns += clock_ns(CLOCK_MONOTONIC) - awake_since_;
      while (!leave && !block(leave, result)) {
      }
      awake_since_ = clock_ns(CLOCK_MONOTONIC);
    }
    pages.need_wake(false);
    active_ = stats.cycles;
    receiver_.hurry();
    page_wait_ = 1;
    return leave;
  }

  // One ppoll(2). True: there is work for the card. A wake without a doorbell is none, so a party
  // that sends wakes for nothing pays as much for each as the device does.
  bool block(bool& leave, int& result) {
    pollfd fds[2 + 1 + abi::QUEUES];
    fds[0] = {control_fd_, POLLIN, 0};
    fds[1] = {receiver_.held() ? -1 : link.fd(), POLLIN, 0};
    for (unsigned i = 0; i < wakes_.size(); ++i) fds[2 + i] = {wakes_[i], POLLIN, 0};
    timespec timeout, *wait = nullptr;
    if (const uint64_t due = link.due_ns(); due != Impaired::NEVER) {
      const uint64_t now = clock_ns(CLOCK_MONOTONIC), left = due > now ? due - now : 0;
      timeout = {time_t(left / 1'000'000'000), long(left % 1'000'000'000)};
      wait = &timeout;
    }
    const int ready = ::ppoll(fds, 2 + wakes_.size(), wait, nullptr);
    if (ready < 0 && errno != EINTR) {
      leave = true;
      result = FAILED;
      return true;
    }
    for (unsigned i = 0; i < wakes_.size(); ++i)
      if (fds[2 + i].revents) drain(wakes_[i]);
    if (fds[0].revents) {
      leave = true;
      result = fds[0].revents & POLLIN ? CONTROL : FAILED;
    }
    return leave || ready == 0 || fds[1].revents || pages.pending();
  }

  static void drain(int& fd) {
    char bytes[64];
    for (unsigned i = 0; i < 16; ++i) {
      const ssize_t n = ::recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
      if (n > 0) continue;
      if (n == 0 || (errno != EAGAIN && errno != EINTR)) close_fd(fd);  // hung up
      return;
    }
  }

  static void close_fd(int& fd) {
    if (fd >= 0) ::close(fd);
    fd = -1;
  }

  Memory& memory(unsigned slot) {
    return slot == 0 ? header.memories[0] : payload.memories[slot];
  }

  int control_fd_;
  Receiver receiver_{*model_, link, capture, stats};
  Transmitter transmitter_{*model_, link, capture, stats};
  Lite lite_{*model_, stats};
  Service service_ = Service::NONE;
  std::array<int, 1 + abi::QUEUES> wakes_;
  uint64_t active_ = 0, awake_since_ = 0;
  unsigned page_wait_ = 1;
  uint8_t irq_ = 0;
};
