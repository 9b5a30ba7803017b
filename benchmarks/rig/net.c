/* Sockets, timers, buffers and percentiles of the rig. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "rig.h"

enum { EVENTS = 512, TIMERS_PER_TURN = 256 };

static int epoll_fd;
static struct endpoint *dead;
static struct timer **heap;
static int heap_count, heap_room;

uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void *owner_of(void *part, size_t offset) { return (char *)part - offset; }

static void *grown(void *data, size_t bytes) {
    void *more = realloc(data, bytes);
    if (more == NULL) {
        fputs("rig: out of memory\n", stderr);
        exit(1);
    }
    return more;
}

/* ---- timers: a binary heap ---- */

static void put(struct timer *t, int place) {
    heap[place] = t;
    t->place = place;
}

static void sift_up(struct timer *t, int place) {
    while (place > 0 && heap[(place - 1) / 2]->due_us > t->due_us) {
        put(heap[(place - 1) / 2], place);
        place = (place - 1) / 2;
    }
    put(t, place);
}

static void sift_down(struct timer *t, int place) {
    for (;;) {
        int child = 2 * place + 1;
        if (child >= heap_count) break;
        if (child + 1 < heap_count && heap[child + 1]->due_us < heap[child]->due_us) child++;
        if (heap[child]->due_us >= t->due_us) break;
        put(heap[child], place);
        place = child;
    }
    put(t, place);
}

void timer_off(struct timer *t) {
    if (t->place < 0) return;
    int place = t->place;
    struct timer *last = heap[--heap_count];
    t->place = -1;
    if (last == t) return;
    sift_down(last, place);
    sift_up(last, last->place);
}

void timer_at(struct timer *t, uint64_t due_us) {
    timer_off(t);
    t->due_us = due_us;
    if (heap_count == heap_room) {
        heap_room = heap_room ? 2 * heap_room : 1024;
        heap = grown(heap, (size_t)heap_room * sizeof *heap);
    }
    sift_up(t, heap_count++);
}

/* ---- epoll ---- */

void net_open(void) {
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0) {
        perror("rig: epoll_create1");
        exit(1);
    }
}

void watch(struct endpoint *e, int fd, void (*ready)(struct endpoint *, uint32_t)) {
    e->fd = fd;
    e->writing = false;
    e->ready = ready;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = e};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void want_writing(struct endpoint *e, bool wanted) {
    if (e->writing == wanted) return;
    e->writing = wanted;
    struct epoll_event event = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0), .data.ptr = e};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, e->fd, &event);
}

void shut_only(struct endpoint *e) {
    if (e->fd >= 0) close(e->fd);
    e->fd = -1;
}

void shut(struct endpoint *e) {
    shut_only(e);
    e->next_dead = dead; /* events of this turn may still name it */
    dead = e;
}

void net_turn(int at_most_ms) {
    static struct epoll_event events[EVENTS];
    int wait_ms = at_most_ms;
    if (heap_count > 0) {
        int64_t left_us = (int64_t)(heap[0]->due_us - now_us());
        int64_t left_ms = left_us <= 0 ? 0 : (left_us + 999) / 1000;
        if (wait_ms < 0 || left_ms < wait_ms) wait_ms = (int)left_ms;
    }
    int count = epoll_wait(epoll_fd, events, EVENTS, wait_ms);
    for (int k = 0; k < count; k++) {
        struct endpoint *e = events[k].data.ptr;
        if (e->fd >= 0) e->ready(e, events[k].events);
    }
    uint64_t now = now_us();
    for (int k = 0; k < TIMERS_PER_TURN && heap_count > 0 && heap[0]->due_us <= now; k++) {
        struct timer *t = heap[0];
        timer_off(t);
        t->fire(t);
    }
    while (dead != NULL) {
        struct endpoint *e = dead;
        dead = e->next_dead;
        free(e);
    }
}

/* ---- sockets ---- */

static void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static struct sockaddr_in here(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int listen_here(uint16_t *port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = here(*port);
    socklen_t size = sizeof address;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) || /* accepted ones inherit it */
        bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096) ||
        getsockname(fd, (struct sockaddr *)&address, &size)) {
        perror("rig: listen");
        exit(1);
    }
    *port = ntohs(address.sin_port);
    return fd;
}

int connect_here(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = here(port);
    if (fd < 0) return -1;
    no_delay(fd);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Sends what waits. False: the connection is broken. */
bool flush_out(struct endpoint *e, struct buffer *out) {
    if (out->from < out->to) {
        ssize_t sent = send(e->fd, out->data + out->from, out->to - out->from, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) return false;
        if (sent > 0) out->from += (size_t)sent;
    }
    if (out->from == out->to) out->from = out->to = 0;
    want_writing(e, out->from < out->to);
    return true;
}

/* Sends bytes behind those that wait. False: the connection is broken. */
bool write_out(struct endpoint *e, struct buffer *out, const char *bytes, size_t n) {
    if (out->from == out->to) {
        ssize_t sent = send(e->fd, bytes, n, MSG_NOSIGNAL);
        if (sent == (ssize_t)n) return true;
        if (sent < 0 && errno != EAGAIN && errno != EINTR) return false;
        if (sent > 0) bytes += sent, n -= (size_t)sent;
    }
    buffer_add(out, bytes, n);
    want_writing(e, true);
    return true;
}

/* ---- buffers and samples ---- */

/* Makes room for n more bytes behind `to`. */
void buffer_room(struct buffer *b, size_t n) {
    if (b->room - b->to >= n) return;
    if (b->from > 0) {
        memmove(b->data, b->data + b->from, b->to - b->from);
        b->to -= b->from;
        b->from = 0;
    }
    if (b->room - b->to >= n) return;
    b->room = 2 * (b->to + n);
    b->data = grown(b->data, b->room);
}

void buffer_add(struct buffer *b, const char *bytes, size_t n) {
    buffer_room(b, n);
    memcpy(b->data + b->to, bytes, n);
    b->to += n;
}

void buffer_free(struct buffer *b) {
    free(b->data);
    *b = (struct buffer){0};
}

void sample_add(struct samples *s, uint64_t value) {
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 4096;
        s->values = grown(s->values, s->room * sizeof *s->values);
    }
    s->values[s->count++] = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

double percentile(struct samples *s, double share) {
    if (s->count == 0) return -1;
    qsort(s->values, s->count, sizeof *s->values, by_value);
    size_t place = (size_t)(share * (double)s->count);
    return s->values[place < s->count ? place : s->count - 1];
}
