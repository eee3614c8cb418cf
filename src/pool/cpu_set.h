/*
 * Sets of CPU features, by the names that the hypervisor has for them ("sse4.2", "avx512f").
 *
 * A set is sorted by strcmp() and holds each name once, so that two sets are compared in one pass
 * and a set always reads the same. A set of zeros is the empty one.
 */
#ifndef DROVER_POOL_CPU_SET_H
#define DROVER_POOL_CPU_SET_H

#include <stdbool.h>
#include <stddef.h>

#define CPU_NAME_MAX 64    /* bytes of a feature's name, its NUL included */
#define CPU_SET_MAX 1024   /* names in a set; QEMU 10.0 knows 383 */
#define CPU_SET_TEXT 16384 /* bytes of the text of a set that came from elsewhere */

struct cpu_set {
	char (*names)[CPU_NAME_MAX];
	size_t count;
};

/* Whether it is a feature's name: 1 to 63 of [a-z0-9._-], a letter or digit first. No name can be
 * taken for anything but itself on a command line. */
bool cpu_name_ok(const char *name);

void cpu_set_free(struct cpu_set *set);
#define cleanup_cpu_set __attribute__((cleanup(cpu_set_free)))
bool cpu_set_has(const struct cpu_set *set, const char *name);
/* False, and nothing added, for what is no name and for a set that is full. */
bool cpu_set_add(struct cpu_set *set, const char *name);
void cpu_set_remove(struct cpu_set *set, const char *name);
/* Makes `set`, whatever it held, a copy of `from`. */
void cpu_set_copy(struct cpu_set *set, const struct cpu_set *from);
/* Adds what `other` has; false when it does not all fit. */
bool cpu_set_unite(struct cpu_set *set, const struct cpu_set *other);
/* Leaves only what `other` has too. */
void cpu_set_intersect(struct cpu_set *set, const struct cpu_set *other);
/* Takes out what `other` has. */
void cpu_set_subtract(struct cpu_set *set, const struct cpu_set *other);
bool cpu_set_within(const struct cpu_set *set, const struct cpu_set *other);

/* Names with one space between them, which is how a set is written; the caller frees it. */
char *cpu_set_text(const struct cpu_set *set);
/* The same back, from whoever wrote it: false for anything but at most CPU_SET_TEXT bytes of names
 * with single spaces between them. An empty text is the empty set. */
bool cpu_set_parse(struct cpu_set *set, const char *text);
/* "avx, avx2 and 7 more" for a person, into `out`; "" for the empty set. */
void cpu_set_list(const struct cpu_set *set, char *out, size_t size);

#endif
