/* A stand-in for NVIDIA's libnvidia-ml.so.1, for tests on machines without a GPU.
 *
 * The environment variable FAKE_NVML names a text file of `key=value` lines, read anew whenever it has changed (a stat a
 * call); of a key that stands twice, the last line counts. A GPU's keys start with its index:
 *
 *   count=2  driver=550.54.14  cuda=12040            the host; at most 16 GPUs
 *   0.name= 0.uuid=                                  default "Simulated RTX 3090", "GPU-00000000-0000-0000-0000-00000000000N"
 *   0.temperature= 0.fan= 0.utilization=             "none" stands for a sensor that the card lacks, "fails" for an
 *                                                    error that may pass; so with all numbers
 *   0.power= 0.limit= 0.limit_default= 0.limit_min= 0.limit_max=      milliwatts
 *   0.power_curve=TIME:MILLIWATTS,TIME:MILLIWATTS    instead of power: straight lines between points (Unix seconds)
 *   0.memory_total= 0.memory_used=                   bytes
 *   0.clock_sm= 0.clock_sm_max= 0.clock_memory= 0.clock_memory_max=   MHz
 *   0.performance_state= 0.reasons=                  reasons: the bits of the clocks-event reasons, as a number
 *   0.pcie_generation= 0.pcie_generation_max= 0.pcie_width= 0.pcie_width_max= 0.pcie_sent= 0.pcie_received=    KB/s
 *   0.ecc= 0.ecc_corrected= 0.ecc_uncorrected=       default "none", as on a consumer card
 *   0.persistence=1                                  default 0
 *   0.processes=PID:BYTES,PID:BYTES
 *   0.process_use=PID:SM_PERCENT:AGE_MS,...          the samples of nvmlDeviceGetProcessUtilization; "none": not supported
 *   0.lost=1                                         fallen off the bus
 *   0.vanish=during | after                          falls off the bus when something of it is changed; `after`: the
 *                                                    change is accepted first
 *   missing=nvmlDeviceGetTemperatureV,...            calls that this driver doesn't have
 *   refuse=permission | unsupported                  what a change of the power limit gets
 *   refuse_persistence=permission | unsupported      what a change of the persistence mode gets
 *   deaf=1                                           a change is accepted and not done
 *   hang=nvmlDeviceGetCount_v2,...                   calls that don't return while the line stands last
 *   init=driver_not_loaded                           the library is there, the kernel module isn't
 *   resets=1                                         how often the driver was reset: what was opened before answers no more
 *
 * Structures and codes are those of NVML's API reference.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15, UNKNOWN = 999
};

typedef struct { unsigned index; } device_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned version; unsigned sensor; int temperature; } temperature_t;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } process_t;

typedef struct { unsigned pid; unsigned long long time; unsigned sm, memory, encoder, decoder; } use_t;

static device_t devices[16];
static char opened_resets[16] = "0"; /* the value of `resets` when the library was initialised */

/* The file's text, kept until the file changes. Guarded by `guard`. */
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static char *text = NULL;
static char text_path[4096] = "";
static struct stat text_stat;

static void load(const char *path) {
    struct stat now;
    FILE *file;
    size_t length;
    if (stat(path, &now) != 0) memset(&now, 0, sizeof now);
    if (text && strcmp(path, text_path) == 0 && now.st_ino == text_stat.st_ino && now.st_size == text_stat.st_size &&
        now.st_mtim.tv_sec == text_stat.st_mtim.tv_sec && now.st_mtim.tv_nsec == text_stat.st_mtim.tv_nsec)
        return;
    free(text);
    text = calloc((size_t)now.st_size + 2, 1);
    text[0] = '\n'; /* so that every key stands behind a line's end */
    file = fopen(path, "r");
    length = file ? fread(text + 1, 1, (size_t)now.st_size, file) : 0;
    text[length + 1] = 0;
    if (file) fclose(file);
    snprintf(text_path, sizeof text_path, "%s", path);
    text_stat = now;
}

/* The value of the last line with this key, or NULL. */
static const char *find(const char *key, char *value, size_t size) {
    const char *path = getenv("FAKE_NVML"), *line, *found = NULL;
    size_t length = strlen(key);
    if (!path) return NULL;
    pthread_mutex_lock(&guard);
    load(path);
    for (line = text; (line = strchr(line, '\n')); ) {
        line++;
        if (strncmp(line, key, length) == 0 && line[length] == '=') found = line + length + 1;
    }
    if (found) snprintf(value, size, "%.*s", (int)strcspn(found, "\r\n"), found);
    pthread_mutex_unlock(&guard);
    return found ? value : NULL;
}

