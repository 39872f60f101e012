/* Make calls that write fail, in a process that loads this library (LD_PRELOAD).
 *
 * Counted are calls for files below FAIL_BELOW: write and its kind, opening for writing, mkdir,
 * rename, fsync, ftruncate, unlink. Call number FAIL_AT fails with the error FAIL_ERRNO; with
 * FAIL_ALWAYS all later ones fail too, as on a full disk. The number of calls is written to the
 * file FAIL_COUNT when the process ends.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long calls;
static const char *below;
static long at, always, error;

__attribute__((constructor)) static void start(void) {
    below = getenv("FAIL_BELOW");
    at = getenv("FAIL_AT") ? atol(getenv("FAIL_AT")) : 0;
    always = getenv("FAIL_ALWAYS") != NULL;
    error = getenv("FAIL_ERRNO") ? atol(getenv("FAIL_ERRNO")) : EIO;
}

__attribute__((destructor)) static void end(void) {
    const char *name = getenv("FAIL_COUNT");
    FILE *file = name ? fopen(name, "w") : NULL;
    if (file) {
        fprintf(file, "%ld", atomic_load(&calls));
        fclose(file);
    }
}

static int fails(const char *path) {
    if (!below || strncmp(path, below, strlen(below)) != 0) return 0;
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (!at || number < at || (number > at && !always)) return 0;
    errno = (int)error;
    return 1;
}

static int fails_at(int folder, const char *path) {
    char link[64], full[2 * PATH_MAX];
    if (!below) return 0;
    if (path && path[0] == '/') return fails(path);
    if (folder == AT_FDCWD) {
        if (!getcwd(full, PATH_MAX)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, full, PATH_MAX);
        if (length <= 0) return 0;
        full[length] = 0;
    }
    if (path) {
        strncat(full, "/", sizeof full - strlen(full) - 1);
        strncat(full, path, sizeof full - strlen(full) - 1);
    }
    return fails(full);
}

#define NEXT(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define ON_FILE(type, name, parameters, arguments)      \
    type name parameters {                              \
        if (below && fails_at(fd, NULL)) return -1;     \
        return NEXT(name) arguments;                    \
    }
ON_FILE(ssize_t, write, (int fd, const void *data, size_t n), (fd, data, n))
ON_FILE(ssize_t, pwrite, (int fd, const void *data, size_t n, off_t o), (fd, data, n, o))
ON_FILE(ssize_t, pwrite64, (int fd, const void *data, size_t n, off64_t o), (fd, data, n, o))
ON_FILE(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n))
ON_FILE(ssize_t, pwritev, (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o))
ON_FILE(int, fsync, (int fd), (fd))
ON_FILE(int, fdatasync, (int fd), (fd))
ON_FILE(int, ftruncate, (int fd, off_t n), (fd, n))

#define ON_PATH(name, parameters, arguments)                 \
    int name parameters {                                    \
        if (below && fails_at(AT_FDCWD, path)) return -1;    \
        return NEXT(name) arguments;                         \
    }
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH(unlink, (const char *path), (path))

int rename(const char *old, const char *new) {
    if (below && fails_at(AT_FDCWD, new)) return -1;
    return NEXT(rename)(old, new);
}

int renameat(int a, const char *old, int b, const char *new) {
    if (below && fails_at(b, new)) return -1;
    return NEXT(renameat)(a, old, b, new);
}

#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT))
#define OPEN(name)                                                                          \
    int name(const char *path, int flags, ...) {                                            \
        va_list list;                                                                       \
        va_start(list, flags);                                                              \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;             \
        va_end(list);                                                                       \
        if (below && WRITES(flags) && fails_at(AT_FDCWD, path)) return -1;                  \
        return NEXT(name)(path, flags, mode);                                               \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                                        \
    int name(int folder, const char *path, int flags, ...) {                                \
        va_list list;                                                                       \
        va_start(list, flags);                                                              \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;             \
        va_end(list);                                                                       \
        if (below && WRITES(flags) && fails_at(folder, path)) return -1;                    \
        return NEXT(name)(folder, path, flags, mode);                                       \
    }
OPENAT(openat)
OPENAT(openat64)

FILE *fopen(const char *path, const char *mode) {
    if (below && strpbrk(mode, "wa+") && fails_at(AT_FDCWD, path)) return NULL;
    return NEXT(fopen)(path, mode);
}

FILE *fopen64(const char *path, const char *mode) {
    if (below && strpbrk(mode, "wa+") && fails_at(AT_FDCWD, path)) return NULL;
    return NEXT(fopen64)(path, mode);
}
