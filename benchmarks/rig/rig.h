/* The rig: load and mock engine in one process and one epoll loop, so that one core holds all that is not
 * the proxy under test. net.c has sockets and timers, upstream.c the engine, client.c the load, slow.c
 * connections that never finish their request, main.c the commands.
 *
 * What a request is to get travels in its prompt, and what it was travels in the answer, so that both pass
 * any proxy and answers can be checked:
 *   prompt   ~NNNNNNNN.IIIIIIII.TTTTTT.L~   number, interval in microseconds, tokens (hex), L = 1: lockstep
 *   answer   ~NNNNNNNN.SSSSSS.CCCCCCCCCCCC~ number, place in the stream, sent when in microseconds (hex)
 * In lockstep the engine sends a stream's next event once the client has got the one before. */
#ifndef RIG_H
#define RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- net.c ---- */

struct endpoint { /* Something that epoll watches; embedded first in what owns it. fd < 0: closed. */
    int fd;
    bool writing; /* EPOLLOUT is asked for */
    void (*ready)(struct endpoint *self, uint32_t events);
    struct endpoint *next_dead;
};

struct timer { /* In the heap while place >= 0. */
    uint64_t due_us;
    int place;
    void (*fire)(struct timer *self);
};

struct buffer { /* Bytes [from, to) are held. */
    char *data;
    size_t from, to, room;
};

struct samples { /* Numbers to take percentiles of. */
    uint32_t *values;
    size_t count, room;
};

uint64_t now_us(void);
void *owner_of(void *part, size_t offset);
#define OWNER(pointer, type, part) ((type *)owner_of(pointer, offsetof(type, part)))

void net_open(void);
void net_turn(int at_most_ms); /* wait for events and timers once, and serve them */
void watch(struct endpoint *e, int fd, void (*ready)(struct endpoint *, uint32_t));
void shut(struct endpoint *e);                     /* close it, and free its owner after this turn */
void shut_only(struct endpoint *e);                /* close it; the owner lives on */
int listen_here(uint16_t *port);                   /* on 127.0.0.1; port 0 becomes a free one */
int connect_here(uint16_t port);                   /* to 127.0.0.1, without waiting; -1 on failure */
bool write_out(struct endpoint *e, struct buffer *out, const char *bytes, size_t n);
bool flush_out(struct endpoint *e, struct buffer *out);

void timer_at(struct timer *t, uint64_t due_us);
void timer_off(struct timer *t);

void buffer_add(struct buffer *b, const char *bytes, size_t n);
void buffer_room(struct buffer *b, size_t n);
void buffer_free(struct buffer *b);

void sample_add(struct samples *s, uint64_t value);
double percentile(struct samples *s, double share); /* -1 without samples */

/* ---- upstream.c ---- */

struct upstream_counts {
    uint64_t requests, streams, open, peak_open, aborted;
};
extern struct upstream_counts upstream;

void upstream_open(int listener);
void upstream_cut(void);             /* break off every stream */
void upstream_next(uint32_t number); /* lockstep: the client got the last event of this request */

/* ---- client.c ---- */

struct load {
    uint16_t port;
    long connections, requests; /* requests 0: until it is finished */
    long tokens, interval_us, ramp_ms, think_us, pad, whole_every;
    bool streamed, lockstep, usage;
    char path[128], model[64], headers[1024]; /* headers: whole lines, separated by | */
};

struct client_counts {
    uint64_t started, ok, bad_status, broken, wrong, no_done, no_usage, chunks, reads, open, peak_open;
    char first_fault[400];
};
extern struct client_counts client;
extern struct samples whole_us, first_us, chunk_us;

void load_begin(const struct load *wanted);
void load_window(void); /* forget the latencies so far */
void load_finish(void); /* start nothing more */
void load_drop(void);   /* close every connection now */
bool load_idle(void);   /* nothing is under way, nothing will start */

/* ---- slow.c ---- */

struct slow_counts {
    uint64_t open, peak_open, closed, failed;
};
extern struct slow_counts slow;

void slow_begin(uint16_t port, long connections, long ramp_ms, long every_ms);
void slow_end(void);

#endif