/* Appends a line to the file: what was changed, or what became of a card. */
static int note(const char *line) {
    FILE *file = fopen(getenv("FAKE_NVML"), "a");
    if (!file) return UNKNOWN;
    fputs(line, file);
    fclose(file);
    return OK;
}

static const char *find_of(device_t *device, const char *name, char *value, size_t size) {
    char key[64];
    snprintf(key, sizeof key, "%u.%s", device->index, name);
    return find(key, value, size);
}

/* A number of a GPU, or NOT_SUPPORTED for "none". */
static int number_of(device_t *device, const char *name, unsigned long long otherwise, unsigned long long *number) {
    char value[64];
    const char *said = find_of(device, name, value, sizeof value);
    if (said && strcmp(said, "none") == 0) return NOT_SUPPORTED;
    if (said && strcmp(said, "fails") == 0) return UNKNOWN;
    *number = said ? strtoull(said, NULL, 0) : otherwise;
    return OK;
}

static int lists(const char *key, const char *name) {
    char value[4096], *rest = value, *item;
    if (!find(key, value, sizeof value)) return 0;
    while ((item = strsep(&rest, ",")))
        if (strcmp(item, name) == 0) return 1;
    return 0;
}

static void read_resets(char *value, size_t size) {
    if (!find("resets", value, size)) snprintf(value, size, "0");
}

/* What every call does first: hang or be missing, as the file has it. */
static int enter(const char *function) {
    char resets[16];
    while (lists("hang", function)) usleep(10000);
    if (lists("missing", function)) return FUNCTION_NOT_FOUND;
    read_resets(resets, sizeof resets);
    return strcmp(resets, opened_resets) == 0 ? OK : UNINITIALIZED;
}

static int enter_of(device_t *device, const char *function) {
    unsigned long long lost = 0;
    int code = enter(function);
    if (code != OK) return code;
    if (!device) return INVALID_ARGUMENT;
    number_of(device, "lost", 0, &lost);
    return lost ? GPU_IS_LOST : OK;
}

static int read_unsigned(device_t *device, const char *function, const char *name, unsigned long long otherwise,
                         unsigned *answer) {
    unsigned long long number = 0;
    int code = enter_of(device, function);
    if (code == OK) code = number_of(device, name, otherwise, &number);
    if (code == OK) *answer = (unsigned)number;
    return code;
}

static unsigned count_devices(void) {
    char value[16];
    unsigned count = find("count", value, sizeof value) ? (unsigned)atoi(value) : 1;
    return count < 16 ? count : 16;
}

