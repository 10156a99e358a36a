// The capture file: pcapng with nanosecond stamps and the direction of each frame.
//
// Times are the host's monotonic clock, moved to the epoch once at the start, so that a clock that
// is set meanwhile does not disturb the order. Frames are without FCS, padded as on the wire.
#pragma once
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <vector>

inline uint64_t clock_ns(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return uint64_t(t.tv_sec) * 1000000000u + t.tv_nsec;
}

class Capture {
 public:
  enum Direction : uint32_t { INBOUND = 1, OUTBOUND = 2 };  // as in epb_flags

  ~Capture() { close(); }
  bool is_open() const { return fd_ >= 0; }

  // Takes over `fd`. `name` is the interface's name in the file.
  bool open(int fd, const char* name) {
    close();
    fd_ = fd;
    epoch_ = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);
    buffer_.clear();
    buffer_.reserve(2 * BUFFER);
    word(0x0A0D0D0A), word(28), word(0x1A2B3C4D), word(0x00000001);  // section header, version 1.0
    word(0xffffffff), word(0xffffffff), word(28);                    // section length not told
    const uint32_t length = std::strlen(name), padded = (length + 3) & ~3u;
    const uint32_t size = 16 + 4 + padded + 4 + 4 + 4 + 4;
    word(1), word(size), word(1), word(0);               // interface description: Ethernet
    word(2 | length << 16), bytes(name, length);         // if_name
    word(9 | 1 << 16), word(9);                          // if_tsresol: nanoseconds
    word(0), word(size);
    return flush();
  }

  // Returns whether the file took it; after a failure the capture is closed.
  bool frame(const uint8_t* data, uint32_t length, Direction direction) {
    const uint64_t now = clock_ns(CLOCK_MONOTONIC) + epoch_;
    const uint32_t size = 28 + ((length + 3) & ~3u) + 12 + 4;
    word(6), word(size), word(0);  // enhanced packet, interface 0
    word(now >> 32), word(uint32_t(now)), word(length), word(length);
    bytes(data, length);
    word(2 | 4 << 16), word(direction), word(0), word(size);
    return buffer_.size() < BUFFER || flush();
  }

  bool flush() {
    size_t at = 0;
    while (fd_ >= 0 && at < buffer_.size()) {
      const ssize_t n = ::write(fd_, buffer_.data() + at, buffer_.size() - at);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        ::close(fd_);
        fd_ = -1;
        break;
      }
      at += n;
    }
    buffer_.clear();
    return fd_ >= 0;
  }

  void close() {
    if (fd_ < 0) return;
    flush();
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  static constexpr size_t BUFFER = 1 << 18;

  void word(uint32_t value) { bytes(&value, 4); }
  void bytes(const void* from, uint32_t length) {
    const uint8_t* p = static_cast<const uint8_t*>(from);
    buffer_.insert(buffer_.end(), p, p + length);
    buffer_.insert(buffer_.end(), (4 - length % 4) % 4, 0);
  }

  int fd_ = -1;
  uint64_t epoch_ = 0;
  std::vector<uint8_t> buffer_;
};
