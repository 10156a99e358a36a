// The library that packetdrill loads: each call is a message to the bridge (drill_bridge.py).
//
// packetdrill has two threads: one walks through the script, the other makes the calls that may
// block. Each has a channel of its own, so that a call that waits keeps nobody waiting.
// Handles are real descriptors, one end of a socket pair whose other end the bridge holds: the tool
// closes them by itself, and the bridge sees it.
// The clock is the bridge's. Asking for it passes a microsecond, since the tool spins on it.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

// The order and the types of these members are packetdrill's interface; all take `self` first.
struct Interface {
    void *self;
    void (*free)(void *);
    int (*socket)(void *, int domain, int type, int protocol);
    int (*bind)(void *, int, const sockaddr *, socklen_t);
    int (*listen)(void *, int, int backlog);
    int (*accept)(void *, int, sockaddr *, socklen_t *);
    int (*connect)(void *, int, const sockaddr *, socklen_t);
    ssize_t (*read)(void *, int, void *, size_t);
    ssize_t (*readv)(void *, int, const iovec *, int);
    ssize_t (*recv)(void *, int, void *, size_t, int flags);
    ssize_t (*recvfrom)(void *, int, void *, size_t, int flags, sockaddr *, socklen_t *);
    ssize_t (*recvmsg)(void *, int, msghdr *, int flags);
    ssize_t (*write)(void *, int, const void *, size_t);
    ssize_t (*writev)(void *, int, const iovec *, int);
    ssize_t (*send)(void *, int, const void *, size_t, int flags);
    ssize_t (*sendto)(void *, int, const void *, size_t, int flags, const sockaddr *, socklen_t);
    ssize_t (*sendmsg)(void *, int, const msghdr *, int flags);
    int (*fcntl)(void *, int, int command, ...);
    int (*ioctl)(void *, int, unsigned long request, ...);
    int (*close)(void *, int);
    int (*shutdown)(void *, int, int how);
    int (*getsockopt)(void *, int, int level, int name, void *, socklen_t *);
    int (*setsockopt)(void *, int, int level, int name, const void *, socklen_t);
    int (*poll)(void *, pollfd *, nfds_t, int timeout_ms);
    int (*netdev_send)(void *, const void *, size_t);
    int (*netdev_receive)(void *, void *, size_t *, long long *time_usecs);
    int (*usleep)(void *, useconds_t);
    int (*gettimeofday)(void *, timeval *, struct timezone *);
    int (*epoll_create)(void *, int);
    int (*epoll_ctl)(void *, int, int, int, epoll_event *);
    int (*epoll_wait)(void *, int, epoll_event *, int, int);
    int (*pipe)(void *, int[2]);
    int (*splice)(void *, int, loff_t *, int, loff_t *, size_t, unsigned);
};

// drill_bridge.py has the same two layouts.
struct Request {
    uint32_t bytes, call;
    int64_t now_usec;
    int32_t handle, a, b, c;
};
struct __attribute__((packed)) Reply {
    uint32_t bytes;
    int32_t result, error;
    int64_t now_usec;
};

const int REPLY_MS = 60000;
const int NONBLOCK = 1;  // beside the flags of a call: the descriptor is not to block

int channels[2] = {-1, -1};
pthread_t script_thread;
pthread_mutex_t clock_lock = PTHREAD_MUTEX_INITIALIZER;
int64_t now_usec = 0;
thread_local int64_t ended_usec = -1;  // when the last call of the other thread was over
pid_t child = -1;
std::atomic<int> waiting{0};  // calls of the other thread that the bridge has and did not answer

int64_t clock_now() {
    pthread_mutex_lock(&clock_lock);
    int64_t now = now_usec;
    pthread_mutex_unlock(&clock_lock);
    return now;
}

void clock_at_least(int64_t usec) {
    pthread_mutex_lock(&clock_lock);
    if (usec > now_usec) now_usec = usec;
    pthread_mutex_unlock(&clock_lock);
}

long broken(int which, const char *why) {
    if (channels[which] >= 0) {
        fprintf(stderr, "hdsnic drill: %s; every call fails from now on\n", why);
        ::close(channels[which]);
        channels[which] = -1;
    }
    errno = EIO;
    return -1;
}

bool send_all(int fd, const void *data, size_t size, int passed) {
    const char *at = static_cast<const char *>(data);
    while (size) {
        iovec part{const_cast<char *>(at), size};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        if (passed >= 0) {
            message.msg_control = control;
            message.msg_controllen = sizeof control;
            cmsghdr *head = CMSG_FIRSTHDR(&message);
            head->cmsg_level = SOL_SOCKET;
            head->cmsg_type = SCM_RIGHTS;
            head->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(head), &passed, sizeof(int));
        }
        ssize_t done = ::sendmsg(fd, &message, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        passed = -1;
        at += done;
        size -= size_t(done);
    }
    return true;
}

