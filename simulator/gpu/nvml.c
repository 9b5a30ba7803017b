/* A simulated libnvidia-ml.so.1: answers NVML calls from a board file that another process writes.
 *
 * The board file is the one that the environment variable JOULEGATE_SIM_BOARD names; where that is unset, the
 * file named "board" in this library's own directory. Its layout, here and in board.py (native byte order):
 *
 *   struct board             once: magic, number of GPUs, fault rules
 *   struct gpu [gpu_count]   who the GPU is, how its counter behaves, and a ring of points of its true curve
 *
 * The true curve is linear between points and goes on at idle power after the last one. `head` counts the
 * points ever written; the writer fills a point before it moves `head`, so readers need no lock.
 *
 * The energy counter is a staircase: step k is published at k * period + jitter(k) and shows the true energy
 * of `lag` before. Powers are means over the last second (PowerUsage, POWER_AVERAGE: as on Ampere and newer
 * data-center parts) or the last 25 ms (POWER_INSTANT: the sensor's window, arXiv 2312.02741).
 *
 * MIG instances have handles and UUIDs of their own and show their GPU's counter, as real ones do. A process
 * that was forked from one that had called nvmlInit finds the library uninitialised.
 *
 * A fault rule names a function, "*" (all of a GPU's), or one field of nvmlDeviceGetFieldValues as "field 186".
 * Fields 83 and 191 are the energy counter: a rule for nvmlDeviceGetTotalEnergyConsumption holds for them too,
 * unless it says FUNCTION_NOT_FOUND, which is about the function only.
 *
 * Driver version and device names end in " (simulated)" so that no figure is taken for a measured one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RULES = 64, RING_POINTS = 65536, MAX_GPUS = 64, LIBRARY = -1 };
#define FOREVER 0xffffffffu
#define SIMULATED " (simulated)"

struct rule { /* a fault: after `skip` matching calls, the next `count` return `code`, `delay_us` later */
    _Atomic uint32_t active;
    int32_t gpu, code; /* gpu LIBRARY: calls that belong to no GPU */
    uint32_t skip, count; /* count FOREVER: until the rule is dropped */
    _Atomic uint32_t calls;
    uint64_t delay_us;
    char function[64]; /* a function's name, "field N", or "*" */
};
struct board {
    char magic[8]; /* "JGBOARD2", written last */
    uint32_t gpu_count, ring_points;
    struct rule rules[MAX_RULES];
};
struct point { /* CLOCK_MONOTONIC in microseconds, cumulative true energy in microjoules */
    int64_t t_us, energy_uj;
};
struct gpu {
    char uuid[80], name[80];
    int64_t power_limit_mw, idle_power_mw;
    uint64_t memory_bytes;
    int64_t default_limit_mw, mig_count;
    int64_t period_us, jitter_us, lag_us; /* the counter's staircase */
    uint64_t seed;
    int64_t base_uj;            /* true energy when the driver was loaded: the counter's zero */
    _Atomic int64_t frozen_us;  /* the counter stands still since then; 0: it does not */
    _Atomic int64_t counter_ppm; /* millionths of the truth that the counter shows */
    _Atomic int64_t shown_power_mw; /* what power calls say, whatever is true; 0: the truth */
    _Atomic uint64_t head;
    struct point ring[RING_POINTS];
};

/* For the test that compares this layout with board.py: writes "struct.field offset" lines. */
#define FIELD(s, f) n += snprintf(out + n, size - n, #s "." #f " %zu\n", offsetof(struct s, f));
#define SIZE(s) n += snprintf(out + n, size - n, #s " %zu\n", sizeof(struct s));
int joulegate_sim_layout(char *out, size_t size) {
    size_t n = 0;
    SIZE(rule) FIELD(rule, active) FIELD(rule, gpu) FIELD(rule, code) FIELD(rule, skip) FIELD(rule, count)
    FIELD(rule, calls) FIELD(rule, delay_us) FIELD(rule, function)
    SIZE(board) FIELD(board, magic) FIELD(board, gpu_count) FIELD(board, ring_points) FIELD(board, rules)
    SIZE(point) FIELD(point, t_us) FIELD(point, energy_uj)
    SIZE(gpu) FIELD(gpu, uuid) FIELD(gpu, name) FIELD(gpu, power_limit_mw) FIELD(gpu, idle_power_mw)
    FIELD(gpu, memory_bytes) FIELD(gpu, default_limit_mw) FIELD(gpu, mig_count) FIELD(gpu, period_us) FIELD(gpu, jitter_us) FIELD(gpu, lag_us) FIELD(gpu, seed)
    FIELD(gpu, base_uj) FIELD(gpu, frozen_us) FIELD(gpu, counter_ppm) FIELD(gpu, shown_power_mw) FIELD(gpu, head) FIELD(gpu, ring)
    return (int)n;
}

