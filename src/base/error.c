#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kind {
	const char *name;
	int http;
};

/* The exit status is the index + 1: scripts rely on it, so a new kind goes at the end. */
static const struct kind kinds[ERROR_KINDS] = {
	[ERROR_FAILED] = {"failed", 500},
	[ERROR_USAGE] = {"usage", 400},
	[ERROR_DAEMON] = {"daemon", 503},
	[ERROR_NO_CLUSTER] = {"no-cluster", 409},
	[ERROR_NO_VM] = {"no-vm", 404},
	[ERROR_NO_NODE] = {"no-node", 404},
	[ERROR_NOT_FOUND] = {"not-found", 404},
	[ERROR_EXISTS] = {"exists", 409},
	[ERROR_NOT_RUNNING] = {"not-running", 409},
	[ERROR_RUNNING] = {"running", 409},
	[ERROR_ALREADY_THERE] = {"already-there", 409},
	[ERROR_BUSY] = {"busy", 409},
	[ERROR_NOT_OWNER] = {"not-owner", 409},
	[ERROR_UNREACHABLE] = {"unreachable", 502},
	[ERROR_REFUSED] = {"refused", 403},
	[ERROR_TOKEN] = {"token", 403},
	[ERROR_CERTIFICATE] = {"certificate", 403},
	[ERROR_DISK] = {"disk", 422},
	[ERROR_NETWORK] = {"network", 422},
	[ERROR_NO_SPACE] = {"no-space", 507},
	[ERROR_DEFINITION] = {"definition", 422},
	[ERROR_NAME] = {"name", 400},
	[ERROR_REQUEST] = {"request", 400},
	[ERROR_POOL] = {"pool", 503},
	[ERROR_HYPERVISOR] = {"hypervisor", 500},
	[ERROR_TIMEOUT] = {"timeout", 504},
	[ERROR_CANCELLED] = {"cancelled", 409},
	[ERROR_UNDECIDED] = {"undecided", 503},
	[ERROR_INTERRUPTED] = {"interrupted", 500},
};

void error_free(struct error **err)
{
	if (!err)
		return;
	free(*err);
	*err = NULL;
}

static void make_printable(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			*s = '?';
}

int error_vset(struct error **err, enum error_kind kind, int errnum, const char *fmt, va_list ap)
{
	struct error *e;
	size_t len;

	if (!err || *err)
		return -1;
	e = calloc(1, sizeof(*e));
	if (!e)
		abort();
	e->kind = kind;
	e->errnum = errnum;
	vsnprintf(e->message, sizeof(e->message), fmt, ap);
	if (errnum) {
		len = strlen(e->message);
		snprintf(e->message + len, sizeof(e->message) - len, ": %s", strerror(errnum));
	}
	make_printable(e->message);
	*err = e;
	return -1;
}

int error_set(struct error **err, enum error_kind kind, int errnum, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	error_vset(err, kind, errnum, fmt, ap);
	va_end(ap);
	return -1;
}

int error_prefix(struct error **err, const char *fmt, ...)
{
	char text[sizeof((*err)->message)], rest[sizeof((*err)->message)];
	va_list ap;

	if (!err || !*err)
		return -1;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	memcpy(rest, (*err)->message, sizeof(rest));
	if (snprintf((*err)->message, sizeof((*err)->message), "%s: %s", text, rest) < 0)
		abort();
	make_printable((*err)->message);
	return -1;
}

int error_move(struct error **err, struct error *from)
{
	if (err && !*err)
		*err = from;
	else
		error_free(&from);
	return -1;
}

int error_kind_exit(enum error_kind kind)
{
	return (int)kind + 1;
}

int error_kind_http(enum error_kind kind)
{
	return kinds[kind].http;
}

const char *error_kind_name(enum error_kind kind)
{
	return kinds[kind].name;
}

enum error_kind error_kind_from_name(const char *name)
{
	for (int i = 0; i < ERROR_KINDS; i++)
		if (!strcmp(kinds[i].name, name))
			return (enum error_kind)i;
	return ERROR_FAILED;
}
