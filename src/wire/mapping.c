#include "wire/mapping.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

/* A static table, because the handler may look at nothing that can be freed under it. */
struct mapping {
	atomic_bool used;
	atomic_bool lost;
	atomic_uintptr_t at; /* 0: not mapped, or not yet */
	size_t len;
};

static struct mapping mappings[MAPPING_MAX];
static struct sigaction before;

static struct mapping *find_mapping(uintptr_t address)
{
	for (size_t i = 0; i < MAPPING_MAX; i++) {
		uintptr_t at = atomic_load(&mappings[i].at);

		if (at && address >= at && address - at < mappings[i].len)
			return &mappings[i];
	}
	return NULL;
}

static void on_bus_error(int signal, siginfo_t *info, void *context)
{
	/* Sent by a process, it has no address. */
	bool fault = info->si_code > 0;
	struct mapping *m = fault ? find_mapping((uintptr_t)info->si_addr) : NULL;
	int keep = errno;

	(void)context;
	if (m && mmap((void *)atomic_load(&m->at), m->len, PROT_READ,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) {
		atomic_store(&m->lost, true);
		errno = keep;
		return;
	}
	/* What faulted does so again, now with what was there before us. */
	sigaction(signal, &before, NULL);
	if (!fault)
		raise(signal);
	errno = keep;
}

/* Again where somebody has put his own handler there since. */
static void install(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO}, now;

	pthread_mutex_lock(&lock);
	sigaction(SIGBUS, NULL, &now);
	if (!(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_bus_error)
		sigaction(SIGBUS, &action, &before);
	pthread_mutex_unlock(&lock);
}

static struct mapping *take_place(void)
{
	for (size_t i = 0; i < MAPPING_MAX; i++) {
		bool used = false;

		if (atomic_compare_exchange_strong(&mappings[i].used, &used, true))
			return &mappings[i];
	}
	return NULL;
}

struct mapping *mapping_open(int fd, size_t len, const char *what, struct error **err)
{
	struct mapping *m = take_place();
	void *at;

	install();
	if (!m) {
		error_set(err, ERROR_BUSY, 0, "cannot map %s: %u files are mapped already", what,
			MAPPING_MAX);
		return NULL;
	}
	at = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
	if (at == MAP_FAILED) {
		error_set(err, ERROR_FAILED, errno, "cannot map %s", what);
		atomic_store(&m->used, false);
		return NULL;
	}
	/* Looked at in no order: page by page it would be read slowly over a network. */
	madvise(at, len, MADV_WILLNEED);
	m->len = len;
	atomic_store(&m->lost, false);
	atomic_store(&m->at, (uintptr_t)at);
	return m;
}

void mapping_close(struct mapping *m)
{
	if (!m)
		return;
	munmap((void *)atomic_exchange(&m->at, 0), m->len);
	atomic_store(&m->used, false);
}

const uint8_t *mapping_data(const struct mapping *m)
{
	return (const uint8_t *)atomic_load(&m->at);
}

bool mapping_lost(const struct mapping *m)
{
	return atomic_load(&m->lost);
}
