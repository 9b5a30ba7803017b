/* Connections that never finish their request: a head's beginning, then a byte now and then ("slowloris"). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "rig.h"

struct crawler {
    struct endpoint end;
    struct timer timer;
    struct buffer out;
};

struct slow_counts slow;
static struct crawler *crawlers;
static long crawler_count;
static uint64_t every_us;
static uint16_t to_port;

static void ended(struct crawler *c) {
    slow.closed++;
    slow.open--;
    timer_off(&c->timer);
    shut_only(&c->end);
}

static void ready(struct endpoint *e, uint32_t events) {
    struct crawler *c = OWNER(e, struct crawler, end);
    char bytes[4096];
    if ((events & EPOLLOUT) && !flush_out(e, &c->out)) return ended(c);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    ssize_t n = recv(e->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    /* What it says (a 408, say) is passed over: only whether it closes counts. */
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) ended(c);
}

static void crawl(struct timer *timer) {
    struct crawler *c = OWNER(timer, struct crawler, timer);
    const char *beginning = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ";
    bool fresh = c->end.fd < 0;
    if (fresh) {
        int fd = connect_here(to_port);
        if (fd < 0) {
            slow.failed++;
            return;
        }
        watch(&c->end, fd, ready);
        if (++slow.open > slow.peak_open) slow.peak_open = slow.open;
        buffer_add(&c->out, beginning, strlen(beginning));
    } else
        buffer_add(&c->out, "z", 1);
    timer_at(timer, now_us() + every_us);
    if (!flush_out(&c->end, &c->out)) ended(c);
}

void slow_end(void) {
    for (long k = 0; k < crawler_count; k++) {
        timer_off(&crawlers[k].timer);
        shut_only(&crawlers[k].end);
        buffer_free(&crawlers[k].out);
    }
    free(crawlers);
    crawlers = NULL;
    crawler_count = 0;
    slow.open = 0;
}

void slow_begin(uint16_t port, long connections, long ramp_ms, long every_ms) {
    slow_end();
    slow = (struct slow_counts){0};
    to_port = port;
    every_us = (uint64_t)every_ms * 1000;
    crawlers = calloc((size_t)connections, sizeof *crawlers);
    if (crawlers == NULL) {
        fputs("rig: out of memory\n", stderr);
        exit(1);
    }
    crawler_count = connections;
    uint64_t now = now_us();
    for (long k = 0; k < connections; k++) {
        crawlers[k].end.fd = -1;
        crawlers[k].timer.place = -1;
        crawlers[k].timer.fire = crawl;
        timer_at(&crawlers[k].timer, now + (uint64_t)(ramp_ms * 1000 * k / connections));
    }
}
