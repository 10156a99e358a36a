// C interface of the shared library; `hdsim.card` is its other side, and says what each call does.
#include <new>

#include "card.h"

double sc_time_stamp() { return 0; }  // Verilator's runtime asks for it; there is no simulated time

#define HD_API extern "C" __attribute__((visibility("default")))

namespace {
Card* card(void* handle) { return static_cast<Card*>(handle); }
bool is_slot(unsigned slot) { return slot <= abi::REGIONS; }
}  // namespace

HD_API void* hd_open(int control_fd) {
  try {
    return new Card(control_fd);
  } catch (...) {
    return nullptr;
  }
}
HD_API void hd_close(void* h) { delete card(h); }
HD_API int hd_run(void* h) { return card(h)->run(); }

HD_API int hd_access(void* h, int write, uint32_t address, uint32_t* value) {
  return card(h)->access(write, address, value);
}
HD_API int hd_await(void* h, uint32_t address, uint32_t mask, uint32_t wanted, uint64_t cycles) {
  return card(h)->await_register(address, mask, wanted, cycles);
}

HD_API int hd_map(void* h, unsigned slot, int fd, uint64_t bytes) {
  return is_slot(slot) && card(h)->map(slot, fd, bytes);
}
HD_API void hd_unmap(void* h, unsigned slot) {
  if (is_slot(slot)) card(h)->unmap(slot);
}
HD_API int hd_attach_stack(void* h, int fd) { return card(h)->pages.attach_stack(fd); }
HD_API void hd_detach_stack(void* h) { card(h)->pages.detach_stack(); }
HD_API int hd_attach_post(void* h, unsigned queue, int fd) {
  return queue < abi::QUEUES && card(h)->pages.attach_post(queue, fd);
}
HD_API void hd_detach_post(void* h, unsigned queue) {
  if (queue < abi::QUEUES) card(h)->pages.detach_post(queue);
}
HD_API void hd_switch_post(void* h, unsigned queue, int on) {
  if (queue < abi::QUEUES) card(h)->pages.switch_post(queue, on);
}
HD_API int hd_set_wake(void* h, unsigned party, int fd) {
  return party <= abi::QUEUES && card(h)->set_wake(party, fd);
}

HD_API void hd_set_link(void* h, int fd) { card(h)->link.open(fd); }
HD_API void hd_hold_link(void* h) { card(h)->hold_link(); }
HD_API void hd_impair(void* h, const double* shares, uint64_t delay_ns, uint64_t seed) {
  card(h)->link.impair({shares[0], shares[1], shares[2], shares[3], delay_ns, seed});
}
HD_API int hd_capture(void* h, int fd, const char* name) { return card(h)->capture.open(fd, name); }
HD_API void hd_flush(void* h) { card(h)->capture.flush(); }
HD_API void hd_memory(void* h, int payload, uint32_t latency, uint32_t rate) {
  payload ? card(h)->payload.configure(latency, rate) : card(h)->header.configure(latency, rate);
}

HD_API const char* hd_stat_names() { return stat_names(); }
HD_API const Stats* hd_stats(void* h) { return &card(h)->stats; }

HD_API int hd_waves(void* h, const char* path) {
#if VM_TRACE
  card(h)->waves(path);
  return 1;
#else
  (void)h, (void)path;
  return 0;
#endif
}
