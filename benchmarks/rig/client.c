/* The load: asks, reads answers, and checks that each is whole, in order and its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "rig.h"

enum { READ = 65536, HEAD = 8192, MARK = 30, TAIL = 2048 };

/* Where in an answer the parser is. TO_END: no length was told, the answer ends with the connection. */
enum place { IN_HEAD, IN_LENGTH, IN_SIZE, IN_CHUNK, AFTER_CHUNK, IN_TRAILER, TO_END };

struct asker { /* A connection of the load. */
    struct endpoint end;
    struct timer timer; /* for its first request, and the pause between two */
    struct buffer out, head;
    bool busy, streamed, closing, out_of_order;
    enum place place;
    int status, line_n;
    char line[20];
    uint64_t left; /* bytes of the body, or of the chunk */
    uint64_t asked_us;
    uint32_t number;
    long marks;
    char mark[MARK + 1];
    int mark_n;
    struct buffer tail; /* the end of the body, at most twice TAIL */
};

struct client_counts client;
struct samples whole_us, first_us, chunk_us;

static struct load load;
static struct asker *askers;
static long asker_count;
static uint32_t numbers;
static bool finishing;
static char *filler;

static void ready(struct endpoint *e, uint32_t events);
static void ask(struct asker *a);

static void fault(const char *what, struct asker *a) {
    if (client.first_fault[0]) return;
    const char *said = a->tail.data ? a->tail.data + a->tail.from : "";
    snprintf(client.first_fault, sizeof client.first_fault, "%s (status %d, %ld marks): %.*s", what,
             a->status, a->marks, (int)(a->tail.to - a->tail.from), said);
}

/* ---- asking ---- */

static void hang_up(struct asker *a) {
    shut_only(&a->end);
    a->out.from = a->out.to = 0;
}

static void pause_then_ask(struct asker *a) {
    if (finishing || (load.requests && client.started >= (uint64_t)load.requests)) return;
    if (load.think_us)
        timer_at(&a->timer, now_us() + (uint64_t)load.think_us);
    else
        ask(a);
}

static void over(struct asker *a) {
    a->busy = false;
    client.open--;
    if (a->closing) hang_up(a);
}

static void broke(struct asker *a) {
    hang_up(a);
    if (!a->busy) return;
    client.broken++;
    fault("broke off", a);
    over(a);
    timer_at(&a->timer, now_us() + 10000); /* not at once: the proxy may be away */
}

static void ask(struct asker *a) {
    if (finishing || (load.requests && client.started >= (uint64_t)load.requests)) return;
    client.started++;
    if (++client.open > client.peak_open) client.peak_open = client.open;
    a->busy = true;
    a->closing = a->out_of_order = false;
    a->place = IN_HEAD;
    a->status = a->mark_n = a->line_n = 0;
    a->marks = 0;
    a->number = numbers++;
    a->streamed = load.streamed && (!load.whole_every || a->number % (uint32_t)load.whole_every != 0);
    a->head.from = a->head.to = a->tail.from = a->tail.to = 0;
    if (a->end.fd < 0) {
        int fd = connect_here(load.port);
        if (fd < 0) return broke(a);
        watch(&a->end, fd, ready);
    }
    char text[600], bytes[4096];
    int n = snprintf(text, sizeof text,
                     "{\"model\":\"%s\",\"messages\":[{\"role\":\"system\",\"content\":\"You are brief.\"},"
                     "{\"role\":\"user\",\"content\":\"~%08x.%08lx.%06lx.%d~ ",
                     load.model, a->number, load.interval_us, load.tokens, load.lockstep);
    char ending[200];
    int ending_n = snprintf(ending, sizeof ending, "\"}],\"temperature\":0.7,\"max_tokens\":%ld%s%s}",
                            load.tokens, a->streamed ? ",\"stream\":true" : "",
                            a->streamed && load.usage ? ",\"stream_options\":{\"include_usage\":true}" : "");
    int head_n = snprintf(bytes, sizeof bytes,
                          "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nAccept: application/json\r\n"
                          "User-Agent: joulegate-rig\r\nAuthorization: Bearer sk-rig\r\n"
                          "Content-Type: application/json\r\n%sContent-Length: %ld\r\n\r\n",
                          load.path, load.port, load.headers, n + load.pad + ending_n);
    memcpy(bytes + head_n, text, (size_t)n);
    a->asked_us = now_us();
    if (a->out.from == a->out.to) a->out.from = a->out.to = 0;
    buffer_add(&a->out, bytes, (size_t)(head_n + n));
    buffer_add(&a->out, filler, (size_t)load.pad);
    buffer_add(&a->out, ending, (size_t)ending_n);
    if (!flush_out(&a->end, &a->out)) broke(a);
}

