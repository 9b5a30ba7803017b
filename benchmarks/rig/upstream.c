/* A mock engine that answers as vLLM does: chat completions whole and streamed, models, health. It knows no
 * /metrics (404), as an engine may. Tokens come at the times that the prompt asks for (rig.h). */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "rig.h"

enum { READ = 16384, PROMPT_TOKENS = 23, NUMBERS = 1 << 16 };

struct served { /* A connection to a client, as a rule the proxy. */
    struct endpoint end;
    struct timer timer;
    struct buffer in, out;
    bool streaming, lockstep, usage, closing;
    uint32_t number;
    long tokens, sent;
    uint64_t interval_us;
    uint64_t created_s;
    struct served *before, *behind; /* among those that stream */
};

struct upstream_counts upstream;
static struct endpoint listening;
static struct served *in_lockstep[NUMBERS];
static struct served *streaming;

static const char *const WORDS[16] = {"energy", "token", "joule", "power", "batch", "prompt",
                                      "answer", "first", "time",  "second", "whole", "share",
                                      "meter",  "small", "large", "count"};

static void stream_over(struct served *s) {
    s->streaming = false;
    upstream.open--;
    *(s->before ? &s->before->behind : &streaming) = s->behind;
    if (s->behind) s->behind->before = s->before;
    timer_off(&s->timer);
    if (s->lockstep && in_lockstep[s->number % NUMBERS] == s) in_lockstep[s->number % NUMBERS] = NULL;
}

static void hang_up(struct served *s) {
    if (s->streaming) {
        stream_over(s);
        upstream.aborted++;
    }
    buffer_free(&s->in);
    buffer_free(&s->out);
    shut(&s->end);
}

static bool say(struct served *s, const char *bytes, int n) {
    return write_out(&s->end, &s->out, bytes, (size_t)n);
}

static bool answer(struct served *s, const char *status, const char *type, const char *body, int n) {
    char bytes[4096];
    int head = snprintf(bytes, sizeof bytes,
                        "HTTP/1.1 %s\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
                        "content-length: %d\r\ncontent-type: %s\r\n\r\n",
                        status, n, type);
    memcpy(bytes + head, body, (size_t)n);
    return say(s, bytes, head + n);
}

/* One event as an HTTP chunk. */
static int framed(char *to, const char *json, int n) {
    return sprintf(to, "%x\r\ndata: %.*s\n\n\r\n", (unsigned)n + 8, n, json);
}

static int marked(char *to, size_t room, struct served *s, long place) {
    const char *word = WORDS[(s->number * 7 + (uint32_t)place * 5) % 16];
    unsigned long long sent_us = now_us();
    return snprintf(to, room, " %s ~%08x.%06lx.%012llx~", word, s->number, place, sent_us);
}

