/*
 * One racer for tests/integration/test_claims.py: claims whatever epoch of a VM comes next, again
 * and again, and prints each that it has won. It stands for a node: racers on one mount or on
 * several of the same pool.
 *
 *     claim_racer make DIR             makes a pool with the VM in it
 *     claim_racer DIR NODE LAST        claims until epoch LAST is somebody's
 */
#include "pool/owner.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VM "raced"
#define CLUSTER "0123456789abcdef0123456789abcdef"
#define CA "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

static int fail(struct error *e)
{
	fprintf(stderr, "%s\n", e->message);
	error_free(&e);
	return 1;
}

static int make(const char *dir)
{
	struct error *e = NULL;
	struct pool *pool;

	if (pool_create(dir, CLUSTER, CA, &e) < 0)
		return fail(e);
	pool = pool_open(dir, &e);
	if (!pool || pool_vm_create(pool, VM, "[vm]\n", &e) < 0)
		return fail(e);
	pool_close(pool);
	return 0;
}

static int race(const char *dir, const char *node, uint64_t last)
{
	struct error *e = NULL;
	struct pool *pool = pool_open(dir, &e);
	struct pool_owner owner = {0};
	uint64_t lost = 0;

	if (!pool)
		return fail(e);
	for (;;) {
		if (pool_owner_read(pool, VM, &owner, &e) < 0)
			return fail(e);
		if (owner.epoch >= last)
			break;
		if (pool_owner_claim(pool, VM, owner.epoch + 1, node, "race", NULL, &e) == 0)
			printf("%" PRIu64 "\n", owner.epoch + 1);
		else if (e->kind == ERROR_NOT_OWNER)
			lost++;
		else
			return fail(e);
		error_free(&e);
	}
	printf("lost %" PRIu64 "\n", lost);
	pool_close(pool);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "make"))
		return make(argv[2]);
	if (argc == 4)
		return race(argv[1], argv[2], strtoull(argv[3], NULL, 10));
	fprintf(stderr, "claim_racer make DIR | claim_racer DIR NODE LAST\n");
	return 2;
}