/* NVML's return codes and structures, as far as they are used here. */
enum { OK = 0, UNINITIALIZED = 1, BAD_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7,
       NO_DRIVER = 9, FUNCTION_NOT_FOUND = 13 };
enum { MAX_MIG = 7 };
typedef struct gpu *device;
typedef struct { char legacy[16]; unsigned domain, bus, device, device_id, subsystem_id; char bus_id[32]; } pci_info;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { unsigned gpu, memory; } utilization;
typedef union { double d; unsigned u; unsigned long ul; unsigned long long ull; } value;
typedef struct {
    unsigned field, scope;
    int64_t timestamp, latency_us;
    unsigned type;
    int code;
    value value;
} field_value;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int users;
static _Atomic pid_t owner; /* the process that called nvmlInit */
static struct board *board;
static struct gpu *gpus;

static int64_t now_us(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- the true curve and what the sensors make of it ---- */

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

static int64_t true_uj(struct gpu *g, int64_t t) {
    for (;;) {
        uint64_t head = atomic_load(&g->head), high = head - 1;
        uint64_t low = head < RING_POINTS ? 0 : head - RING_POINTS + 1; /* the oldest may be rewritten now */
        struct point a = g->ring[low % RING_POINTS], b = g->ring[high % RING_POINTS];
        int64_t energy;
        if (t >= b.t_us || t < a.t_us) {
            struct point end = t >= b.t_us ? b : a;
            energy = end.energy_uj + floor_div((t - end.t_us) * g->idle_power_mw, 1000);
        } else {
            while (high - low > 1) {
                uint64_t middle = low + (high - low) / 2;
                if (g->ring[middle % RING_POINTS].t_us <= t) low = middle; else high = middle;
            }
            a = g->ring[low % RING_POINTS], b = g->ring[high % RING_POINTS];
            if (b.t_us <= a.t_us) continue; /* rewritten while we looked */
            energy = a.energy_uj + (int64_t)((__int128)(b.energy_uj - a.energy_uj) * (t - a.t_us) / (b.t_us - a.t_us));
        }
        if (low + RING_POINTS > atomic_load(&g->head)) return energy;
    }
}

/* For the test that compares this curve with board.py. */
int64_t joulegate_sim_energy_uj(unsigned index, int64_t t) { return true_uj(&gpus[index], t); }

static uint64_t mix(uint64_t x) { /* a fixed scrambling of 64 bits (splitmix64's finaliser) */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static int64_t published_us(const struct gpu *g, int64_t k) { /* when step k of the staircase appears */
    int64_t phase = (int64_t)(mix(g->seed) % (uint64_t)g->period_us);
    int64_t jitter = (int64_t)(mix(g->seed ^ mix((uint64_t)k)) % (uint64_t)(2 * g->jitter_us + 1)) - g->jitter_us;
    return k * g->period_us + phase + jitter;
}

static uint64_t counter_mj(struct gpu *g) {
    int64_t now = now_us(CLOCK_MONOTONIC), frozen = atomic_load(&g->frozen_us);
    if (frozen && frozen < now) now = frozen;
    int64_t k = now / g->period_us + 1;
    while (published_us(g, k) > now) k--;
    int64_t energy = true_uj(g, published_us(g, k) - g->lag_us) - g->base_uj;
    return energy > 0 ? (uint64_t)((__int128)energy * atomic_load(&g->counter_ppm) / 1000000000) : 0;
}

static unsigned power_mw(struct gpu *g, int64_t window_us) { /* the mean over the window before now */
    int64_t now = now_us(CLOCK_MONOTONIC), shown = atomic_load(&g->shown_power_mw);
    if (shown) return (unsigned)shown;
    return (unsigned)((true_uj(g, now) - true_uj(g, now - window_us)) * 1000 / window_us);
}
static unsigned instant_mw(struct gpu *g) { return power_mw(g, 25000); }
static unsigned average_mw(struct gpu *g) { return power_mw(g, 1000000); }
static int is_busy(struct gpu *g) { return instant_mw(g) > g->idle_power_mw * 6 / 5; }

/* ---- faults ---- */

static int fault(int index, const char *function) {
    int all = strncmp(function, "field ", 6); /* "*" has been asked by the function that reads fields */
    for (int i = 0; i < MAX_RULES; i++) {
        struct rule *r = &board->rules[i];
        if (!atomic_load(&r->active) || r->gpu != index) continue;
        if (strcmp(r->function, function) && (!all || strcmp(r->function, "*"))) continue;
        uint32_t call = atomic_fetch_add(&r->calls, 1);
        if (call < r->skip || (r->count != FOREVER && call - r->skip >= r->count)) continue;
        int code = r->code; /* before the wait: the rule may be dropped and used anew meanwhile */
        int64_t until = now_us(CLOCK_MONOTONIC) + (int64_t)r->delay_us;
        while (now_us(CLOCK_MONOTONIC) < until && atomic_load(&r->active)) usleep(500);
        return code;
    }
    return OK;
}

static int field_fault(int index, unsigned field) {
    char name[32];
    snprintf(name, sizeof name, "field %u", field);
    int code = fault(index, name);
    if (code || (field != 83 && field != 191)) return code;
    code = fault(index, "nvmlDeviceGetTotalEnergyConsumption");
    return code == FUNCTION_NOT_FOUND ? OK : code;
}

/* A MIG instance's handle points into its GPU, 1 + its number bytes behind the beginning. */
static device whole(device handle, int *instance) { /* the GPU of a handle; NULL where it is none */
    ptrdiff_t at = (char *)handle - (char *)gpus;
    if (at < 0 || (size_t)at >= board->gpu_count * sizeof(struct gpu)) return NULL;
    struct gpu *g = &gpus[(size_t)at / sizeof(struct gpu)];
    ptrdiff_t rest = (char *)handle - (char *)g;
    if (instance) *instance = (int)rest - 1;
    return rest <= g->mig_count ? g : NULL;
}
static device instance_of(device g, int64_t k) { return (device)((char *)g + 1 + k); }

#define ENTER_LIBRARY() do { if (!users || getpid() != owner) return UNINITIALIZED; \
    int code_ = fault(LIBRARY, __func__); if (code_) return code_; } while (0)
#define ENTER(g) do { if (!users || getpid() != owner) return UNINITIALIZED; \
    if (!((g) = whole(g, NULL))) return BAD_ARGUMENT; \
    int code_ = fault((int)((g) - gpus), __func__); if (code_) return code_; } while (0)