/* The next bytes of a stream; ends it after [DONE]. False: the connection is broken. */
static bool next_event(struct served *s) {
    char json[512], text[80], bytes[1400];
    const char *head = "\"object\":\"chat.completion.chunk\",";
    unsigned long long created = s->created_s;
    marked(text, sizeof text, s, s->sent);
    const char *reason = s->sent == s->tokens - 1 ? "\"length\",\"stop_reason\":null" : "null";
    int n = snprintf(json, sizeof json,
                     "{\"id\":\"chatcmpl-%016x\",%s\"created\":%llu,\"model\":\"m\",\"choices\":[{"
                     "\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,"
                     "\"finish_reason\":%s,\"token_ids\":null}]}",
                     s->number, head, created, text, reason);
    n = framed(bytes, json, n);
    if (++s->sent < s->tokens) return say(s, bytes, n);
    if (s->usage) {
        int size = snprintf(json, sizeof json,
                            "{\"id\":\"chatcmpl-%016x\",%s\"created\":%llu,\"model\":\"m\",\"choices\":[],"
                            "\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%ld,"
                            "\"completion_tokens\":%ld}}",
                            s->number, head, created, PROMPT_TOKENS, PROMPT_TOKENS + s->tokens, s->tokens);
        n += framed(bytes + n, json, size);
    }
    n += sprintf(bytes + n, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    stream_over(s);
    return say(s, bytes, n);
}

static bool process(struct served *s);

static void due(struct timer *timer) {
    struct served *s = OWNER(timer, struct served, timer);
    uint64_t asked_us = timer->due_us;
    if (!next_event(s) || !(s->streaming || process(s)))
        hang_up(s);
    else if (s->streaming)
        timer_at(&s->timer, asked_us + s->interval_us);
}

void upstream_next(uint32_t number) {
    struct served *s = in_lockstep[number % NUMBERS];
    if (s == NULL || s->number != number) return;
    if (!next_event(s) || !(s->streaming || process(s))) hang_up(s);
}

static bool stream_begins(struct served *s) {
    char bytes[1024], json[400];
    upstream.streams++;
    if (++upstream.open > upstream.peak_open) upstream.peak_open = upstream.open;
    s->streaming = true;
    s->sent = 0;
    s->before = NULL;
    s->behind = streaming;
    if (streaming) streaming->before = s;
    streaming = s;
    int n = snprintf(bytes, sizeof bytes,
                     "HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
                     "content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");
    int size = snprintf(json, sizeof json,
                        "{\"id\":\"chatcmpl-%016x\",\"object\":\"chat.completion.chunk\",\"created\":%llu,"
                        "\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
                        "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}",
                        s->number, (unsigned long long)s->created_s);
    n += framed(bytes + n, json, size);
    if (!say(s, bytes, n)) return false;
    if (!s->lockstep) {
        timer_at(&s->timer, now_us() + s->interval_us);
        return true;
    }
    in_lockstep[s->number % NUMBERS] = s;
    return next_event(s);
}

static bool whole_answer(struct served *s) {
    char json[1400], text[80];
    marked(text, sizeof text, s, s->tokens);
    int n = snprintf(
        json, sizeof json,
        "{\"id\":\"chatcmpl-%016x\",\"object\":\"chat.completion\",\"created\":%llu,\"model\":\"m\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
        "\"content\":\"The energy of a request is a sum:%s\","
        "\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null,\"reasoning\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":null}],"
        "\"service_tier\":null,\"system_fingerprint\":\"rig\",\"usage\":{\"prompt_tokens\":%d,"
        "\"total_tokens\":%ld,\"completion_tokens\":%ld,\"prompt_tokens_details\":null},"
        "\"prompt_logprobs\":null,\"prompt_token_ids\":null,\"kv_transfer_params\":null}",
        s->number, (unsigned long long)s->created_s, text, PROMPT_TOKENS, PROMPT_TOKENS + s->tokens,
        s->tokens);
    return answer(s, "200 OK", "application/json", json, n);
}

/* Whether `"key": true` stands in the body, however it is spaced. */
static bool is_true(const char *body, size_t n, const char *key) {
    const char *at = memmem(body, n, key, strlen(key)), *end = body + n;
    if (at == NULL) return false;
    for (at += strlen(key); at < end && (*at == ' ' || *at == ':'); at++) {}
    return end - at >= 4 && memcmp(at, "true", 4) == 0;
}