const char *nvmlErrorString(int code) {
    switch (code) {
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case FUNCTION_NOT_FOUND: return "Function Not Found";
    case GPU_IS_LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

int nvmlInitWithFlags(unsigned flags) {
    char value[64];
    (void)flags;
    if (!getenv("FAKE_NVML")) return DRIVER_NOT_LOADED;
    if (find("init", value, sizeof value) && strcmp(value, "driver_not_loaded") == 0) return DRIVER_NOT_LOADED;
    read_resets(opened_resets, sizeof opened_resets);
    return enter("nvmlInitWithFlags");
}

int nvmlShutdown(void) { return OK; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    char value[80];
    snprintf(version, length, "%s", find("driver", value, sizeof value) ? value : "550.54.14");
    return enter("nvmlSystemGetDriverVersion");
}

int nvmlSystemGetCudaDriverVersion(int *version) {
    char value[16];
    *version = find("cuda", value, sizeof value) ? atoi(value) : 12040;
    return enter("nvmlSystemGetCudaDriverVersion");
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = count_devices();
    return enter("nvmlDeviceGetCount_v2");
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t **device) {
    if (index >= count_devices()) return INVALID_ARGUMENT;
    devices[index].index = index;
    *device = &devices[index];
    return enter_of(*device, "nvmlDeviceGetHandleByIndex_v2");
}

int nvmlDeviceGetName(device_t *device, char *name, unsigned length) {
    char value[96];
    snprintf(name, length, "%s", find_of(device, "name", value, sizeof value) ? value : "Simulated RTX 3090");
    return enter_of(device, "nvmlDeviceGetName");
}

int nvmlDeviceGetUUID(device_t *device, char *uuid, unsigned length) {
    char value[96];
    if (find_of(device, "uuid", value, sizeof value)) snprintf(uuid, length, "%s", value);
    else snprintf(uuid, length, "GPU-00000000-0000-0000-0000-%012u", device->index);
    return enter_of(device, "nvmlDeviceGetUUID");
}

int nvmlDeviceGetMemoryInfo(device_t *device, memory_t *memory) {
    unsigned long long total = 0, used = 0;
    int code = enter_of(device, "nvmlDeviceGetMemoryInfo");
    if (code == OK) code = number_of(device, "memory_total", 25757220864ULL, &total);
    if (code == OK) code = number_of(device, "memory_used", 1073741824ULL, &used);
    /* Version 1 counts what the driver reserves as used. */
    if (code == OK) *memory = (memory_t){total, total - used - 268435456ULL, used + 268435456ULL};
    return code;
}

int nvmlDeviceGetMemoryInfo_v2(device_t *device, memory_v2_t *memory) {
    unsigned long long total = 0, used = 0;
    int code = enter_of(device, "nvmlDeviceGetMemoryInfo_v2");
    if (code == OK && memory->version != 0x02000028) code = INVALID_ARGUMENT;
    if (code == OK) code = number_of(device, "memory_total", 25757220864ULL, &total);
    if (code == OK) code = number_of(device, "memory_used", 1073741824ULL, &used);
    if (code == OK)
        *memory = (memory_v2_t){0x02000028, total, 268435456ULL, total - used - 268435456ULL, used};
    return code;
}

int nvmlDeviceGetUtilizationRates(device_t *device, utilization_t *rates) {
    int code = read_unsigned(device, "nvmlDeviceGetUtilizationRates", "utilization", 37, &rates->gpu);
    rates->memory = rates->gpu / 2;
    return code;
}

int nvmlDeviceGetTemperature(device_t *device, unsigned sensor, unsigned *degrees) {
    (void)sensor;
    return read_unsigned(device, "nvmlDeviceGetTemperature", "temperature", 54, degrees);
}

int nvmlDeviceGetTemperatureV(device_t *device, temperature_t *answer) {
    unsigned degrees = 0;
    int code = read_unsigned(device, "nvmlDeviceGetTemperatureV", "temperature", 54, &degrees);
    if (code == OK && answer->version != 0x0100000c) return INVALID_ARGUMENT;
    answer->temperature = (int)degrees;
    return code;
}

int nvmlDeviceGetFanSpeed(device_t *device, unsigned *percent) {
    return read_unsigned(device, "nvmlDeviceGetFanSpeed", "fan", 41, percent);
}

/* The curve's value now: straight between its points, flat before and behind them. */
static double on_curve(char *curve, double now) {
    double time = 0, watts = 0, last_time = 0, last_watts = 0;
    char *item;
    int points = 0;
    while ((item = strsep(&curve, ","))) {
        if (sscanf(item, "%lf:%lf", &time, &watts) != 2) continue;
        if (now <= time)
            return points ? last_watts + (watts - last_watts) * (now - last_time) / (time - last_time) : watts;
        last_time = time;
        last_watts = watts;
        points++;
    }
    return last_watts;
}

int nvmlDeviceGetPowerUsage(device_t *device, unsigned *milliwatts) {
    char curve[4096];
    struct timespec now;
    if (device && find_of(device, "power_curve", curve, sizeof curve) && *curve) {
        int code = enter_of(device, "nvmlDeviceGetPowerUsage");
        clock_gettime(CLOCK_REALTIME, &now);
        *milliwatts = (unsigned)(on_curve(curve, (double)now.tv_sec + (double)now.tv_nsec / 1e9) + 0.5);
        return code;
    }
    return read_unsigned(device, "nvmlDeviceGetPowerUsage", "power", 142500, milliwatts);
}

int nvmlDeviceGetPowerManagementLimit(device_t *device, unsigned *milliwatts) {
    return read_unsigned(device, "nvmlDeviceGetPowerManagementLimit", "limit", 350000, milliwatts);
}

int nvmlDeviceGetPowerManagementDefaultLimit(device_t *device, unsigned *milliwatts) {
    return read_unsigned(device, "nvmlDeviceGetPowerManagementDefaultLimit", "limit_default", 350000, milliwatts);
}

int nvmlDeviceGetPowerManagementLimitConstraints(device_t *device, unsigned *low, unsigned *high) {
    int code = read_unsigned(device, "nvmlDeviceGetPowerManagementLimitConstraints", "limit_min", 100000, low);
    if (code != OK) return code;
    return read_unsigned(device, "nvmlDeviceGetPowerManagementLimitConstraints", "limit_max", 366000, high);
}

/* Whether a change is refused, and what becomes of the card meanwhile. */
static int before_change(device_t *device, const char *function, const char *refuse) {
    char value[16], line[64];
    int code = enter_of(device, function);
    if (code != OK) return code;
    if (find_of(device, "vanish", value, sizeof value) && strcmp(value, "during") == 0) {
        snprintf(line, sizeof line, "%u.lost=1\n", device->index);
        note(line);
        return GPU_IS_LOST;
    }
    if (lists(refuse, "permission")) return NO_PERMISSION;
    if (lists(refuse, "unsupported")) return NOT_SUPPORTED;
    return OK;
}

static int do_change(device_t *device, const char *name, unsigned number) {
    char value[16], line[96];
    int code = OK;
    if (!lists("deaf", "1")) {
        snprintf(line, sizeof line, "%u.%s=%u\n", device->index, name, number);
        code = note(line);
    }
    if (find_of(device, "vanish", value, sizeof value) && strcmp(value, "after") == 0) {
        snprintf(line, sizeof line, "%u.lost=1\n", device->index);
        code = note(line);
    }
    return code;
}

int nvmlDeviceSetPowerManagementLimit(device_t *device, unsigned milliwatts) {
    unsigned low = 0, high = 0;
    int code = before_change(device, "nvmlDeviceSetPowerManagementLimit", "refuse");
    if (code == OK) code = nvmlDeviceGetPowerManagementLimitConstraints(device, &low, &high);
    if (code == OK && (milliwatts < low || milliwatts > high)) code = INVALID_ARGUMENT;
    return code == OK ? do_change(device, "limit", milliwatts) : code;
}

int nvmlDeviceGetPersistenceMode(device_t *device, unsigned *mode) {
    return read_unsigned(device, "nvmlDeviceGetPersistenceMode", "persistence", 0, mode);
}

int nvmlDeviceSetPersistenceMode(device_t *device, unsigned mode) {
    int code = before_change(device, "nvmlDeviceSetPersistenceMode", "refuse_persistence");
    if (code == OK && mode > 1) code = INVALID_ARGUMENT;
    return code == OK ? do_change(device, "persistence", mode) : code;
}

/* type: 1 SM, 2 memory */
int nvmlDeviceGetClockInfo(device_t *device, unsigned type, unsigned *mhz) {
    if (type == 2) return read_unsigned(device, "nvmlDeviceGetClockInfo", "clock_memory", 9501, mhz);
    return read_unsigned(device, "nvmlDeviceGetClockInfo", "clock_sm", 1695, mhz);
}

int nvmlDeviceGetMaxClockInfo(device_t *device, unsigned type, unsigned *mhz) {
    if (type == 2) return read_unsigned(device, "nvmlDeviceGetMaxClockInfo", "clock_memory_max", 9751, mhz);
    return read_unsigned(device, "nvmlDeviceGetMaxClockInfo", "clock_sm_max", 2100, mhz);
}

int nvmlDeviceGetPerformanceState(device_t *device, unsigned *state) {
    return read_unsigned(device, "nvmlDeviceGetPerformanceState", "performance_state", 2, state);
}

static int read_reasons(device_t *device, const char *function, unsigned long long *reasons) {
    int code = enter_of(device, function);
    return code == OK ? number_of(device, "reasons", 4, reasons) : code;
}

int nvmlDeviceGetCurrentClocksEventReasons(device_t *device, unsigned long long *reasons) {
    return read_reasons(device, "nvmlDeviceGetCurrentClocksEventReasons", reasons);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(device_t *device, unsigned long long *reasons) {
    return read_reasons(device, "nvmlDeviceGetCurrentClocksThrottleReasons", reasons);
}

int nvmlDeviceGetCurrPcieLinkGeneration(device_t *device, unsigned *generation) {
    return read_unsigned(device, "nvmlDeviceGetCurrPcieLinkGeneration", "pcie_generation", 4, generation);
}

int nvmlDeviceGetMaxPcieLinkGeneration(device_t *device, unsigned *generation) {
    return read_unsigned(device, "nvmlDeviceGetMaxPcieLinkGeneration", "pcie_generation_max", 4, generation);
}

int nvmlDeviceGetCurrPcieLinkWidth(device_t *device, unsigned *lanes) {
    return read_unsigned(device, "nvmlDeviceGetCurrPcieLinkWidth", "pcie_width", 16, lanes);
}

int nvmlDeviceGetMaxPcieLinkWidth(device_t *device, unsigned *lanes) {
    return read_unsigned(device, "nvmlDeviceGetMaxPcieLinkWidth", "pcie_width_max", 16, lanes);
}

/* Watches the bus for 20 ms, as the real one does. counter: 0 sent, 1 received */
int nvmlDeviceGetPcieThroughput(device_t *device, unsigned counter, unsigned *kilobytes_per_second) {
    const char *function = "nvmlDeviceGetPcieThroughput";
    int code = counter ? read_unsigned(device, function, "pcie_received", 2500, kilobytes_per_second)
                       : read_unsigned(device, function, "pcie_sent", 1200, kilobytes_per_second);
    if (code == OK) usleep(20000);
    return code;
}

int nvmlDeviceGetEccMode(device_t *device, unsigned *current, unsigned *pending) {
    char value[16];
    int code = enter_of(device, "nvmlDeviceGetEccMode");
    if (code != OK) return code;
    if (!find_of(device, "ecc", value, sizeof value) || strcmp(value, "none") == 0) return NOT_SUPPORTED;
    *current = *pending = (unsigned)atoi(value);
    return OK;
}

/* error: 0 corrected, 1 uncorrected; counter: 0 volatile */
int nvmlDeviceGetTotalEccErrors(device_t *device, unsigned error, unsigned counter, unsigned long long *count) {
    unsigned current = 0, pending = 0;
    int code = enter_of(device, "nvmlDeviceGetTotalEccErrors");
    if (code == OK) code = nvmlDeviceGetEccMode(device, &current, &pending);
    if (code == OK && (!current || counter != 0)) code = NOT_SUPPORTED;
    return code == OK ? number_of(device, error ? "ecc_uncorrected" : "ecc_corrected", 0, count) : code;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device_t *device, unsigned *count, process_t *processes) {
    char value[4096], *rest = value, *item;
    unsigned found = 0, room = *count;
    int code = enter_of(device, "nvmlDeviceGetComputeRunningProcesses_v3");
    if (code != OK) return code;
    if (!find_of(device, "processes", value, sizeof value)) value[0] = 0;
    while ((item = strsep(&rest, ",")) && *item) {
        process_t process = {0, ~0ULL, ~0u, ~0u}; /* memory not known */
        sscanf(item, "%u:%llu", &process.pid, &process.memory);
        if (processes && found < room) processes[found] = process;
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device_t *device, unsigned *count, process_t *processes) {
    (void)processes;
    *count = 0;
    return enter_of(device, "nvmlDeviceGetGraphicsRunningProcesses_v3");
}

/* Samples newer than `last_seen` (Unix microseconds); NOT_FOUND where there is none, as the real one answers. */
int nvmlDeviceGetProcessUtilization(device_t *device, use_t *uses, unsigned *count, unsigned long long last_seen) {
    char value[4096], *rest = value, *item;
    unsigned found = 0, room = *count;
    struct timespec now;
    int code = enter_of(device, "nvmlDeviceGetProcessUtilization");
    if (code != OK) return code;
    if (!find_of(device, "process_use", value, sizeof value)) value[0] = 0;
    if (strcmp(value, "none") == 0) return NOT_SUPPORTED;
    clock_gettime(CLOCK_REALTIME, &now);
    while ((item = strsep(&rest, ",")) && *item) {
        use_t use = {0, 0, 0, 0, 0, 0};
        unsigned long long age = 0;
        sscanf(item, "%u:%u:%llu", &use.pid, &use.sm, &age);
        use.time = (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000 - age * 1000;
        if (use.time <= last_seen) continue;
        if (uses && found < room) uses[found] = use;
        found++;
    }
    *count = found;
    if (!found) return NOT_FOUND;
    return found > room || !uses ? INSUFFICIENT_SIZE : OK;
}
