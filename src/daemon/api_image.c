/* Disk images of the pool, and their content indexes. */
#include "daemon/api.h"

#include "daemon/indexer.h"
#include "pool/image.h"
#include "wire/index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROUTES(X) \
	X(list, "GET", "/v1/images", API_ANY_NODE, "", "") \
	X(add, "POST", "/v1/images", SERVER_LOCAL, "", "path name") \
	X(remove_image, "DELETE", "/v1/images/{image}", SERVER_LOCAL, "", "") \
	X(make_index, "POST", "/v1/indexes", SERVER_LOCAL, "", "image")

/* Root, and whoever droverd itself runs as. */
static bool is_trusted(const struct request *request)
{
	return request_uid(request) == 0 || request_uid(request) == geteuid();
}

static bool abandoned(void *arg)
{
	return request_abandoned(arg);
}

static const char *index_of(struct daemon *daemon, const char *path, struct error **err)
{
	cleanup_free char *real = realpath(path, NULL);
	enum index_state state;

	if (real && indexer_makes(daemon->indexer, real))
		return "building";
	if (index_look(real ? real : path, &state, err) < 0)
		return NULL;
	return index_state_name(state);
}

/* The VMs that have the image as a disk or are based on it, each once. */
static json_t *users_of(const struct image_uses *uses, const char *path)
{
	cleanup_free char *real = realpath(path, NULL);
	json_t *users = json_array();
	const char *last = "";

	for (size_t i = 0; real && i < uses->count; i++) {
		const struct image_use *use = &uses->list[i];

		if (strcmp(use->path, real) || !strncmp(use->user, "images/", 7) ||
			!strcmp(use->user, last))
			continue;
		json_array_append_new(users, json_string(use->user));
		last = use->user;
	}
	return users;
}

static json_t *describe(struct daemon *daemon, const struct pool *pool, const char *name,
	const struct image_uses *uses)
{
	cleanup_free char *path = image_path(pool, name);
	cleanup_error struct error *e = NULL;
	struct image_facts facts;
	const char *index;
	json_t *info;

	info = json_pack(
		"{s:s, s:s, s:o}", "name", name, "path", path, "vms", users_of(uses, path));
	if (image_read_facts(path, &facts, &e) == 0 && (index = index_of(daemon, path, &e))) {
		json_t *more = json_pack("{s:I, s:I, s:s, s:I, s:s?, s:s}", "size",
			(json_int_t)facts.size, "allocated", (json_int_t)facts.allocated, "format",
			facts.format, "virtual_size", (json_int_t)facts.virtual_size, "backing",
			facts.backing, "index", index);

		json_object_update(info, more);
		json_decref(more);
	}
	free(facts.backing);
	if (e)
		json_object_set_new(info, "problem", json_string(e->message));
	return info;
}

static int list(struct request *request, struct response *response, struct error **err)
{
	struct daemon *daemon = api_daemon(request);
	struct cluster *c = daemon_cluster(daemon, err);
	struct pool_names names;
	struct image_uses uses;
	json_t *images;

	if (!c || image_list(c->pool, &names, err) < 0)
		return -1;
	if (image_uses(c->pool, &uses, err) < 0) {
		pool_names_free(&names);
		return -1;
	}
	images = json_array();
	for (size_t i = 0; i < names.count; i++)
		json_array_append_new(images, describe(daemon, c->pool, names.names[i], &uses));
	image_uses_free(&uses);
	pool_names_free(&names);
	return api_answer(response, json_pack("{s:o}", "images", images));
}

/* droverd reads what its callers cannot: one who is not root names only files of his own. */
static int open_for(const struct request *request, const char *path, struct error **err)
{
	int fd = *path == '/' ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
	struct stat st;

	if (*path != '/')
		return error_set(
			err, ERROR_USAGE, 0, "\"%s\" is no absolute path of an image", path);
	if (fd < 0)
		return error_set(err, errno == ENOENT ? ERROR_NOT_FOUND : ERROR_DISK, errno,
			"cannot open %s", path);
	if (is_trusted(request) || (fstat(fd, &st) == 0 && st.st_uid == request_uid(request)))
		return fd;
	close(fd);
	return error_set(err, ERROR_REFUSED, 0,
		"%s is not yours: only root can add images of others to the pool", path);
}

static int add(struct request *request, struct response *response, struct error **err)
{
	struct daemon *daemon = api_daemon(request);
	struct cluster *c = daemon_cluster(daemon, err);
	const json_t *body = request_body(request);
	const char *from = c ? json_get_string(body, "path", err) : NULL;
	const char *name = from ? json_get_string(body, "name", err) : NULL;
	cleanup_free char *path = NULL;
	cleanup_error struct error *e = NULL;
	cleanup_fd int fd = -1;
	json_t *index, *answer;

	if (!name || image_check_name(name, err) < 0)
		return -1;
	fd = open_for(request, from, err);
	if (fd < 0 || image_add(c->pool, fd, from, name, abandoned, request, err) < 0)
		return -1;
	path = image_path(c->pool, name);
	/* It is there now: without an index, if need be. */
	index = indexer_make(daemon->indexer, path, abandoned, request, &e);
	answer = json_pack("{s:s, s:s, s:o?}", "name", name, "path", path, "index", index);
	if (e)
		json_object_set_new(answer, "problem", json_string(e->message));
	return api_answer(response, answer);
}

static int remove_image(struct request *request, struct response *response, struct error **err)
{
	struct cluster *c = daemon_cluster(api_daemon(request), err);

	(void)response;
	return c ? image_remove(c->pool, request_param(request, "image"), err) : -1;
}

static bool is_in_pool(const struct pool *pool, const char *real)
{
	cleanup_free char *dir = realpath(pool->dir, NULL);
	size_t len = dir ? strlen(dir) : 0;

	return dir && !strncmp(real, dir, len) && real[len] == '/';
}

/* Path of the image that a request names: of images/ by its name, or any by its path. */
static char *find_image(const struct request *request, const struct pool *pool, const char *image,
	struct error **err)
{
	cleanup_free char *path = NULL;
	char *real;

	if (*image != '/' && strchr(image, '/')) {
		error_set(err, ERROR_NAME, 0,
			"\"%s\" is neither the name of an image in the pool nor an absolute path",
			image);
		return NULL;
	}
	if (*image != '/' && image_check_name(image, err) < 0)
		return NULL;
	path = *image == '/' ? fs_format("%s", image) : image_path(pool, image);
	real = realpath(path, NULL);
	if (!real) {
		error_set(err, ERROR_NOT_FOUND, 0,
			"no image %s; `drover image ls` lists those of the pool, others are named "
			"by their path",
			image);
		return NULL;
	}
	if (is_in_pool(pool, real) || is_trusted(request))
		return real;
	free(real);
	error_set(err, ERROR_REFUSED, 0,
		"%s is not in the pool: only root can have an index made beside it", image);
	return NULL;
}

static int make_index(struct request *request, struct response *response, struct error **err)
{
	struct daemon *daemon = api_daemon(request);
	struct cluster *c = daemon_cluster(daemon, err);
	const char *image = c ? json_get_string(request_body(request), "image", err) : NULL;
	cleanup_free char *path = image ? find_image(request, c->pool, image, err) : NULL;
	json_t *index = path ? indexer_make(daemon->indexer, path, abandoned, request, err) : NULL;

	if (!index)
		return -1;
	return api_answer(response,
		json_pack("{s:s, s:s, s:o}", "image", image, "path", path, "index", index));
}

ROUTES(API_ROUTE_FUNCTION)

const struct server_route api_image_routes[] = {ROUTES(API_ROUTE_ROW){0}};
