// Doorbell pages and the register mailbox: how other processes reach the card's registers.
//
// On a board a page of registers would be mapped into a process. Here it is a page of shared memory
// that the harness looks at, and a change of it becomes a register write. Everything in a page is
// written by a process that is not trusted: each word is read once, and a storm on one page gets
// one access a turn, like every other page.
#pragma once
#include <sys/mman.h>

#include <array>

#include "lite.h"
#include "ports.h"
#include "stats.h"

inline uint32_t load_acquire(const uint8_t* at) {
  return __atomic_load_n(reinterpret_cast<const uint32_t*>(at), __ATOMIC_ACQUIRE);
}
inline void store_release(uint8_t* at, uint32_t value) {
  __atomic_store_n(reinterpret_cast<uint32_t*>(at), value, __ATOMIC_RELEASE);
}

constexpr size_t PAGE = 4096;
constexpr unsigned NEED_WAKE = 64;  // offset of the word that the device sets while it sleeps

class Pages {
 public:
  explicit Pages(Stats& stats) : stats_(stats) {}
  ~Pages() {
    detach_stack();
    for (unsigned q = 0; q < abi::QUEUES; ++q) detach_post(q);
  }

  // Page 0: mailbox; page 1 + q: stack doorbells of queue q.
  bool attach_stack(int fd) {
    detach_stack();
    void* p = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return false;
    stack_ = static_cast<uint8_t*>(p);
    mailbox_seen_ = load_acquire(stack_ + REQUEST_SEQ);
    for (auto& seen : stack_seen_) seen.fill(0);
    return true;
  }
  void detach_stack() {
    if (stack_) munmap(stack_, STACK_BYTES);
    stack_ = nullptr;
    if (asked_ == Asked::MAILBOX) asked_ = Asked::NOTHING;  // nobody waits for the answer
  }

