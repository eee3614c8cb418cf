/* topology: sockets, cores, threads and NUMA nodes of a node, drawn, with its VMs. */
#include "cli/verbs.h"

#include "base/fs.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS_TEXT 64 /* CPU numbers of one core */
#define WIDTH 80        /* where there is no terminal */

const struct cli_option cli_topology_options[] = {
	{CLI_OPTIONAL, "node", "NODE", "of another node", NULL, cli_check_node},
	{CLI_END, NULL, NULL, NULL, NULL},
};

/* -1 in any of these: it is hidden. */
struct core {
	int socket, numa, core, first;
	char threads[THREADS_TEXT]; /* "0 4" */
};

struct picture {
	struct core *cores;
	size_t count;
};

static int number(const json_t *object, const char *key)
{
	int64_t value = cli_number(object, key, -1);

	return value >= 0 && value < 1 << 30 ? (int)value : -1;
}

static struct core *find_core(struct picture *p, const struct core *like)
{
	for (size_t i = 0; like->core >= 0 && i < p->count; i++)
		if (p->cores[i].core == like->core && p->cores[i].socket == like->socket &&
			p->cores[i].numa == like->numa)
			return &p->cores[i];
	p->cores = reallocarray(p->cores, p->count + 1, sizeof(*p->cores));
	if (!p->cores)
		abort();
	p->cores[p->count] = *like;
	return &p->cores[p->count++];
}

static int compare(int a, int b)
{
	return (a > b) - (a < b);
}

static int compare_cores(const void *a, const void *b)
{
	const struct core *x = a, *y = b;
	int order = compare(x->socket, y->socket);

	if (!order)
		order = compare(x->numa, y->numa);
	return order ? order : compare(x->first, y->first);
}

static void collect(struct picture *p, const json_t *cpus)
{
	const json_t *cpu;
	size_t i;

	*p = (struct picture){0};
	json_array_foreach(cpus, i, cpu)
	{
		struct core like = {.socket = number(cpu, "socket"),
			.numa = number(cpu, "numa"),
			.core = number(cpu, "core"),
			.first = number(cpu, "cpu")};
		struct core *core = find_core(p, &like);
		size_t used = strlen(core->threads);

		snprintf(core->threads + used, sizeof(core->threads) - used, "%s%d",
			used ? " " : "", number(cpu, "cpu"));
	}
	if (p->count)
		qsort(p->cores, p->count, sizeof(*p->cores), compare_cores);
}

static void draw_line(size_t cells, int width)
{
	printf("  +");
	for (size_t i = 0; i < cells; i++) {
		for (int j = 0; j < width; j++)
			putchar('-');
		putchar('+');
	}
	putchar('\n');
}

/* One row of boxes, a core each. `number` is the first one's within its socket. */
static void draw_row(const struct core *cores, size_t count, size_t first, int width)
{
	draw_line(count, width);
	if (cores[0].core >= 0) {
		printf("  |");
		for (size_t i = 0; i < count; i++)
			printf(" core %-*zu|", width - 6, first + i);
		putchar('\n');
	}
	printf("  |");
	for (size_t i = 0; i < count; i++)
		printf(" %-*s|", width - 1, cores[i].threads);
	putchar('\n');
	draw_line(count, width);
}

/* The cores of one socket and NUMA node. */
static void draw_cores(const struct core *cores, size_t count, size_t first)
{
	int width = cores[0].core >= 0 ? 9 + (first + count > 100) : 3;
	int room = cli_width(STDOUT_FILENO);
	size_t a_row;

	for (size_t i = 0; i < count; i++)
		if ((int)strlen(cores[i].threads) + 2 > width)
			width = (int)strlen(cores[i].threads) + 2;
	a_row = (size_t)((room ? room : WIDTH) - 3) / (size_t)(width + 1);
	a_row = a_row ? a_row : 1;
	for (size_t i = 0; i < count; i += a_row)
		draw_row(cores + i, count - i < a_row ? count - i : a_row, first + i, width);
}

