#include "wire/source.h"

#include "base/buf.h"
#include "base/fs.h"
#include "wire/hash.h"
#include "wire/index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct source {
	char *name; /* NULL: dropped */
	int fd;
	struct index_identity identity;
	struct index *index; /* NULL: blocks can be read, and not be looked up */
	atomic_bool on;
};

struct source_set {
	struct source sources[SOURCE_MAX];
	size_t count;
	atomic_uint_fast64_t blocks, ns;
};

struct source_set *source_set_open(void)
{
	struct source_set *set = calloc(1, sizeof(*set));

	if (!set)
		abort();
	return set;
}

static void drop(struct source *s)
{
	if (!s->name)
		return;
	free(s->name);
	s->name = NULL;
	index_close(s->index);
	s->index = NULL;
	close_fd(&s->fd);
}

void source_set_close(struct source_set *set)
{
	if (!set)
		return;
	for (size_t i = 0; i < set->count; i++)
		drop(&set->sources[i]);
	free(set);
}

static struct source *find_named(struct source_set *set, const char *name, size_t len)
{
	for (size_t i = 0; i < set->count; i++) {
		struct source *s = &set->sources[i];

		if (s->name && strlen(s->name) == len && !memcmp(s->name, name, len))
			return s;
	}
	return NULL;
}

static int check_room(struct source_set *set, const char *name, struct error **err)
{
	size_t len = strlen(name);

	if (len == 0 || len > SOURCE_NAME_MAX)
		return error_set(err, ERROR_NAME, 0,
			"a content source's name has 1 to %u bytes, this one has %zu",
			SOURCE_NAME_MAX, len);
	if (find_named(set, name, len))
		return error_set(err, ERROR_EXISTS, 0, "content source %s is there already", name);
	if (set->count == SOURCE_MAX)
		return error_set(err, ERROR_BUSY, 0,
			"%s is not used: there are %u content sources already", name, SOURCE_MAX);
	return 0;
}

int source_set_add(struct source_set *set, const char *name, const char *path, bool with_index,
	struct error **err)
{
	struct source *s = &set->sources[set->count % SOURCE_MAX];
	cleanup_fd int fd = -1;
	struct index_identity identity;
	struct index *index = NULL;

	if (check_room(set, name, err) < 0)
		return -1;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return error_set(err, ERROR_DISK, errno, "cannot open %s", path);
	if (index_identity_read(fd, path, &identity, err) < 0)
		return -1;
	if (with_index && !(index = index_open(path, &identity, err)))
		return -1;
	s->name = fs_format("%s", name);
	s->fd = fd;
	fd = -1;
	s->identity = identity;
	s->index = index;
	atomic_init(&s->on, true);
	set->count++;
	return 0;
}

size_t source_set_count(const struct source_set *set)
{
	return set->count;
}

const char *source_set_name(const struct source_set *set, size_t number)
{
	return number < set->count ? set->sources[number].name : NULL;
}

size_t source_set_encode(const struct source_set *set, uint8_t out[SOURCE_LIST_MAX])
{
	uint8_t *at = out + 2;

	put_be16(out, (uint16_t)set->count);
	for (size_t i = 0; i < set->count; i++) {
		const struct source *s = &set->sources[i];
		size_t len = strlen(s->name);

		put_be16(at, (uint16_t)len);
		memcpy(at + 2, s->name, len);
		at += 2 + len;
		put_be64(at, s->identity.size);
		put_be64(at + 8, (uint64_t)s->identity.mtime_ns);
		put_be64(at + 16, s->identity.edges);
		at += 24;
	}
	return (size_t)(at - out);
}

/* One of the other side's list. */
struct offer {
	const char *name;
	size_t len;
	struct index_identity identity;
};

static int wrong(const char *what, struct error **err)
{
	return error_set(
		err, ERROR_REQUEST, 0, "the list of content sources cannot be read: %s", what);
}

static int read_offer(struct reader *r, struct offer *o, struct error **err)
{
	o->len = reader_be16(r);
	o->name = (const char *)reader_bytes(r, o->len);
	o->identity.size = reader_be64(r);
	o->identity.mtime_ns = (int64_t)reader_be64(r);
	o->identity.edges = reader_be64(r);
	if (r->failed)
		return wrong("it is cut off", err);
	if (o->len == 0 || o->len > SOURCE_NAME_MAX || memchr(o->name, 0, o->len))
		return wrong("a name is not allowed", err);
	return 0;
}