static void time_to_ask(struct timer *timer) { ask(OWNER(timer, struct asker, timer)); }

/* ---- answers ---- */

static bool at_end(struct asker *a, const char *text) {
    size_t n = a->tail.to - a->tail.from;
    return n > 0 && memmem(a->tail.data + a->tail.from, n, text, strlen(text)) != NULL;
}

/* Whether the last usage of the answer counts as many tokens as were asked for. */
static bool tokens_told(struct asker *a) {
    const char *key = "\"completion_tokens\":";
    const char *at = a->tail.data + a->tail.from, *end = a->tail.data + a->tail.to, *found = NULL;
    while ((at = memmem(at, (size_t)(end - at), key, strlen(key))) != NULL) found = at += strlen(key);
    if (found == NULL || end - found < 8) return false;
    return strtol(found, NULL, 10) == load.tokens; /* JSON goes on behind the number */
}

static void answered(struct asker *a) {
    long wanted = a->streamed ? load.tokens : 1;
    uint64_t *count = &client.ok;
    if (a->status != 200)
        count = &client.bad_status;
    else if (a->out_of_order || a->marks != wanted)
        count = &client.wrong;
    else if (a->streamed && !at_end(a, "data: [DONE]"))
        count = &client.no_done;
    else if ((load.usage || !a->streamed) && !tokens_told(a))
        count = &client.no_usage;
    ++*count;
    if (count == &client.ok)
        sample_add(&whole_us, now_us() - a->asked_us);
    else
        fault("not what was asked for", a);
    over(a);
    pause_then_ask(a);
}

/* A whole mark: ~NNNNNNNN.SSSSSS.CCCCCCCCCCCC~ */
static void marked(struct asker *a) {
    unsigned number, place;
    unsigned long long sent_us;
    a->mark[MARK] = 0;
    if (sscanf(a->mark, "~%8x.%6x.%12llx~", &number, &place, &sent_us) != 3) return;
    unsigned expected = (unsigned)(a->streamed ? a->marks : load.tokens);
    if (number != a->number || place != expected) a->out_of_order = true;
    if (a->marks++ == 0) sample_add(&first_us, now_us() - a->asked_us);
    if (!a->streamed) return;
    client.chunks++;
    sample_add(&chunk_us, now_us() - sent_us);
    if (load.lockstep) upstream_next(number);
}

