/*
 * What the parts of drover-guest share: the memory that can be checked (memory.c), the disk records
 * (records.c), and the answers of the control port.
 */
#ifndef DROVER_GUEST_H
#define DROVER_GUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	MAX_LINE = 256,
};

/* The first word of a page and of a disk record. */
#define CONTENT_MAGIC 0x64726f7665722121ull

/* One line of JSON. */
struct answer {
	char text[1024];
	size_t len;
};

/* Sets the answer; the newline is added. */
void say(struct answer *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void fail(struct answer *a, const char *what);
/* A decimal number up to max; -1 when `text` is none, or NULL. */
int64_t number(const char *text, int64_t max);

/* Microseconds since boot. */
int64_t now_us(void);
void sleep_ms(int ms);
uint64_t random_u64(void);
/* Spreads a number over 64 bits. */
uint64_t mix(uint64_t x);

/* Held by every command: the pages, their table and the dirtier's orders are one state. */
extern pthread_mutex_t memory_lock;
/* A thread: changes pages as ordered. */
void *memory_dirtier(void *arg);
void memory_fill(struct answer *a, char **args);
void memory_dirty(struct answer *a, char **args);
void memory_stop(struct answer *a, char **args);
void memory_check(struct answer *a, char **args);
/* The members of a JSON object that tell the state. */
int memory_status(char *out, size_t len);

void records_write(struct answer *a, char **args);
void records_check(struct answer *a, char **args);
int records_status(char *out, size_t len);

/* What CPUID says: features, and where each CPU is. The thread stays on the last CPU. */
void cpu_show(struct answer *a, char **args);

#endif
