// Counters of the harness: what the simulation did, as opposed to the card's own counters, which
// are read by registers. One list makes the struct and the names that Python shows.
#pragma once
#include <cstdint>

#define HD_STATS(X)                                                            \
  X(cycles)               /* simulated clock cycles */                         \
  X(awake_ns)             /* host time spent simulating */                     \
  X(sleeps)               /* times the harness slept in poll(2) */             \
  X(rx_frames)            /* frames from the link to the card */               \
  X(rx_bytes)             /* their bytes, padded to 60, without FCS */         \
  X(tx_frames)            /* frames from the card to the link */               \
  X(tx_bytes)             /* their bytes, padded to 60, without FCS */         \
  X(tx_errors)            /* frames that the card marked bad; not sent */      \
  X(link_lost)            /* frames that the link refused; lost */             \
  X(link_waits)           /* times the card's transmitter waited for the link */ \
  X(impair_lost)          /* frames that the impaired wire lost */             \
  X(impair_duplicated)    /* frames that it carried twice */                   \
  X(impair_corrupted)     /* frames in which it flipped a bit */               \
  X(impair_reordered)     /* frames that it held until others had passed */    \
  X(register_reads)       /* AXI4-Lite reads */                                \
  X(register_writes)      /* AXI4-Lite writes */                               \
  X(register_errors)      /* AXI4-Lite error responses */                      \
  X(mailbox_refused)      /* mailbox requests outside the stack's pages */     \
  X(doorbells)            /* doorbells passed on */                            \
  X(irqs)                 /* rising edges of irq */                            \
  X(header_write_bytes)   /* bytes written through the header port */          \
  X(header_read_bytes)    /* bytes of the beats read through it */             \
  X(header_errors)        /* its accesses outside the header memory */         \
  X(payload_write_bytes)  /* bytes written through the payload port */         \
  X(payload_read_bytes)   /* bytes of the beats read through it */             \
  X(payload_errors)       /* its accesses outside the registered pools */      \
  X(protocol_errors)      /* breaches of AXI4 by the card */                   \
  X(captured_frames)      /* frames in the capture file */                     \
  X(capture_errors)       /* frames that the capture file did not take */

struct Stats {
#define X(name) uint64_t name = 0;
  HD_STATS(X)
#undef X
};

inline const char* stat_names() {
#define X(name) #name " "
  return HD_STATS(X);
#undef X
}