#define GETTER(function, type, ...) \
    int function(device g, type *out) { ENTER(g); *out = (type)__VA_ARGS__; return OK; }

/* ---- the library ---- */

static int map_board(void) {
    char path[4096];
    const char *named = getenv("JOULEGATE_SIM_BOARD");
    Dl_info self;
    if (named && *named) {
        snprintf(path, sizeof path, "%s", named);
    } else {
        if (!dladdr((void *)map_board, &self) || !self.dli_fname) return NO_DRIVER;
        const char *slash = strrchr(self.dli_fname, '/');
        snprintf(path, sizeof path, "%.*sboard", slash ? (int)(slash - self.dli_fname) + 1 : 0, self.dli_fname);
    }
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return NO_DRIVER;
    struct stat info;
    void *map = MAP_FAILED;
    if (!fstat(file, &info) && (size_t)info.st_size >= sizeof(struct board))
        map = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (map == MAP_FAILED) return NO_DRIVER;
    struct board *b = map;
    if (memcmp(b->magic, "JGBOARD2", 8) || b->ring_points != RING_POINTS || b->gpu_count > MAX_GPUS ||
        sizeof *b + b->gpu_count * sizeof(struct gpu) > (size_t)info.st_size) {
        munmap(map, (size_t)info.st_size);
        return NO_DRIVER;
    }
    board = b;
    gpus = (struct gpu *)(b + 1);
    return OK;
}