static int read_offers(const uint8_t *in, size_t len, struct offer offers[SOURCE_MAX],
	size_t *count, struct error **err)
{
	struct reader r;

	reader_init(&r, in, len);
	*count = reader_be16(&r);
	if (r.failed || *count > SOURCE_MAX)
		return wrong("their number is not allowed", err);
	for (size_t i = 0; i < *count; i++) {
		if (read_offer(&r, &offers[i], err) < 0)
			return -1;
		for (size_t j = 0; j < i; j++)
			if (offers[j].len == offers[i].len &&
				!memcmp(offers[j].name, offers[i].name, offers[i].len))
				return wrong("a name comes twice", err);
	}
	return r.left ? wrong("something follows it", err) : 0;
}

/* To another place, which is empty. */
static void move(struct source *to, struct source *from)
{
	to->name = from->name;
	to->fd = from->fd;
	to->identity = from->identity;
	to->index = from->index;
	atomic_init(&to->on, atomic_load(&from->on));
	from->name = NULL;
}

int source_set_agree(
	struct source_set *set, const uint8_t *in, size_t len, uint32_t *usable, struct error **err)
{
	struct source agreed[SOURCE_MAX] = {{0}};
	struct offer offers[SOURCE_MAX];
	size_t count;

	if (read_offers(in, len, offers, &count, err) < 0)
		return -1;
	*usable = 0;
	for (size_t i = 0; i < count; i++) {
		struct source *own = find_named(set, offers[i].name, offers[i].len);

		if (!own || !index_identity_equal(&own->identity, &offers[i].identity))
			continue;
		move(&agreed[i], own);
		*usable |= 1u << i;
	}
	for (size_t i = 0; i < set->count; i++)
		drop(&set->sources[i]);
	for (size_t i = 0; i < count; i++)
		move(&set->sources[i], &agreed[i]);
	set->count = count;
	return 0;
}

void source_set_keep(struct source_set *set, uint32_t usable)
{
	for (size_t i = 0; i < set->count; i++)
		if (!(usable & 1u << i))
			drop(&set->sources[i]);
}

uint64_t source_fingerprint(const uint8_t page[STREAM_PAGE])
{
	return hash_of(page, STREAM_PAGE);
}

bool source_set_find(
	const struct source_set *set, uint64_t fingerprint, uint8_t *source, uint64_t *block)
{
	for (size_t i = 0; i < set->count; i++) {
		const struct source *s = &set->sources[i];

		if (!s->index || !atomic_load_explicit(&s->on, memory_order_relaxed) ||
			!index_find(s->index, fingerprint, block))
			continue;
		*source = (uint8_t)i;
		return true;
	}
	return false;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static bool read_page(int fd, uint64_t at, uint8_t page[STREAM_PAGE])
{
	size_t used = 0;

	while (used < STREAM_PAGE) {
		ssize_t n = pread(fd, page + used, STREAM_PAGE - used, (off_t)(at + used));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		used += (size_t)n;
	}
	return true;
}

/* At least one, or none. */
static size_t read_pages(int fd, uint64_t at, uint8_t *const *pages, size_t count)
{
	struct iovec parts[SOURCE_RUN];
	ssize_t n;

	for (size_t i = 0; i < count; i++)
		parts[i] = (struct iovec){.iov_base = pages[i], .iov_len = STREAM_PAGE};
	n = preadv(fd, parts, (int)count, (off_t)at);
	if (n >= (ssize_t)STREAM_PAGE)
		return (size_t)n / STREAM_PAGE;
	return read_page(fd, at, pages[0]) ? 1 : 0;
}

size_t source_set_read(const struct source_set *set, uint8_t source, uint64_t block,
	uint8_t *const *pages, size_t count)
{
	const struct source *s = &set->sources[source % SOURCE_MAX];
	uint64_t start_ns, blocks = s->identity.size / STREAM_PAGE;
	/* What is counted is no part of what the set is. */
	struct source_set *counts = (struct source_set *)set;
	size_t read;

	if (source >= set->count || !s->name || block >= blocks || !count)
		return 0;
	if (count > SOURCE_RUN)
		count = SOURCE_RUN;
	if (count > blocks - block)
		count = (size_t)(blocks - block);
	start_ns = now_ns();
	read = read_pages(s->fd, block * STREAM_PAGE, pages, count);
	atomic_fetch_add_explicit(&counts->blocks, read ? read : 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&counts->ns, now_ns() - start_ns, memory_order_relaxed);
	return read;
}

void source_set_reading(const struct source_set *set, uint64_t *blocks, uint64_t *ns)
{
	*blocks = atomic_load_explicit(&set->blocks, memory_order_relaxed);
	*ns = atomic_load_explicit(&set->ns, memory_order_relaxed);
}

void source_set_enable(struct source_set *set, size_t number, bool on)
{
	if (number < set->count)
		atomic_store_explicit(&set->sources[number].on, on, memory_order_relaxed);
}

bool source_set_enabled(const struct source_set *set, size_t number)
{
	return number < set->count && set->sources[number].name &&
	       atomic_load_explicit(&set->sources[number].on, memory_order_relaxed);
}
