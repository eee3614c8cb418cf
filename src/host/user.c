#include "host/host.h"

#include "base/fs.h"

#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#define ENTRY_MAX (1u << 20) /* bytes of a passwd entry: LDAP's can be large */

static int wrong(const char *user, const char *why, struct error **err)
{
	return error_set(err, ERROR_DEFINITION, 0,
		"the user cannot be \"%.64s\": %s; it is a name, UID or UID:GID", user, why);
}

/* The passwd entry by name, or by *uid when name is NULL. 1 when there is none. */
static int look_up(const char *name, unsigned *uid, unsigned *gid, struct error **err)
{
	cleanup_free char *entry = NULL;
	struct passwd pw, *found = NULL;
	int errnum = ERANGE;

	for (size_t size = 4096; errnum == ERANGE && size <= ENTRY_MAX; size *= 4) {
		free(entry);
		entry = malloc(size);
		if (!entry)
			abort();
		errnum = name ? getpwnam_r(name, &pw, entry, size, &found)
			      : getpwuid_r((uid_t)*uid, &pw, entry, size, &found);
	}
	if (found) {
		*uid = pw.pw_uid;
		*gid = pw.pw_gid;
		return 0;
	}
	/* These are the answers for "none" that getpwnam(3) lists. */
	if (errnum == 0 || errnum == ENOENT || errnum == ESRCH || errnum == EBADF ||
		errnum == EPERM)
		return 1;
	return error_set(err, ERROR_FAILED, errnum, "cannot look up user %s", name ? name : "");
}

/* A whole number up to `end`; (unsigned)-1 means "none" to the kernel and is no id. */
static bool parse_id(const char *text, const char *end, unsigned *id)
{
	unsigned long long value = 0;

	if (text == end || end - text > 10)
		return false;
	for (; text < end; text++) {
		if (!isdigit((unsigned char)*text))
			return false;
		value = value * 10 + (unsigned)(*text - '0');
	}
	*id = (unsigned)value;
	return value < 0xffffffffull;
}

int host_user(const char *user, unsigned *uid, unsigned *gid, struct error **err)
{
	const char *colon = strchr(user, ':'), *end = user + strlen(user);
	int rc;

	if (colon) {
		if (!parse_id(user, colon, uid) || !parse_id(colon + 1, end, gid))
			return wrong(user, "before and after the colon stand numbers", err);
		return 0;
	}
	if (!*user || end - user > 64)
		return wrong(user, "that is no name", err);
	if (!isdigit((unsigned char)*user)) {
		rc = look_up(user, uid, gid, err);
		return rc > 0 ? wrong(user, "there is no such user on this node", err) : rc;
	}
	if (!parse_id(user, end, uid))
		return wrong(user, "that is no number of a user", err);
	rc = look_up(NULL, uid, gid, err);
	return rc > 0 ? wrong(user, "that user has no entry that says its group, write UID:GID",
				err)
		      : rc;
}
