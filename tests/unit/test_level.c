/* The level of compression that a link and its two processors ask for. */
#include "wire/level.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* Two processors that encode, and a link; all that the sender can do is wait for one of them. */
struct scene {
	double link_bps, encode_bps; /* of the link; of encoding at the lowest level */
	double ratio;                /* that the lowest level leaves; each more leaves less */
	double take_bps; /* of the stream, that the destination's hypervisor takes; 0: all */
	double queue;    /* bytes of stored pages that may wait in front of the link; until they are
			  * gone the window, small by then, lets through a fifth of what comes after */
	double unseen;   /* share of its use that TCP does not see, while it is not full */
};

/* What waits in front of the link, of the scene that is lived now. */
static double queued;

/* What arrives in the 20 ms, of `sent` bytes more. */
static uint64_t arrives(const struct scene *scene, double sent)
{
	double carried = scene->link_bps * LEVEL_LOOK_US / 1e6, arrived;

	queued += sent;
	arrived = queued < carried ? queued : carried;
	queued -= arrived;
	return (uint64_t)arrived;
}

/* 20 ms of it at the level that is chosen. */
static void live(struct level *l, const struct scene *scene, int64_t now_us)
{
	unsigned index = l->now;
	double ratio = scene->ratio, encode = scene->encode_bps, room, link, bps;
	struct level_work work = {0};

	for (unsigned i = 1; i < index && ratio < 0.99; i++) {
		ratio *= 0.97;
		encode /= 2;
	}
	if (index == 0)
		ratio = 1, encode = 1e11;
	room = (index == 0 ? scene->queue : 0) - queued;
	link = (scene->link_bps + room * 1e6 / LEVEL_LOOK_US) / ratio;
	if (link < 0.2 * scene->link_bps / ratio)
		link = 0.2 * scene->link_bps / ratio;
	bps = link < encode ? link : encode;
	if (scene->take_bps && scene->take_bps < bps)
		bps = scene->take_bps;
	work.bytes = (uint64_t)(bps * LEVEL_LOOK_US / 1e6);
	work.sent_bytes = (uint64_t)((double)work.bytes * ratio);
	work.acked_bytes = arrives(scene, (double)work.sent_bytes);
	work.busy_us = (int64_t)((double)work.acked_bytes * 1e6 / scene->link_bps);
	if (work.busy_us < LEVEL_LOOK_US * 9 / 10)
		work.busy_us = (int64_t)((double)work.busy_us * (1 - scene->unseen));
	if (bps < encode)
		work.link_us = LEVEL_LOOK_US * 9 / 10;
	else
		work.encoder_us = LEVEL_LOOK_US * 9 / 10;
	level_worked(l, &work);
	assert_in_range(level_choose(l, ratio, now_us), 0, LEVEL_COUNT - 1);
}

static unsigned looks_stored(struct level *l, const struct scene *scene, unsigned looks)
{
	unsigned stored = 0;

	queued = 0;
	for (unsigned i = 0; i < looks; i++) {
		live(l, scene, l->look_us + LEVEL_LOOK_US);
		stored += l->now == 0;
	}
	return stored;
}

/* The level that it is at most of the time, after five seconds. */
static unsigned settle(struct level *l, const struct scene *scene)
{
	unsigned often[LEVEL_COUNT] = {0}, most = 0;
	int64_t now_us = l->look_us;

	queued = 0;
	for (int i = 0; i < 1000; i++) {
		live(l, scene, now_us += LEVEL_LOOK_US);
		if (i >= 250)
			often[l->now]++;
	}
	for (unsigned i = 0; i < LEVEL_COUNT; i++)
		if (often[i] > often[most])
			most = i;
	return most;
}

static void test_level_follows_the_link(void **state)
{
	const struct scene slow = {1.2e7, 1e9, 0.25}, middle = {1.2e8, 1e9, 0.25},
			   fast = {8e9, 5e8, 0.25, 1.5e9};
	struct level l;

	(void)state;
	level_init(&l, 0);
	assert_in_range(settle(&l, &slow), 4, LEVEL_COUNT - 1);
	assert_in_range(settle(&l, &middle), 1, 3);
	assert_int_equal(settle(&l, &fast), 0);
	/* And back. */
	assert_in_range(settle(&l, &slow), 1, LEVEL_COUNT - 1);
}

/* A link that is faster than the encoders, and that pages as they are fill: what counts is how much
 * of the stream gets through. */
static void test_level_stores_where_more_gets_through(void **state)
{
	const struct scene gains = {1e9, 3e8, 0.4}, loses = {4e8, 3.6e8, 0.4};
	/* Little is on its way all the time, or the other side is waited for: neither is all that
	 * the link carries. */
	const struct level_work little[] = {
		{.busy_us = LEVEL_LOOK_US,
			.bytes = 6u << 20,
			.sent_bytes = 1u << 20,
			.acked_bytes = 1u << 20},
		{.busy_us = LEVEL_LOOK_US / 2,
			.link_us = LEVEL_LOOK_US,
			.bytes = 6u << 20,
			.sent_bytes = 1u << 20,
			.acked_bytes = 1u << 20},
	};
	struct level l;

	(void)state;
	level_init(&l, 0);
	assert_int_equal(settle(&l, &gains), 0);
	assert_int_equal(settle(&l, &loses), 1);
	assert_int_equal(settle(&l, &gains), 0);
	for (size_t n = 0; n < sizeof(little) / sizeof(little[0]); n++) {
		level_init(&l, 0);
		level_worked(&l, &little[n]);
		level_choose(&l, 0.2, LEVEL_LOOK_US);
		assert_in_range(looks_stored(&l, &gains, 50), 30, 50);
	}
}

