/*
 * What the pool tells of owners, members and the CPUs that these offer: vms/VM/owner.E,
 * nodes/NODE.conf and nodes/NODE.facts, read as they are read on a pool to which somebody else can
 * write. The first byte says which; the rest is the file. What a reader takes must be what its
 * header says it is.
 */
#include "base/json.h"
#include "base/log.h"
#include "hv/cpu.h"
#include "pool/owner.h"
#include "pool/pool.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INPUT_MAX (64u << 10)
#define CONF "[node]\naddress = node1:7780\nfingerprint = " FINGERPRINT "\n"
#define FINGERPRINT "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char directory[] = "/tmp/drover-fuzz-XXXXXX";
static struct pool pool = {.dir = directory};
static const char *const folders[] = {"/vms/web1", "/vms", "/nodes", ""};
static const char *const files[] = {
	"/vms/web1/owner.7", "/vms/web1/owner.6", "/nodes/node1.conf", "/nodes/node1.facts"};

static void path_of(const char *below, char path[128])
{
	snprintf(path, 128, "%s%s", directory, below);
}

static void clean(void)
{
	char path[128];

	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		path_of(files[i], path);
		unlink(path);
	}
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		path_of(folders[i], path);
		rmdir(path);
	}
}

/* No fs_write(): its fsync() would be all that is measured. */
static void write_file(const char *below, const void *data, size_t len)
{
	cleanup_fd int fd = -1;
	char path[128];

	path_of(below, path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || fs_write_all(fd, data, len) < 0)
		abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char path[128];

	(void)argc, (void)argv;
	/* Facts that cannot be read are logged. */
	log_init("fuzz_record", LOG_LEVEL_ERROR);
	if (!mkdtemp(directory))
		abort();
	atexit(clean);
	for (size_t i = sizeof(folders) / sizeof(folders[0]) - 1; i-- > 0;) {
		path_of(folders[i], path);
		if (mkdir(path, 0700) < 0)
			abort();
	}
	return 0;
}

static void look_at_owner(void)
{
	struct pool_owner owner;

	if (pool_owner_read(&pool, "web1", &owner, NULL) < 0)
		return;
	/* The file's name says the epoch, whatever is in it. */
	if (owner.epoch != 7 || owner.when_ms < 0 || !*owner.why ||
		strlen(owner.why) >= sizeof(owner.why) ||
		(*owner.node && fs_check_name("node", owner.node, NULL) < 0))
		abort();
}

/* Names become options of a hypervisor's command line. */
static void look_at_offer(const json_t *facts)
{
	struct hv_cpu_offer offer;
	const struct hv_cpu_offer *some[] = {&offer};
	struct hv_cpu_model model = {.name = "Model-v1", .lasting = true};
	struct hv_cpu_models models = {.list = &model, .count = 1};
	cleanup_cpu_spec struct cpu_spec spec = {{0}};
	cleanup_free char *text = NULL;

	if (hv_cpu_offer_read(&offer, "node1", facts, NULL) == 0) {
		for (size_t i = 0; i < offer.given.count; i++)
			if (!cpu_name_ok(offer.given.names[i]) ||
				(i && strcmp(offer.given.names[i - 1], offer.given.names[i]) >= 0))
				abort();
		/* All that a node says it has. */
		models.addable = model.features = offer.given;
		if (hv_cpu_baseline(&models, some, 1, &spec, NULL) == 0) {
			cleanup_cpu_spec struct cpu_spec again = {{0}};

			text = cpu_spec_text(&spec);
			if (cpu_spec_parse(&again, text, NULL) < 0)
				abort();
		}
	}
	hv_cpu_offer_free(&offer);
}

static void look_at_node(void)
{
	struct pool_node *node = pool_node_read(&pool, "node1", NULL);
	cleanup_json json_t *facts = NULL;

	if (!node)
		return;
	facts = json_parse("facts", node->facts, strlen(node->facts), NULL);
	if (!facts || strcmp(node->name, "node1") || strlen(node->fingerprint) != 64 ||
		strspn(node->fingerprint, "0123456789abcdef") != 64 || !*node->address ||
		strcspn(node->address, " \n\r\t/\"'") != strlen(node->address))
		abort();
	look_at_offer(facts);
	pool_node_free(node);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	if (len < 1 || len > INPUT_MAX)
		return -1;
	switch (data[0]) {
	case 'o':
		write_file("/vms/web1/owner.7", data + 1, len - 1);
		look_at_owner();
		return 0;
	case 'n':
		write_file("/nodes/node1.conf", data + 1, len - 1);
		write_file("/nodes/node1.facts", "{}", 2);
		look_at_node();
		return 0;
	case 'f':
		write_file("/nodes/node1.conf", CONF, strlen(CONF));
		write_file("/nodes/node1.facts", data + 1, len - 1);
		look_at_node();
		return 0;
	default:
		return -1;
	}
}
