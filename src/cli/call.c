#include "cli/cli.h"

#include "base/fs.h"
#include "base/json.h"
#include "node/http.h"

#include <stdlib.h>
#include <string.h>

char *cli_path(const char *format, const char *value)
{
	cleanup_free char *escaped = http_escape(value);
	const char *at = strstr(format, "%s");

	return at ? fs_format("%.*s%s%s", (int)(at - format), format, escaped, at + 2)
		  : fs_format("%s", format);
}

struct http_client *cli_connect(const struct cli *cli, struct error **err)
{
	struct http_target target = {.socket_path = cli->socket_path};

	return http_open(&target, err);
}

static char *path_on(const char *node, const char *path)
{
	cleanup_free char *escaped = NULL;

	if (!node || !*node)
		return fs_format("%s", path);
	escaped = http_escape(node);
	return fs_format("%s%snode=%s", path, strchr(path, '?') ? "&" : "?", escaped);
}

json_t *cli_call_within(struct cli *cli, struct http_client *client, int timeout_ms,
	const char *method, const char *node, const char *path, const json_t *body,
	struct error **err)
{
	cleanup_free char *whole = path_on(node, path), *text = NULL;
	struct http_request request = {
		.method = method, .path = whole, .body = body, .timeout_ms = timeout_ms};
	size_t len;

	if (!client && !cli->client)
		cli->client = cli_connect(cli, err);
	if (!client)
		client = cli->client;
	/* As text: a migration that failed has an "error" of its own, which is not this call's. */
	if (!client || http_call_text(client, &request, &text, &len, err) < 0)
		return NULL;
	return json_parse("the answer of droverd", text, len, err);
}

json_t *cli_call(struct cli *cli, const char *method, const char *node, const char *path,
	const json_t *body, struct error **err)
{
	int timeout_ms = !strcmp(method, "GET") ? CLI_CALL_MS / 10 : CLI_CALL_MS;

	return cli_call_within(cli, NULL, timeout_ms, method, node, path, body, err);
}

char *cli_this_node(struct cli *cli, struct error **err)
{
	cleanup_json json_t *status = cli_call(cli, "GET", NULL, "/v1/status", NULL, err);

	return status ? fs_format("%s", cli_text(status, "node", "")) : NULL;
}

int cli_find_vm(struct cli *cli, const char *vm, char **node, struct error **err)
{
	cleanup_free char *path = cli_path("/v1/vms/%s", vm), *here = NULL;
	cleanup_json json_t *info = cli_call(cli, "GET", NULL, path, NULL, err);
	const char *where = cli_text(info, "node", "");

	*node = NULL;
	here = info ? cli_this_node(cli, err) : NULL;
	if (!here)
		return -1;
	if (*where && strcmp(where, here) != 0)
		*node = fs_format("%s", where);
	return 0;
}