/* A gigabit link with a queue of 125 ms, which takes what the link does not carry: a moment of
 * storing looks fast, and what is not stored after it waits for what was. */
static const struct scene queueing = {1.2e8, 2e8, 0.32, 3e8, 1.5e7, 0.8};

static void test_level_does_not_take_a_queue_for_a_link(void **state)
{
	struct level l;

	(void)state;
	level_init(&l, 0);
	queued = 0;
	/* Tried, since nobody knows what the link carries, and given up. */
	assert_in_range(looks_stored(&l, &queueing, 50), 1, 10);
	/* What waits from before is not counted against what comes after it. */
	l.now = 0;
	l.trial_us = 0;
	assert_in_range(looks_stored(&l, &queueing, 50), 1, 25);
	assert_int_equal(l.now, 1);
}

static void test_level_does_not_store_on_a_link_that_is_known_to_be_slow(void **state)
{
	const struct scene full = {1.2e8, 1e9, 0.9, 3e8, 1.5e7};
	struct level l;

	(void)state;
	level_init(&l, 0);
	queued = 0;
	for (int i = 0; i < 5; i++)
		live(&l, &full, l.look_us + LEVEL_LOOK_US);
	assert_int_equal(looks_stored(&l, &queueing, 150), 0);
}

/* A guest's memory begins with pages that cannot be compressed, and goes on with others. */
static void test_level_sees_soon_that_pages_can_be_compressed(void **state)
{
	const struct scene useless = {1.2e8, 1e9, 0.99, 3e8, 1.5e7};
	struct level l;

	(void)state;
	level_init(&l, 0);
	queued = 0;
	for (int i = 0; i < 2; i++)
		live(&l, &useless, l.look_us + LEVEL_LOOK_US);
	assert_int_equal(l.now, 0);
	assert_in_range(looks_stored(&l, &queueing, 50), 0, 15);
	/* Also after many that could not, and some that could. */
	settle(&l, &useless);
	looks_stored(&l, &queueing, 400);
	for (int i = 0; i < 2; i++)
		live(&l, &useless, l.look_us + LEVEL_LOOK_US);
	assert_in_range(looks_stored(&l, &queueing, 50), 0, 15);
}

/* On a link that takes longer than a look for a little, stored pages do not stay stored. */
static void test_level_leaves_storing_on_a_link_that_is_very_slow(void **state)
{
	const struct scene useless = {1.2e6, 1e9, 0.99}, slow = {1.2e6, 1e9, 0.3},
			   fast = {8e9, 5e8, 0.25, 1.5e9};
	struct level l;

	(void)state;
	level_init(&l, 0);
	settle(&l, &useless);
	assert_in_range(settle(&l, &slow), 1, LEVEL_COUNT - 1);
	level_init(&l, 0);
	assert_int_equal(settle(&l, &fast), 0);
	assert_in_range(settle(&l, &slow), 1, LEVEL_COUNT - 1);
}

/* A destination that takes less than the link carries looks like a slow link to who waits for its
 * acknowledgements; compressing harder would only take processor time from it. */
static void test_level_stays_low_while_the_link_is_idle(void **state)
{
	const struct scene scene = {1.2e8, 4e8, 0.2, 2e8}, before = {1.2e7, 1e9, 0.25};
	struct level l;

	(void)state;
	level_init(&l, 0);
	assert_int_equal(settle(&l, &scene), 1);
	settle(&l, &before);
	assert_int_equal(settle(&l, &scene), 1);
}

/* Pages that cannot be compressed are stored, on a link of any speed. */
static void test_level_that_gains_nothing_is_not_taken(void **state)
{
	const struct scene scene = {1.2e8, 1e9, 0.999};
	struct level l;

	(void)state;
	level_init(&l, 0);
	assert_int_equal(settle(&l, &scene), 0);
}

static void test_level_stays_while_nothing_is_known(void **state)
{
	const struct level_work nothing = {.link_us = LEVEL_LOOK_US, .bytes = 100};
	struct level l;
	unsigned first;

	(void)state;
	level_init(&l, 0);
	first = level_choose(&l, 1, 1);
	for (int64_t now_us = 0; now_us < 10000000; now_us += LEVEL_LOOK_US) {
		/* Pages of zeros tell nothing of compression. */
		level_worked(&l, &nothing);
		assert_int_equal(level_choose(&l, 0.1, now_us), first);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_level_follows_the_link),
		cmocka_unit_test(test_level_stores_where_more_gets_through),
		cmocka_unit_test(test_level_does_not_take_a_queue_for_a_link),
		cmocka_unit_test(test_level_does_not_store_on_a_link_that_is_known_to_be_slow),
		cmocka_unit_test(test_level_sees_soon_that_pages_can_be_compressed),
		cmocka_unit_test(test_level_leaves_storing_on_a_link_that_is_very_slow),
		cmocka_unit_test(test_level_stays_low_while_the_link_is_idle),
		cmocka_unit_test(test_level_that_gains_nothing_is_not_taken),
		cmocka_unit_test(test_level_stays_while_nothing_is_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
