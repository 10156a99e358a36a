// The MAC side of the card: frames from the link as AXI stream beats, and beats back as frames.
//
// Frames are padded to 60 bytes in both directions, as a MAC does. The FCS is not simulated: every
// frame from a link is good.
#pragma once
#include "link.h"
#include "pcapng.h"
#include "ports.h"
#include "stats.h"

constexpr size_t FRAME_BYTES_MIN = 60;
constexpr size_t FRAME_ROOM = 16384;  // more than the card's largest frame

class Receiver {  // link -> card
 public:
  Receiver(Vhdsnic& top, Link& link, Capture& capture, Stats& stats)
      : top_(top), link_(link), capture_(capture), stats_(stats) {}

  bool idle() const { return at_ >= length_; }

  bool sample() {
    if (!valid_) {
      if (wait_ && --wait_) return false;
      return fetch();
    }
    if (!top_.s_axis_rx_tready) return true;
    at_ += BUS_BYTES;
    if (at_ >= length_) fetch();
    return true;
  }

  void drive() {
    if (at_ >= length_) {
      if (valid_) top_.s_axis_rx_tvalid = valid_ = false;
      return;
    }
    const size_t left = length_ - at_;
    put_beat(top_.s_axis_rx_tdata, frame_ + at_);
    top_.s_axis_rx_tkeep = left >= BUS_BYTES ? FULL_STROBE : (1ull << left) - 1;
    top_.s_axis_rx_tlast = left <= BUS_BYTES;
    top_.s_axis_rx_tvalid = valid_ = true;
  }

  // Leave the frames in the link until `receive` (the card's own switch) is on.
  void hold() { held_ = true; }
  bool held() const { return held_; }
  void receive(bool on) {
    if (on) held_ = false;
  }

  // Look at the link at once: something is known to be there.
  void hurry() { wait_ = 0; }

 private:
  static constexpr unsigned RETRY_CYCLES = 64;  // between looks at an empty link

  bool fetch() {
    at_ = 0;
    length_ = held_ ? 0 : link_.read(frame_, FRAME_ROOM);
    if (!length_) {
      wait_ = RETRY_CYCLES;
      return false;
    }
    if (length_ < FRAME_BYTES_MIN) {
      std::memset(frame_ + length_, 0, FRAME_BYTES_MIN - length_);
      length_ = FRAME_BYTES_MIN;
    }
    ++stats_.rx_frames;
    stats_.rx_bytes += length_;
    if (capture_.is_open()) {
      capture_.frame(frame_, length_, Capture::INBOUND) ? ++stats_.captured_frames
                                                        : ++stats_.capture_errors;
    }
    return true;
  }

  Vhdsnic& top_;
  Link& link_;
  Capture& capture_;
  Stats& stats_;
  size_t length_ = 0, at_ = 0;
  unsigned wait_ = 0;
  bool valid_ = false, held_ = false;
  alignas(64) uint8_t frame_[FRAME_ROOM + 64] = {};
};

class Transmitter {  // card -> link
 public:
  Transmitter(Vhdsnic& top, Link& link, Capture& capture, Stats& stats)
      : top_(top), link_(link), capture_(capture), stats_(stats) {}

  bool idle() const { return !length_; }

  bool sample(uint64_t now) {
    if (waiting_) {
      if (now >= retry_) send(now);
      return true;
    }
    if (!top_.m_axis_tx_tvalid || !ready_) return false;
    const uint64_t keep = top_.m_axis_tx_tkeep;
    if (length_ + BUS_BYTES <= FRAME_ROOM) {
      std::memcpy(frame_ + length_, beat_bytes(top_.m_axis_tx_tdata), BUS_BYTES);
      length_ += keep == FULL_STROBE ? BUS_BYTES : __builtin_popcountll(keep);
    } else {
      bad_ = true;
    }
    if (!top_.m_axis_tx_tlast) return true;
    if (bad_ || top_.m_axis_tx_tuser) {
      ++stats_.tx_errors;
      length_ = 0;
      bad_ = false;
      return true;
    }
    if (length_ < FRAME_BYTES_MIN) {
      std::memset(frame_ + length_, 0, FRAME_BYTES_MIN - length_);
      length_ = FRAME_BYTES_MIN;
    }
    give_up_ = 0;
    send(now);
    return true;
  }

  void drive() { top_.m_axis_tx_tready = ready_ = !waiting_; }

 private:
  static constexpr uint64_t RETRY_CYCLES = 1024;
  static constexpr uint64_t GIVE_UP_NS = 200'000'000;  // a peer that takes nothing stops nobody

  void send(uint64_t now) {
    const Link::Sent sent = link_.write(frame_, length_);
    if (sent == Link::Sent::LATER) {
      const uint64_t time = clock_ns(CLOCK_MONOTONIC);
      if (!give_up_) {
        give_up_ = time + GIVE_UP_NS;
        ++stats_.link_waits;
      }
      if (time < give_up_) {
        waiting_ = true;
        retry_ = now + RETRY_CYCLES;
        return;
      }
    }
    if (sent == Link::Sent::YES) {
      ++stats_.tx_frames;
      stats_.tx_bytes += length_;
    } else {
      ++stats_.link_lost;
    }
    if (capture_.is_open()) {
      capture_.frame(frame_, length_, Capture::OUTBOUND) ? ++stats_.captured_frames
                                                         : ++stats_.capture_errors;
    }
    waiting_ = false;
    length_ = 0;
  }

  Vhdsnic& top_;
  Link& link_;
  Capture& capture_;
  Stats& stats_;
  size_t length_ = 0;
  uint64_t retry_ = 0, give_up_ = 0;
  bool ready_ = false, waiting_ = false, bad_ = false;
  alignas(64) uint8_t frame_[FRAME_ROOM + 64];
};