static int start(const char *function) { /* the board stays mapped after shutdown: a call may still be in it */
    pthread_mutex_lock(&lock);
    int code = board ? OK : map_board();
    pthread_mutex_unlock(&lock);
    if (!code) code = fault(LIBRARY, function);
    if (!code) atomic_fetch_add(&users, 1), owner = getpid();
    return code;
}
int nvmlInit(void) { return start(__func__); }
int nvmlInit_v2(void) { return start(__func__); }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return start(__func__); }
int nvmlShutdown(void) { ENTER_LIBRARY(); atomic_fetch_sub(&users, 1); return OK; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case OK: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case BAD_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case FUNCTION_NOT_FOUND: return "Function Not Found";
    case NO_DRIVER: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    case 999: return "Unknown Error";
    default: return "Other Error";
    }
}

static int put(char *out, unsigned size, const char *text, const char *suffix) {
    return (size_t)snprintf(out, size, "%s%s", text, suffix) < size ? OK : TOO_SMALL;
}
int nvmlSystemGetDriverVersion(char *out, unsigned n) { ENTER_LIBRARY(); return put(out, n, "580.00", SIMULATED); }
int nvmlSystemGetNVMLVersion(char *out, unsigned n) { ENTER_LIBRARY(); return put(out, n, "13.580.00", SIMULATED); }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { ENTER_LIBRARY(); *out = 13000; return OK; }

int nvmlDeviceGetCount_v2(unsigned *out) { ENTER_LIBRARY(); *out = board->gpu_count; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *out) {
    ENTER_LIBRARY();
    if (index >= board->gpu_count) return BAD_ARGUMENT;
    *out = &gpus[index];
    return fault((int)index, __func__);
}
static int uuid_of(char *out, unsigned size, const struct gpu *g, int instance) { /* -1: the GPU itself */
    if (instance < 0) return put(out, size, g->uuid, "");
    char name[96];
    snprintf(name, sizeof name, "MIG-%c%s", 'a' + instance, g->uuid + 5);
    return put(out, size, name, "");
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device *out) {
    ENTER_LIBRARY();
    for (unsigned i = 0; i < board->gpu_count; i++) {
        char name[96];
        for (int k = -1; k < gpus[i].mig_count; k++) {
            uuid_of(name, sizeof name, &gpus[i], k);
            if (!strcmp(name, uuid)) { *out = k < 0 ? &gpus[i] : instance_of(&gpus[i], k); return fault((int)i, __func__); }
        }
    }
    return NOT_FOUND;
}
static void bus_id(char *out, size_t size, unsigned index) { snprintf(out, size, "00000000:%02X:00.0", index + 1); }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, device *out) {
    ENTER_LIBRARY();
    for (unsigned i = 0; i < board->gpu_count; i++) {
        char mine[32];
        bus_id(mine, sizeof mine, i);
        if (!strcasecmp(mine, id)) { *out = &gpus[i]; return fault((int)i, __func__); }
    }
    return NOT_FOUND;
}

/* ---- a GPU ---- */

