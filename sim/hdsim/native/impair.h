// What a bad wire does to the frames of one direction, from a seed: lose, duplicate, corrupt,
// reorder, delay. One chance for each frame and each harm, in the order in which frames come.
//
// A corrupted frame has one bit flipped behind its Ethernet header, and a good FCS: as by a switch
// with bad memory, so that IP's and TCP's own checksums must find it. Only IP frames are, since ARP
// has no checksum. A reordered one waits REORDER_NS longer than the others, which overtake it.
#pragma once
#include <cstdint>
#include <queue>
#include <random>
#include <vector>

struct Impairments {
  double lose = 0, duplicate = 0, corrupt = 0, reorder = 0;  // shares of the frames, 0 to 1
  uint64_t delay_ns = 0;                                     // of every frame, host time
  uint64_t seed = 0;
};

struct ImpairmentCounts {  // of both directions
  uint64_t& lost;
  uint64_t& duplicated;
  uint64_t& corrupted;
  uint64_t& reordered;
};

class Impaired {
 public:
  Impaired(const Impairments& settings, uint64_t stream, ImpairmentCounts counts)
      : settings_(settings), counts_(counts) {
    std::seed_seq seed{uint32_t(settings.seed), uint32_t(settings.seed >> 32), uint32_t(stream)};
    chance_.seed(seed);
  }

  bool room() const { return waiting_.size() + 2 <= FRAMES_MAX; }  // a frame may become two

  void add(const uint8_t* frame, size_t length, uint64_t now_ns) {
    if (happens(settings_.lose)) {
      ++counts_.lost;
      return;
    }
    const bool twice = happens(settings_.duplicate);
    counts_.duplicated += twice;
    for (int copy = 0; copy <= twice; ++copy) {
      Frame made{now_ns + settings_.delay_ns, order_++, {frame, frame + length}};
      if (happens(settings_.corrupt) && flip(made.bytes)) ++counts_.corrupted;
      if (happens(settings_.reorder)) {
        made.due_ns += REORDER_NS;
        ++counts_.reordered;
      }
      waiting_.push(std::move(made));
    }
  }

  // When the next frame is due; NEVER: none waits.
  static constexpr uint64_t NEVER = ~0ull;
  uint64_t due_ns() const { return waiting_.empty() ? NEVER : waiting_.top().due_ns; }
  const std::vector<uint8_t>& front() const { return waiting_.top().bytes; }
  void pop() { waiting_.pop(); }

 private:
  static constexpr size_t FRAMES_MAX = 1024;
  static constexpr uint64_t REORDER_NS = 2'000'000;
  static constexpr size_t ETHERNET_BYTES = 14;

  struct Frame {
    uint64_t due_ns, order;
    std::vector<uint8_t> bytes;
    bool operator<(const Frame& other) const {  // the queue's top is the largest
      return due_ns != other.due_ns ? due_ns > other.due_ns : order > other.order;
    }
  };

  bool happens(double share) { return share > 0 && uniform_(chance_) < share; }

  bool flip(std::vector<uint8_t>& bytes) {
    const unsigned type = bytes.size() > ETHERNET_BYTES ? bytes[12] << 8 | bytes[13] : 0;
    if (type != 0x0800 && type != 0x86DD) return false;
    const size_t bit = 8 * ETHERNET_BYTES + chance_() % (8 * (bytes.size() - ETHERNET_BYTES));
    bytes[bit / 8] ^= 1 << bit % 8;
    return true;
  }

  Impairments settings_;
  ImpairmentCounts counts_;
  std::mt19937_64 chance_;
  std::uniform_real_distribution<double> uniform_{0, 1};
  std::priority_queue<Frame> waiting_;
  uint64_t order_ = 0;
};
