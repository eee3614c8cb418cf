/*
 * The readers of what people, the pool and other nodes write: a definition of a VM, any file of
 * settings, a join token, a request's JSON, and the header of a qcow2 image. The first byte says
 * which; the rest is the text. What a reader takes must come back the same when it is written out.
 */
#include "base/fs.h"
#include "base/json.h"
#include "node/token.h"
#include "pool/qcow2.h"
#include "pool/settings.h"
#include "pool/vm_def.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define INPUT_MAX (64u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void definition(const char *text)
{
	cleanup_vm_def struct vm_def *def = vm_def_parse("web1", text, NULL);
	cleanup_vm_def struct vm_def *again = NULL;
	cleanup_free char *first = NULL, *second = NULL;

	if (!def)
		return;
	first = vm_def_format(def);
	again = vm_def_parse("web1", first, NULL);
	if (!again)
		abort();
	second = vm_def_format(again);
	if (strcmp(first, second) != 0)
		abort();
}

static int take(const struct settings_key *key, void *arg, struct error **err)
{
	(void)arg, (void)err;
	if (!key->section || !key->key || !key->value || key->line < 1)
		abort();
	return 0;
}

static void token(const char *text)
{
	struct token token;

	/* The issuer becomes part of messages and of paths. */
	if (token_parse(text, &token, NULL) == 0 && fs_check_name("node", token.issuer, NULL) < 0)
		abort();
}

static void request(const char *text, size_t len)
{
	cleanup_json json_t *object = json_parse("the request", text, len, NULL);
	const char *value;

	if (!object)
		return;
	value = json_get_string(object, "vm", NULL);
	if (value && strlen(value) > 4096)
		abort();
}

static void image(const char *data, size_t len)
{
	struct qcow2 q = {0};
	int fd = memfd_create("image", MFD_CLOEXEC);

	if (fd < 0 || fs_write_all(fd, data, len) < 0)
		abort();
	if (qcow2_read(fd, "/pool/images/a.qcow2", &q, NULL) == 0 && q.is)
		free(qcow2_backing_path("/pool/images/a.qcow2", q.backing));
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	cleanup_free char *text = NULL;

	if (len < 1 || len > INPUT_MAX)
		return -1;
	len--;
	text = calloc(1, len + 1);
	if (!text)
		abort();
	memcpy(text, data + 1, len);
	switch (data[0]) {
	case 'd':
		definition(text);
		break;
	case 's':
		settings_read("text", text, len, 0, take, NULL, NULL);
		break;
	case 'm':
		settings_read("text", text, len, SETTINGS_MULTILINE, take, NULL, NULL);
		break;
	case 't':
		token(text);
		break;
	case 'j':
		request(text, len);
		break;
	case 'q':
		image(text, len);
		break;
	default:
		return -1;
	}
	return 0;
}
