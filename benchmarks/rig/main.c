/* The rig's commands: a line on stdin (a word, then tab-separated key=value), a line of JSON on stdout for
 * each.
 *
 *   load     begin a load: port, connections, requests, tokens, interval_us, ramp_ms, think_us, pad,
 *            whole_every, streamed, lockstep, usage, path, model, headers (lines separated by |)
 *   sample   the counts so far
 *   window   the same, and latencies are counted afresh from here
 *   finish   start nothing more; answers when all under way has ended, or after limit_ms
 *   drop     close every connection of the load
 *   cut      break off every stream of the engine
 *   slow     begin connections that never finish a request: port, connections, ramp_ms, every_ms
 *   slow_end close them
 * The first line out tells the port of the mock engine. It ends when stdin does. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "rig.h"

static struct endpoint input;
static struct buffer typed;
static uint64_t finish_by_us;

static void in_json(const char *text) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
}

static void latencies(const char *name, struct samples *s) {
    double p50 = percentile(s, 0.5), p99 = percentile(s, 0.99);
    printf("\"%s\":{\"count\":%zu,\"p50\":%.0f,\"p99\":%.0f},", name, s->count, p50, p99);
}

static void count(const char *name, uint64_t value) {
    printf("\"%s\":%llu,", name, (unsigned long long)value);
}

static void tell(void) {
    printf("{");
    count("t_us", now_us());
    count("started", client.started);
    count("ok", client.ok);
    count("bad_status", client.bad_status);
    count("broken", client.broken);
    count("wrong", client.wrong);
    count("no_done", client.no_done);
    count("no_usage", client.no_usage);
    count("chunks", client.chunks);
    count("reads", client.reads);
    count("open", client.open);
    count("peak_open", client.peak_open);
    count("engine_requests", upstream.requests);
    count("engine_streams", upstream.streams);
    count("engine_open", upstream.open);
    count("engine_aborted", upstream.aborted);
    count("slow_open", slow.open);
    count("slow_peak_open", slow.peak_open);
    count("slow_closed", slow.closed);
    count("slow_failed", slow.failed);
    latencies("whole_us", &whole_us);
    latencies("first_us", &first_us);
    latencies("chunk_us", &chunk_us);
    printf("\"first_fault\":\"");
    in_json(client.first_fault);
    printf("\"}\n");
    fflush(stdout);
}

static const char *word(char *line, const char *key, const char *otherwise) {
    size_t n = strlen(key);
    for (char *at = line; (at = strchr(at, '\t')) != NULL;)
        if (strncmp(++at, key, n) == 0 && at[n] == '=') return at + n + 1;
    return otherwise;
}

static long number(char *line, const char *key, long otherwise) {
    const char *found = word(line, key, NULL);
    return found ? strtol(found, NULL, 10) : otherwise;
}

static void copy(char *to, size_t room, const char *from) {
    snprintf(to, room, "%.*s", (int)strcspn(from, "\t"), from);
}

static void begin(char *line) {
    struct load wanted = {
        .port = (uint16_t)number(line, "port", 0),
        .connections = number(line, "connections", 1),
        .requests = number(line, "requests", 0),
        .tokens = number(line, "tokens", 16),
        .interval_us = number(line, "interval_us", 0),
        .ramp_ms = number(line, "ramp_ms", 0),
        .think_us = number(line, "think_us", 0),
        .pad = number(line, "pad", 60),
        .whole_every = number(line, "whole_every", 0),
        .streamed = number(line, "streamed", 0),
        .lockstep = number(line, "lockstep", 0),
        .usage = number(line, "usage", 1),
    };
    char headers[900];
    copy(wanted.path, sizeof wanted.path, word(line, "path", "/v1/chat/completions"));
    copy(wanted.model, sizeof wanted.model, word(line, "model", "m"));
    copy(headers, sizeof headers, word(line, "headers", ""));
    char *to = wanted.headers, *end = wanted.headers + sizeof wanted.headers;
    for (char *one = strtok(headers, "|"); one != NULL; one = strtok(NULL, "|"))
        to += snprintf(to, (size_t)(end - to), "%s\r\n", one);
    load_begin(&wanted);
}

static void obey(char *line) {
    size_t n = strcspn(line, "\t");
    if (strncmp(line, "finish", n) == 0) {
        load_finish();
        finish_by_us = now_us() + (uint64_t)number(line, "limit_ms", 10000) * 1000;
        return; /* answered later */
    }
    if (strncmp(line, "load", n) == 0)
        begin(line);
    else if (strncmp(line, "drop", n) == 0)
        load_drop();
    else if (strncmp(line, "cut", n) == 0)
        upstream_cut();
    else if (strncmp(line, "slow", n) == 0)
        slow_begin((uint16_t)number(line, "port", 0), number(line, "connections", 1),
                   number(line, "ramp_ms", 0), number(line, "every_ms", 1000));
    else if (strncmp(line, "slow_end", n) == 0)
        slow_end();
    tell();
    if (strncmp(line, "window", n) == 0) load_window();
}

static void commanded(struct endpoint *e, uint32_t events) {
    (void)events;
    buffer_room(&typed, 4096);
    ssize_t n = read(e->fd, typed.data + typed.to, 4096);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n <= 0) exit(0);
    typed.to += (size_t)n;
}

/* Between two turns, as no event may then name a connection that a command closes. */
static void obey_all(void) {
    char *end;
    if (typed.from == typed.to) return;
    while ((end = memchr(typed.data + typed.from, '\n', typed.to - typed.from)) != NULL) {
        *end = 0;
        obey(typed.data + typed.from);
        typed.from = (size_t)(end + 1 - typed.data);
    }
}

int main(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    uint16_t port = 0;
    net_open();
    upstream_open(listen_here(&port));
    watch(&input, STDIN_FILENO, commanded);
    printf("{\"port\":%u}\n", port);
    fflush(stdout);
    for (;;) {
        net_turn(finish_by_us ? 5 : -1);
        obey_all();
        if (finish_by_us && (load_idle() || now_us() >= finish_by_us)) {
            finish_by_us = 0;
            tell();
        }
    }
}
