// The wire: a descriptor that takes and gives one Ethernet frame (without FCS) a call.
//
// TAP devices are read and written; packet sockets and SOCK_SEQPACKET pairs are received from and
// sent to without blocking, whatever flags their other holders set.
#pragma once
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>

class Link {
 public:
  enum class Sent { YES, LATER, LOST };

  void open(int fd) {
    fd_ = fd;
    int type;
    socklen_t size = sizeof type;
    socket_ = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
  }
  void close() { fd_ = -1; }  // the descriptor belongs to the caller
  int fd() const { return fd_; }

  // Bytes of the next frame, 0 if none waits now; longer ones than `room` are cut to it.
  size_t read(uint8_t* to, size_t room) {
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

  Sent write(const uint8_t* from, size_t length) {
    if (fd_ < 0) return Sent::LOST;
    const ssize_t n = socket_ ? ::send(fd_, from, length, MSG_DONTWAIT | MSG_NOSIGNAL)
                              : ::write(fd_, from, length);
    if (n == ssize_t(length)) return Sent::YES;
    const bool later = n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS);
    return later ? Sent::LATER : Sent::LOST;
  }

 private:
  int fd_ = -1;
  bool socket_ = false;
};