static bool fits(char c, int place) {
    if (place == 0 || place == MARK - 1) return c == '~';
    if (place == 9 || place == 16) return c == '.';
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

static void body(struct asker *a, const char *bytes, size_t n) {
    if (a->tail.to - a->tail.from > 2 * TAIL) a->tail.from = a->tail.to - TAIL;
    buffer_add(&a->tail, bytes, n);
    for (const char *at = bytes, *end = bytes + n; at < end;) {
        if (a->mark_n == 0 && (at = memchr(at, '~', (size_t)(end - at))) == NULL) return;
        if (!fits(*at, a->mark_n)) {
            a->mark_n = 0;
            if (*at != '~') at++;
            continue;
        }
        a->mark[a->mark_n++] = *at++;
        if (a->mark_n == MARK) {
            a->mark_n = 0;
            marked(a);
        }
    }
}

/* Takes the head's bytes; returns how many. The place moves on when the head is whole. */
static size_t head(struct asker *a, const char *bytes, size_t n) {
    size_t before = a->head.to - a->head.from, take = n;
    buffer_add(&a->head, bytes, n);
    char *text = a->head.data + a->head.from, *end = memmem(text, before + n, "\r\n\r\n", 4);
    if (end == NULL) {
        if (before + n > HEAD) broke(a);
        return take;
    }
    take = (size_t)(end + 4 - text) - before;
    end[2] = 0; /* the lines of the head as one string */
    a->status = (int)strtol(text + 9, NULL, 10);
    a->place = TO_END;
    for (char *line = text; line < end; line = strstr(line, "\r\n") + 2) {
        if (strncasecmp(line, "content-length:", 15) == 0) {
            a->left = strtoull(line + 15, NULL, 10);
            a->place = IN_LENGTH;
        } else if (strncasecmp(line, "transfer-encoding: chunked", 26) == 0)
            a->place = IN_SIZE;
        else if (strncasecmp(line, "connection: close", 17) == 0)
            a->closing = true;
    }
    if (a->status == 100) {
        a->place = IN_HEAD;
        a->head.from = a->head.to = 0;
    }
    return take;
}

/* A line of chunk framing, character by character. True: it is whole, without its line end. */
static bool line_ends(struct asker *a, char c) {
    if (c == '\n') {
        a->line[a->line_n] = 0;
        a->line_n = 0;
        return true;
    }
    if (c != '\r' && a->line_n < (int)sizeof a->line - 1) a->line[a->line_n++] = c;
    return false;
}

static size_t part_of_body(struct asker *a, const char *bytes, size_t n) {
    size_t take = a->left < n ? (size_t)a->left : n;
    a->left -= take;
    body(a, bytes, take);
    return take;
}

static void feed(struct asker *a, const char *bytes, size_t n) {
    while (a->busy && a->end.fd >= 0 && (n > 0 || (a->place == IN_LENGTH && a->left == 0))) {
        size_t taken = 1;
        switch (a->place) {
        case IN_HEAD:
            taken = head(a, bytes, n);
            break;
        case IN_LENGTH:
            taken = part_of_body(a, bytes, n);
            if (a->left == 0) {
                answered(a);
                return; /* nothing was asked that could be behind it */
            }
            break;
        case IN_SIZE:
            if (!line_ends(a, *bytes)) break;
            a->left = strtoull(a->line, NULL, 16);
            a->place = a->left ? IN_CHUNK : IN_TRAILER;
            break;
        case IN_CHUNK:
            taken = part_of_body(a, bytes, n);
            if (a->left == 0) a->place = AFTER_CHUNK;
            break;
        case AFTER_CHUNK:
            if (line_ends(a, *bytes)) a->place = IN_SIZE;
            break;
        case IN_TRAILER:
            if (line_ends(a, *bytes) && a->line[0] == 0) {
                answered(a);
                return;
            }
            break;
        case TO_END:
            body(a, bytes, n);
            taken = n;
            break;
        }
        bytes += taken;
        n -= taken;
    }
}

static void ready(struct endpoint *e, uint32_t events) {
    static char bytes[READ];
    struct asker *a = OWNER(e, struct asker, end);
    if ((events & EPOLLOUT) && !flush_out(e, &a->out)) return broke(a);
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    ssize_t n = recv(e->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        a->closing = true;
        if (n == 0 && a->busy && a->place == TO_END) return answered(a);
        return broke(a);
    }
    client.reads++;
    feed(a, bytes, (size_t)n);
}

/* ---- the load as a whole ---- */

void load_drop(void) {
    finishing = true;
    for (long k = 0; k < asker_count; k++) {
        struct asker *a = &askers[k];
        timer_off(&a->timer);
        if (a->end.fd >= 0) shut_only(&a->end);
        buffer_free(&a->out);
        buffer_free(&a->head);
        buffer_free(&a->tail);
    }
    client.open = 0;
    free(askers);
    askers = NULL;
    asker_count = 0;
}

void load_begin(const struct load *wanted) {
    load_drop();
    load = *wanted;
    client = (struct client_counts){0};
    load_window();
    finishing = false;
    filler = realloc(filler, (size_t)load.pad + 1);
    asker_count = load.connections;
    askers = calloc((size_t)asker_count, sizeof *askers);
    if (filler == NULL || askers == NULL) {
        fputs("rig: out of memory\n", stderr);
        exit(1);
    }
    for (long k = 0; k < load.pad; k++) filler[k] = "the energy of a request "[k % 24];
    uint64_t now = now_us();
    for (long k = 0; k < asker_count; k++) {
        askers[k].end.fd = -1;
        askers[k].timer.place = -1;
        askers[k].timer.fire = time_to_ask;
        timer_at(&askers[k].timer, now + (uint64_t)(load.ramp_ms * 1000 * k / asker_count));
    }
}

void load_window(void) { whole_us.count = first_us.count = chunk_us.count = 0; }

void load_finish(void) { finishing = true; }

bool load_idle(void) {
    return client.open == 0 && (finishing || (load.requests && client.started >= (uint64_t)load.requests));
}