static bool handle(struct served *s, const char *head, size_t head_n, const char *body, size_t n) {
    upstream.requests++;
    size_t line = (size_t)((char *)memchr(head, '\r', head_n) - head);
    if (memmem(head, line, "POST ", 5) == head && memmem(head, line, "/chat/completions", 17)) {
        unsigned number = 0, interval = 0, tokens = 0, lockstep = 0;
        const char *mark = memchr(body, '~', n);
        if (mark == NULL || body + n - mark < 27 ||
            sscanf(mark, "~%8x.%8x.%6x.%1x~", &number, &interval, &tokens, &lockstep) != 4) {
            const char *error = "{\"error\":{\"message\":\"the prompt has no mark\",\"code\":400}}";
            return answer(s, "400 Bad Request", "application/json", error, (int)strlen(error));
        }
        s->number = number, s->interval_us = interval, s->tokens = tokens, s->lockstep = lockstep;
        s->usage = is_true(body, n, "\"include_usage\"");
        s->created_s = (uint64_t)time(NULL);
        return is_true(body, n, "\"stream\"") ? stream_begins(s) : whole_answer(s);
    }
    if (memmem(head, line, " /health", 8)) return answer(s, "200 OK", "text/plain", "", 0);
    if (memmem(head, line, " /v1/models", 11)) {
        const char *models = "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\","
                             "\"created\":1,\"owned_by\":\"vllm\",\"root\":\"m\",\"parent\":null,"
                             "\"max_model_len\":32768}]}";
        return answer(s, "200 OK", "application/json", models, (int)strlen(models));
    }
    if (memmem(head, line, "_info ", 6)) { /* what sglang-router asks a worker: /server_info, /model_info */
        const char *info = "{\"model_path\":\"m\",\"served_model_name\":\"m\"}";
        return answer(s, "200 OK", "application/json", info, (int)strlen(info));
    }
    return answer(s, "404 Not Found", "application/json", "{\"detail\":\"Not Found\"}", 22);
}

static bool starts(const char *line, const char *with) { return strncasecmp(line, with, strlen(with)) == 0; }

/* Serves the requests that are whole in the buffer, one after the other. False: to be closed. */
static bool process(struct served *s) {
    while (!s->streaming && s->in.to > s->in.from) {
        char *head = s->in.data + s->in.from;
        size_t held = s->in.to - s->in.from;
        char *end = memmem(head, held, "\r\n\r\n", 4);
        if (end == NULL) return true;
        s->closing = false;
        size_t head_n = (size_t)(end - head) + 4, body_n = 0;
        bool chunked = false;
        for (char *line = head; line < end; line = memmem(line, (size_t)(end + 2 - line), "\r\n", 2) + 2) {
            if (starts(line, "content-length:")) body_n = strtoul(line + 15, NULL, 10);
            if (starts(line, "transfer-encoding: chunked")) chunked = true;
            if (starts(line, "connection: close")) s->closing = true;
        }
        size_t total = head_n + body_n;
        if (chunked) { /* the framing stays in the body: what is looked for is found all the same */
            char *last = memmem(head + head_n - 2, held - head_n + 2, "\r\n0\r\n\r\n", 7);
            if (last == NULL) return true;
            total = (size_t)(last + 7 - head);
            body_n = total - head_n;
        }
        if (held < total) return true;
        s->in.from += total;
        if (!handle(s, head, head_n, head + head_n, body_n)) return false;
    }
    return !(s->closing && !s->streaming && s->out.from == s->out.to);
}

static void ready(struct endpoint *e, uint32_t events) {
    struct served *s = OWNER(e, struct served, end);
    if (events & EPOLLOUT) {
        if (!flush_out(e, &s->out)) return hang_up(s);
        if (s->closing && !s->streaming && s->out.from == s->out.to) return hang_up(s);
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    buffer_room(&s->in, READ);
    ssize_t n = recv(e->fd, s->in.data + s->in.to, READ, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) return hang_up(s);
    s->in.to += (size_t)n;
    if (!process(s)) return hang_up(s);
    if (s->in.from == s->in.to && !s->streaming) s->in.from = s->in.to = 0;
}

static void arrived(struct endpoint *e, uint32_t events) {
    (void)events;
    for (;;) {
        int fd = accept4(e->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        struct served *s = calloc(1, sizeof *s);
        if (s == NULL) {
            close(fd);
            return;
        }
        s->timer.place = -1;
        s->timer.fire = due;
        watch(&s->end, fd, ready);
    }
}

void upstream_cut(void) {
    while (streaming != NULL) hang_up(streaming);
}

void upstream_open(int listener) { watch(&listening, listener, arrived); }
