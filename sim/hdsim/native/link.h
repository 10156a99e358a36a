// The wire: a descriptor that takes and gives one Ethernet frame (without FCS) a call.
//
// TAP devices are read and written; packet sockets and SOCK_SEQPACKET pairs are received from and
// sent to without blocking, whatever flags their other holders set. An impaired wire keeps frames
// of both directions until they are due.
#pragma once
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

#include "impair.h"
#include "pcapng.h"
#include "stats.h"

class Link {
 public:
  enum class Sent { YES, LATER, LOST };

  explicit Link(Stats& stats) : stats_(stats) {}

  void open(int fd) {
    fd_ = fd;
    int type;
    socklen_t size = sizeof type;
    socket_ = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
  }
  void close() { fd_ = -1; }  // the descriptor belongs to the caller
  int fd() const { return fd_; }

  void impair(const Impairments& settings) {
    const ImpairmentCounts counts{stats_.impair_lost, stats_.impair_duplicated,
                                  stats_.impair_corrupted, stats_.impair_reordered};
    inbound_.reset(new Impaired(settings, 0, counts));
    outbound_.reset(new Impaired(settings, 1, counts));
  }

  // Bytes of the next frame, 0 if none waits now; longer ones than `room` are cut to it.
  size_t read(uint8_t* to, size_t room) {
    if (!inbound_) return take(to, room);
    const uint64_t now = clock_ns(CLOCK_MONOTONIC);
    send_due(now);
    while (inbound_->room()) {
      const size_t length = take(to, room);
      if (!length) break;
      inbound_->add(to, length, now);
    }
    if (inbound_->due_ns() > now) return 0;
    const std::vector<uint8_t>& frame = inbound_->front();
    const size_t length = std::min(frame.size(), room);
    std::memcpy(to, frame.data(), length);
    inbound_->pop();
    return length;
  }

  Sent write(const uint8_t* from, size_t length) {
    if (!outbound_) return put(from, length);
    if (fd_ < 0) return Sent::LOST;
    const uint64_t now = clock_ns(CLOCK_MONOTONIC);
    send_due(now);
    if (!outbound_->room()) return Sent::LATER;
    outbound_->add(from, length, now);
    send_due(now);
    return Sent::YES;
  }

  // When an impaired wire next has something to do; Impaired::NEVER: not before a frame comes.
  uint64_t due_ns() const {
    return inbound_ ? std::min(inbound_->due_ns(), outbound_->due_ns()) : Impaired::NEVER;
  }

 private:
  size_t take(uint8_t* to, size_t room) {
    if (fd_ < 0) return 0;
    const ssize_t n =
        socket_ ? ::recv(fd_, to, room, MSG_DONTWAIT) : ::read(fd_, to, room);
    if (n > 0) return n;
    const bool later = n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENETDOWN);
    // The other end of a pair is gone (0), or the device was removed. A TAP that is down says EIO
    // on writes only; a packet socket says ENETDOWN once.
    if (!later) close();
    return 0;
  }

  Sent put(const uint8_t* from, size_t length) {
    if (fd_ < 0) return Sent::LOST;
    const ssize_t n = socket_ ? ::send(fd_, from, length, MSG_DONTWAIT | MSG_NOSIGNAL)
                              : ::write(fd_, from, length);
    if (n == ssize_t(length)) return Sent::YES;
    const bool later = n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS);
    return later ? Sent::LATER : Sent::LOST;
  }

  void send_due(uint64_t now_ns) {
    while (outbound_->due_ns() <= now_ns) {
      const std::vector<uint8_t>& frame = outbound_->front();
      const Sent sent = put(frame.data(), frame.size());
      if (sent == Sent::LATER) return;
      if (sent == Sent::LOST) ++stats_.link_lost;
      outbound_->pop();
    }
  }

  Stats& stats_;
  int fd_ = -1;
  bool socket_ = false;
  std::unique_ptr<Impaired> inbound_, outbound_;
};
