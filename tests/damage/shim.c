/* A disk that fails: calls below DISK_DIRECTORY go wrong as DISK_FAULT says.

   DISK_FAULT is a file that may change at any time: "CALL MATCH N [VALUE]". The Nth call from now of
   CALL (write, sync, read) on a path that contains MATCH fails with errno VALUE; CALL "short"
   writes half of it; "slow" lets every sync take VALUE ms. After it struck, the file is emptied. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char seen[256];
static long count;

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static ssize_t (*real_pread)(int, void *, size_t, off64_t);
static ssize_t (*real_preadv2)(int, const struct iovec *, int, off64_t, int);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_sync_range)(int, off64_t, off64_t, unsigned);

__attribute__((constructor)) static void find(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_pread = dlsym(RTLD_NEXT, "pread64");
    real_preadv2 = dlsym(RTLD_NEXT, "preadv64v2");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_sync_range = dlsym(RTLD_NEXT, "sync_file_range");
}

/* The errno to fail with, -1 for a short write, 0 to go on. */
static int struck(const char *call, int fd) {
    const char *below = getenv("DISK_DIRECTORY"), *plan = getenv("DISK_FAULT");
    char link[64], path[4096], text[256] = "", name[32], match[128];
    long nth = 1, value = EIO;
    if (!below || !plan) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, below)) return 0;
    int file = open(plan, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t size = syscall(0 /* read */, file, text, sizeof text - 1);
    close(file);
    if (size <= 0 || sscanf(text, "%31s %127s %ld %ld", name, match, &nth, &value) < 3) return 0;
    if (!strstr(path, match)) return 0;
    if (!strcmp(name, "slow")) {
        if (!strcmp(call, "sync")) {
            struct timespec pause = {value / 1000, value % 1000 * 1000000};
            nanosleep(&pause, NULL);
        }
        return 0;
    }
    int is_short = !strcmp(name, "short") && !strcmp(call, "write");
    if (strcmp(name, call) && !is_short) return 0;
    pthread_mutex_lock(&lock);
    if (strcmp(seen, text)) { strcpy(seen, text); count = 0; }
    int now = ++count == nth;
    if (now) { count = 0; seen[0] = 0; truncate(plan, 0); }
    pthread_mutex_unlock(&lock);
    return now ? (is_short ? -1 : (int)value) : 0;
}

#define FAIL(call) do { int e = struck(call, fd); if (e > 0) { errno = e; return -1; } } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    int e = struck("write", fd);
    if (e > 0) { errno = e; return -1; }
    return real_write(fd, data, e < 0 && size > 1 ? size / 2 : size);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    int e = struck("write", fd);
    if (e > 0) { errno = e; return -1; }
    return real_pwrite(fd, data, e < 0 && size > 1 ? size / 2 : size, at);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }
ssize_t pread64(int fd, void *data, size_t size, off64_t at) {
    FAIL("read");
    return real_pread(fd, data, size, at);
}
ssize_t pread(int fd, void *data, size_t size, off_t at) { return pread64(fd, data, size, at); }
ssize_t preadv64v2(int fd, const struct iovec *parts, int n, off64_t at, int flags) {
    FAIL("read");
    return real_preadv2(fd, parts, n, at, flags);
}
ssize_t preadv2(int fd, const struct iovec *parts, int n, off_t at, int flags) {
    return preadv64v2(fd, parts, n, at, flags);
}
int fsync(int fd) { FAIL("sync"); return real_fsync(fd); }
int fdatasync(int fd) { FAIL("sync"); return real_fdatasync(fd); }
int sync_file_range(int fd, off64_t at, off64_t size, unsigned flags) {
    return real_sync_range(fd, at, size, flags);
}