bool receive_all(int fd, void *data, size_t size) {
    char *at = static_cast<char *>(data);
    while (size) {
        pollfd ready{fd, POLLIN, 0};
        int some = ::poll(&ready, 1, REPLY_MS);
        if (some < 0 && errno == EINTR) continue;
        if (some <= 0) return false;
        ssize_t done = ::recv(fd, at, size, 0);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        at += done;
        size -= size_t(done);
    }
    return true;
}

// One call to the bridge: its result, or -1 with errno. `in` takes what the bridge sends along.
long call(uint32_t number, int handle, int a = 0, int b = 0, int c = 0, const void *out = nullptr,
          size_t out_bytes = 0, std::vector<char> *in = nullptr, int passed = -1) {
    int which = pthread_equal(pthread_self(), script_thread) ? 0 : 1;
    int fd = channels[which];
    if (fd < 0) return broken(which, "the bridge is gone");
    Request request{uint32_t(out_bytes), number, clock_now(), handle, a, b, c};
    if (!send_all(fd, &request, sizeof request, passed) || !send_all(fd, out, out_bytes, -1))
        return broken(which, "the bridge ended");
    Reply reply;
    waiting += which;
    bool answered = receive_all(fd, &reply, sizeof reply);
    waiting -= which;
    if (!answered) return broken(which, "the bridge does not answer");
    std::vector<char> unwanted, &got = in ? *in : unwanted;
    got.resize(reply.bytes);
    if (!receive_all(fd, got.data(), reply.bytes)) return broken(which, "the bridge ended");
    // the script may go on before this thread asks for the time at which its call ended
    if (which) ended_usec = reply.now_usec;
    clock_at_least(reply.now_usec);
    errno = reply.error;
    return reply.result;
}

int descriptor_flags(int fd) {
    int flags = ::fcntl(fd, F_GETFL);
    return flags >= 0 && flags & O_NONBLOCK ? NONBLOCK : 0;
}

int not_here() {
    errno = ENOSYS;
    return -1;
}

// A descriptor for the tool whose other end goes to the bridge with the call that makes a socket.
long call_with_handle(uint32_t number, int handle, int a, int b, int c, std::vector<char> *in) {
    int pair[2], flags = b & SOCK_NONBLOCK ? SOCK_NONBLOCK : 0;
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return -1;
    if (flags) ::fcntl(pair[0], F_SETFL, O_NONBLOCK);
    int32_t made = pair[0];
    long result = call(number, handle, a, b, c, &made, sizeof made, in, pair[1]);
    int error = errno;
    ::close(pair[1]);
    if (result < 0) ::close(pair[0]);
    errno = error;
    return result < 0 ? -1 : pair[0];
}

int do_socket(void *, int domain, int type, int protocol) {
    return int(call_with_handle(CALL_SOCKET, -1, domain, type, protocol, nullptr));
}

int do_bind(void *, int fd, const sockaddr *address, socklen_t size) {
    return int(call(CALL_BIND, fd, 0, 0, 0, address, size));
}

int do_listen(void *, int fd, int backlog) { return int(call(CALL_LISTEN, fd, backlog)); }

void give_address(const std::vector<char> &got, sockaddr *address, socklen_t *size) {
    if (!address || !size) return;
    memcpy(address, got.data(), got.size() < *size ? got.size() : *size);
    *size = socklen_t(got.size());
}

int do_accept(void *, int fd, sockaddr *address, socklen_t *size) {
    std::vector<char> got;
    long made = call_with_handle(CALL_ACCEPT, fd, descriptor_flags(fd), 0, 0, &got);
    if (made >= 0) give_address(got, address, size);
    return int(made);
}

int do_connect(void *, int fd, const sockaddr *address, socklen_t size) {
    return int(call(CALL_CONNECT, fd, descriptor_flags(fd), 0, 0, address, size));
}

ssize_t receive(int fd, const iovec *parts, int count, int flags) {
    size_t room = 0;
    for (int at = 0; at < count; at++) {
        if (!parts[at].iov_base && parts[at].iov_len) {
            errno = EFAULT;
            return -1;
        }
        room += parts[at].iov_len;
    }
    if (room > INT32_MAX) room = INT32_MAX;
    std::vector<char> got;
    long result = call(CALL_RECV, fd, int(room), flags, descriptor_flags(fd), nullptr, 0, &got);
    size_t at = 0;
    for (int part = 0; part < count && at < got.size(); part++) {
        size_t some = std::min(parts[part].iov_len, got.size() - at);
        memcpy(parts[part].iov_base, got.data() + at, some);
        at += some;
    }
    return result;
}