static const json_t *find_numa(const json_t *answer, int numa)
{
	const json_t *one;
	size_t i;

	json_array_foreach(json_object_get(answer, "numas"), i, one)
	{
		if (number(one, "numa") == numa)
			return one;
	}
	return NULL;
}

static void print_place(const json_t *answer, const struct core *core)
{
	const json_t *numa = find_numa(answer, core->numa);
	char all[32], unused[32];

	putchar('\n');
	if (core->socket >= 0)
		printf("socket %d", core->socket);
	else
		printf("CPUs");
	if (numa) {
		cli_format_size(cli_number(numa, "memory", 0), all);
		cli_format_size(cli_number(numa, "memory_free", 0), unused);
		printf(", NUMA node %d: %s of memory, %s free", core->numa, all, unused);
	}
	putchar('\n');
}

static void draw(const json_t *answer, const struct picture *p)
{
	size_t in_socket = 0;

	for (size_t i = 0, count; i < p->count; i += count) {
		const struct core *first = &p->cores[i];

		for (count = 1; i + count < p->count; count++)
			if (first[count].socket != first->socket ||
				first[count].numa != first->numa)
				break;
		if (i && first[-1].socket != first->socket)
			in_socket = 0;
		print_place(answer, first);
		draw_cores(first, count, in_socket);
		in_socket += count;
	}
}

static void print_count(size_t count, const char *what, bool last)
{
	printf("%zu %s%s%s", count, what, count == 1 ? "" : "s", last ? "\n" : ", ");
}

static void print_summary(const json_t *answer, const struct picture *p)
{
	size_t sockets = 0, numas = json_array_size(json_object_get(answer, "numas"));
	bool places = p->count && p->cores[0].socket >= 0 && p->cores[0].core >= 0;

	for (size_t i = 0; i < p->count; i++)
		sockets += i == 0 || p->cores[i].socket != p->cores[i - 1].socket;
	printf("%s: ", cli_text(answer, "node", "this node"));
	if (places) {
		print_count(sockets, "socket", false);
		print_count(p->count, "core", false);
	}
	print_count(json_array_size(json_object_get(answer, "cpus")), places ? "thread" : "CPU",
		numas == 0);
	if (numas)
		print_count(numas, "NUMA node", true);
	if (*cli_text(answer, "hidden", ""))
		printf("%s\n", cli_text(answer, "hidden", ""));
}

static char *vcpus_text(const json_t *vm)
{
	int sockets = number(vm, "sockets"), cores = number(vm, "cores");
	int threads = number(vm, "threads");

	return fs_format("%d socket%s x %d core%s x %d thread%s", sockets, sockets == 1 ? "" : "s",
		cores, cores == 1 ? "" : "s", threads, threads == 1 ? "" : "s");
}

static void print_vms(const json_t *vms)
{
	static const char *const titles[] = {"VM", "STATE", "VCPUS", ">MEMORY", "ON CPUS"};
	struct cli_table *table;
	const json_t *vm;
	size_t i;

	if (!json_array_size(vms)) {
		printf("\nNo VM is here.\n");
		return;
	}
	table = cli_table_new(5, titles);
	json_array_foreach(vms, i, vm)
	{
		cleanup_free char *vcpus = vcpus_text(vm);
		char size[32];

		cli_format_size(cli_number(vm, "memory", 0), size);
		cli_table_add(table, false,
			(const char *const[]){cli_text(vm, "name", "?"), cli_text(vm, "state", "?"),
				vcpus, size, cli_text(vm, "allowed", "-")});
	}
	putchar('\n');
	cli_table_print(table);
}

int cli_topology(struct cli *cli, struct error **err)
{
	const char *node = cli_get(&cli->args, "node");
	cleanup_json json_t *answer = cli_call(cli, "GET", node, "/v1/topology", NULL, err);
	struct picture picture;

	if (!answer)
		return -1;
	if (cli->json) {
		cli_print_json(answer);
		return 0;
	}
	collect(&picture, json_object_get(answer, "cpus"));
	print_summary(answer, &picture);
	draw(answer, &picture);
	print_vms(json_object_get(answer, "vms"));
	free(picture.cores);
	return 0;
}