  bool attach_post(unsigned queue, int fd) {
    detach_post(queue);
    void* p = mmap(nullptr, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return false;
    post_[queue] = static_cast<uint8_t*>(p);
    return true;
  }
  void detach_post(unsigned queue) {
    if (post_[queue]) munmap(post_[queue], PAGE);
    post_[queue] = nullptr;
    post_on_[queue] = false;
  }
  // The post doorbell counts from zero once the card reads the ring.
  void switch_post(unsigned queue, bool on) {
    post_on_[queue] = on;
    post_seen_[queue] = 0;
  }

  // Begin the next access that a page asks for, in turn. False: no page asks for one.
  bool begin(Lite& lite) {
    for (unsigned i = 0; i < TURNS; ++i) {
      turn_ = turn_ + 1 == TURNS ? 0 : turn_ + 1;
      if (turn_ < abi::QUEUES ? begin_queue(turn_, lite) : begin_mailbox(lite)) return true;
    }
    return false;
  }

  // The access that `begin` began has ended.
  void end(const Lite& lite) {
    if (asked_ == Asked::MAILBOX && stack_) answer(lite.value(), lite.good() ? 0 : 1);
    asked_ = Asked::NOTHING;
  }

  // Something waits to be begun.
  bool pending() const {
    if (stack_ && load_acquire(stack_ + REQUEST_SEQ) != mailbox_seen_) return true;
    for (unsigned q = 0; q < abi::QUEUES; ++q) {
      for (unsigned n = 0; stack_ && n < stack_words(q); ++n)
        if (load_acquire(stack_word(q, n)) != stack_seen_[n][q]) return true;
      if (post_on_[q] && load_acquire(post(q)) != post_seen_[q]) return true;
    }
    return false;
  }

  // Tell everybody whether a doorbell needs a wake beside it; the fence is the caller's.
  void need_wake(bool needed) {
    if (stack_) store_release(stack_ + NEED_WAKE, needed);
    for (uint8_t* page : post_)
      if (page) store_release(page + NEED_WAKE, needed);
  }

 private:
  static constexpr size_t STACK_BYTES = PAGE * (1 + abi::QUEUES);
  static constexpr unsigned TURNS = abi::QUEUES + 1;
  static constexpr unsigned REQUEST_SEQ = 0, OP = 4, ADDRESS = 8, VALUE = 12, RESPONSE_SEQ = 16,
                            STATUS = 20;
  enum class Asked { NOTHING, DOORBELL, MAILBOX };

  uint8_t* post(unsigned q) const { return post_[q] + abi::POST_PRODUCER; }
  // Doorbells of a queue's stack page; the last is on the page of queue 0 alone.
  static constexpr uint32_t STACK_WORDS[] = {abi::TX_PRODUCER, abi::RX_CONSUMER,
                                             abi::COMPLETION_CONSUMER, abi::COMMAND_PRODUCER};
  static constexpr unsigned STACK_WORD_COUNT = sizeof STACK_WORDS / sizeof STACK_WORDS[0];
  static unsigned stack_words(unsigned q) { return q ? STACK_WORD_COUNT - 1 : STACK_WORD_COUNT; }
  uint8_t* stack_word(unsigned q, unsigned n) const {
    return stack_ + PAGE * (1 + q) + STACK_WORDS[n];
  }

  bool ring(uint8_t* page_word, uint32_t& seen, uint32_t address, Lite& lite) {
    const uint32_t value = load_acquire(page_word);
    if (value == seen) return false;
    seen = value;
    asked_ = Asked::DOORBELL;
    ++stats_.doorbells;
    lite.begin_write(address, value);
    return true;
  }

  // A queue's doorbells share its turn, and take it one after the other: the post doorbell, then
  // those of the stack.
  bool begin_queue(unsigned q, Lite& lite) {
    constexpr uint32_t stride = 2 * abi::PAGE_BYTES;
    const uint32_t post_page = abi::DOORBELLS_PAGE + q * stride;
    const uint32_t stack_page = post_page + abi::PAGE_BYTES;
    const unsigned kinds = 1 + stack_words(q);
    for (unsigned i = 0; i < kinds; ++i) {
      unsigned& kind = kind_[q];
      kind = kind + 1 < kinds ? kind + 1 : 0;
      if (kind == 0) {
        if (post_on_[q] && ring(post(q), post_seen_[q], post_page + abi::POST_PRODUCER, lite))
          return true;
      } else if (stack_) {
        const unsigned n = kind - 1;
        if (ring(stack_word(q, n), stack_seen_[n][q], stack_page + STACK_WORDS[n], lite))
          return true;
      }
    }
    return false;
  }

  bool begin_mailbox(Lite& lite) {
    if (!stack_) return false;
    const uint32_t sequence = load_acquire(stack_ + REQUEST_SEQ);
    if (sequence == mailbox_seen_) return false;
    mailbox_seen_ = sequence;
    const uint32_t op = load_acquire(stack_ + OP), address = load_acquire(stack_ + ADDRESS);
    const bool control = address - abi::CONTROL_PAGE < abi::PAGE_BYTES;
    const bool counters = address - abi::COUNTERS_PAGE < abi::COUNTERS_BYTES;
    if (address % 4 == 0 && op == 1 && (control || counters)) {
      lite.begin_read(address);
    } else if (address % 4 == 0 && op == 2 && control) {
      lite.begin_write(address, load_acquire(stack_ + VALUE));
    } else {
      ++stats_.mailbox_refused;
      answer(0, 1);
      return false;
    }
    asked_ = Asked::MAILBOX;
    return true;
  }

  void answer(uint32_t value, uint32_t status) {
    store_release(stack_ + VALUE, value);
    store_release(stack_ + STATUS, status);
    store_release(stack_ + RESPONSE_SEQ, mailbox_seen_);
  }

  Stats& stats_;
  uint8_t* stack_ = nullptr;
  std::array<uint8_t*, abi::QUEUES> post_{};
  std::array<bool, abi::QUEUES> post_on_{};
  std::array<uint32_t, abi::QUEUES> post_seen_{};
  std::array<std::array<uint32_t, abi::QUEUES>, STACK_WORD_COUNT> stack_seen_{};
  std::array<unsigned, abi::QUEUES> kind_{};
  uint32_t mailbox_seen_ = 0;
  unsigned turn_ = 0;
  Asked asked_ = Asked::NOTHING;
};
