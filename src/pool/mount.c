#include "pool/internal.h"

#include "base/log.h"
#include "host/host.h"

#include <string.h>
#include <sys/stat.h>

#define LOCAL_LOCKS "locks stay on this node, so that hypervisors on two nodes could open one disk"
#define FALSE_ERRORS \
	"a server that is slow for a while makes reads and writes fail, and writes get lost that " \
	"were taken for done"

/* `type` is the beginning of the file system's; an option is as /proc/self/mountinfo shows it
 * (nfs(5)),
 * or nfsstat(1) on FreeBSD (mount_nfs(8)). */
static const struct {
	const char *type, *option, *why;
} refused[] = {
	{"nfs", "nolock", LOCAL_LOCKS},
	{"nfs", "nolockd", LOCAL_LOCKS},
	{"nfs", "local_lock=all", LOCAL_LOCKS},
	{"nfs", "local_lock=posix", LOCAL_LOCKS},
	{"nfs", "soft", FALSE_ERRORS},
	{"nfs", "softerr", FALSE_ERRORS},
	{"nfs", "nocto", "this node goes on with what it has cached of who owns a VM"},
	{"", "ro", "nothing can be written to it"},
};

static bool has_option(const char *options, const char *option)
{
	size_t len = strlen(option);

	for (const char *at = options; *at; at += strcspn(at, ","), at += *at == ',')
		if (strcspn(at, ",") == len && !memcmp(at, option, len))
			return true;
	return false;
}

int pool_check_options(const char *dir, const char *type, const char *options, struct error **err)
{
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		if (!strncmp(type, refused[i].type, strlen(refused[i].type)) &&
			has_option(options, refused[i].option))
			return error_set(err, ERROR_POOL, 0,
				"the pool's directory %s is mounted (%s) with the option \"%s\": "
				"%s; "
				"mount it without (docs/storage.md)",
				dir, type, refused[i].option, refused[i].why);
	return 0;
}

/* The nearest directory above that is there: of a pool that has yet to be made. */
static char *existing(const char *dir)
{
	char *path = fs_format("%s", dir), *slash;
	struct stat st;

	while (stat(path, &st) < 0 && (slash = strrchr(path, '/')) && slash[1])
		slash[slash == path] = 0;
	return path;
}

int pool_check_mount(const char *dir, struct error **err)
{
	cleanup_free char *path = existing(dir), *options = NULL;
	cleanup_error struct error *unknown = NULL;
	char type[32];

	if (host_fs_type(path, type, &unknown) == 0)
		options = host_mount_options(path, &unknown);
	if (options)
		return pool_check_options(dir, type, options, err);
	log_warning("how the pool's directory is mounted was not looked at: %s", unknown->message);
	return 0;
}
