/* image add, index, ls, rm: base images on the pool. */
#include "cli/verbs.h"

#include "base/fs.h"
#include "base/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A large image from a slow disk takes hours; Ctrl-C ends it before. */
#define LONG_MS (48 * 3600 * 1000)

const struct cli_option cli_image_add_options[] = {
	{CLI_POSITIONAL, "file", "FILE", "an image on this node, qcow2 or raw", "path"},
	{CLI_VALUE, "name", "NAME", "what it is called in the pool (as the file)", "image",
		cli_check_image},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_image_index_options[] = {
	{CLI_POSITIONAL, "image", "IMAGE", "its name in the pool, or the path of a file: ./NAME",
		"name path file"},
	{CLI_END, NULL, NULL, NULL, NULL},
};
const struct cli_option cli_image_ls_options[] = {{CLI_END, NULL, NULL, NULL, NULL}};
const struct cli_option cli_image_rm_options[] = {
	{CLI_POSITIONAL, "image", "IMAGE", "its name", "name", cli_check_image},
	{CLI_FLAG, "yes", NULL, "does not ask", NULL},
	{CLI_END, NULL, NULL, NULL, NULL},
};

/* droverd has a working directory of its own. */
static char *absolute(const char *file, struct error **err)
{
	cleanup_free char *here = NULL;

	if (*file == '/')
		return fs_format("%s", file);
	while (!strncmp(file, "./", 2))
		file += 2;
	here = getcwd(NULL, 0);
	if (here)
		return fs_format("%s/%s", here, file);
	error_set(err, ERROR_USAGE, errno, "cannot tell where %s is: name it by its absolute path",
		file);
	return NULL;
}

/* What it is to be called: as is said, or as the file. NULL and an error where that cannot be. */
static const char *name_of(const struct cli_args *args, struct error **err)
{
	const char *name = cli_get(args, "name"), *file = cli_get(args, "file");
	const char *slash = strrchr(file, '/');
	cleanup_error struct error *why = NULL;

	if (name)
		return name;
	name = slash ? slash + 1 : file;
	if (cli_check_image(name, &why) == 0)
		return name;
	error_set(err, why->kind, 0, "%s; give it another with --name", why->message);
	return NULL;
}

int cli_image_add(struct cli *cli, struct error **err)
{
	const char *name = name_of(&cli->args, err), *problem;
	cleanup_free char *path = name ? absolute(cli_get(&cli->args, "file"), err) : NULL;
	cleanup_json json_t *body = NULL, *answer = NULL;

	if (!path)
		return -1;
	body = json_pack("{s:s, s:s}", "path", path, "name", name);
	answer = cli_call_within(cli, NULL, LONG_MS, "POST", NULL, "/v1/images", body, err);
	if (!answer)
		return -1;
	problem = cli_text(answer, "problem", NULL);
	if (cli->json)
		cli_print_json(answer);
	else
		printf("image %s is in the pool%s\n", name, problem ? "" : " and indexed");
	if (problem)
		fprintf(stderr, "drover: it is not indexed: %s\n", problem);
	return 0;
}

int cli_image_index(struct cli *cli, struct error **err)
{
	const char *image = cli_get(&cli->args, "image");
	bool by_name = !strchr(image, '/');
	cleanup_free char *path = by_name ? NULL : absolute(image, err);
	cleanup_json json_t *body = NULL, *answer = NULL;
	char size[32], time[32], blocks[64];
	const json_t *index;

	if (by_name ? cli_check_image(image, err) < 0 : !path)
		return -1;
	body = json_pack("{s:s}", "image", by_name ? image : path);
	answer = cli_call_within(cli, NULL, LONG_MS, "POST", NULL, "/v1/indexes", body, err);
	if (!answer)
		return -1;
	if (cli->json) {
		cli_print_json(answer);
		return 0;
	}
	index = json_object_get(answer, "index");
	cli_format_size(cli_number(index, "index_bytes", 0), size);
	cli_format_time(cli_number(index, "duration_ms", 0), time);
	cli_format_count(cli_number(index, "entries", 0), "block", blocks);
	printf("%s is indexed: %s, %s, in %s\n", image, blocks, size, time);
	return 0;
}

/* "web1 web2", or what is wrong with the image. */
static char *note_of(const json_t *image)
{
	const char *problem = cli_text(image, "problem", NULL);
	char *text = fs_format("%s", problem ? problem : "");
	const json_t *vm;
	size_t i;

	if (problem)
		return text;
	json_array_foreach(json_object_get(image, "vms"), i, vm)
	{
		char *longer = fs_format("%s%s%s", text, i ? " " : "",
			json_is_string(vm) ? json_string_value(vm) : "?");

		free(text);
		text = longer;
	}
	return text;
}

static void add_image(struct cli_table *table, const json_t *image)
{
	cleanup_free char *note = note_of(image);
	int64_t bytes = cli_number(image, "size", -1);
	char size[32] = "-";

	if (bytes >= 0)
		cli_format_size(bytes, size);
	cli_table_add(table, cli_text(image, "problem", NULL) != NULL,
		(const char *const[]){cli_text(image, "name", "?"), size,
			cli_text(image, "format", "-"), cli_text(image, "index", "-"), note});
}

int cli_image_ls(struct cli *cli, struct error **err)
{
	static const char *const titles[] = {"NAME", ">SIZE", "FORMAT", "INDEX", "VMS"};
	static const struct cli_list list = {"/v1/images", "images", 5, titles, add_image};

	return cli_print_list(cli, NULL, &list, err);
}

int cli_image_rm(struct cli *cli, struct error **err)
{
	const char *image = cli_get(&cli->args, "image");
	cleanup_free char *path = cli_path("/v1/images/%s", image);
	cleanup_free char *question = fs_format("Remove image %s from the pool?", image);
	cleanup_json json_t *answer = NULL;

	if (cli_must_confirm(cli, question, err) < 0)
		return -1;
	answer = cli_call(cli, "DELETE", NULL, path, NULL, err);
	if (!answer)
		return -1;
	if (cli->json)
		cli_print_json(answer);
	else
		printf("image %s is removed\n", image);
	return 0;
}
