/* A disk that goes bad on command, for LD_PRELOAD: calls that write below a folder are late or fail while the file
 * CHAOS_DISK_ORDER exists. It holds "ERRNO MICROSECONDS FOLDER": the error that they end with (0: none) and how late they are.
 * Real processes then meet real error codes, whoever runs them, and other programs' disks stay as they are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRITES(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & O_CREAT))

static int below(const char *path, const char *root) {
    char whole[PATH_MAX];
    if (path == NULL) return 0;
    if (path[0] != '/') {
        char here[PATH_MAX / 2];
        if (getcwd(here, sizeof here) == NULL || (size_t)snprintf(whole, sizeof whole, "%s/%s", here, path) >= sizeof whole) return 0;
        path = whole;
    }
    return strncmp(path, root, strlen(root)) == 0;
}

/* The errno that a call on `path` is to end with, or 0, after having waited as ordered. */
static int trouble(const char *path) {
    const char *order = getenv("CHAOS_DISK_ORDER");
    char text[PATH_MAX + 64] = "";
    int error = 0, file, root = 0;
    unsigned long late_us = 0;
    ssize_t n;
    if (order == NULL || access(order, F_OK) != 0) return 0;
    file = REAL(open)(order, O_RDONLY);
    if (file < 0) return 0;
    n = read(file, text, sizeof text - 1);
    close(file);
    if (n <= 0 || sscanf(text, "%d %lu %n", &error, &late_us, &root) != 2 || !below(path, text + root)) return 0;
    if (late_us) usleep((useconds_t)late_us);
    return error;
}

static int trouble_with(int file) {
    char link[64], path[PATH_MAX];
    const char *order = getenv("CHAOS_DISK_ORDER");
    ssize_t n;
    if (order == NULL || access(order, F_OK) != 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return trouble(path);
}

#define UNLESS(found, failure) do { int was = errno, error_ = (found); if (error_) { errno = error_; return failure; } errno = was; } while (0)

int open(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
    if (WRITES(flags)) UNLESS(trouble(path), -1);
    return REAL(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); }
    if (WRITES(flags)) UNLESS(trouble(path), -1);
    return REAL(open64)(path, flags, mode);
}

int mkdir(const char *path, mode_t mode) { UNLESS(trouble(path), -1); return REAL(mkdir)(path, mode); }
int rename(const char *from, const char *to) { UNLESS(trouble(to), -1); return REAL(rename)(from, to); }
int fsync(int file) { UNLESS(trouble_with(file), -1); return REAL(fsync)(file); }
int fdatasync(int file) { UNLESS(trouble_with(file), -1); return REAL(fdatasync)(file); }
ssize_t write(int file, const void *data, size_t n) { UNLESS(trouble_with(file), -1); return REAL(write)(file, data, n); }
ssize_t pwrite(int file, const void *data, size_t n, off_t at) { UNLESS(trouble_with(file), -1); return REAL(pwrite)(file, data, n, at); }
ssize_t pwrite64(int file, const void *data, size_t n, off64_t at) { UNLESS(trouble_with(file), -1); return REAL(pwrite64)(file, data, n, at); }