ssize_t do_recv(void *, int fd, void *data, size_t size, int flags) {
    iovec part{data, size};
    return receive(fd, &part, 1, flags);
}
ssize_t do_read(void *self, int fd, void *data, size_t size) {
    return do_recv(self, fd, data, size, 0);
}
ssize_t do_readv(void *, int fd, const iovec *parts, int count) {
    return receive(fd, parts, count, 0);
}
ssize_t do_recvfrom(void *self, int fd, void *data, size_t size, int flags, sockaddr *,
                    socklen_t *length) {
    if (length) *length = 0;  // TCP names no source
    return do_recv(self, fd, data, size, flags);
}
ssize_t do_recvmsg(void *, int fd, msghdr *message, int flags) {
    message->msg_controllen = 0;
    message->msg_flags = 0;
    return receive(fd, message->msg_iov, int(message->msg_iovlen), flags);
}

ssize_t transmit(int fd, const iovec *parts, int count, int flags) {
    std::string data;
    for (int at = 0; at < count; at++) {
        if (!parts[at].iov_base && parts[at].iov_len) {
            errno = EFAULT;
            return -1;
        }
        data.append(static_cast<const char *>(parts[at].iov_base), parts[at].iov_len);
    }
    return call(CALL_SEND, fd, 0, flags, descriptor_flags(fd), data.data(), data.size());
}

ssize_t do_send(void *, int fd, const void *data, size_t size, int flags) {
    iovec part{const_cast<void *>(data), size};
    return transmit(fd, &part, 1, flags);
}
ssize_t do_write(void *self, int fd, const void *data, size_t size) {
    return do_send(self, fd, data, size, 0);
}
ssize_t do_writev(void *, int fd, const iovec *parts, int count) {
    return transmit(fd, parts, count, 0);
}
ssize_t do_sendto(void *self, int fd, const void *data, size_t size, int flags, const sockaddr *,
                  socklen_t) {
    return do_send(self, fd, data, size, flags);
}
ssize_t do_sendmsg(void *, int fd, const msghdr *message, int flags) {
    return transmit(fd, message->msg_iov, int(message->msg_iovlen), flags);
}

int do_fcntl(void *, int fd, int command, ...) {
    va_list rest;
    va_start(rest, command);
    int value = command == F_SETFL ? va_arg(rest, int) : 0;
    va_end(rest);
    if (command == F_GETFL) return ::fcntl(fd, F_GETFL);
    if (command == F_SETFL) return ::fcntl(fd, F_SETFL, value);
    errno = EINVAL;
    return -1;
}

int do_ioctl(void *, int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    int *value = va_arg(rest, int *);
    va_end(rest);
    long result = call(CALL_IOCTL, fd, int(request));
    if (result < 0) return -1;
    if (value) *value = int(result);
    return 0;
}

int do_close(void *, int fd) {
    if (call(CALL_CLOSE, fd) < 0) return -1;
    return ::close(fd);
}

int do_shutdown(void *, int fd, int how) { return int(call(CALL_SHUTDOWN, fd, how)); }

int do_getsockopt(void *, int fd, int level, int name, void *value, socklen_t *size) {
    std::vector<char> got;
    if (call(CALL_GETSOCKOPT, fd, level, name, 0, nullptr, 0, &got) < 0) return -1;
    if (got.size() < *size) *size = socklen_t(got.size());
    memcpy(value, got.data(), *size);
    return 0;
}

int do_setsockopt(void *, int fd, int level, int name, const void *value, socklen_t size) {
    return int(call(CALL_SETSOCKOPT, fd, level, name, 0, value, size));
}

int do_poll(void *, pollfd *handles, nfds_t count, int timeout_ms) {
    std::vector<char> got;
    size_t bytes = count * sizeof(pollfd);
    long result = call(CALL_POLL, -1, timeout_ms, 0, 0, handles, bytes, &got);
    if (result >= 0 && got.size() == bytes) memcpy(handles, got.data(), bytes);
    return int(result);
}

int do_netdev_send(void *, const void *packet, size_t size) {
    return call(CALL_PACKET_IN, -1, 0, 0, 0, packet, size) < 0 ? -1 : 0;
}