int nvmlDeviceGetName(device g, char *out, unsigned size) { ENTER(g); return put(out, size, g->name, SIMULATED); }
int nvmlDeviceGetUUID(device g, char *out, unsigned size) {
    int instance = -1;
    if (users) whole(g, &instance);
    ENTER(g);
    return uuid_of(out, size, g, instance);
}
int nvmlDeviceGetPciInfo_v3(device g, pci_info *out) {
    ENTER(g);
    memset(out, 0, sizeof *out);
    out->bus = (unsigned)(g - gpus) + 1;
    bus_id(out->bus_id, sizeof out->bus_id, (unsigned)(g - gpus));
    memcpy(out->legacy, out->bus_id + 4, 12);
    return OK;
}
GETTER(nvmlDeviceGetIndex, unsigned, (g - gpus))
GETTER(nvmlDeviceGetArchitecture, unsigned, (strstr(g->name, "B200") ? 10 : 9)) /* Blackwell or Hopper */
GETTER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, counter_mj(g))
GETTER(nvmlDeviceGetPowerUsage, unsigned, average_mw(g))
GETTER(nvmlDeviceGetEnforcedPowerLimit, unsigned, g->power_limit_mw)
GETTER(nvmlDeviceGetPowerManagementLimit, unsigned, g->power_limit_mw)
GETTER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, g->default_limit_mw)
GETTER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, /* SwPowerCap or GpuIdle */
       (instant_mw(g) >= g->power_limit_mw * 99 / 100 ? 0x4 : is_busy(g) ? 0 : 0x1))
GETTER(nvmlDeviceGetUtilizationRates, utilization, {is_busy(g) ? 100 : 0, is_busy(g) ? 100 : 0})
GETTER(nvmlDeviceGetMemoryInfo, memory, {g->memory_bytes, g->memory_bytes, 0}) /* an engine's use is not simulated */
GETTER(nvmlDeviceGetMemoryInfo_v2, memory_v2, {out->version, g->memory_bytes, 0, g->memory_bytes, 0})
int nvmlDeviceGetPowerManagementLimitConstraints(device g, unsigned *low, unsigned *high) {
    ENTER(g);
    *low = 200000; /* invented, like field 187 below */
    *high = (unsigned)g->default_limit_mw;
    return OK;
}
int nvmlDeviceGetClockInfo(device g, int kind, unsigned *out) { /* MHz, like an H100's */
    ENTER(g);
    *out = kind == 2 ? 2619 : is_busy(g) ? 1980 : 345;
    return OK;
}
int nvmlDeviceGetTemperature(device g, int sensor, unsigned *out) { /* degrees C, invented: follows the power */
    ENTER(g);
    if (sensor) return NOT_SUPPORTED;
    *out = (unsigned)(30 + 40 * (int64_t)average_mw(g) / g->power_limit_mw);
    return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(device g, unsigned *n, void *all) { ENTER(g); (void)all; return *n = 0, OK; }
int nvmlDeviceGetMigMode(device g, unsigned *now, unsigned *next) { ENTER(g); *now = *next = g->mig_count > 0; return OK; }
GETTER(nvmlDeviceGetMaxMigDeviceCount, unsigned, (g->mig_count ? MAX_MIG : 0))
int nvmlDeviceGetMigDeviceHandleByIndex(device g, unsigned index, device *out) {
    ENTER(g);
    if (index >= g->mig_count) return NOT_FOUND;
    *out = instance_of(g, index);
    return OK;
}
int nvmlDeviceIsMigDeviceHandle(device g, unsigned *out) {
    int instance = -1;
    if (users) whole(g, &instance);
    ENTER(g);
    *out = instance >= 0;
    return OK;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device g, device *out) { ENTER(g); *out = g; return OK; }

int nvmlDeviceGetFieldValues(device g, int count, field_value *values) {
    ENTER(g);
    for (int i = 0; i < count; i++) {
        field_value *v = &values[i];
        int64_t begin = now_us(CLOCK_REALTIME);
        v->code = field_fault((int)(g - gpus), v->field);
        v->type = 1; /* unsigned int */
        v->value.ull = 0;
        switch (v->code ? -1 : v->scope ? 0 : (int)v->field) { /* scope 0: the GPU itself; no module, no memory */
        case 83: case 191: v->type = 3; v->value.ull = counter_mj(g); break; /* unsigned long long */
        case 185: v->value.u = average_mw(g); break;
        case 186: v->value.u = instant_mw(g); break;
        case 187: v->value.u = 200000; break;
        case 188: case 189: v->value.u = (unsigned)g->default_limit_mw; break;
        case 190: case 192: v->value.u = (unsigned)g->power_limit_mw; break;
        case -1: break;
        default: v->code = NOT_SUPPORTED;
        }
        v->timestamp = now_us(CLOCK_REALTIME);
        v->latency_us = v->timestamp - begin;
    }
    return OK;
}
