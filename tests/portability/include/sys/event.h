#pragma once
#include <stdint.h>
#include <time.h>
struct kevent {
	uintptr_t ident;
	short filter;
	unsigned short flags;
	unsigned fflags;
	int64_t data;
	void *udata;
	uint64_t ext[4];
};
enum { EVFILT_PROC = -5, EV_ADD = 1, KQUEUE_CLOEXEC = 1 };
#define NOTE_EXIT 0x80000000u
#define EV_SET(event, id, f, fl, ff, d, u) \
	(*(event) = (struct kevent){.ident = (uintptr_t)(id), \
		 .filter = (f), \
		 .flags = (fl), \
		 .fflags = (ff), \
		 .data = (d), \
		 .udata = (u)})
int kqueuex(unsigned flags);
int kevent(int kq, const struct kevent *changes, int changes_len, struct kevent *events,
	int events_len, const struct timespec *timeout);
