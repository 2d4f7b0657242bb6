/* A stand-in for NVIDIA's libnvidia-ml.so.1, for tests on machines without a GPU.
 *
 * The environment variable FAKE_NVML names a text file of `key=value` lines, read anew at every call; of a key that
 * stands twice, the last line counts. A GPU's keys start with its index:
 *
 *   count=2  driver=550.54.14  cuda=12040            the host
 *   0.name= 0.uuid=                                  default "Simulated RTX 3090", "GPU-00000000-0000-0000-0000-00000000000N"
 *   0.temperature= 0.fan= 0.utilization=             "none" stands for a sensor that the card lacks
 *   0.power= 0.limit= 0.limit_default= 0.limit_min= 0.limit_max=      milliwatts
 *   0.memory_total= 0.memory_used=                   bytes
 *   0.processes=PID:BYTES,PID:BYTES
 *   0.lost=1                                         fallen off the bus
 *   missing=nvmlDeviceGetTemperatureV,...            calls that this driver doesn't have
 *   refuse=permission | unsupported                  what a change of the power limit gets
 *   deaf=1                                           a change is accepted and not done
 *   hang=nvmlDeviceGetCount_v2                       a call that doesn't return while the line stands last
 *   init=driver_not_loaded                           the library is there, the kernel module isn't
 *
 * Structures and codes are those of NVML's API reference.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15, UNKNOWN = 999
};

typedef struct { unsigned index; } device_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned version; unsigned sensor; int temperature; } temperature_t;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } process_t;

static device_t devices[16];

/* The value of the last line with this key, or NULL. */
static const char *find(const char *key, char *value, size_t size) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[4096];
    int found = 0;
    size_t length = strlen(key);
    if (!file) return NULL;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        if (strncmp(line, key, length) == 0 && line[length] == '=') {
            snprintf(value, size, "%s", line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found ? value : NULL;
}

static const char *find_of(device_t *device, const char *name, char *value, size_t size) {
    char key[64];
    snprintf(key, sizeof key, "%u.%s", device->index, name);
    return find(key, value, size);
}

/* A number of a GPU, or NOT_SUPPORTED for "none". */
static int number_of(device_t *device, const char *name, unsigned long long otherwise, unsigned long long *number) {
    char value[64];
    const char *text = find_of(device, name, value, sizeof value);
    if (text && strcmp(text, "none") == 0) return NOT_SUPPORTED;
    *number = text ? strtoull(text, NULL, 10) : otherwise;
    return OK;
}

static int lists(const char *key, const char *name) {
    char value[4096], *rest = value, *item;
    if (!find(key, value, sizeof value)) return 0;
    while ((item = strsep(&rest, ",")))
        if (strcmp(item, name) == 0) return 1;
    return 0;
}

/* What every call does first: hang or be missing, as the file has it. */
static int enter(const char *function) {
    while (lists("hang", function)) usleep(10000);
    return lists("missing", function) ? FUNCTION_NOT_FOUND : OK;
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

int nvmlDeviceGetPowerUsage(device_t *device, unsigned *milliwatts) {
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

int nvmlDeviceSetPowerManagementLimit(device_t *device, unsigned milliwatts) {
    unsigned low = 0, high = 0;
    int code = enter_of(device, "nvmlDeviceSetPowerManagementLimit");
    FILE *file;
    if (code != OK) return code;
    if (lists("refuse", "permission")) return NO_PERMISSION;
    if (lists("refuse", "unsupported")) return NOT_SUPPORTED;
    if (lists("deaf", "1")) return OK;
    code = nvmlDeviceGetPowerManagementLimitConstraints(device, &low, &high);
    if (code != OK) return code;
    if (milliwatts < low || milliwatts > high) return INVALID_ARGUMENT;
    file = fopen(getenv("FAKE_NVML"), "a");
    if (!file) return UNKNOWN;
    fprintf(file, "%u.limit=%u\n", device->index, milliwatts);
    fclose(file);
    return OK;
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
