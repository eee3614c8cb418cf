/*
 * What the C library of FreeBSD 14 has beyond POSIX.1-2008 and what glibc shows with
 * _DEFAULT_SOURCE, as its manual pages declare it, and drover uses it. Included before every source
 * by tests/test_portability.py: what is not here is not to be called outside *_linux.c.
 */
#ifndef DROVER_TESTS_FREEBSD14_H
#define DROVER_TESTS_FREEBSD14_H

#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/types.h>
#include <time.h>

struct sockaddr;

int accept4(int fd, struct sockaddr *address, unsigned *len, int flags); /* 10.0 */
int close_range(unsigned low, unsigned high, int flags);                 /* 13.0 */
ssize_t copy_file_range(int in, off_t *in_at, int out, off_t *out_at, size_t len, unsigned flags);
int memfd_create(const char *name, unsigned flags); /* 13.0 */
int pipe2(int fds[2], int flags);                   /* 10.0 */
int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask);
int setresgid(gid_t real, gid_t effective, gid_t saved);
int setresuid(uid_t real, uid_t effective, uid_t saved);
char *strptime(const char *text, const char *format, struct tm *tm);
int vasprintf(char **out, const char *format, va_list ap);

/* fcntl.h, unistd.h, sys/mman.h, poll.h; numbers do not matter here. */
#define MFD_CLOEXEC 1u
#define O_DIRECT 0x10000
#define POLLRDHUP 0x4000 /* 13.1 */
#define SEEK_DATA 3
#define SEEK_HOLE 4

#endif
