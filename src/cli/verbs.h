/*
 * The verbs: for each its function and what it takes. main.c has the table.
 */
#ifndef DROVER_CLI_VERBS_H
#define DROVER_CLI_VERBS_H

#include "cli/cli.h"

#define CLI_VERB(name) \
	cli_function cli_##name; \
	extern const struct cli_option cli_##name##_options[]
#define CLI_REQUEST(name) extern cli_request_function cli_##name##_request

/* cluster.c */
CLI_VERB(init);
CLI_VERB(join);
CLI_VERB(token);
CLI_VERB(status);

/* node.c */
CLI_VERB(node_ls);
CLI_VERB(node_show);
CLI_VERB(node_rm);
CLI_VERB(node_add);

/* cpu.c */
CLI_VERB(cpu);

/* create.c */
CLI_VERB(create);
CLI_REQUEST(create);
/* Tries keys of a definition and their values (strings, or null to remove one) as far as they can
 * be judged without the VM's own: ERROR_DEFINITION, as from droverd. */
int cli_check_keys(const json_t *set, struct error **err);

/* ls.c */
CLI_VERB(ls);

/* vm.c */
CLI_VERB(start);
CLI_VERB(stop);
CLI_REQUEST(stop);
CLI_VERB(suspend);
CLI_VERB(show);
CLI_VERB(set);
CLI_REQUEST(set);
CLI_VERB(rm);
CLI_VERB(rename);

/* topology.c */
CLI_VERB(topology);

/* recover.c */
CLI_VERB(recover);

/* console.c */
CLI_VERB(console);

/* migrate.c */
CLI_VERB(migrate);
CLI_REQUEST(migrate);
CLI_VERB(migration_ls);
CLI_VERB(migration_show);
CLI_VERB(migration_cancel);
CLI_VERB(migration_follow);
CLI_VERB(receive);

/* image.c */
CLI_VERB(image_add);
CLI_VERB(image_index);
CLI_VERB(image_ls);
CLI_VERB(image_rm);

/* task.c */
CLI_VERB(task_new);
CLI_VERB(task_ls);
CLI_VERB(task_show);
CLI_VERB(task_log);
CLI_VERB(task_cancel);
CLI_VERB(task_flush);

#endif