// The tool calls again for as long as it is answered -1; no packet at all ends its script.
int do_netdev_receive(void *, void *packet, size_t *size, long long *time_usecs) {
    std::vector<char> got;  // when it was sent, then its bytes
    int64_t sent_usec = 0;
    size_t bytes = 0;
    if (call(CALL_PACKET_OUT, -1, 0, 0, 0, nullptr, 0, &got) >= 0 && got.size() > sizeof sent_usec) {
        memcpy(&sent_usec, got.data(), sizeof sent_usec);
        bytes = got.size() - sizeof sent_usec;
    }
    if (bytes > *size) {
        fprintf(stderr, "hdsnic drill: a packet of %zu bytes; the tool takes %zu\n", bytes, *size);
        bytes = 0;
    }
    if (bytes) memcpy(packet, got.data() + sizeof sent_usec, bytes);
    *size = bytes;
    *time_usecs = sent_usec;
    return 0;
}

int do_usleep(void *, useconds_t usec) {
    clock_at_least(clock_now() + usec);
    return call(CALL_TIME, -1) < 0 ? -1 : 0;
}

int do_gettimeofday(void *, timeval *value, struct timezone *) {
    int64_t now = ended_usec;
    ended_usec = -1;
    if (now < 0) {
        pthread_mutex_lock(&clock_lock);
        now = ++now_usec;
        pthread_mutex_unlock(&clock_lock);
    }
    value->tv_sec = now / 1000000;
    value->tv_usec = now % 1000000;
    return 0;
}

int do_epoll_create(void *, int) { return not_here(); }
int do_epoll_ctl(void *, int, int, int, epoll_event *) { return not_here(); }
int do_epoll_wait(void *, int, epoll_event *, int, int) { return not_here(); }
int do_pipe(void *, int[2]) { return not_here(); }
int do_splice(void *, int, loff_t *, int, loff_t *, size_t, unsigned) { return not_here(); }

void do_free(void *) {
    for (int &channel : channels) {
        if (channel >= 0) ::close(channel);
        channel = -1;
    }
    if (child > 0) {
        for (int tries = 0; tries < 500; tries++) {  // it ends when its channels are closed
            if (waitpid(child, nullptr, WNOHANG) != 0) {
                child = -1;
                return;
            }
            ::usleep(10000);
        }
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
        child = -1;
    }
}

// The bridge, in a process that ends with ours; its channels are descriptors 3 and 4.
void start_bridge(const char *flags) {
    int first[2], second[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, first) < 0 ||
        ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, second) < 0) {
        perror("hdsnic drill: socketpair");
        exit(1);
    }
    pid_t parent = getpid();
    child = fork();
    if (child < 0) {
        perror("hdsnic drill: fork");
        exit(1);
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        sched_param ordinary{};  // the tool runs in real time
        sched_setscheduler(0, SCHED_OTHER, &ordinary);
        int one = fcntl(first[1], F_DUPFD, 10), two = fcntl(second[1], F_DUPFD, 10);
        if (dup2(one, 3) < 0 || dup2(two, 4) < 0) _exit(1);
        for (int fd = 5; fd < 256; fd++) ::close(fd);
        execl(BRIDGE_PYTHON, BRIDGE_PYTHON, BRIDGE_SCRIPT, "3", "4", flags, nullptr);
        perror("hdsnic drill: " BRIDGE_PYTHON);
        _exit(1);
    }
    ::close(first[1]);
    ::close(second[1]);
    channels[0] = first[0];
    channels[1] = second[0];
}

}  // namespace

// For tests that make calls in a thread of their own.
extern "C" __attribute__((visibility("default"))) int drill_waiting() { return waiting; }

// `flags`: options of the bridge; or `channels=A:B`, descriptors to a bridge that runs already.
extern "C" __attribute__((visibility("default"))) void packetdrill_interface_init(
    const char *flags, Interface *made) {
    if (!flags) flags = "";
    script_thread = pthread_self();
    ended_usec = -1;
    now_usec = 0;
    if (sscanf(flags, "channels=%d:%d", &channels[0], &channels[1]) != 2) start_bridge(flags);
    if (call(CALL_TIME, -1) < 0) exit(1);
    *made = Interface{
        nullptr,       do_free,       do_socket,         do_bind,        do_listen,
        do_accept,     do_connect,    do_read,           do_readv,       do_recv,
        do_recvfrom,   do_recvmsg,    do_write,          do_writev,      do_send,
        do_sendto,     do_sendmsg,    do_fcntl,          do_ioctl,       do_close,
        do_shutdown,   do_getsockopt, do_setsockopt,     do_poll,        do_netdev_send,
        do_netdev_receive, do_usleep, do_gettimeofday,   do_epoll_create, do_epoll_ctl,
        do_epoll_wait, do_pipe,       do_splice,
    };
}
